"""A callback for tests: steps that last as long as those of a real model."""

import time
from typing import Any

import pytorch_lightning as pl


class Slowly(pl.Callback):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_end(self, *args: Any) -> None:
        time.sleep(self.seconds)
