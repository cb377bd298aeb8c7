"""Fine-tuning: what a text says about its picture, with ITC and ITM beside the task."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules import Batch
from losses import Embeddings, ItmLoss, Objective, OneToKLoss
from losses.distributed import default_group, global_sum, total
from mmtrain.contrastive import ContrastiveModule
from mmtrain.fusion import CrossAttentionFusion, Fusion
from mmtrain.model import Projection
from mmtrain.pretrained import Pretrained
from mmtrain.relation_head import RelationHead
from mmtrain.relation_validation import PredictedSplit
from mmtrain.spec import spec_of
from mmtrain.towers import ImageTower, TextTower


class RelationModule(ContrastiveModule):
    """Trains towers, a fusion encoder and one linear head a task, on each post's picture and text.

    The loss is (1 - itc - itm) CE + itc ITC + itm ITM, or with `convex` off CE + itc ITC + itm ITM (Sanchez Villegas,
    Preotiuc-Pietro and Aletras, Findings of EACL 2024, section 3.3; 0.8 / 0.1 / 0.1 is theirs). CE is the mean over the
    tasks, of cross-entropy weighted by class; a post without a label of a task has no part in it. ITC compares the
    towers' own rows, before the fusion, so that neither modality has seen the other. ITM judges the fused pair.

    Args:
        image: Image tower; None takes that of `pretrained`.
        text: Text tower; None takes that of `pretrained`.
        pretrained: MODEL (a run folder, checkpoint or export of ours) whose weights towers and projections start from.
        fusion: Fusion encoder; that of `pretrained`, where it has one, else cross-attention. One of the same class and
            shape starts from the weights in `pretrained`, and so does the layer for matching.
        tasks: Tasks to train; default: all that the training split labels.
        itc: Weight of ITC.
        itm: Weight of ITM; 0 leaves it out.
        convex: Whether the task's weight is what ITC and ITM leave of 1, or 1.
        negatives: Of ITM: "random" replaces the text of half of the posts (as published), "hard" draws by similarity.
        class_weights: "balanced" weighs class c with n / (C n_c) of the n labelled training samples, "none" all alike.
            A task whose classes the data module draws alike already (sampling: balanced) is not weighed again.
        dropout: On the fused vector.
        frozen: Towers whose weights stay as they are.
        tower_rate: Learning rate of towers and projections, as a multiple of learning_rate.
        dimension: Width of the shared space; that of `pretrained`, where given.
        projection: Into the shared space: linear, mlp or none; that of `pretrained`, where given.
        learning_rate: Peak of AdamW's learning rate.
        weight_decay: AdamW's decay; gains, biases and the temperature have none.
        betas: AdamW's momenta.
        warmup_steps: Steps of linear warm-up; a cosine down to 0 at the end of training follows.
        layer_decay: Learning rate of a tower's block relative to the one above it (1: all alike).
        compile: Compile both towers with torch.compile.
        checkpoint_activations: Recompute the towers' activations in the backward pass.

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
        itc: float = 0.1,
        itm: float = 0.1,
        convex: bool = True,
        negatives: Literal["random", "hard"] = "random",
        class_weights: Literal["balanced", "none"] = "balanced",
        dropout: float = 0.05,
        frozen: Sequence[Literal["image", "text"]] = (),
        tower_rate: float = 1.0,
        dimension: int = 256,
        projection: Projection = "linear",
        learning_rate: float = 1e-3,
        weight_decay: float = 2.5e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        warmup_steps: int = 20,
        layer_decay: float = 1.0,
        compile: bool = False,
        checkpoint_activations: bool = False,
    ) -> None:
        if itc < 0 or itm < 0 or (convex and itc + itm >= 1):
            rule = "from 0, with a sum below 1" if convex else "from 0"
            raise ValueError(f"model.itc, model.itm: got {itc} and {itm}, expected weights {rule}")
        if class_weights not in ("balanced", "none"):
            raise ValueError(f"model.class_weights: got {class_weights!r}, expected balanced or none")
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
            warmup_steps=warmup_steps,
            layer_decay=layer_decay,
            compile=compile,
            checkpoint_activations=checkpoint_activations,
        )
        if source is not None:
            source.fill(self.model)
            if fusion is None and source.head is not None:
                fusion = source.head.fusion
        for name, tower in (("image", image), ("text", text)):
            if name in frozen:
                tower.frozen = True
                tower.freeze_if_asked()
        self.needs_tokens = True
        fusion = (fusion or CrossAttentionFusion()).connect(image.width, text.width)
        self.head = RelationHead(fusion, matching=bool(itm), dropout=dropout)
        if source is not None:
            source.fill_head(self.head)
        self.tasks, self.tower_rate, self.class_weights = tasks, tower_rate, class_weights
        self._source = source
        self._task_weight = 1 - itc - itm if convex else 1.0
        self._class_weights: dict[str, Tensor] = {}
        self._predicted: PredictedSplit | None = None

    def _match(self, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        return self.head.match(image, text, mask)

    # ---- before the first step

    def configure_model(self) -> None:
        """Makes the tasks' layers, which the data decide on."""
        if self.head.names:
            return
        data = self.trainer.datamodule
        if not hasattr(data, "label_counts"):
            raise ValueError(f"data: {type(data).__name__} counts no labels; use datamodules.RelationDataModule")
        tasks = list(data.classes) if self.tasks is None else self.tasks
        if not data.classes:
            raise ValueError('data.train: no sample has a label; "labels": {"<task>": number or string} in the JSON')
        for task in tasks:
            if task not in data.classes:
                raise ValueError(
                    f"model.tasks: nobody labelled {task!r}; the training split labels {', '.join(data.classes)}"
                )
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
                # a class without a sample weighs nothing, and is no part of C
                weights = (counts.sum() / ((counts > 0).sum() * counts)).nan_to_num(posinf=0.0)
            self._class_weights[task] = weights
            self.weights[f"task/{task}"] = self._task_weight / len(tasks)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self._source is not None:
            self._source.check_data(self.trainer.datamodule)

    def trained_modules(self) -> dict[str, nn.Module]:
        return super().trained_modules() | {"head": self.head}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = super().configure_optimizers()
        for group in optimizer.param_groups:
            if group["name"].split("/")[0] not in ("head", "objectives"):
                group["base_lr"] = group["lr"] = self.tower_rate * group["lr"]
        return optimizer

    def spec(self) -> dict[str, Any]:
        head = self.head
        relation = {"fusion": spec_of(head.fusion), "names": head.names, "matching": head.matching is not None}
        return super().spec() | {"relation": relation}

    # ---- one step

    def losses(self, batch: Batch, embeddings: Embeddings) -> dict[str, Tensor]:
        losses = super().losses(batch, embeddings)
        posts, slots = batch.present.nonzero(as_tuple=True)
        for task, logits in self._logits(embeddings, posts, slots).items():
            losses[f"task/{task}"] = self._cross_entropy(task, logits, batch.labels[task][posts])
        return losses

    def _logits(self, embeddings: Embeddings, posts: Tensor, slots: Tensor) -> dict[str, Tensor]:
        """Task -> logits [N, C] of N pairs of a picture and one of its texts."""
        tokens = embeddings.tokens
        return self.head(tokens["image"][posts], tokens["text"][posts, slots], tokens["text_mask"][posts, slots])

    def _cross_entropy(self, task: str, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over the labelled pairs of all processes, weighted by class; 0 where none is labelled."""
        group = default_group()
        weights = self._class_weights[task].to(logits.device)
        labelled = labels >= 0
        weight = total(weights[labels[labelled]].sum(), group).clamp(min=1e-6)
        part = functional.cross_entropy(logits.float(), labels, weights, ignore_index=-1, reduction="sum") / weight
        return global_sum(part, group)

    # ---- validation

    def on_validation_epoch_start(self) -> None:
        self._predicted = PredictedSplit()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        embeddings = self.embed(batch)
        posts, slots = (batch.present & (batch.rows >= 0).unsqueeze(1)).nonzero(as_tuple=True)
        logits = self._logits(embeddings, posts, slots)
        self._predicted.add(batch, posts, slots, {task: each.softmax(1) for task, each in logits.items()})
        self.trainer.datamodule.evaluated(batch)

    def on_validation_epoch_end(self) -> None:
        figures = self._predicted.figures(self.trainer)
        self._predicted = None
        if figures:
            self.log_dict({f"val/{name}": value for name, value in figures.items()})
            self.log("samples_seen", float(self.samples_seen))
            self.log("macro_f1", figures["macro_f1"], prog_bar=True, logger=False)
