"""VisR-Bench (Chen et al. 2025): questions to long documents, each answered by one page of its own document.

QA/{figure,table,text,multilingual}_QA.json lists documents: {"file_name", "all_page_images": [...], "all_page_md_str":
[...], "qa_list": [{"question", "page_index", "detected_language"?}]}, pages from 0. The pictures lie in data/,
Multimodal/ or Multilingual/ under the file's name. Every page is a candidate, also one whose text is "None".
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.packing import Row
from datamodules.packing.spelling import language_of
from mmtrain.evaluation.protocols.protocol import Protocol, Reference

GROUPS = ("figure", "table", "text", "multilingual")
FOLDERS = ("", "data/", "Multimodal/", "Multilingual/")
KEYS = (("file_name", str), ("all_page_images", list), ("qa_list", list))
NO_TEXT = "None"  # what the text of a page says that has none


def documents(source: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The documents of each group, by their number in it. Raises ValueError, one line, for files that are not so."""
    files = [(group, path) for group in GROUPS for path in _places(source, f"{group}_QA.json") if path.is_file()]
    if not files:
        raise ValueError(f"--data: {source} holds no QA/{GROUPS[0]}_QA.json or the like; the folder of VisR-Bench")
    for group, path in files:
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            listed = None
        if not isinstance(listed, list):
            raise ValueError(f"--data: {path} is no JSON list of documents; VisR-Bench's QA file")
        for number, document in enumerate(listed):
            if not isinstance(document, dict) or any(not isinstance(document.get(key), kind) for key, kind in KEYS):
                raise ValueError(f"--data: {path}, document {number + 1} has no file_name, all_page_images and qa_list")
            yield group, number, document


def read(source: Path) -> Iterator[Row]:
    """The pages of all documents, each document once: {"id": FILE/PAGE, "document", "pool", "page", "text"}."""
    seen: set[str] = set()
    number = 0
    for _, _, document in documents(source):
        name, images, texts = document["file_name"], document["all_page_images"], document.get("all_page_md_str") or []
        if name in seen:
            continue
        seen.add(name)
        for page, image in enumerate(images):
            text = texts[page] if page < len(texts) and texts[page] != NO_TEXT else ""
            record = {"id": f"{name}/{page}", "document": name, "pool": name, "page": page, "text": text}
            shorter = str(image).rpartition("/")[2]
            named = dict.fromkeys((str(image), f"images/{shorter}", shorter))
            places = tuple(f"{folder}{name}/{each}" for folder in FOLDERS for each in named)
            yield Row(number, record, places, complete=False)
            number += 1


def questions(source: Path) -> Iterator[dict[str, Any]]:
    """The questions of all groups."""
    for group, number, document in documents(source):
        name, pages = document["file_name"], len(document["all_page_images"])
        for place, asked in enumerate(document["qa_list"]):
            asked = asked if isinstance(asked, dict) else {}
            index, text = asked.get("page_index"), asked.get("question")
            if not isinstance(index, int) or not isinstance(text, str) or not 0 <= index < pages:
                raise ValueError(
                    f"--data: {group}_QA.json, {name}, question {place + 1}: page_index is {index!r} and question"
                    f" {str(text)[:40]!r}; a page from 0 to {pages - 1} and a text"
                )
            spoken = asked.get("detected_language") or document.get("detected_language")
            language = language_of(spoken) if spoken else "und" if group == "multilingual" else "en"
            question = {"id": f"{group}/{number}/{place}", "text": text, "language": language, "group": group}
            yield question | {"relevant": {f"{name}/{index}": 1}, "pool": name}


def _places(source: Path, name: str) -> tuple[Path, Path]:
    return source / "QA" / name, source / name


ALL = Protocol(
    name="visr_bench",
    variant="all",
    read=read,
    questions=questions,
    images=None,
    languages=None,
    comparable=(
        Reference(
            "Chen et al. 2025",
            "top-1 and top-5 accuracy within a document, pooled over the questions of a group: our R@1 and R@5 of the"
            " group; ColQwen2 in Japanese 89.98 top-5, on text BGE-M3 84.33",
            "reported",
        ),
        Reference(
            "their BM25 and text retrievers",
            "not: BM25 cuts words by an English rule (ja top-5 39.35; with recognised text and right words 85.5), and"
            ' text retrievers lack the pages whose text is "None"',
            "reported",
        ),
    ),
)
PROTOCOLS = (ALL,)
