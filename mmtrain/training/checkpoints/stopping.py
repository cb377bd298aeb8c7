"""Ending early on a signal: SLURM's notice before a time limit, a preemption, an operator's SIGTERM."""

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)  # not SIGUSR1, which NCCL may use
RESUMABLE = 75  # exit code EX_TEMPFAIL: stopped with a checkpoint, worth starting again


class Stopped(BaseException):
    """Training ended by a signal, behind a complete last.ckpt."""

    def __init__(self, name: str, step: int) -> None:
        super().__init__(f"stopped by {name} after step {step}")
        self.signal, self.step = name, step


class StopSignals:
    """Remembers a signal instead of dying of it; the training loop asks between two steps."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Takes the place of the present handlers, and what they received where they are of this kind.

        To be called from the main thread; elsewhere it does nothing.
        """
        self.received = None
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
            others = (getattr(handler, "__self__", None) for handler in self._before.values())
            self.received = next((each.received for each in others if isinstance(each, StopSignals)), None)

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
