"""`mmtrain fit`: one training, or those of a page's stages one after another."""

import gc
import json
import os
import sys
from contextlib import ExitStack
from itertools import dropwhile
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from datamodules.files import write_whole, writing_into
from mmtrain.commands.lightning import C, Fit, Parsed, start
from mmtrain.commands.mistakes import refused
from mmtrain.commands.pages import with_pages
from mmtrain.commands.stages import FINISHED, Stage, page_of, read_stages
from mmtrain.commands.usage import UsageError
from mmtrain.display.messages import say
from mmtrain.models.yaml12 import read_yaml, yaml_text
from mmtrain.training.checkpoints.stopping import RESUMABLE, Stopped, StopSignals
from slurm.settings import settings


def run(arguments: list[str]) -> None:
    """Runs `fit` with the arguments behind the verb.

    Raises:
        ValueError: for what the run finds wrong, in one line.
        SystemExit: with code 2 for wrong usage, 75 when a signal ended the training after a checkpoint.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers warn after every fork of a loader otherwise
    try:
        if stages := read_stages(arguments := with_pages(arguments)):
            _train(stages)
        else:
            _started(Fit, arguments)
    except Stopped as stopped:
        say(f"mmtrain fit: {stopped}; its checkpoint is written, --ckpt_path last goes on", file=sys.stderr)
        # one process says so: a launcher takes another's code for a crash
        raise SystemExit(RESUMABLE if _first() else 0) from None


def check(arguments: list[str]) -> None:
    """Parses the arguments of `fit` and the files they name, and does nothing else.

    Raises:
        ValueError: for stages that cannot be.
        SystemExit: with code 2 for wrong usage.
    """
    if stages := read_stages(arguments := with_pages(arguments)):
        _parsed(stages)
    else:
        _started(Parsed, arguments)


def _started(cli: type[C], arguments: list[str], stage: Stage | None = None) -> C:
    """What `start` gives; what it finds wrong is a line that names the option, and the stage where it is one's."""
    try:
        return start(cli, arguments, stage)
    except Exception as error:
        line = refused(error, settings(arguments))
        if line is None and stage is not None and isinstance(error, ValueError):
            line = str(error)
        if line is None:
            raise
        kind = UsageError if isinstance(error, UsageError) else ValueError
        raise kind(line if stage is None else stage.named(line)) from error


# ---- stages


def _train(stages: list[Stage]) -> None:
    """Trains one stage after another in RUN/1, RUN/2 and so on; with --ckpt_path last from the first unfinished one."""
    parsed = _parsed(stages)
    options = parsed[0].options
    run, resumes, rehearsal = Path(options.trainer.default_root_dir), options.ckpt_path, options.trainer.fast_dev_run
    if resumes not in (None, "last"):
        raise ValueError(f"--ckpt_path: got {resumes}, expected last: the first unfinished stage of {run} goes on")
    if options.trainer.enable_checkpointing is False:
        raise ValueError("--trainer.enable_checkpointing: got false, but stages start from checkpoints; leave it out")
    lengths = {stage: _length(each.options.trainer) for stage, each in zip(stages, parsed, strict=True)}
    page = yaml_text(page_of([read_yaml(each.text()) for each in parsed]))
    unfinished = list(dropwhile(lambda stage: resumes and stage.finished(run) == lengths[stage], stages))
    for stage in stages[: len(stages) - len(unfinished)]:
        rank_zero_info(f"{stage.folder(run)}: finished")
    signals, writes = StopSignals(), _first() and not rehearsal
    with ExitStack() as held:
        held.callback(signals.restore)
        if writes:
            held.enter_context(writing_into(run))
            write_whole(run / "config.yaml", page)
        for stage in unfinished:
            rank_zero_info(f"{stage.folder(run)}: stage {stage.number} of {len(stages)}")
            trainer = _started(Fit, [*stage.arguments, *_placed(stage, run, starts=not rehearsal)], stage).trainer
            if not _is_trained(trainer):
                step = trainer.global_step
                rank_zero_info(f"{stage.folder(run)}: stopped after step {step}; --ckpt_path last goes on")
                return
            if writes:
                write_whole(stage.folder(run) / FINISHED, json.dumps(lengths[stage]))
            if stage is unfinished[0]:
                signals.listen()  # to what comes while the next is made; its checkpoint is written after one step
            del trainer
            gc.collect()  # two models may not fit into the memory


def _parsed(stages: list[Stage]) -> list[Parsed]:
    """All stages parsed, so that a mistake in the last is found before the first is trained."""
    parsed = []
    for stage in stages:
        try:
            parsed.append(_started(Parsed, stage.arguments, stage))
        except SystemExit as stop:
            if stop.code or stage is stages[-1] or not any("--print_config" in word for word in stage.arguments):
                raise
    return parsed


def _placed(stage: Stage, run: Path, starts: bool) -> list[str]:
    """The options that give a stage its folder and its start."""
    placed = [f"--trainer.default_root_dir={stage.folder(run)}"]
    if stage.number > 1 and starts:
        before = run / str(stage.number - 1) / "checkpoints" / "last.ckpt"
        if not before.exists():
            raise ValueError(f"stages[{stage.number}]: it starts from {before}, which is missing; train all stages")
        placed.append(f"--start_from={before}")
    return placed


def _length(options: Namespace) -> dict[str, Any]:
    """How long a trainer is told to train."""
    return {name: options[name] and str(options[name]) for name in ("max_steps", "max_epochs", "max_time")}


def _is_trained(trainer: Trainer) -> bool:
    """Whether a training came to its end, and was not stopped before it by anything but an EarlyStopping."""
    stoppings = [each for each in trainer.early_stopping_callbacks if isinstance(each, EarlyStopping)]
    ended = any(each.stopping_reason is not EarlyStoppingReason.NOT_STOPPED for each in stoppings)
    return ended or not trainer.should_stop or trainer.global_step == trainer.max_steps


def _first() -> bool:
    """Whether this is the first of several processes."""
    return getattr(rank_zero_only, "rank", 0) == 0
