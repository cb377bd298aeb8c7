"""Jina-VDR (Günther et al. 2025), ViDoRe (Faysse et al. 2024) and MIEB's retrieval tasks: one folder a data set.

DATASET/[LANGUAGE/]{queries,corpus,qrels}/*.parquet. --data is one data set or a folder of several, which become the
groups of the figures. The queries of a data set's language look among the items of that language.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.packing.spelling import language_of
from mmtrain.evaluation.protocols.pages import page_questions, read_pages
from mmtrain.evaluation.protocols.protocol import Protocol, Reference

# fmt: off
LANGUAGES = {
    "ar", "bn", "de", "en", "es", "fr", "hi", "hu", "id", "it", "ja", "ko", "my", "nl", "pl", "pt", "ru", "th", "tr",
    "ur", "vi", "zh",
}
# fmt: on
# data sets whose name does not tell their language as a code; the others are English
SPOKEN = {"jdocqa": "ja", "hindi-gov-vqa": "hi", "shift": "fr", "tabfquad": "fr"}
SPOKEN |= {"shanghai_master_plan": "zh"}


def language_in(name: str) -> str:
    """The language of a data set or of a folder in it, by its name: europeana-de-news_beir, github-readme.../jp."""
    tokens = [language_of(token) for token in re.split("[-_/]", name) if re.fullmatch("[a-z]{2}", token)]
    known = next((each for word, each in SPOKEN.items() if word in name), "en")
    return next((each for each in reversed(tokens) if each in LANGUAGES), known)


def questions(source: Path, default: str | None = None) -> Iterator[dict[str, Any]]:
    """The queries; those of several data sets are grouped by their names."""

    def named(pool: str) -> str:
        return f"{source.resolve().name}/{pool}"

    def group(pool: str) -> dict[str, Any]:
        data_set, *inner = pool.split("/")
        return {"group": data_set} if inner or (data_set and data_set not in LANGUAGES | {"jp"}) else {}

    return page_questions(source, lambda pool: default or language_in(named(pool)), group)


JINA = Protocol(
    name="jina_vdr",
    variant="test",
    read=read_pages,
    questions=questions,
    images=None,
    languages=None,
    comparable=(
        Reference(
            "jina-embeddings-v4, table of Jina-VDR",
            "nDCG@5, mean over its data sets (ours: over the groups): dense rows 73.98, many rows 80.55; ColPali-v1.2"
            " 65.39, BM25 on recognised text 46.88",
            "reported",
        ),
        Reference("MTEB, JinaVDR tasks", "nDCG@5, of each data set by itself", "seen"),
    ),
)
VIDORE = replace(
    JINA,
    name="vidore",
    comparable=(
        Reference(
            "ViDoRe v1 as jina-embeddings-v4 measures it",
            "nDCG@5, mean over data sets: jina-embeddings-v4 dense 84.11, many rows 90.17; jina-clip-v2 52.65",
            "reported",
        ),
        Reference("MTEB, ViDoRe v1 and v2 / v3", "main score nDCG@5 / nDCG@10; every query among all pages", "seen"),
    ),
)
MIEB = replace(
    JINA,
    name="mieb",
    variant="retrieval",
    questions=partial(questions, default="en"),
    comparable=(
        Reference(
            "MTEB, Any2AnyRetrieval",
            "nDCG@10; a query of text and picture is the plain sum of their rows there and the sum of unit rows here",
            "seen",
        ),
    ),
)
PROTOCOLS = (JINA, VIDORE, MIEB)
