"""What the frozen configs and the old runs of this folder were trained on; made anew, sample for sample."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np

WORDS = {
    "en": "one two three four five six seven eight nine ten",
    "de": "eins zwei drei vier fünf sechs sieben acht neun zehn",
}


def write_material(folder: Path) -> None:
    """Writes numbers/ (300 pictures, five languages), posts/ (96), features/ (64 vectors of 24) and words.json."""
    from mmtrain.cli import main

    languages = ["--languages", "[en,lv,de,fr,ja]", "--workers", "1"]
    assert (
        main(["pack", "numbers", "--split", "val", "--renderings", "3", *languages, "--out", f"{folder}/numbers"]) == 0
    )
    write_posts(folder / "posts", 96)
    write_features(folder / "features", 64)
    vocabulary = {language: sorted(words.split()) for language, words in sorted(WORDS.items())}
    (folder / "words.json").write_text(json.dumps({"words": vocabulary}, ensure_ascii=False), encoding="utf-8")


def write_posts(folder: Path, count: int) -> None:
    """Posts of the numbers corpus in English and Latvian."""
    from mmtrain.cli import main

    whole = folder.with_name(f"{folder.name}.whole")
    options = ["--languages", "[en,lv]", "--workers", "1", "--samples_per_shard", str(count)]
    assert main(["pack", "numbers", "--posts", "--split", "val", *options, "--out", str(whole)]) == 0
    folder.mkdir()
    (whole / "shard-000000.tar").rename(folder / "shard-000000.tar")


def write_features(folder: Path, count: int, width: int = 24) -> None:
    """Vectors with a caption in English and one in German."""
    random = np.random.RandomState(0)
    folder.mkdir()
    with tarfile.open(folder / "shard-000000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(count):
            vector = io.BytesIO()
            np.save(vector, random.standard_normal(width).astype(np.float32))
            captions = {
                language: " ".join(words.split()[place] for place in (number % 10, number // 10))
                for language, words in WORDS.items()
            }
            record = json.dumps({"id": f"f{number}", "captions": captions}, ensure_ascii=False).encode()
            for suffix, content in (("json", record), ("npy", vector.getvalue())):
                member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
