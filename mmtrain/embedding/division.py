"""Work in numbered parts on several processes that need no network between them.

A part is in files of its own, written whole or not at all. It does not depend on the number of processes: any number
makes the same files, and goes on with those of a run that was killed. Process r makes every world-th part from r on.
When process 0 is through, it makes what is still missing, so it never waits for one that died.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from datamodules.files import writing_into
from mmtrain.display.messages import note, say
from mmtrain.embedding.processes import Processes

ENDINGS = "safetensors|tar|json|jsonl"
# a part, whole or being written; safetensors writes to a name of its own first
PART_FILE = re.compile(
    rf"(shard-)?\d{{6}}\.({ENDINGS}|left)|\.(shard-)?\d{{6}}\.({ENDINGS})\.[0-9a-f]{{8}}\.part|\.tmp[0-9A-Za-z]{{6}}"
)
LEAVING_SECONDS = 60  # how long process 0, when all parts are there, leaves the others to notice
PATIENCE_SECONDS = 600  # how long the others wait for a part that they do not make themselves


@contextmanager
def parts_beside(target: Path, rank: int = 0) -> Iterator[Path]:
    """The folder of the parts of what is to be written at `target`. The first of several processes keeps it for them.

    When the block fails, parts that are whole stay, which is said; otherwise no folder stays.

    Raises:
        ValueError: when another run writes there, or the folder cannot be made.
    """
    folder = target.resolve().with_name(target.resolve().name + ".parts")
    with nullcontext() if rank else writing_into(folder):
        try:
            yield folder
        except BaseException:
            if any(re.fullmatch(ENDINGS, path.suffix[1:]) for path in folder.glob("*/[!.]*")):
                note(f"{folder}: keeps what is done; the same command goes on with it")
            raise
        finally:
            for empty in (*folder.glob("*"), folder):
                with suppress(OSError):
                    empty.rmdir()


@dataclass
class Division:
    """The parts of one piece of work.

    Attributes:
        folder: Holds them; its name, 16 hexadecimal digits, tells this work from any other.
        count: How many.
        endings: Of a part's files, the last one written last.
    """

    folder: Path
    count: int
    endings: Sequence[str]
    stem: str = ""

    def path(self, number: int, ending: str | None = None) -> Path:
        """A file of a part, the last one where no ending is given."""
        return self.folder / f"{self.stem}{number:06d}.{ending or self.endings[-1]}"

    def missing(self) -> list[int]:
        """Parts that are not there yet."""
        there = {path.name for path in self.folder.glob("*")}
        return [
            number
            for number in range(self.count)
            if not all(self.path(number, ending).name in there for ending in self.endings)
        ]

    def make(self, processes: Processes, make: Callable[[Sequence[int]], None]) -> None:
        """Makes this process's parts that are missing; process 0 then those that the others have not made yet.

        Args:
            processes: Which of how many this one is.
            make: Makes the parts of these numbers; it may stop when the folder is gone, for then all is done.

        Raises:
            OSError: when a part cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        marker = self.path(processes.rank, "left")
        marker.unlink(missing_ok=True)
        missing = self.missing()
        if processes.rank == 0 and len(missing) < self.count:
            say(f"{self.folder}: going on, {self.count - len(missing)} of {self.count} parts are there")
        make([number for number in missing if number % processes.world == processes.rank])
        if processes.rank:
            if self.folder.exists():
                marker.touch()
            return
        # from the end: whoever still works on a part of its own is more likely at its beginning
        for number in reversed(self.missing()):
            if not self.path(number).exists():
                make([number])

    def wait(self) -> bool:
        """Whether all parts are there, sooner or later; False when no other one came for long, or the folder went."""
        missing, since = self.count, time.monotonic()
        while self.folder.exists() and time.monotonic() < since + PATIENCE_SECONDS:
            if not (still := len(self.missing())):
                return True
            if still < missing:
                missing, since = still, time.monotonic()
            time.sleep(0.2)
        return False

    def remove(self, processes: Processes) -> None:
        """Removes the parts once the other processes have noticed that there is nothing left to do."""
        deadline = time.monotonic() + LEAVING_SECONDS
        others = [self.path(rank, "left") for rank in range(1, processes.world)]
        while time.monotonic() < deadline and not all(path.exists() for path in others):
            time.sleep(0.2)
        # with those of other runs, which were stopped; what is no part stays
        parent = self.folder.parent
        for folder in parent.glob("[0-9a-f]" * 16):
            for path in folder.glob("*"):
                if PART_FILE.fullmatch(path.name):
                    path.unlink(missing_ok=True)
        for folder in (*parent.glob("*"), parent):
            with suppress(OSError):
                folder.rmdir()
