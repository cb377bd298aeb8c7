"""What a teacher knows, learned by either tower."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from datamodules.batch import Batch
from losses import Embeddings, FieldEmbeddings, Objective, distillation_loss
from losses.distillation import Kind
from losses.engine.checks import choice
from losses.engine.distributed import default_group, gather, global_sum, longest, total
from losses.objective import slots_of
from mmtrain.models.image_text import ImageTextModel
from mmtrain.objectives.teacher import Teacher


class Distillation(Objective):
    """`losses.distillation_loss` of the rows of an input beside those of a teacher, the mean over all that are there.

    The teacher is a MODEL that reads the same batch, or a field that holds its rows already. With a `language` it reads
    each sample's caption in that language, and all captions of the sample learn its row: parallel texts (Reimers and
    Gurevych, "Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation", EMNLP 2020). Samples
    without it do not count.

    Args:
        teacher: MODEL, frozen; see `Teacher`.
        rows: A field of features [D'] in place of a MODEL: what one gave, such as `mmtrain embed` writes.
        student: What learns: "image", "texts" or a field's name.
        reads: What the teacher reads, one value a sample or as many as the student has; None for what learns.
        language: Of the teacher's captions.
        kind: cosine, mse or similarities.
        scale: Multiplier of the similarities.

    Raises:
        ValueError: for both a teacher and rows or neither, a language of something else than captions, an unknown kind,
            or a MODEL that cannot be loaded.
    """

    needs = frozenset({"texts"})

    def __init__(
        self,
        teacher: str | None = None,
        rows: str | None = None,
        student: str = "texts",
        reads: str | None = None,
        language: str | None = None,
        kind: Kind = "cosine",
        scale: float = 20.0,
    ) -> None:
        super().__init__()
        choice("kind", kind, Kind)
        if (teacher is None) == (rows is None):
            raise ValueError(f"teacher, rows: got {teacher} and {rows}, expected one of them")
        self.reads = rows or reads or student
        if language is not None and self.reads != "texts":
            raise ValueError(f"language: got {language} of {self.reads}, expected the teacher to read texts")
        self.student, self.kind, self.scale = student, kind, scale
        self.teacher = None if teacher is None else Teacher(teacher, language)
        self.unencoded = frozenset() if rows is None else frozenset({rows})
        self.needs = frozenset({student, self.reads})

    def connect(self, model: ImageTextModel) -> None:
        """Raises ValueError for a teacher of another width where rows are compared."""
        if self.teacher is not None and self.kind != "similarities" and self.teacher.dimension != model.dimension:
            raise ValueError(
                f"teacher: rows of {self.teacher.model} are {self.teacher.dimension} wide, the space is"
                f" {model.dimension}; set model.dimension to {self.teacher.dimension}, or kind to similarities"
            )

    def prepare(self, data: Any) -> None:
        if self.teacher is not None:
            self.teacher.prepare(data.languages)

    def loss(self, batch: Batch, embeddings: Embeddings, model: Any) -> Tensor:
        self.check_rows(embeddings)
        ours, theirs = slots_of(embeddings, self.student), self._taught(batch)
        shape, width = ours.rows.shape[:2], theirs.rows.shape[1]
        if width not in (1, shape[1]):
            raise ValueError(f"{self.reads}: {width} values a sample, expected 1 or the {shape[1]} of {self.student}")
        both = torch.ones(shape, dtype=torch.bool, device=ours.rows.device)
        for present in (ours.present, theirs.present):
            both = both if present is None else both & present
        student = ours.rows[both]
        teacher = theirs.rows.expand(*shape, -1)[both].to(student.dtype)
        group = default_group()
        others: dict[str, Tensor] = {}
        loss = 0 * ours.rows.sum()  # every process has a gradient, those without a pair too
        if self.kind == "similarities":
            others = {f"{name}_other": _everyones(rows) for name, rows in (("student", student), ("teacher", teacher))}
            loss = loss + 0 * others["student_other"].sum()
        if len(student):
            loss = loss + len(student) * distillation_loss(student, teacher, self.kind, self.scale, **others)
        return global_sum(loss / total(both.sum(), group).clamp(min=1), group)

    def _taught(self, batch: Batch) -> FieldEmbeddings:
        """The teacher's rows [B, n, D']; with a language of its captions, one a sample."""
        if self.teacher is None:
            field = batch.fields[self.reads]
            if field.kind != "features" or field.values.dim() != 3:
                raise ValueError(
                    f"{self.reads}: got {field.kind} {list(field.values.shape)}, expected features [B, n, D]"
                )
            return FieldEmbeddings(functional.normalize(field.values.float(), dim=-1), field.present)
        rows = self.teacher(batch, self.reads)
        if self.teacher.language is None:
            return rows
        slot = rows.present.int().argmax(1)
        numbers = torch.arange(len(slot), device=slot.device)
        return FieldEmbeddings(rows.rows[numbers, slot][:, None], rows.present.any(1)[:, None])


def _everyones(rows: Tensor) -> Tensor:
    """The rows of all processes, which may have different numbers of them."""
    group = default_group()
    more = longest(len(rows), rows.device, group) - len(rows)
    there = functional.pad(rows.new_ones(len(rows), dtype=torch.bool), (0, more))
    return gather(functional.pad(rows, (0, 0, 0, more)), group)[gather(there, group)]
