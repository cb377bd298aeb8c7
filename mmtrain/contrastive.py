"""Pretraining: two towers, any weighted sum of objectives, samples seen as the clock."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from datamodules import Batch
from losses import Embeddings, Objective
from mmtrain.adaptation import add_lora
from mmtrain.diagnostics import gradient_norm, space_diagnostics
from mmtrain.fusion import Fusion, MatchingHead
from mmtrain.model import ImageTextModel, Projection
from mmtrain.optimisation import parameter_groups, warmup_cosine
from mmtrain.partial import load_partially
from mmtrain.spec import spec_of
from mmtrain.towers import ImageTower, TextTower
from mmtrain.validation import EmbeddedSplit


class ContrastiveModule(pl.LightningModule):
    """Trains a shared image-text space.

    Args:
        image: Image tower.
        text: Text tower.
        objectives: Objectives by name; the name appears in the log as train/<name>.
        weights: Weight of each objective in the sum; 1 where not given.
        dimension: Width of the shared space.
        projection: From each tower into the space: linear, mlp or none.
        learning_rate: Peak of AdamW's learning rate.
        weight_decay: AdamW's decay; gains, biases and the temperature have none.
        betas: AdamW's momenta.
        warmup_steps: Steps of linear warm-up; a cosine down to 0 at the end of training follows.
        layer_decay: Learning rate of a tower's block relative to the one above it (1: all alike).
        pretrained: MODEL to begin with: what fits by name and shape is loaded, position embeddings are resized, the
            rest is said in the log. Towers have a `pretrained` of their own.
        lora: Ranks of low-rank adapters by tower, e.g. {text: 16}: that tower is frozen, the adapters are trained, and
            whatever loads the checkpoint gets them merged. See `mmtrain.adaptation`.
        micro_batch: Encode images and captions in parts of this many, recomputing each part in the backward pass: the
            gradients of the whole batch in the memory of one part. Batch normalisation would see the parts, so towers
            that have it are refused.
        compile: Compile both towers with torch.compile.
        checkpoint_activations: Recompute the towers' activations in the backward pass.
        recall_at: Ranks reported by validation.

    Raises:
        ValueError: for weights of unknown objectives, no objective, or token-level objectives with micro_batch.
    """

    instead_of_accumulation = "--model.micro_batch"

    def __init__(
        self,
        image: ImageTower,
        text: TextTower,
        objectives: dict[str, Objective],
        weights: dict[str, float] | None = None,
        dimension: int = 256,
        projection: Projection = "linear",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.98),
        warmup_steps: int = 100,
        layer_decay: float = 1.0,
        pretrained: str | None = None,
        lora: dict[str, int] | None = None,
        micro_batch: int | None = None,
        compile: bool = False,
        checkpoint_activations: bool = False,
        recall_at: tuple[int, ...] = (1, 5, 10),
    ) -> None:
        super().__init__()
        unknown = set(weights or {}) - set(objectives)
        if unknown or not objectives:
            raise ValueError(f"model.weights: {sorted(unknown)} not among the objectives {sorted(objectives)}")
        self.needs_tokens = any(objective.needs_tokens for objective in objectives.values())
        if micro_batch is not None and micro_batch < 1:
            raise ValueError(f"model.micro_batch: got {micro_batch}, expected at least 1")
        if micro_batch is not None and self.needs_tokens:
            names = [name for name, objective in objectives.items() if objective.needs_tokens]
            raise ValueError(
                f"model.micro_batch: objectives on tokens ({', '.join(names)}) need the whole batch at once"
            )
        self.model = ImageTextModel(image, text, dimension, projection)
        self.model.micro_batch = micro_batch
        if pretrained is not None:
            rank_zero_info(load_partially(self.model, pretrained))
        self.lora = dict(lora or {})
        if self.lora:
            add_lora(self.model, self.lora)
        self.objectives = nn.ModuleDict(objectives)
        for part in self.objectives.modules():
            if isinstance(part, Fusion):
                part.connect(image.width, text.width)
        self.weights = {name: 1.0 for name in objectives} | (weights or {})
        self.learning_rate, self.weight_decay, self.betas = learning_rate, weight_decay, betas
        self.warmup_steps, self.layer_decay = warmup_steps, layer_decay
        self.recall_at = tuple(recall_at)
        self.samples_seen = 0
        self._seed = torch.initial_seed()
        self._counts_for: dict[str, list[bool]] = {}  # objectives that not all sources' captions count for
        if micro_batch is not None:
            for name, layer in self.model.named_modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training:
                    raise ValueError(
                        f"model.micro_batch: {name} normalises over the batch; use a tower without BatchNorm"
                    )
        if checkpoint_activations:
            for tower in (image, text):
                if any(parameter.requires_grad for parameter in tower.parameters()):
                    tower.checkpoint_activations()
        if compile:
            image.compile()
            text.compile(dynamic=True)
        self._validation: EmbeddedSplit | None = None

    # ---- one step

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self._batch = batch
        embeddings = self.embed(batch)
        losses = self.losses(batch, embeddings)
        total = sum(self.weights[name] * loss for name, loss in losses.items())
        if self._logs_this_step():
            self._log_step(embeddings, losses, total)
        return total

    def losses(self, batch: Batch, embeddings: Embeddings) -> dict[str, Tensor]:
        """What the step sums up, by name."""
        return {name: objective(self._counted(name, embeddings)) for name, objective in self.objectives.items()}

    def _counted(self, name: str, embeddings: Embeddings) -> Embeddings:
        """What an objective sees: captions of sources that do not name it are absent, their pictures stay negatives."""
        if name not in self._counts_for:
            return embeddings
        counts = torch.tensor(self._counts_for[name], device=embeddings.texts.device)[self._batch.sources]
        present = embeddings.present & counts[:, None]
        return replace(embeddings, present=present, languages=embeddings.languages.masked_fill(~present, -1))

    def embed(self, batch: Batch) -> Embeddings:
        """Encodes the images and the present captions of a batch; absent captions are rows of zeros."""
        B, K = batch.present.shape
        rows = batch.present.flatten().nonzero()[:, 0]
        # Without any caption one empty row is encoded for nothing: DDP waits for the text tower's gradients.
        picked = rows if len(rows) else rows.new_zeros(1)
        tokens, mask = batch.tokens.flatten(0, 1)[picked], batch.token_mask.flatten(0, 1)[picked]
        languages = batch.languages.flatten()[picked].clamp(min=0)
        token_outputs: dict[str, Tensor] = {}
        if self.needs_tokens:
            outputs = self.model.tokens(batch.images, tokens, mask, languages)
            image, text = outputs["image"], outputs["text"]
            features = outputs["text_tokens"]
            blank = features.new_zeros(B * K, *features.shape[1:])
            token_outputs = {
                "image": outputs["image_tokens"],
                "text": blank.index_copy(0, picked, features).unflatten(0, (B, K)),
                # the pooled features lead the tokens
                "text_mask": torch.cat([batch.present.unsqueeze(-1), batch.token_mask], -1),
            }
        else:
            image = self.model.encode_image(batch.images)
            text = self.model.encode_text(tokens, mask, languages)
        texts = text.new_zeros(B * K, text.shape[-1]).index_copy(0, picked, text if len(rows) else 0 * text)
        return Embeddings(
            image=image,
            texts=texts.unflatten(0, (B, K)),
            present=batch.present,
            languages=batch.languages,
            image_ids=batch.image_ids,
            text_ids=batch.text_ids,
            tokens=token_outputs,
        )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # The randomness of a step (dropout, patch dropout) follows from seed, samples seen and rank alone, so that a
        # resumed run draws what the undisturbed one would have drawn.
        self._step_samples = len(batch) * self.trainer.world_size
        seed = hash((self._seed, self.samples_seen, self.global_rank)) % 2**63
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        # the middle of the step, so that neither the first nor the last is idle
        factor = warmup_cosine(
            self.samples_seen + self._step_samples / 2,
            warmup_samples=self.warmup_steps * self._step_samples,
            total_samples=self.trainer.estimated_stepping_batches * self._step_samples,
        )
        for group in self.optimizers(use_pl_optimizer=False).param_groups:
            group["lr"] = group["base_lr"] * factor

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # Here and not in on_train_batch_end, which callbacks that write checkpoints reach before the module does.
        self.samples_seen += self._step_samples
        trained = getattr(self.trainer.datamodule, "trained", None)
        if trained is not None:
            trained(self._batch)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._logs_this_step():
            return
        parts = {"image": self.model.image, "text": self.model.text, "objectives": self.objectives}
        norms = {f"gradient_norm/{name}": gradient_norm(module) for name, module in parts.items()}
        self.log_dict({name: norm for name, norm in norms.items() if norm is not None})

    # ---- before and around

    def on_fit_start(self) -> None:
        if self.trainer.accumulate_grad_batches != 1:
            raise ValueError(
                f"trainer.accumulate_grad_batches: got {self.trainer.accumulate_grad_batches}, expected 1: the summed"
                f" losses of small batches are not the loss of the big one; use {self.instead_of_accumulation}"
            )
        data = self.trainer.datamodule
        if hasattr(data, "count_for"):
            self._counts_for = data.count_for(list(self.objectives))
        tokenizer = getattr(data, "tokenizer", None)
        if tokenizer is not None and tokenizer.vocabulary_size > self.model.text.vocabulary_size:
            raise ValueError(
                f"data.tokenizer has {tokenizer.vocabulary_size} token ids, the text tower knows"
                f" {self.model.text.vocabulary_size}: set model.text.vocabulary_size or take the tower's own tokenizer"
            )

    def trained_modules(self) -> dict[str, nn.Module]:
        """What the optimiser gets, by the names of its groups."""
        return {
            "image": self.model.image,
            "text": self.model.text,
            "image_projection": self.model.image_projection,
            "text_projection": self.model.text_projection,
            "objectives": self.objectives,
        }

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = parameter_groups(
            self.trained_modules(),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            layer_decay=self.layer_decay,
        )
        if not groups:
            raise ValueError("model: nothing to train; every tower is frozen and there is no projection")
        return torch.optim.AdamW(groups, betas=tuple(self.betas), eps=1e-6)

    def spec(self) -> dict[str, Any]:
        """What builds the encoder again: see mmtrain.loading."""
        model = {"image": spec_of(self.model.image), "text": spec_of(self.model.text)}
        for name, part in self.objectives.named_modules():
            if isinstance(part, MatchingHead):
                model["matching"] = {"name": f"objectives.{name}", "fusion": spec_of(part.fusion)}
        return model | {"dimension": self.model.dimension, "projection": self.model.projection, "lora": self.lora}

    @property
    def similarity(self) -> str:
        """How rows are compared: asymmetric where an objective trains that, else cosine."""
        kinds = {getattr(objective, "similarity", "cosine") for objective in self.objectives.values()}
        return "asymmetric" if "asymmetric" in kinds else "cosine"

    # ---- validation

    def on_validation_epoch_start(self) -> None:
        self._validation = EmbeddedSplit()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._validation.add(batch, self.embed(batch))
        evaluated = getattr(self.trainer.datamodule, "evaluated", None)
        if evaluated is not None:
            evaluated(batch)

    def on_validation_epoch_end(self) -> None:
        metrics = self._validation.retrieval(self.trainer, self.recall_at, self.similarity)
        self._validation = None
        if metrics:
            figures = {f"val/{name}": value for name, value in metrics.items()}
            self.log_dict(figures | {"samples_seen": float(self.samples_seen)})
            self.log("mean_recall", metrics["mean_recall"], prog_bar=True, logger=False)

    # ---- logging

    def _logs_this_step(self) -> bool:
        return (self.global_step + 1) % self.trainer.log_every_n_steps == 0

    @torch.no_grad()
    def _log_step(self, embeddings: Embeddings, losses: dict[str, Tensor], total: Tensor) -> None:
        figures = {"train/loss": total} | {f"train/{name}": loss for name, loss in losses.items()}
        figures |= {f"space/{name}": value for name, value in space_diagnostics(embeddings).items()}
        drawn = getattr(self.trainer.datamodule, "drawn", dict)()
        figures |= {f"drawn/{name}": total.new_tensor(share) for name, share in drawn.items()}
        names = sorted(figures)
        # one collective for all of them; each process holds its part, their mean is the global figure
        values = torch.stack([figures[name].detach().float() for name in names])
        values = self.trainer.strategy.reduce(values, reduce_op="mean")
        self.log_dict(dict(zip(names, values.unbind(), strict=True)))
        for name, objective in self.objectives.items():
            self.log_dict({f"{name}/{key}": value.detach().float() for key, value in objective.logged().items()})
        self.log("learning_rate", self.optimizers(use_pl_optimizer=False).param_groups[0]["lr"])
        self.log("samples_seen", float(self.samples_seen))
        self.log("loss", values[names.index("train/loss")], prog_bar=True, logger=False)

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["samples_seen"] = self.samples_seen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.samples_seen = checkpoint["samples_seen"]
