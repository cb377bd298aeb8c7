"""Pretraining: two towers, any weighted sum of objectives, samples seen as the clock."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from datamodules.batch import Batch, Batches
from losses import Embeddings, Objective
from losses.objective import Similarity, needs_of
from mmtrain.fusion import ComposedQuery
from mmtrain.models.adapters import Adapter
from mmtrain.models.batches import as_queries, embed_batch
from mmtrain.models.image_text import ImageTextModel, Projection
from mmtrain.towers import ImageTower, TextTower
from mmtrain.training import checks
from mmtrain.training.adapters import Readers
from mmtrain.training.clock import Clock, seed_step
from mmtrain.training.data import TrainingData, logging_interval, training_data
from mmtrain.training.mining import Mining, Neighbours, mined_data
from mmtrain.training.monitoring.diagnostics import gradient_norm, mean_over_processes, step_figures
from mmtrain.training.networks import connect, networks_of, prepare
from mmtrain.training.optimisation import OptimizerClass, Schedule, clip_adaptively, make_optimizer, parameter_groups
from mmtrain.training.parts import check_parts, needs_on, objectives_on, rest_unread, terms
from mmtrain.training.selection import ActiveSelection
from mmtrain.training.sharding import shard
from mmtrain.training.starting_weights import load_parts, start
from mmtrain.training.validation import Validation, figures_of, log_validation


class ContrastiveModule(pl.LightningModule):
    """Trains a shared image-text space.

    Args:
        image: Image tower.
        text: Text tower; "shared" lets the image tower read texts that the tokenizer renders as pictures.
        objectives: Objectives by name; the name appears in the log as train/<name>.
        weights: Weight of each objective in the sum; 1 where not given.
        dimension: Width of the shared space.
        projection: From each tower into the space: linear, mlp or none.
        modalities: Further towers by the name of the field that they read.
        missing: Inputs that a sample may lack, as of `mmtrain.ImageTextModel`.
        layer_norm: Layer-normed rows, likewise.
        prompts: What stands before texts of a role, e.g. {query: "query: ", passage: "passage: "}, kept with the model.
        multi: {dimension: d} of token rows, as of `mmtrain.ImageTextModel`.
        composition: Network that makes one row of a text and pictures: of a field of texts and the field NAME_pictures.
        learning_rate: Peak of the learning rate.
        weight_decay: Decay; gains, biases and the temperature have none.
        betas: Momenta of AdamW, where `optimizer` names no other.
        optimizer: Class of another optimiser, torch's, timm's or your own; rate and decay are the two above.
        schedule: Behind the warm-up: cosine or linear down to 0 at the end of training, constant, or rsqrt.
        warmup_steps: Steps of linear warm-up.
        cooldown_steps: Last steps, in which constant and rsqrt fall to 0.
        adaptive_clipping: Largest ratio of a gradient row's length to its weights', as 0.01 (Brock et al., ICML 2021).
        layer_decay: Learning rate of a tower's block relative to the one above it (1: all alike).
        tower_rate: Learning rate of towers and projections, as a multiple of learning_rate; 0 keeps the space.
        pretrained: MODEL whose weights training starts from, where name and shape fit; position embeddings are resized,
            and the log says what was loaded and what was not. Towers have a `pretrained` of their own.
        lora: Ranks of one low-rank adapter by tower, as {text: 16}; the tower is frozen, and `load` merges it.
        adapters: Low-rank adapters by name, each an `mmtrain.models.adapters.Adapter`, as {retrieval: {rank: 32}}; all
            else is frozen, and parts and sources of the data name theirs.
        micro_batch: Encode images and captions in parts of this many, recomputed in the backward pass: gradients of all
            in the memory of one part (objectives on tokens keep the features of all). Not with batch normalisation.
        compile: Compile both towers with torch.compile.
        checkpoint_activations: Recompute the towers' activations in the backward pass.
        recall_at: Ranks reported by validation.
        mining: Hard negatives from the whole training split, see `mmtrain.training.mining.Mining`.
        on: Which parts of the step (data.parts) an objective sees, summed; default: all that have what it needs.
        gather_dtype: What rows are on their way between processes; bfloat16 halves what is sent and rounds them.
        selection: Trains a part of each batch, see `mmtrain.training.ActiveSelection`.

    Raises:
        ValueError: for weights of unknown objectives, no objective, or a micro_batch that the towers cannot have.
    """

    instead_of_accumulation = "--model.micro_batch"

    def __init__(
        self,
        image: ImageTower,
        text: TextTower | Literal["shared"],
        objectives: dict[str, Objective],
        weights: dict[str, float] | None = None,
        dimension: int = 256,
        projection: Projection = "linear",
        modalities: dict[str, ImageTower] | None = None,
        missing: Sequence[str] = (),
        layer_norm: bool = False,
        prompts: dict[str, str] | None = None,
        multi: dict[str, int] | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.98),
        optimizer: OptimizerClass | None = None,
        schedule: Schedule = "cosine",
        warmup_steps: int = 100,
        cooldown_steps: int = 0,
        layer_decay: float = 1.0,
        pretrained: str | None = None,
        lora: dict[str, int] | None = None,
        micro_batch: int | None = None,
        compile: bool = False,
        checkpoint_activations: bool = False,
        recall_at: tuple[int, ...] = (1, 5, 10),
        tower_rate: float = 1.0,
        mining: Mining | None = None,
        on: dict[str, list[str]] | None = None,
        adaptive_clipping: float | None = None,
        adapters: dict[str, Adapter] | None = None,
        gather_dtype: Literal["float32", "bfloat16"] = "float32",
        selection: ActiveSelection | None = None,
        composition: ComposedQuery | None = None,
    ) -> None:
        super().__init__()
        unknown = set(weights or {}) - set(objectives)
        if unknown or not objectives:
            raise ValueError(f"model.weights: {sorted(unknown)} not among the objectives {sorted(objectives)}")
        how: Any = composition or ("sum" if all(one.composition == "sum" for one in objectives.values()) else "product")
        towers = image, text, dimension, projection, modalities
        self.model = ImageTextModel(*towers, None, 4, missing, layer_norm, how, prompts, multi)
        self.model.micro_batch = micro_batch
        start(self.model, pretrained, lora or {}, adapters or {})
        self._readers = Readers(self.model)
        self.objectives = nn.ModuleDict(objectives)
        connect(objectives, self.model)
        self._unencoded = frozenset().union(*(each.unencoded for each in objectives.values()))
        self.weights = dict.fromkeys(objectives, 1.0) | (weights or {})
        self.learning_rate, self.weight_decay, self.betas = learning_rate, weight_decay, betas
        self.optimizer, self.layer_decay, self.tower_rate = optimizer, layer_decay, tower_rate
        self.clock = Clock(learning_rate, schedule, warmup_steps, cooldown_steps)
        self.recall_at, self.adaptive_clipping = tuple(recall_at), adaptive_clipping
        self.neighbours, self.selection = None if mining is None else Neighbours(mining), selection
        self.on, self.samples_seen, self._selections = dict(on or {}), 0, dict[str, ActiveSelection]()
        self.start_from: str | None = None  # a checkpoint, whose objectives and head are taken as far as they fit
        self._seed, self._validation = torch.initial_seed(), Validation()
        self._wire = torch.bfloat16 if gather_dtype == "bfloat16" else None
        self._counts_for: dict[str, list[bool]] = {}  # objectives that not all sources' captions count for
        checks.check_micro_batch(self.model, micro_batch)
        if checkpoint_activations:
            self.model.checkpoint_activations()
        if compile:
            self.model.compile_towers()

    # ---- one step

    def training_step(self, batch: Batch | Batches, batch_idx: int) -> Tensor:
        losses: dict[tuple[str, str], Tensor] = {}  # by objective and part
        pictured: Embeddings | None = None
        for part, own in batch.parts.items():
            if part in self._selections:
                own = self._selections[part].chosen(self._readers.told(own, part), self.model)
            if self.neighbours is not None:  # there are no parts
                own = self.neighbours.joined(own, mined_data(self.trainer))
            own = self._readers.told(own, part)
            embeddings = self.embed(own, part)
            losses |= {(name, part): loss for name, loss in self.losses(own, embeddings, part).items()}
            if pictured is None and embeddings.image is not None and embeddings.texts is not None:
                pictured = embeddings
        weighted = (self.weights[name] * loss for (name, _), loss in losses.items())
        total = torch.as_tensor(sum(weighted, self._readers.unread()))
        if self._logs_this_step():
            self._log_step(pictured, losses, total)
        return total

    def losses(self, batch: Batch, embeddings: Embeddings, part: str = "") -> dict[str, Tensor]:
        """The terms (0-d) of the sum that a part of the step gives, by objective, without their weights."""
        return terms(self.objectives_on(part), self._counts_for, batch, embeddings, self.model, self._wire)

    def objectives_on(self, part: str) -> dict[str, Objective]:
        """The objectives that see a part of the step."""
        brings = self.data.brings[part] if part else None
        return objectives_on(part, brings, dict(self.named_objectives()), self.on)

    @property
    def lacking(self) -> frozenset[str]:
        """What a sample may lack of what is read."""
        return frozenset("texts" if name == "text" else name for name in self.model.missing)

    @property
    def prompts(self) -> Mapping[str, str]:
        """What stands before texts of a role."""
        return self.model.prompts

    def reads(self, part: str, brings: frozenset[str] | None) -> frozenset[str]:
        """What the objectives read of the samples of a part, see `datamodules.reading.parts.Reads`."""
        return needs_on(part, brings, dict(self.named_objectives()), self.on)

    def named_objectives(self) -> list[tuple[str, Objective]]:
        """The objectives in the order of the config."""
        return [(name, each) for name, each in self.objectives.items() if isinstance(each, Objective)]

    def embed(self, batch: Batch, part: str = "") -> Embeddings:
        """Encodes the images, the present captions and the fields of a batch."""
        needs = frozenset().union(*map(needs_of, self.objectives_on(part).values()))
        return embed_batch(self.model, batch, tokens="tokens" in needs, multi="multi" in needs, without=self._unencoded)

    def on_train_batch_start(self, batch: Batch | Batches, batch_idx: int) -> None:
        checks.check_one_step_a_batch(self.trainer, self.instead_of_accumulation)  # callbacks may set it too
        if self.neighbours is not None:
            self.neighbours.mine(self, self.model, self.similarity)
        self._batch = batch
        self._step_samples = batch.samples * self.trainer.world_size
        seed_step(self._seed, self.samples_seen, self.global_rank)
        factor = self.clock.factor(self.trainer, self.data, self.samples_seen, self._step_samples)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = group["base_lr"] * factor

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # Here and not in on_train_batch_end, which callbacks that write checkpoints reach before the module does.
        self.samples_seen += self._step_samples
        for _, objective in self.named_objectives():
            objective.after_step()
        self.data.trained(self._batch)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._logs_this_step():
            return
        parts = self.trained_modules()
        norms = {f"gradient_norm/{name}": gradient_norm(parts[name]) for name in ("image", "text", "objectives")}
        self.log_dict({name: norm for name, norm in norms.items() if norm is not None})

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        if self.adaptive_clipping is None:
            super().configure_gradient_clipping(*args, **kwargs)
        else:
            clip_adaptively(self.parameters(), self.adaptive_clipping)

    # ---- before and around

    def configure_model(self) -> None:
        """Takes the weights to start from, and divides all over the processes where the strategy does."""
        if self.start_from is not None:
            rank_zero_info(load_parts(self, self.start_from))
        if self.device_mesh is not None:
            shard(self, self.device_mesh["data_parallel"])

    @property
    def data(self) -> TrainingData:
        """The trainer's data module. Raises ValueError for one that is none of ours."""
        return training_data(self.trainer)

    def setup(self, stage: str) -> None:
        if stage == "fit":  # on one's own processor, before a strategy wraps the towers
            checks.check_fits(self.model, self.data)
            objectives = dict(self.named_objectives())
            check_parts(objectives, self.on, self.data.brings)
            prepare(objectives, self.data, self._seed)
            self._readers.settle(self.data)
            rest_unread(self.model, self.data.kinds)
            if self.selection is not None:
                self._selections = self.selection.of_parts(self.objectives_on, self.model, self.data)

    def on_fit_start(self) -> None:
        checks.check_one_step_a_batch(self.trainer, self.instead_of_accumulation)
        checks.check_clipping(self.trainer, self.adaptive_clipping)
        checks.check_needs({part: self.objectives_on(part) for part in self.data.brings}, self.data, self.trainer)
        checks.check_batch_norm(self.model, self.trainer.world_size)
        self._counts_for = self.data.count_for(list(self.objectives))

    def trained_modules(self) -> dict[str, nn.Module]:
        """What the optimiser gets, by the names of its groups."""
        return self.model.trained() | {"objectives": self.objectives}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = parameter_groups(
            self.trained_modules(),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            layer_decay=self.layer_decay,
            tower_rate=self.tower_rate,
        )
        if not groups:
            raise ValueError("model: nothing to train; every tower is frozen and there is no projection")
        return make_optimizer(self.optimizer, groups, self.betas, fused=self.device.type == "cuda")

    def checkpoint_networks(self) -> dict[str, tuple[str, nn.Module]]:
        """The networks behind the towers that a checkpoint describes, each with its name in this module."""
        return networks_of(self.objectives)

    @property
    def similarity(self) -> Similarity:
        """How rows are compared: asymmetric where an objective trains that, else cosine."""
        return "asymmetric" if any(each.similarity == "asymmetric" for _, each in self.named_objectives()) else "cosine"

    # ---- validation

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        batch = self._readers.told(batch, part := self.data.validated[dataloader_idx], validation=True)
        embeddings = as_queries(self.model, embed_batch(self.model, batch, without=self._unencoded))
        self._validation.add(part, batch, embeddings)
        self.data.evaluated(batch)

    def on_validation_epoch_end(self) -> None:
        splits, how = self._validation.gather(), (self.data.languages, self.recall_at, self.similarity)
        first = next(iter(splits), "")
        headline = f"{first}/mean_recall" if first else "mean_recall"
        log_validation(self, self.samples_seen, lambda: figures_of(splits, *how), headline)

    def _logs_this_step(self) -> bool:
        return (self.global_step + 1) % logging_interval(self.trainer) == 0

    @torch.no_grad()
    def _log_step(self, embeddings: Embeddings | None, losses: dict[tuple[str, str], Tensor], total: Tensor) -> None:
        own = step_figures(embeddings, losses, total, self.data.drawn())
        self.log_dict(figures := mean_over_processes(own, self.trainer.strategy))
        for name, objective in self.named_objectives():
            self.log_dict({f"{name}/{key}": value.detach().float() for key, value in objective.logged().items()})
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log_dict({"learning_rate": rate, "samples_seen": float(self.samples_seen)})
        for selection in self._selections.values():
            self.log_dict(selection.logged())
        self.log("loss", figures["train/loss"], prog_bar=True, logger=False)

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["samples_seen"] = self.samples_seen
        checkpoint["clock"] = self.clock.state_dict()
        if self.neighbours is not None:
            checkpoint["mining"] = self.neighbours.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.samples_seen = checkpoint["samples_seen"]
        self.clock.load_state_dict(checkpoint.get("clock"))
        if self.neighbours is not None and "mining" in checkpoint:
            self.neighbours = Neighbours(self.neighbours.options, **checkpoint["mining"])
