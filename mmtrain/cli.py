"""The command line: `mmtrain <verb>`.

Exit codes: 0 success, 1 failure, 2 wrong usage. Every failure is one line; --debug shows the traceback.
"""

import sys
from argparse import Namespace
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from mmtrain.commands.average import average
from mmtrain.commands.compare import compare
from mmtrain.commands.curate import curate
from mmtrain.commands.embed import embed
from mmtrain.commands.evaluate import evaluate
from mmtrain.commands.export import export
from mmtrain.commands.index import index
from mmtrain.commands.inspect import inspect
from mmtrain.commands.mine import mine
from mmtrain.commands.push import push
from mmtrain.commands.search import search
from mmtrain.commands.serve import serve
from mmtrain.commands.usage import OneLineParser, UsageError, add_command, add_verb
from mmtrain.display.messages import line_of, say

VERBS: dict[str, tuple[Callable[..., Any], str]] = {
    "evaluate": (evaluate, "measure retrieval in every language"),
    "compare": (compare, "measure models side by side, with intervals"),
    "export": (export, "write a model for other programs"),
    "average": (average, "average the weights of models of one kind"),
    "push": (push, "make an export ready for a model hub; --upload sends it"),
    "index": (index, "embed the pictures of shards for search"),
    "embed": (embed, "write the rows of shards as shards"),
    "curate": (curate, "choose captions of shards: a balance in every language, or the most similar ones"),
    "mine": (mine, "write shards again with hard negatives, or the items that are near to questions"),
    "search": (search, "find pictures by a text in any language, or by a picture"),
    "serve": (serve, "answer over HTTP: a page to search with, /search, /v1/embeddings"),
    "inspect": (inspect, "say what is in shards or a checkpoint, and what is broken"),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb and returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        _run(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except KeyboardInterrupt:
        say("mmtrain: stopped by the keyboard", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except Exception as error:
        if debug:
            raise
        hint = "" if isinstance(error, ValueError) else " (--debug shows where)"
        say(f"mmtrain {arguments[0]}: error: {line_of(error)}{hint}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _run(arguments: list[str]) -> None:
    if arguments[:1] == ["fit"]:
        # LightningCLI has its own parser; everything behind the verb is its
        from mmtrain.commands import fit

        fit.run(arguments[1:])
    elif arguments[:1] == ["submit"]:
        # not argparse's: options that it does not know are sbatch's, and -- divides
        from mmtrain.commands import submit

        submit.run(arguments[1:], parse)
    else:
        options = parse(arguments)
        options.run(options)


def parse(arguments: list[str]) -> Namespace:
    """The options of any verb but fit and submit, which are only named here."""
    top = OneLineParser(prog="mmtrain", description="One image, many languages, one space.")
    top.add_argument("--debug", action="store_true", help="show tracebacks")
    programs = ("mmtrain", "torch", "pytorch-lightning") if "--version" in arguments else ()
    top.add_argument("--version", action="version", version=", ".join(f"{name} {version(name)}" for name in programs))
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=OneLineParser)
    verbs.add_parser("fit", help="train a model: fit --config FILE [--any.option value ...]", add_help=False)
    verbs.add_parser("submit", help="run a verb under SLURM: submit [SLURM options] -- VERB ...", add_help=False)
    for name, (function, text) in VERBS.items():
        add_command(verbs, name, function, text)
    pack = add_verb(verbs, "pack", "write shards")
    if "pack" in arguments:  # the formats come with their readers, which other verbs need not wait for
        from mmtrain.commands.pack import add_formats

        add_formats(pack)
    return top.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
