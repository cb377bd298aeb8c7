"""LightningCLI with this project's habits: what it parses, builds and keeps of a run."""

import logging
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from jsonargparse import SUPPRESS, Namespace
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from datamodules.files import write_whole, writing_into
from mmtrain.commands.mistakes import check_nulls, public_classes
from mmtrain.commands.parser import HELP, Parser, ours
from mmtrain.commands.stages import FINISHED, Stage
from mmtrain.display.messages import printable, say
from mmtrain.models.run_folder import newest_readable, read_checkpoint
from mmtrain.models.yaml12 import read_yaml
from mmtrain.training.averaging import WeightAverage  # noqa: F401  # for its short name on the command line
from mmtrain.training.checkpoints.callback import Checkpoint
from mmtrain.training.contrastive import ContrastiveModule
from mmtrain.training.data import logging_interval, write_account
from mmtrain.training.monitoring.guard import Guard
from mmtrain.training.monitoring.loggers import MetricsFile, Wandb
from mmtrain.training.monitoring.progress import ProgressLines
from mmtrain.training.monitoring.throughput import Throughput
from mmtrain.training.sharding import supported

TRAINER_DEFAULTS = {
    "default_root_dir": "runs/unnamed",
    # validation by steps, or --trainer.val_check_interval; passes over the data have no meaning for the model
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    # the data module splits samples over processes itself, and counts its epochs by position
    "use_distributed_sampler": False,
    "reload_dataloaders_every_n_epochs": 1,
}


C = TypeVar("C", bound="Fit")


