"""Which of how many processes this one is."""

import os
import warnings
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this one is; those of a SLURM array count together."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # among those of this machine

    @classmethod
    def launched(cls) -> "Processes":
        """As torchrun or srun say; one process without them."""
        if not any(name.startswith(("TORCHELASTIC_", "SLURM_")) for name in os.environ):
            return cls()
        from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that srun is installed but was not used
            environments = [kind for kind in (TorchElasticEnvironment, SLURMEnvironment) if kind.detect()]
        task, tasks = _array_task()
        if not environments:
            return cls(task, tasks)
        environment = environments[0]()
        world = environment.world_size()
        return cls(task * world + environment.global_rank(), tasks * world, environment.local_rank())

    def device(self, name: str | None) -> str:
        """`name`, or this process's own GPU where there is one."""
        if name is not None or not torch.cuda.is_available():
            return name or "cpu"
        return f"cuda:{self.local_rank % torch.cuda.device_count()}"


def _array_task() -> tuple[int, int]:
    """Which of how many tasks of a SLURM array this is; 0 of 1 outside of one."""
    count = int(os.environ.get("SLURM_ARRAY_TASK_COUNT", 1))
    if count == 1:
        return 0, 1
    number, first, step = (int(os.environ[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "MIN", "STEP"))
    task = (number - first) // step
    if task >= count:
        raise ValueError(
            f"--array: task {number} is one of {count} from {first}; numbers without gaps, as in 0-{count - 1}"
        )
    return task, count


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
