"""What captions are matched with: entries by language, as `mmtrain curate --build_metadata` writes them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from datamodules.files import whole_file
from datamodules.packing.texts import lines

OTHER = "other"  # the language of captions in a language without entries


class Metadata:
    """Entries by language, numbered through all languages.

    Attributes:
        entries: Language -> its entries, each once.
        first: Language -> number of its first entry.
    """

    def __init__(self, entries: Mapping[str, Iterable[str]]) -> None:
        self.entries = {language: list(dict.fromkeys(own)) for language, own in sorted(entries.items())}
        starts = np.cumsum([0, *map(len, self.entries.values())]).tolist()
        self.first = dict(zip(self.entries, starts, strict=False))
        self._count = starts[-1]

    def __len__(self) -> int:
        return self._count

    @classmethod
    def read(cls, path: str | Path) -> Metadata:
        """JSON Lines {"language", "entry"}; further keys are passed over. Raises ValueError, one line."""
        found: dict[str, dict[str, None]] = {}
        for number, line in enumerate(lines(path, field="--metadata"), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                language, entry = record["language"], record["entry"]
                if not (isinstance(language, str) and language and isinstance(entry, str) and entry.strip()):
                    raise ValueError
            except (ValueError, KeyError, TypeError):
                shown = line.encode(errors="replace").decode()[:60]
                expected = '{"language": "en", "entry": "dog"}'
                raise ValueError(f"--metadata: {path}, line {number}: got {shown}, expected {expected}") from None
            found.setdefault(language, {})[entry] = None
        if not found:
            raise ValueError(f"--metadata: {path} has no entry; --build_metadata writes some")
        return cls(found)

    def language_of(self, tag: str) -> str:
        """The language that captions with this tag count in: its own, else that of the shorter tag, as en of en-GB."""
        parts = re.split("[-_]", tag)
        tags = [tag, *("-".join(parts[:count]) for count in range(len(parts), 0, -1))]
        return next((each for each in tags if each in self.entries), OTHER)

    def named(self) -> Iterator[tuple[str, str]]:
        """(language, entry) of every number."""
        for language, entries in self.entries.items():
            yield from ((language, entry) for entry in entries)

    @property
    def digest(self) -> str:
        """Equal for equal entries."""
        digest = hashlib.sha256()
        for pair in self.named():
            digest.update("\0".join((*pair, "")).encode(errors="surrogatepass"))
        return digest.hexdigest()[:16]


def write_metadata(path: str | Path, entries: Mapping[str, Iterable[str]]) -> int:
    """Writes what `Metadata.read` reads, whole or not at all; returns the number of entries."""
    count = 0
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for language, own in entries.items():
            for entry in own:
                file.write(json.dumps({"language": language, "entry": entry}, ensure_ascii=False) + "\n")
                count += 1
    return count
