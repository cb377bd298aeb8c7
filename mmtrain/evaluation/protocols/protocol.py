"""A published protocol: how a data set's files become samples, how they are ranked, and who did so before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_array

from datamodules.files import write_whole
from datamodules.packing import Row, digest_of, pack_once
from datamodules.packing.cells import file_of, read_path
from datamodules.shards.encoding import BadRow
from datamodules.shards.locations import LISTING, TABLES, default_cache, in_folder
from mmtrain.display.messages import say
from mmtrain.evaluation.metrics.retrieval import summarise
from mmtrain.evaluation.ranking.graded import rank_graded
from mmtrain.evaluation.ranking.pools import Pool, mean_over_pools, rank_pools
from mmtrain.evaluation.ranking.ranks import RetrievalRanks, rank_retrieval
from mmtrain.evaluation.ranking.token_rows import TokenRows

QUESTIONS = "questions.jsonl"


@dataclass(frozen=True)
class Reference:
    """Published figures under this protocol."""

    source: str  # who measured
    figures: str  # which of their figures ours may stand beside, and what differs
    # in the code or result files of the source, reported by somebody else, or to be checked before it is quoted
    provenance: Literal["seen", "reported", "recalled"]


@dataclass(frozen=True)
class Split:
    """What a protocol may divide by: ids [N], and each caption's image and language [M]."""

    ids: Sequence[str]
    image_of_text: np.ndarray
    language_of_text: np.ndarray


