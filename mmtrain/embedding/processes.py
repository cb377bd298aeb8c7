"""Which of how many processes this one is."""

import os
from dataclasses import dataclass

import torch

# what a launcher sets for each process -> where it says its number, how many there are, and its number on the machine
LAUNCHERS = {
    "TORCHELASTIC_RUN_ID": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "SLURM_STEP_ID": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
}


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this one is; those of a SLURM array count together."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # among those of this machine

    @classmethod
    def launched(cls) -> "Processes":
        """As torchrun or srun say; without them one process, as a batch script is, whatever its job has room for."""
        launcher = next((names for mark, names in LAUNCHERS.items() if mark in os.environ), None)
        rank, world, local_rank = (0, 1, 0) if launcher is None else (int(os.environ[name]) for name in launcher)
        task, tasks = _array_task()
        return cls(task * world + rank, tasks * world, local_rank)

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
