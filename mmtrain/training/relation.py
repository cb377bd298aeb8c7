"""Fine-tuning: what a text says about its picture, with ITC and ITM beside the task."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn

from datamodules.batch import Batch
from losses import Embeddings, ItmLoss, Objective, OneToKLoss
from mmtrain.embedding.predictions import PredictedSplit
from mmtrain.evaluation.measuring.relation import relation_figures
from mmtrain.fusion import CrossAttentionFusion, Fusion, RelationHead, fuse
from mmtrain.models.batches import embed_batch
from mmtrain.models.image_text import Projection
from mmtrain.models.run_folder import describe
from mmtrain.objectives import TaskLoss
from mmtrain.towers import ImageTower, TextTower
from mmtrain.training.contrastive import ContrastiveModule
from mmtrain.training.data import LabelledData
from mmtrain.training.optimisation import OptimizerClass, Schedule
from mmtrain.training.regression import start_from_regression
from mmtrain.training.starting_weights import Pretrained
from mmtrain.training.validation import log_validation


class RelationModule(ContrastiveModule):
    """Trains towers, a fusion encoder and one linear head a task, on each post's picture and text.

    The loss is (1 - itc - itm) CE + itc ITC + itm ITM, or with `convex` off CE + itc ITC + itm ITM (Sanchez Villegas,
    Preotiuc-Pietro and Aletras, Findings of EACL 2024, section 3.3; `itc: 0.1, itm: 0.1` gives their 0.8 / 0.1 / 0.1).
    CE is the mean over the tasks, of cross-entropy weighted by class; a post without a label of a task has no part in
    it. ITC compares the towers' own rows, before the fusion, so that neither modality has seen the other. ITM judges
    the fused pair.

    ITC and ITM take each post for a pair, unless `itc_on` says which labels make one. Posts without labels, a second
    source of data.train, are material for both; where the labelled source names its tasks (objectives: [task/mood]),
    they are all of it. `mmtrain.phases.Phase` sets other weights from a step on.

    Args:
        image: Image tower; None takes that of `pretrained`.
        text: Text tower; None takes that of `pretrained`.
        pretrained: MODEL (a run folder, checkpoint or export of ours) whose weights towers and projections start from.
        fusion: Fusion encoder; that of `pretrained`, where it has one, else cross-attention. One of the same class and
            shape starts from the weights in `pretrained`, and so does the layer for matching.
        tasks: Tasks to train; default: all that the training split labels.
        itc: Weight of ITC, 0 by default: posts that do not match are no pairs, and cost a matching task points.
            0.02 to 0.1 serve where `itc_on` or posts without labels say what a pair is (`benchmarks/few_labels.py`).
        itm: Weight of ITM; 0 leaves it out. Its layer has two classes and starts at random: one that starts as the
            similarity has only the posts left to learn that do not match, and costs a matching task points.
        itc_on: Which posts are positives of ITC and ITM: the classes by task, as in {represented: [1]}. A post of
            another class is no pair, neither positive nor negative, but its picture and its text are negatives of the
            others; one without a label is a positive. Default: all posts are.
        convex: Whether the task's weight is what ITC and ITM leave of 1, or 1.
        negatives: Of ITM: "random" replaces the text of half of the posts (as published), "hard" draws by similarity.
        class_weights: "balanced" weighs class c with n / (C n_c) of the n labelled training samples, "none" all alike.
            A task whose classes the data module draws alike already (sampling: balanced) is not weighed again.
        dropout: On the fused vector.
        rows: Whether the tasks' layers read the pair's rows of the shared space beside the fused vector.
        start: Of the tasks' layers: "random", or "regression", the logistic regression on the pair's rows of the
            training posts, which is fitted before the first step (`mmtrain.training.regression`). It says as much as a
            linear probe of the space, and what is trained on top of it should be trained gently.
        frozen: Towers whose weights stay as they are.
        tower_rate: Learning rate of towers and projections, as a multiple of learning_rate.
        dimension: Width of the shared space; that of `pretrained`, where given.
        projection: Into the shared space: linear, mlp or none; that of `pretrained`, where given.

    The other arguments are those of ContrastiveModule.

    Raises:
        ValueError: weights that leave the task nothing, no towers, or a `pretrained` that does not fit them.
    """

    instead_of_accumulation = "--model.checkpoint_activations true"  # tokens need the whole batch at once

    def __init__(
        self,
        image: ImageTower | None = None,
        text: TextTower | None = None,
        pretrained: str | None = None,
        fusion: Fusion | None = None,
        tasks: list[str] | None = None,
        itc: float = 0.0,
        itm: float = 0.1,
        itc_on: dict[str, list[int | str]] | None = None,
        convex: bool = True,
        negatives: Literal["random", "hard"] = "random",
        class_weights: Literal["balanced", "none"] = "balanced",
        dropout: float = 0.05,
        rows: bool = True,
        start: Literal["random", "regression"] = "random",
        frozen: Sequence[Literal["image", "text"]] = (),
        tower_rate: float = 1.0,
        dimension: int = 256,
        projection: Projection = "linear",
        learning_rate: float = 1e-3,
        weight_decay: float = 2.5e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        optimizer: OptimizerClass | None = None,
        schedule: Schedule = "cosine",
        warmup_steps: int = 20,
        cooldown_steps: int = 0,
        layer_decay: float = 1.0,
        compile: bool = False,
        checkpoint_activations: bool = False,
    ) -> None:
        if itc < 0 or itm < 0 or (convex and itc + itm >= 1):
            rule = "from 0, with a sum below 1" if convex else "from 0"
            raise ValueError(f"model.itc, model.itm: got {itc} and {itm}, expected weights {rule}")
        if class_weights not in ("balanced", "none"):
            raise ValueError(f"model.class_weights: got {class_weights!r}, expected balanced or none")
        if start not in ("random", "regression") or (start == "regression" and not rows):
            raise ValueError(f"model.start: got {start!r}, expected random, or regression with model.rows true")
        source = Pretrained(pretrained) if pretrained is not None else None
        if source is not None:
            image, text = image or source.model.image, text or source.model.text
            dimension, projection = source.model.dimension, source.model.projection
        if image is None or text is None:
            raise ValueError("model.image, model.text: give both towers, or model.pretrained")
        objectives: dict[str, Objective] = {"itc": OneToKLoss(scale=source.scale if source else 1 / 0.07)}
        if itm:
            objectives["itm"] = ItmLoss(self._match, negatives)
        super().__init__(
            image,
            text,
            objectives,
            weights={"itc": itc} | ({"itm": itm} if itm else {}),
            dimension=dimension,
            projection=projection,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            betas=betas,
            optimizer=optimizer,
            schedule=schedule,
            warmup_steps=warmup_steps,
            cooldown_steps=cooldown_steps,
            layer_decay=layer_decay,
            tower_rate=tower_rate,
            compile=compile,
            checkpoint_activations=checkpoint_activations,
        )
        if source is not None:
            source.fill(self.model)
            if fusion is None and source.head is not None and not source.head.fusion.reads_rows:
                fusion = source.head.fusion
        for name, tower in (("image", image), ("text", text)):
            if name in frozen:
                tower.frozen = True
                tower.apply_frozen()
        fusion = (fusion or CrossAttentionFusion()).connect(image.width, text.width)
        self.head = RelationHead(fusion, matches=bool(itm), dropout=dropout, rows=dimension if rows else None)
        if source is not None:
            source.fill_head(self.head)
        self.tasks, self.class_weights, self.start = tasks, class_weights, start
        self._source = source
        self._task_weight = 1 - itc - itm if convex else 1.0
        self._itc_on, self._positives = itc_on or {}, dict[str, list[int]]()
        self._logits: tuple[Embeddings, dict[str, Tensor]] | None = None
        self._predicted = PredictedSplit(self.head)

    def _match(self, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        return self.head.match(fuse(self.head.fusion, image, text, mask))

    # ---- before the first step

    def configure_model(self) -> None:
        """Makes the tasks' layers and their losses, which the data decide on."""
        if not self.head.names:
            self._make_tasks()
        super().configure_model()

    def _make_tasks(self) -> None:
        data = self.data
        if not isinstance(data, LabelledData):
            raise ValueError(f"data: {type(data).__name__} counts no labels; use datamodules.RelationDataModule")
        tasks = list(data.classes) if self.tasks is None else self.tasks
        if not data.classes:
            raise ValueError('data.train: no sample has a label; "labels": {"<task>": number or string} in the JSON')
        for field, named in (("tasks", tasks), ("itc_on", self._itc_on)):
            for task in named:
                if task not in data.classes:
                    raise ValueError(
                        f"model.{field}: nobody labelled {task!r}; the training split labels {', '.join(data.classes)}"
                    )
        for task, classes in self._itc_on.items():
            names = data.class_names(task)
            if unknown := [str(each) for each in classes if str(each) not in names]:
                raise ValueError(f"model.itc_on: {task} has no class {', '.join(unknown)}; it has {', '.join(names)}")
            self._positives[task] = [names.index(str(each)) for each in classes]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)  # what was drawn before this differs with the number of processes
            self.head.set_tasks({task: data.class_names(task) for task in tasks})
        for task in tasks:
            counts = torch.tensor(data.label_counts[task], dtype=torch.float32)
            if not counts.sum():
                raise ValueError(f"model.tasks: no training sample has a label of task {task!r}")
            self.head.rule_out(task, (counts == 0).nonzero()[:, 0].tolist())
            weights = torch.ones_like(counts)
            if self.class_weights == "balanced" and task != data.balanced_task:
                weights = _balanced(counts)
            self.objectives[f"task/{task}"] = TaskLoss(task, self._judge, weights)
            self.weights[f"task/{task}"] = self._task_weight / len(tasks)

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.start == "regression" and isinstance(self.trainer.strategy, ModelParallelStrategy):
            raise ValueError("model.start: regression needs whole weights, which this strategy shards; random, or ddp")
        if stage == "fit" and self._source is not None:
            self._source.check_data(self.data)
        super().setup(stage)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        data = self.data
        if self.start == "regression" and self.trainer.ckpt_path is None:
            assert isinstance(data, LabelledData)
            weights = {each.task: each.class_weights for each in self.objectives.values() if isinstance(each, TaskLoss)}
            if data.balanced_task in weights:  # drawn alike there, and embedded as they come here
                weights[data.balanced_task] = _balanced(torch.tensor(data.label_counts[data.balanced_task]))
            start_from_regression(self.model, self.head, data, weights, self.trainer)

    def trained_modules(self) -> dict[str, nn.Module]:
        return super().trained_modules() | {"head": self.head}

    def checkpoint_networks(self) -> dict[str, tuple[str, nn.Module]]:
        return super().checkpoint_networks() | {"head": ("head", self.head)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        rows = describe(checkpoint)["head"]["init_args"].get("rows")  # a head of an earlier version reads none
        if rows != self.head.rows:
            self.head.rows = rows
            self.head.set_tasks(self.head.names)

    # ---- one step

    def embed(self, batch: Batch, part: str = "") -> Embeddings:
        """The embeddings of a batch, and which of its posts are pairs for ITC and ITM."""
        embeddings = super().embed(batch, part)
        for task, classes in self._positives.items():
            labels = batch.labels[task]
            paired = torch.isin(labels, torch.tensor(classes, device=labels.device)) | (labels < 0)
            embeddings.paired = paired if embeddings.paired is None else embeddings.paired & paired
        return embeddings

    def _judge(self, embeddings: Embeddings) -> dict[str, Tensor]:
        """Task -> logits [N, C] of the present captions, fused once for all tasks."""
        if self._logits is None or self._logits[0] is not embeddings:
            assert embeddings.present is not None
            posts, slots = embeddings.present.nonzero(as_tuple=True)
            self._logits = embeddings, self.head.judge(embeddings, posts, slots)
        return self._logits[1]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self._logits = None

    # ---- validation

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._predicted.add(batch, embed_batch(self.model, batch, tokens=True))
        self.data.evaluated(batch)

    def on_validation_epoch_end(self) -> None:
        pairs = self._predicted.gather()
        self._predicted = PredictedSplit(self.head)
        log_validation(self, self.samples_seen, lambda: relation_figures(pairs, self.data.languages), "macro_f1")


def _balanced(counts: Tensor) -> Tensor:
    """n / (C n_c); a class without a sample weighs nothing, and is no part of C."""
    return (counts.sum() / ((counts > 0).sum() * counts)).nan_to_num(posinf=0.0)
