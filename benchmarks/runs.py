"""What benchmarks that train whole runs share: the command line, processor seconds, and means over seeds."""

import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from mmtrain.cli import main

CONFIGS = Path(__file__).parents[1] / "configs"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]


def run(*arguments: object) -> None:
    """One mmtrain command; ends the benchmark where it fails."""
    if main([str(argument) for argument in arguments]) != 0:
        raise SystemExit(1)


def processor_seconds(command: Sequence[object]) -> float:
    """Runs a command; returns the seconds that it and its readers kept processors busy, whatever else ran."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[:4]} failed: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def fit_seconds(config: Path, run: Path, options: dict[str, object]) -> float:
    """Processor seconds of `mmtrain fit` into a run folder; an option is text, or whatever JSON writes."""
    settings = {"trainer.default_root_dir": str(run), **options}
    return processor_seconds(
        [sys.executable, "-m", "mmtrain.cli", "fit", "--config", config, *QUIET, *_given(settings)]
    )


def fitted(page: str, run_folder: Path, seed: int, options: Mapping[str, Any]) -> Path:
    """Trains a page of configs/pretrain in this process, without validation; a stopped run goes on."""
    settings = {"trainer.default_root_dir": str(run_folder), "seed_everything": seed, "data.seed": seed}
    settings |= {"data.workers": 0, "data.val": None, **options}
    run("fit", "--config", CONFIGS / "pretrain" / page, *QUIET, "--ckpt_path=last", *_given(settings))
    return run_folder


def _given(settings: Mapping[str, Any]) -> list[str]:
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items()]


def evaluated(model: Path, data: Path, *options: object) -> dict:
    """metrics.json of a run on shards."""
    out = model / f"report_{data.name}"
    run("evaluate", model, "--data", data, "--out", out, "--workers", 0, *options)
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def interval(values: Sequence[float]) -> str:
    """Mean over seeds and the half-width of its 95 % interval (Student's t)."""
    if len(values) < 2:
        return f"{np.mean(values):.1f} (one seed)"
    return f"{np.mean(values):.1f} ± {half_width(values):.1f}"


def half_width(values: Sequence[float]) -> float:
    """Of the 95 % interval of the mean of at least two values (Student's t)."""
    return float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def say(*words: object) -> None:
    print(*words, flush=True)
