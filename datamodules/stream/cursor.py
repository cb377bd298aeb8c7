"""The place in the training stream, and the length that the current epoch shows to Lightning."""

from __future__ import annotations

from datamodules.stream.order import batches_left, epoch_of


class Cursor:
    """Counts in samples of all ranks, and points behind the last batch trained.

    Lightning resumes in mid-epoch by counting the batches it has done against the loader's length, so the length must
    be that of the whole epoch: batches done in it plus batches left. The number done is stored rather than computed,
    because a resumed run may have another global batch.
    """

    def __init__(self) -> None:
        self.position = 0
        self.steps: int | None = None  # of every epoch, wherever the data's own ends; None for the data's
        self._counted_from = 0  # position up to which the batches of this epoch are in `_counted`
        self._counted = 0
        self._counted_epoch = -1  # of the last batch in `_counted`, -1 without one
        self._inside = False

    def begin_epoch(self, group: int, inside: bool) -> None:
        """Called when a loader is made or returned again.

        Args:
            group: Samples of a global batch.
            inside: Whether the trainer takes itself to be inside an epoch, as after a resume, and will count the
                batches it has done against the length. When nothing was trained since, it still does.
        """
        self._inside = inside
        if self.steps is not None:  # counted here: resumed a second time, Lightning takes an epoch for a new one
            self._counted_from, self._counted = self.position, self._done(group) % self.steps
        elif self.position != self._counted_from or not inside:
            self._counted_from, self._counted, self._counted_epoch = self.position, 0, -1

    def over(self, group: int, length: int) -> bool:
        """Whether the epoch of the last batch is over: it was restored from its very end."""
        return self._counted > 0 and self._counted_epoch != epoch_of(self.position, group, length)

    def left(self, group: int, length: int) -> int:
        """Batches that the current epoch still has."""
        if self.steps is not None:
            return self.steps - self._done(group) % self.steps
        return batches_left(self.position, group, length)

    def batches(self, group: int, length: int) -> int:
        """Batches of the whole current epoch.

        A trainer restored from the last step of an epoch counts that epoch's batches into the next: it gets both.
        """
        if self.steps is not None:
            return self.steps if self._inside else self.steps - self._counted
        same = epoch_of(self._counted_from, group, length) == epoch_of(self.position, group, length)
        return self.left(group, length) + (self._done(group) if same else 0)

    def samples_to_come(self, epochs: int, group: int, length: int) -> int:
        """Samples to the end of so many epochs, the current one included."""
        if self.steps is not None:
            return (self.left(group, length) + (epochs - 1) * self.steps) * group
        return (epoch_of(self.position, group, length) + epochs) * length - self.position

    def state_dict(self, group: int, length: int) -> dict[str, int]:
        """Position, and the batches done in the epoch of the last batch trained."""
        if self.position == self._counted_from:
            epoch, done = self._counted_epoch, self._counted
        else:
            epoch = (self.position - 1) // length
            if self.steps is not None or epoch == epoch_of(self._counted_from, group, length):
                done = self._done(group)
            else:
                done = (self.position - epoch * length - 1) // group + 1
        return {"position": self.position, "batches": done, "epoch": epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = self._counted_from = state["position"]
        self._counted, self._counted_epoch = state["batches"], state["epoch"]

    def _done(self, group: int) -> int:
        return self._counted + (self.position - self._counted_from) // group
