"""MIRACL-VISION (Osmulski et al. 2025): questions in 18 languages, answered by screenshots of Wikipedia's articles.

A folder a language (or corpus-LANGUAGE ...) holds corpus, images, queries and qrels in parquet files. The queries of a
language look among its own 8,000 to 75,000 pages.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.packing.spelling import language_of
from mmtrain.evaluation.protocols.pages import page_questions, read_pages
from mmtrain.evaluation.protocols.protocol import Protocol, Reference

LANGUAGES = ("ar", "bn", "de", "en", "es", "fa", "fi", "fr", "hi", "id", "ja", "ko", "ru", "sw", "te", "th", "yo", "zh")


def questions(source: Path) -> Iterator[dict[str, Any]]:
    """The queries of all languages that are there."""
    return page_questions(source, lambda pool: language_of(pool.rpartition("/")[2] or source.resolve().name))


ALL = Protocol(
    name="miracl_vision",
    variant="all",
    read=read_pages,
    questions=questions,
    images=338_734,
    languages=LANGUAGES,
    comparable=(
        Reference(
            "Osmulski et al. 2025",
            "nDCG@10, mean of 18 languages: gme-Qwen2-VL-2B 52.83, vdr-2b-multi 47.41, colqwen2 47.28, dse 44.26; on"
            " the same pages' text bge-m3 79.64",
            "reported",
        ),
        Reference("MTEB, MIRACLVisionRetrieval", "its main score is nDCG@5: beside our nDCG@5, not @10", "seen"),
    ),
)
PROTOCOLS = (ALL,)
