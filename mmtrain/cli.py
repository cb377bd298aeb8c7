"""The command line: `mmtrain <verb>`.

Exit codes: 0 success, 1 failure, 2 wrong usage. Every failure is one line; --debug shows the traceback.
"""

import argparse
import sys
from collections.abc import Callable

from mmtrain.usage import OneLineParser, one_line

SHARDS = "a folder, a tar, a brace pattern, or several joined with ::, each with an optional weight"
MODEL = "a run folder, a checkpoint, or an exported folder"


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb and returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        if arguments[:1] == ["fit"]:
            # LightningCLI has its own parser; everything behind the verb is its
            from mmtrain.fit import run

            run(arguments[1:])
        elif arguments[:1] == ["submit"]:
            _submit(arguments[1:])
        else:
            options = _parser().parse_args(arguments)
            options.run(options)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except KeyboardInterrupt:
        print("mmtrain: stopped by the keyboard", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except Exception as error:
        if debug:
            raise
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
        hint = "" if isinstance(error, ValueError) else " (--debug shows where)"
        print(f"mmtrain {arguments[0]}: error: {kind}{one_line(str(error))}{hint}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="mmtrain", description="One image, many languages, one space.")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=OneLineParser)
    verbs.add_parser("fit", help="train a model: fit --config FILE [--any.option value ...]", add_help=False)
    verbs.add_parser("submit", help="run a verb under SLURM: submit [SLURM options] -- VERB ...", add_help=False)
    for add in (_evaluate, _export, _pack, _inspect):
        add(verbs)
    return parser


def _verb(verbs: argparse._SubParsersAction, name: str, text: str, run: Callable) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def _evaluate(verbs: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        from mmtrain.evaluate import evaluate

        evaluate(
            options.model,
            options.data,
            options.out,
            languages=options.languages,
            captions=options.captions,
            similarity=options.similarity,
            recall_at=options.recall_at,
            text_to_text=options.text_to_text,
            batch_size=options.batch_size,
            workers=options.workers,
            device=options.device,
        )

    parser = _verb(verbs, "evaluate", "measure retrieval in every language", run)
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("--data", required=True, metavar="SHARDS", help=SHARDS)
    parser.add_argument("--out", required=True, metavar="DIR", help="gets metrics.json and report.html")
    parser.add_argument("--languages", type=_list, metavar="[en,lv]", help="default: the languages of the run")
    parser.add_argument("--captions", choices=("all", "first"), default="all", help="captions of an image and language")
    parser.add_argument("--similarity", choices=("cosine", "asymmetric"), help="default: as the model was trained")
    parser.add_argument("--recall_at", type=_integers, default=(1, 5, 10), metavar="1,5,10")
    parser.add_argument(
        "--text_to_text", type=_pairs, default=(), metavar="de->en,lv->en", help="caption retrieval between languages"
    )
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default=None, help="default: cuda where there is one")


def _export(verbs: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        from mmtrain.export import export

        export(options.model, options.out, options.format, int8=options.int8)

    parser = _verb(verbs, "export", "write a model for other programs", run)
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("--out", required=True, metavar="DIR")
    formats = ("safetensors", "onnx", "open_clip", "transformers")
    parser.add_argument("--format", choices=formats, default="safetensors")
    parser.add_argument(
        "--int8", metavar="SHARDS", help="onnx: also with 8-bit weights, and the recall they cost on these shards"
    )


def _pack(verbs: argparse._SubParsersAction) -> None:
    from mmtrain.packing import add_arguments, run

    add_arguments(_verb(verbs, "pack", "write shards", run), _list)


def _inspect(verbs: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        from mmtrain.inspection import inspect

        inspect(options.what)

    parser = _verb(verbs, "inspect", "say what is in shards or a checkpoint, and what is broken", run)
    parser.add_argument("what", metavar="SHARDS|CHECKPOINT", help=f"{SHARDS}; or a checkpoint or run folder")


def _submit(arguments: list[str]) -> None:
    # not argparse's: options that it does not know are sbatch's, and -- divides
    from mmtrain.submit import run

    run(arguments, _parser().parse_args)


def _list(text: str) -> list[str]:
    items = [item.strip().strip("'\"") for item in text.strip("[] ").split(",")]
    if not all(items):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a list like [en,lv]")
    return items


def _integers(text: str) -> tuple[int, ...]:
    try:
        values = tuple(int(item) for item in _list(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected whole numbers like 1,5,10") from error
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected numbers from 1")
    return values


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    pairs = tuple(tuple(item.split("->")) for item in _list(text))
    if any(len(pair) != 2 for pair in pairs):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected pairs like de->en,lv->en")
    return pairs


if __name__ == "__main__":
    sys.exit(main())
