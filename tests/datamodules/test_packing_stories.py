"""Picture stories as a relation task."""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from datamodules.packing import Row, read_stories
from datamodules.shards.encoding import BadRow
from datamodules.shards.reader import ShardReader
from mmtrain.cli import main

DATA = Path(__file__).parents[3] / "shared" / "data" / "storybooks" / "storybooks.jsonl"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two stories of three pages, the first two pages of a story with a description, and a story of one page."""
    rows = []
    for story, pages in (("a", 3), ("b", 3), ("c", 1)):
        for page in range(pages):
            name = f"{story}{page}"
            Image.new("RGB", (8, 8), (page * 80, ord(story), 0)).save(tmp_path / f"{name}.png")
            captions = {"en": f"text {name}", "lv": f"teksts {name}"} if page < 2 else {"en": f"text {name}"}
            row = {"id": name, "split": "train", "story": story, "image": f"{name}.png", "captions": captions}
            if page < 2 and story != "c":
                row["image_description"] = {"nb": f"bilde {name}"}
            rows.append(row)
    path = tmp_path / "stories.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_three_posts_of_a_page(manifest: Path) -> None:
    found = list(read_stories(manifest))
    posts = [row.record for row in found if isinstance(row, Row)]
    left_out = [str(row) for row in found if isinstance(row, BadRow)]
    # the third page of a story is the only one without a description, and story c has one page
    assert sorted({post["id"].split("-")[0] for post in posts}) == ["a0", "a1", "b0", "b1"]
    assert len(posts) == 12 and len(left_out) == 3 and all("no other page" in each for each in left_out)
    for post in posts:
        page, text = post["id"].split("-")[0], post["text_of"]
        match = 0 if text == page else 1 if text[0] == page[0] else 2
        assert post["labels"] == {"match": match}
        assert post["captions"] == {"en": f"text {text}", "lv": f"teksts {text}", "nb-x-literal": f"bilde {text}"}
        assert "described" not in post and "image_description" not in post


def test_draws_depend_on_the_seed_and_not_on_the_order(manifest: Path, tmp_path: Path) -> None:
    def drawn(path: Path, seed: int = 0) -> dict[str, str]:
        return {
            row.record["id"]: row.record["text_of"] for row in read_stories(path, seed=seed) if isinstance(row, Row)
        }

    turned = tmp_path / "turned.jsonl"
    turned.write_text("".join(reversed(manifest.read_text().splitlines(keepends=True))))
    assert drawn(manifest) == drawn(turned)
    assert any(drawn(manifest) != drawn(manifest, seed) for seed in (1, 2, 3))


def test_a_row_without_a_story(manifest: Path) -> None:
    manifest.write_text('{"id": "x", "image": "a0.png", "captions": {"en": "x"}}\n' + manifest.read_text())
    assert str(next(read_stories(manifest))) == "row 1: no story"


def test_a_description_that_is_no_object(manifest: Path) -> None:
    row = {"id": "x", "story": "a", "image": "a0.png", "captions": {"en": "x"}, "image_description": "a cat"}
    manifest.write_text(json.dumps(row) + "\n" + manifest.read_text())
    assert str(next(read_stories(manifest))) == "row 1: image_description is no object of texts by language"


def test_the_command(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", "stories", str(manifest), "--split", "train", "--out", str(tmp_path / "out")]) == 0
    assert "12 samples" in capsys.readouterr().out
    reader = ShardReader()
    (shard,) = (tmp_path / "out").glob("*.tar")
    assert len(reader.index(str(shard))) == 12
    reader.close()


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not here")
def test_labels_are_even_in_every_language() -> None:
    posts = [row.record for row in read_stories(DATA) if isinstance(row, Row)]
    counts = Counter((post["split"], code, post["labels"]["match"]) for post in posts for code in post["captions"])
    for split, code, _ in counts:
        assert len({counts[split, code, match] for match in (0, 1, 2)}) == 1
    assert counts["train", "nb-x-literal", 0] + counts["val", "nb-x-literal", 0] == 156
    texts = {post["text_of"]: post["captions"] for post in posts if post["labels"]["match"] == 0}
    assert all(
        texts[post["text_of"]].get(code) == text
        for post in posts
        if post["text_of"] in texts
        for code, text in post["captions"].items()
        if code in texts[post["text_of"]]
    )