@dataclass(frozen=True)
class Protocol:
    """A data set and one way to measure on it.

    `grades` are for questions with several right pages of different worth: text to image is then ranked, and its nDCG
    weighed, by how relevant each image is to each caption (`rank_graded`). Without them a caption's own image is right.
    A protocol with `questions` ranks no captions: `mmtrain evaluate --questions` asks what it wrote beside the shards.
    """

    name: str  # on the command line NAME/VARIANT
    variant: str
    read: Callable[[Path], Iterator[Row | BadRow]]  # the data set's own files as rows for the packer
    images: int | None  # of the complete test set; None where it is one of several
    languages: tuple[str, ...] | None  # those that count, None for all there are
    captions: Literal["all", "first"] = "all"  # of an image and language
    split: str | None = None  # of the rows, None for all rows
    pools: Callable[[Split], list[Pool]] | None = None  # ranked by themselves; None ranks everything together
    grades: Callable[[Split], csr_array] | None = None  # [M, N]
    over_pools: Literal["queries", "mean"] = "queries"  # figures over the queries of all pools, or means over pools
    recall_at: tuple[int, ...] = (1, 5, 10)  # unless others are asked for
    comparable: tuple[Reference, ...] = ()
    # lines of a question file; the paths of their pictures lead from the folder of the data set's pictures
    questions: Callable[[Path], Iterator[dict[str, Any]]] | None = None

    def __str__(self) -> str:
        return f"{self.name}/{self.variant}"

    def chosen_languages(self, there: Sequence[str]) -> list[str]:
        """The languages of a split that the protocol measures. Raises ValueError when there is none."""
        if self.languages is None:
            return list(there)
        languages = [language for language in self.languages if language in there]
        if not languages:
            raise ValueError(f"--protocol: {self} has {', '.join(self.languages)}, the data {', '.join(there[:20])}")
        return languages

    def measure(
        self,
        images: np.ndarray | TokenRows,
        texts: np.ndarray | TokenRows,
        image_of_text: np.ndarray,
        language_of_text: np.ndarray,
        ids: Sequence[str],
        *,
        bootstrap: int = 1000,
        **options: Any,
    ) -> tuple[RetrievalRanks, dict[str, Any]]:
        """Ranks and the contents of metrics.json of images [N, D] and texts [M, D] under this protocol.

        options are those of `rank_retrieval`. The protocol's name and variant, whether all of the test set was there,
        and what the figures are comparable with are written into "protocol".

        Raises:
            ValueError: for text_to_text of a protocol with pools, or none of its languages.
        """
        languages = self.chosen_languages(options.pop("languages", None) or np.unique(language_of_text).tolist())
        columns = (images, texts, image_of_text, language_of_text)
        options = {"recall_at": self.recall_at} | options | {"languages": languages, "captions": self.captions}
        split = Split(ids, image_of_text, language_of_text)
        pools = None if self.pools is None else self.pools(split)
        parts: list[RetrievalRanks] = []
        if pools is None:
            ranks = rank_retrieval(*columns, **options)
        else:
            if options.pop("text_to_text", None):
                raise ValueError(f"--text_to_text: {self} ranks within pools; measure it without --protocol")
            ranks, parts = rank_pools(*columns, pools, **options)
        if self.grades is not None:
            ranks = _graded(ranks, images, texts, self.grades(split), pools, options.get("device", "cpu"))
        metrics = summarise(ranks, bootstrap=bootstrap)
        if self.over_pools == "mean":
            metrics = mean_over_pools(metrics, [summarise(part, bootstrap=0) for part in parts])
        metrics["protocol"] |= self.statement(len(images), languages) | {
            "figures": "mean over pools" if self.over_pools == "mean" else "over queries"
        }
        return ranks, metrics

    def statement(self, images: int, languages: Sequence[str]) -> dict[str, Any]:
        """What metrics.json says in "protocol": whether so many images and languages are all, and the references."""
        absent = [language for language in self.languages or () if language not in languages]
        return {
            "name": self.name,
            "variant": self.variant,
            "complete": self.images == images and not absent,
            "expected": {"images": self.images, "languages": list(self.languages or languages)},
            "languages_absent": absent,
            "comparable": [vars(reference) for reference in self.comparable],
        }

    def shards(self, data: str, images: str | Path | None = None) -> str:
        """SHARDS as they are; the data set's own files packed into the cache, once, with the questions beside them.

        Args:
            data: SHARDS, or the file or folder that `read` takes.
            images: Where the images lie; default: beside the file, or in the folder.

        Raises:
            ValueError: when the files cannot be read, or hold no image of the split.
        """
        source = Path(data).expanduser()
        if not source.exists() or source.suffix in (".tar", *TABLES) or self._is_packed(source):
            return data
        folder = Path(images) if images else source if source.is_dir() else source.parent
        rows = list(self.read(source))
        questions = [] if self.questions is None else list(self.questions(source))
        digest = digest_of(rows, folder, str(self), str(folder.resolve()), questions)
        out = default_cache() / "protocols" / f"{self.name}-{self.variant}-{digest}"
        beside = partial(self._write_questions, questions, folder) if questions else None
        pack_once(rows, out, images=folder, split=self.split, title=f"packing {self}", beside=beside)
        say(f"{self}: {source} as shards in {out}")
        return str(out)

    def question_file(self, shards: str) -> Path | None:
        """The questions that `shards` wrote beside the shards; None for a protocol of captions.

        Raises:
            ValueError: for shards without.
        """
        if self.questions is None:
            return None
        if not (Path(shards) / QUESTIONS).is_file():
            raise ValueError(
                f"--protocol: {self} asks questions, {shards} has no {QUESTIONS}; the data set's own files"
            )
        return Path(shards) / QUESTIONS

    def _is_packed(self, source: Path) -> bool:
        if self.questions is not None:  # whose own files may be parquet
            return (source / LISTING).is_file()
        return source.is_dir() and bool(in_folder(source))

    def _write_questions(self, questions: Sequence[dict[str, Any]], pictures: Path, folder: Path) -> None:
        """Writes questions.jsonl, and pictures/ where questions show some, each picture once."""
        shown = {path for question in questions for path in question.get("images", ())}
        in_order = sorted(shown, key=lambda path: (file_of(path), len(path), path))  # the rows of a table one by one
        names = {path: self._picture(pictures, path, folder) for path in in_order}
        lines = []
        for question in questions:
            if "images" in question:
                question = question | {"images": [names[path] for path in question["images"]]}
            lines.append(json.dumps(question, ensure_ascii=False) + "\n")
        write_whole(folder / QUESTIONS, "".join(lines))

    def _picture(self, pictures: Path, path: str, folder: Path) -> str:
        try:
            content = read_path(pictures, path)
        except OSError:
            raise ValueError(f"--protocol: {self} shows {path}, which {pictures} lacks; all of the data set") from None
        name = f"pictures/{hashlib.blake2b(content, digest_size=16).hexdigest()}"
        (folder / "pictures").mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        return name


def file_in(source: Path, name: str) -> Path:
    """The file of this name in a folder; a source that is no folder is the file itself."""
    return source / name if source.is_dir() else source


def _graded(
    ranks: RetrievalRanks,
    images: np.ndarray | TokenRows,
    texts: np.ndarray | TokenRows,
    grades: csr_array,
    pools: Sequence[Pool] | None,
    device: Any,
) -> RetrievalRanks:
    """The ranks with text to image by grades; queries without a right image in their pool are counted as excluded."""
    group = np.zeros(len(images), dtype=np.int64)
    for number, pool in enumerate(pools or ()):
        group[pool.images] = number
    table, excluded = {}, {}
    for language, texts_of in ranks.texts_of.items():
        graded, excluded[language] = rank_graded(
            images,
            texts[texts_of],
            grades[texts_of],
            depth=ranks.recall_at[-1],
            similarity=ranks.statement.similarity,
            groups=np.concatenate([group[ranks.image_of_text[texts_of]], group]),
            device=device,
        )
        table[language] = replace(graded, query=texts_of[graded.query])
    statement = replace(ranks.statement, graded=True, excluded={**ranks.statement.excluded, "text_to_image": excluded})
    return replace(ranks, text_to_image=table, statement=statement)
