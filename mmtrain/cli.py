"""The command line: `mmtrain <verb>`.

Exit codes: 0 success, 1 failure, 2 wrong usage. Every failure is one line; --debug shows the traceback.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from mmtrain import option
from mmtrain.usage import OneLineParser, one_line

SHARDS = "a folder, a tar, a brace pattern, or several joined with ::, each with an optional weight"
MODEL = "a run folder, a checkpoint, an exported folder, open_clip:NAME or hf:NAME"


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
    for add in (_evaluate, _compare, _export, _average, _push, _index, _search, _pack, _inspect):
        add(verbs)
    return parser


def _verb(verbs: argparse._SubParsersAction, name: str, text: str, run: Callable) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def _evaluate(verbs: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        if options.out is None:
            if not Path(options.model, "checkpoints").is_dir():
                parser.error(f"--out: needed, for {options.model} is no run folder")
            options.out = Path(options.model, "report")
        if options.classes or options.sts:
            from mmtrain.classification import run_other

            run_other(options)
            return
        from mmtrain.evaluate import evaluate

        evaluate(
            options.model,
            options.data,
            options.out,
            protocol=options.protocol,
            images=options.images,
            languages=options.languages,
            captions=options.captions,
            similarity=options.similarity,
            recall_at=options.recall_at,
            text_to_text=options.text_to_text,
            rerank=options.rerank,
            zero_shot=options.zero_shot,
            prompts=options.prompts,
            batch_size=options.batch_size,
            workers=options.workers,
            device=options.device,
        )

    parser = _verb(verbs, "evaluate", "measure retrieval in every language", run)
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("--data", required=True, metavar="SHARDS", help=SHARDS)
    parser.add_argument(
        "--out", metavar="DIR", help="gets metrics.json and report.html; default: report/ in the run folder"
    )
    parser.add_argument("--languages", type=option.items, metavar="[en,lv]", help="default: the languages of the run")
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        help="a published test set: xm3600, xm3600/first, xtd10, multi30k, mscoco/1k, mscoco/5k, xflickrco, wit ...;"
        " --data may then be the data set's own files",
    )
    parser.add_argument("--images", metavar="DIR", help="with --protocol: where those files' pictures lie")
    parser.add_argument(
        "--captions", choices=("all", "first"), help="captions of an image and language that count; default: all"
    )
    parser.add_argument("--similarity", choices=("cosine", "asymmetric"), help="default: as the model was trained")
    parser.add_argument("--recall_at", type=option.integers, default=(1, 5, 10), metavar="1,5,10")
    parser.add_argument(
        "--text_to_text",
        type=option.pairs,
        default=(),
        metavar="de->en,lv->en",
        help="caption retrieval between languages",
    )
    parser.add_argument("--rerank", type=int, metavar="K", help="sort the best K again by the model's matching head")
    parser.add_argument("--zero_shot", metavar="TASK", help="a task that the shards label, by similarity alone")
    parser.add_argument("--prompts", metavar="FILE", help='for --zero_shot: JSON {class: "... {text} ..."}')
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--classes",
        metavar="FILE",
        help="classify the pictures instead, by a JSON file of class names: {language: {label: name}}, or"
        " Babel-ImageNet's; writes zero_shot.json",
    )
    other.add_argument(
        "--sts",
        action="store_true",
        help="correlate the similarity of sentences instead: --data names TSV files with the columns sentence1,"
        " sentence2, score; writes sts.json",
    )
    parser.add_argument("--templates", metavar="FILE", help='for --classes: JSON {language: ["a photo of a {}", ...]}')
    parser.add_argument("--task", help="for --classes: which of the samples' labels; default: the only one")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default=None, help="default: cuda where there is one")


def _compare(verbs: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        from mmtrain.compare import compare

        compare(
            [options.model, *options.models],
            options.data,
            options.out,
            protocol=options.protocol,
            images=options.images,
            languages=options.languages,
            recall_at=options.recall_at,
            batch_size=options.batch_size,
            workers=options.workers,
            device=options.device,
        )

    parser = _verb(verbs, "compare", "measure models side by side, with intervals", run)
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("models", metavar="MODEL", nargs="+", help="what to compare with it")
    parser.add_argument("--data", required=True, metavar="SHARDS", help=SHARDS)
    parser.add_argument("--out", metavar="DIR", help="gets compare.json and compare.html; default: only the table")
    parser.add_argument("--protocol", metavar="NAME", help="a published test set, as for evaluate")
    parser.add_argument("--images", metavar="DIR", help="with --protocol: where the data set's own pictures lie")
    parser.add_argument(
        "--languages", type=option.items, metavar="[en,lv]", help="default: those that all the models share"
    )
    parser.add_argument(
        "--recall_at", type=option.integers, default=(1, 5, 10), metavar="1,5,10", help="the first is tested"
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


def _index(verbs: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        from mmtrain.search.building import index

        index(
            options.model,
            options.data,
            options.out,
            kind=options.kind,
            candidates=options.candidates,
            languages=options.languages,
            batch_size=options.batch_size,
            part_size=options.part_size,
            workers=options.workers,
            device=options.device,
        )

    parser = _verb(verbs, "index", "embed the pictures of shards for search", run)
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("--data", required=True, metavar="SHARDS", help=SHARDS)
    parser.add_argument("--out", required=True, metavar="DIR", help="gets a FAISS index, ids, thumbnails and captions")
    parser.add_argument(
        "--kind", choices=("flat", "ivf", "hnsw", "pq"), default="flat", help="default: flat, which is exact"
    )
    parser.add_argument(
        "--candidates", type=int, default=100, help="pictures that an inexact index proposes, to be scored in full"
    )
    parser.add_argument("--languages", type=option.items, metavar="[en,lv]", help="captions to show; default: all")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument(
        "--part_size", type=int, default=1024, help="samples embedded between two files; a kill costs no more"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default=None, help="default: cuda where there is one")


def _search(verbs: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        from mmtrain.search.queries import search

        search(
            options.index,
            options.text,
            image=options.image,
            language=options.language,
            k=options.k,
            model=options.model,
            as_json=options.json,
            html=options.html,
            device=options.device,
        )

    parser = _verb(verbs, "search", "find pictures by a text in any language, or by a picture", run)
    parser.add_argument("index", metavar="DIR", help="what mmtrain index wrote")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("text", nargs="?", help="a text in any language")
    asked.add_argument("--image", metavar="FILE", help="a picture; features as .npy where the model reads those")
    parser.add_argument("--language", metavar="L", help="of the text, for models that read each language by itself")
    parser.add_argument("-k", type=option.positive, default=10, metavar="N", help="pictures to find; default 10")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--html", metavar="FILE", help="also write a page with pictures, which opens offline")
    parser.add_argument("--model", metavar="MODEL", help="where the index's model is now, if it was moved")
    parser.add_argument("--device", default=None, help="default: cuda where there is one")


def _average(verbs: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        from mmtrain.averaging import average_models

        average_models(options.models, options.out, options.weights)

    parser = _verb(verbs, "average", "average the weights of models of one kind", run)
    parser.add_argument("models", metavar="MODEL", nargs="+", help=MODEL)
    parser.add_argument("--weights", type=option.numbers, metavar="0.5,0.5", help="default: all alike")
    parser.add_argument("--out", required=True, metavar="DIR", help="gets a safetensors export")


def _push(verbs: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        from mmtrain.push import push

        push(
            options.folder, options.repository, licence=options.licence, upload=options.upload, private=options.private
        )

    parser = _verb(verbs, "push", "make an export ready for a model hub; --upload sends it", run)
    parser.add_argument("folder", metavar="DIR", help="what mmtrain export wrote")
    parser.add_argument("repository", metavar="OWNER/NAME")
    parser.add_argument("--licence", required=True, help="as the hub spells it, e.g. apache-2.0")
    parser.add_argument("--upload", action="store_true", help="send it; without this nothing leaves the machine")
    parser.add_argument("--private", action="store_true", help="a new repository is private")


def _pack(verbs: argparse._SubParsersAction) -> None:
    from mmtrain.packing import add_arguments, run

    add_arguments(_verb(verbs, "pack", "write shards", run), option.items)


def _inspect(verbs: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        from mmtrain.inspection import inspect

        inspect(options.what, html=options.html, group_by=options.group_by)

    parser = _verb(verbs, "inspect", "say what is in shards or a checkpoint, and what is broken", run)
    parser.add_argument("what", metavar="SHARDS|CHECKPOINT", help=f"{SHARDS}; or a checkpoint or run folder")
    parser.add_argument(
        "--html", metavar="FILE", help="also write a sheet of samples with pictures, which opens offline"
    )
    parser.add_argument(
        "--group_by", choices=("sample", "language"), default="sample", help="of the page; default: sample"
    )


def _submit(arguments: list[str]) -> None:
    # not argparse's: options that it does not know are sbatch's, and -- divides
    from mmtrain.submit import run

    run(arguments, _parser().parse_args)


if __name__ == "__main__":
    sys.exit(main())