class RunFolder(SaveConfigCallback):
    """Keeps the run folder: the complete config, and nothing of an older run once a new one trains.

    Args:
        arguments: SaveConfigCallback's.
        stage: The stage that the folder is of; None without stages.
        options: SaveConfigCallback's.
    """

    def __init__(self, *arguments: Any, stage: Stage | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.stage = stage

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Only now: a run that fails before its first step must not cost the older one its checkpoints.
        folder = Path(trainer.default_root_dir)
        metrics = next(logger for logger in trainer.loggers if isinstance(logger, MetricsFile))
        if pl_module.samples_seen:
            rows = [callback.row for callback in trainer.checkpoint_callbacks if isinstance(callback, Checkpoint)]
            metrics.continue_from(trainer.global_step - 1, next(iter(rows), None))
        elif trainer.is_global_zero:
            metrics.start_anew()
            _clear(folder)
        if trainer.is_global_zero and self.stage is not None:  # what follows begins anew
            for other in (folder.parent, *self.stage.later(folder.parent)):
                _clear(other)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not any(isinstance(callback, Checkpoint) for callback in trainer.checkpoint_callbacks):
            write_account(trainer)  # which goes with each checkpoint, where there are any

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.is_global_zero and not self.already_saved:
            folder = Path(trainer.default_root_dir)
            write_whole(folder / "config.yaml", self.text())
            for logger in trainer.loggers:
                if isinstance(logger, Wandb):
                    logger.log_config(read_yaml(self.text()))
            self.already_saved = True

    def text(self) -> str:
        return complete(self.parser, self.config)


def complete(parser: LightningArgumentParser, config: Namespace) -> str:
    """A whole config as YAML."""
    return parser.dump(config, skip_none=False, skip_link_targets=False)


def _clear(folder: Path) -> None:
    """Removes the checkpoints of an older run."""
    (folder / FINISHED).unlink(missing_ok=True)
    old = sorted((folder / "checkpoints").glob("*.ckpt"))
    if old:
        rank_zero_info(f"{folder} held an older run: its {', '.join(path.name for path in old)} are replaced")
    for path in old:
        path.unlink()


class Fit(LightningCLI):
    """Parses, builds, and fits; `--ckpt_path last` goes on from the run folder's last checkpoint.

    Args:
        arguments: LightningCLI's.
        stage: The stage of a page that is trained; None for a page without.
        options: LightningCLI's.
    """

    def __init__(self, *arguments: Any, stage: Stage | None = None, **options: Any) -> None:
        self.stage = stage
        super().__init__(*arguments, **options)

    def init_parser(self, **options: Any) -> LightningArgumentParser:
        parser = super().init_parser(**options)
        assert isinstance(parser, Parser)
        parser.stage = self.stage
        return parser

    def before_instantiate_classes(self) -> None:
        for name in ("model", "data"):
            named = self._get(self.config, name)
            check_nulls(name, named.class_path, vars(named.get("init_args", Namespace())))

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"}}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        config.trainer.logger, config.trainer.callbacks = ours(config.trainer.logger), ours(config.trainer.callbacks)
        if "start_from" in config:
            config.model.init_args.pretrained = config.start_from

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Checkpoint, "checkpoint")
        parser.add_lightning_class_args(Guard, "guard")
        parser.add_lightning_class_args(Throughput, "throughput")
        parser.add_argument(
            "--start_from", type=str, default=SUPPRESS, help="a checkpoint whose weights training starts from"
        )
        parser.add_argument(
            "--float32_matmul_precision",
            type=Literal["highest", "high", "medium"],
            default="high",
            help="of float32 products on CUDA, torch's setting: float32, TF32 or bfloat16 within",
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        options = self._get(self.config_init, "trainer")
        folder = Path(options["default_root_dir"])
        if SLURMEnvironment.detect():
            # the batch script requeues; Lightning would do it a second time
            options["plugins"] = [*_as_list(options.get("plugins")), SLURMEnvironment(auto_requeue=False)]
        options["strategy"] = supported(options["strategy"])
        loggers = [logger for logger in _as_list(options.get("logger")) if isinstance(logger, Logger)]
        self._resumed = self._checkpoint(folder)
        trainer = super().instantiate_trainer(logger=[MetricsFile(folder), *loggers], **kwargs)
        if 0 < trainer.max_steps < logging_interval(trainer):  # a run however short has a row in metrics.csv
            trainer.log_every_n_steps = trainer.max_steps  # type: ignore[attr-defined]  # set in a connector
        callbacks = trainer.callbacks  # type: ignore[attr-defined]  # likewise
        saver = next((callback for callback in callbacks if isinstance(callback, RunFolder)), None)
        for callback in callbacks:
            if isinstance(callback, Checkpoint):
                callback.config = saver.text() if saver else ""
        return trainer

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        if config.get("fast_dev_run") or config.get("enable_checkpointing") is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
        bars = config.get("enable_progress_bar") is not False and not sys.stdout.isatty()  # theirs would be lost there
        if bars and not any(isinstance(each, ProgressBar) for each in _as_list(config.get("callbacks"))):
            callbacks = [*callbacks, ProgressLines()]
        return super()._instantiate_trainer(config, callbacks)

    def _run_subcommand(self, subcommand: str) -> None:
        writes = getattr(rank_zero_only, "rank", 0) == 0 and not getattr(self.trainer, "fast_dev_run", False)
        with writing_into(self.trainer.default_root_dir) if writes else nullcontext():
            super()._run_subcommand(subcommand)

    def _parse_ckpt_path(self) -> None:
        """Nothing: LightningCLI would read hyperparameters from the checkpoint here; ours are in the config."""

    def _checkpoint(self, folder: Path) -> Path | None:
        """What --ckpt_path means: the file to go on from, None to start anew. Raises ValueError when it is no file."""
        path = self.config_init[self.subcommand].ckpt_path
        if path is None:
            return None
        if path == "last":
            return newest_readable(folder)
        if not Path(path).exists():
            raise ValueError(f"--ckpt_path: {path} is no file; give a checkpoint, or last")
        if Path(path).is_file():
            read_checkpoint(path)  # says in one line what is wrong with it
        return Path(path)

    def before_fit(self) -> None:
        folder = Path(self.trainer.default_root_dir)
        arguments = self.config_init[self.subcommand]
        if self._resumed is not None:
            rank_zero_info(f"going on from {self._resumed}")
        elif arguments.ckpt_path == "last" and "start_from" not in arguments:
            rank_zero_info(f"--ckpt_path last: there is no {folder / 'checkpoints' / 'last.ckpt'}; starting anew")
        arguments.ckpt_path = None if self._resumed is None else str(self._resumed)
        if self.trainer.strategy.root_device.type == "cuda":
            torch.set_float32_matmul_precision(arguments.float32_matmul_precision)
            rank_zero_info(f"float32 products on CUDA: float32_matmul_precision {arguments.float32_matmul_precision}")
        if self._resumed is None and isinstance(self.model, ContrastiveModule):
            self.model.start_from = arguments.get("start_from")
        for logger in self.trainer.loggers:
            if isinstance(logger, Wandb):  # for whose id alone a checkpoint is read once more
                run_id = None if self._resumed is None else read_checkpoint(self._resumed)["mmtrain"].get("wandb")
                logger.attach(folder, run_id, None if self.stage is None else folder.resolve().parent.name)

    def after_fit(self) -> None:
        for logger in self.trainer.loggers:
            if isinstance(logger, Wandb) and self.stage is not None:
                logger.finish()  # the next stage has a run of its own


class Parsed(Fit):
    """Parses only."""

    def _set_seed(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass

    @property
    def options(self) -> Namespace:
        """What was parsed."""
        return self.config[self.config.subcommand]

    def text(self) -> str:
        """The same as YAML, complete."""
        return complete(self._parser(self.config.subcommand), self.options)


def _as_list(items: Any) -> list:
    """Nothing, one or several as a list, as the Trainer takes its loggers and plugins."""
    return [] if items is None else list(items) if isinstance(items, (list, tuple)) else [items]


def start(cli: type[C], arguments: list[str], stage: Stage | None = None) -> C:
    """Runs `fit` with the arguments behind the verb, which may be those of a stage."""
    _quieten()
    list(public_classes())  # jsonargparse finds a class by its short name once it is imported
    if {"-h", "--help"} & set(arguments):
        say(HELP)
    return cli(
        stage=stage,
        model_class=LightningModule,
        datamodule_class=LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=RunFolder,
        save_config_kwargs={"stage": stage},
        trainer_defaults=TRAINER_DEFAULTS,
        seed_everything_default=0,
        parser_class=Parser,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=["fit", *arguments],
    )


def _quieten() -> None:
    """Drops what Lightning says at every start and nobody can act on."""
    for message in (
        "LightningCLI's args parameter",
        "The `srun` command is available",
        ".*LeafSpec",
        "The number of training batches",
        "The '.*_dataloader' does not have many workers",
        "Total length of `list` across ranks is zero",  # no validation shards were named
        "It is recommended to use `self.log.*sync_dist=True",  # what is logged was gathered: the same on all ranks
        "Found .* module.s. in eval mode at the start of training",  # frozen towers are meant to be
    ):
        warnings.filterwarnings("ignore", message=message)
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_tidy)


def _tidy(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning's logger is worth showing; it may name languages and files."""
    record.msg, record.args = printable(record.getMessage()), None
    return not any(word in record.msg for word in _CHATTER)


_CHATTER = ("litlogger", "litmodels", "TPU available", "`weights_only` was not set")
