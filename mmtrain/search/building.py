"""The files of an index folder."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mmtrain.display.messages import say
from mmtrain.display.tables import print_table
from mmtrain.embedding.parts import EmbeddingParts
from mmtrain.embedding.splits import MeasuredShards
from mmtrain.models.foreign import is_foreign
from mmtrain.search.index import DESCRIPTION, FAISS, FORMAT, ITEMS, ROWS, SearchIndex
from mmtrain.search.items import ItemWriter
from mmtrain.search.kinds import build_index, describe_kind
from mmtrain.search.recall import Queries, recall_lost
from mmtrain.search.tokens import TOKEN_FILES, Measured, TokenStore, TokenWriter

FILES = {DESCRIPTION, FAISS, ROWS, ITEMS, *TOKEN_FILES}
MEASURED = 1000  # at most so many images, and their captions, are queries when an index is measured


def check_target(target: Path) -> None:
    """Raises ValueError unless there is nothing at `target`, or an index and nothing else."""
    if target.is_dir():
        names = {path.name for path in target.iterdir()}
        others = sorted(name for name in names if name not in FILES or not (target / name).is_file())
        if not names or (not others and older(target) is not None):
            return
    elif not target.exists():
        return
    else:
        others = [target.name]
    example = f", {others[0]} among them" if others else ""
    raise ValueError(f"--out: {target} holds other files{example}; give an empty folder, or an older index")


def older(target: Path) -> dict[str, Any] | None:
    """index.json of an index at `target`, by its fields."""
    try:
        description = json.loads((target / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(description, dict) and {"format", "fingerprint", "faiss", "data"} <= description.keys()
    return description if ours else None


def is_done(target: Path, fingerprint: str, data: str) -> bool:
    description = older(target)
    return description is not None and (description["fingerprint"], description["data"]) == (fingerprint, data)


def write_index(
    folder: Path, description: dict[str, Any], width: int, shards: MeasuredShards, parts: EmbeddingParts
) -> dict[str, Any]:
    """Writes all files of an index; returns index.json, which begins with `description`."""
    import faiss

    measured = Measured({}, [])
    captions, texts = _join(parts, folder, shards, width, measured)
    rows = np.load(folder / ROWS, mmap_mode="c")
    kind, similarity = description["kind"], description["similarity"]
    faiss.write_index(build_index(rows, kind, similarity), str(folder / FAISS))
    description = {
        "format": FORMAT,
        **description,
        "faiss": describe_kind(kind, *rows.shape),
        "width": rows.shape[1],
        "images": len(rows),
        "captions": captions,
        "skipped": shards.account.summary()["causes"],
        "recall": None,
    }
    if parts.tokens is not None:
        store = TokenStore(folder, len(rows))
        description["tokens"] = asdict(parts.tokens) | {
            "width": store.width,
            "rows": store.count,
            "loss": measured.loss(store),
        }
    _write_json(folder / DESCRIPTION, description)
    index = SearchIndex(folder)
    if not index.exact:
        items = np.unique(np.linspace(0, len(rows) - 1, min(MEASURED, len(rows))).astype(np.int64))
        description["recall"] = recall_lost(index, texts, Queries(rows[items], items))
        _write_json(folder / DESCRIPTION, description)
    return description


def _join(
    parts: EmbeddingParts, folder: Path, shards: MeasuredShards, width: int, measured: Measured
) -> tuple[dict[str, int], dict[str, Queries]]:
    """Writes rows.npy float32 [N, width], items.sqlite and token rows; samples that show the same image are one item.

    Items are numbered in the split's order, whoever made the parts. Returns, by language, the number of captions and
    the captions that were embedded. Raises ValueError when no sample could be read.
    """
    item_of_image: dict[int, int] = {}
    for image in parts.image_ids():
        item_of_image.setdefault(image, len(item_of_image))
    if not item_of_image:
        raise ValueError("--data: no sample could be read")
    writer, tokens = ItemWriter(folder / ITEMS), TokenWriter(folder)
    # written as a file is: a map of a file has holes, and to fill one on a full disk is a signal, SIGBUS
    rows = (folder / ROWS).open("wb")
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(item_of_image), width)}
    np.lib.format.write_array_header_1_0(rows, header)
    captions: Counter[str] = Counter()
    texts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    count = 0
    for part in parts.read():
        shards.account.add_once(part.skipped)
        items = np.array([item_of_image[image] for image in part.image_ids.tolist()], dtype=np.int64)
        numbers, places = np.unique(items, return_index=True)
        new = places[numbers >= count].tolist()  # in the order of the items, which are numbered as they come first
        rows.write(part.images[new].astype("<f4").tobytes())
        count += len(new)
        captions_of_items = [
            (item, shards.languages[language], caption)
            for item, each in zip(items.tolist(), part.captions, strict=True)
            for language, caption in each
        ]
        writer.add([(int(items[place]), part.ids[place], part.thumbnails[place]) for place in new], captions_of_items)
        captions.update(language for _, language, _ in captions_of_items)
        item_of_text = items[np.searchsorted(part.rows, part.text_rows)]
        if part.tokens is not None:
            tokens.add(part.tokens, new)
            measured.add(part.tokens, items, item_of_text)
        for language in np.unique(part.text_languages).tolist():
            same = part.text_languages == language
            texts.setdefault(shards.languages[language], []).append((part.texts[same], item_of_text[same]))
    writer.close()
    rows.close()
    if parts.tokens is not None:
        tokens.close()
    queries = {name: Queries(*map(np.concatenate, zip(*each, strict=True))) for name, each in sorted(texts.items())}
    return dict(sorted(captions.items())), queries


def _write_json(path: Path, description: dict[str, Any]) -> None:
    path.write_text(json.dumps(description, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def lasting(model: str) -> str:
    """MODEL as it can be loaded from another folder."""
    prefix, colon, name = model.partition(":") if is_foreign(model) else ("", "", model)
    path = Path(name).expanduser()
    return f"{prefix}{colon}{path.resolve()}" if path.exists() else model


def print_index(folder: Path, description: dict[str, Any]) -> None:
    kind, recall = description["kind"], description["recall"]
    languages = len(description["captions"])
    say(
        f"{folder}: {description['images']:,} pictures, {sum(description['captions'].values()):,} captions in"
        f" {languages} language{'s' * (languages != 1)}, {kind} ({description['faiss']}), {description['similarity']}"
        + ("; exact" if recall is None else "")
    )
    if (tokens := description.get("tokens")) is not None:
        loss, budget = tokens["loss"], tokens["budget"]
        measured = (
            "no caption to measure by"
            if loss is None
            else (
                f"R@1 of {loss['queries']:,} captions among {loss['items']:,} pictures {loss['R@1']:.1f}, exact"
                f" {loss['R@1_exact']:.1f}; scores differ by at most {loss['largest']:.4f}"
            )
        )
        most = "" if budget is None else f", at most {budget} a picture"
        say(f"token rows: {tokens['rows']:,} of width {tokens['width']}{most}, {tokens['dtype']}; {measured}")
    if recall is None:
        return
    in_full = f"{description['candidates']} candidates\nscored in full"
    columns = ("queries", "number", f"{kind} alone", in_full, "lost", "R@10\nexact", "R@10")
    rows = []
    queries = {f"text, {language}": figures for language, figures in recall["text"].items()}
    if recall["image"] is not None:
        queries["image"] = recall["image"]
    for name, figures in queries.items():
        figures = figures | {"lost": 100 - figures["found"]}
        shares = [figures.get(share) for share in ("found_alone", "found", "lost", "R@10_exact", "R@10")]
        rows.append([name, f"{figures['queries']:,}", *("" if share is None else f"{share:.1f}" for share in shares)])
    print_table("of the ten best by exact search, percent found", columns, rows)
