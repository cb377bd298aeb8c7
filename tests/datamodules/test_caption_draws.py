"""K captions of K languages: drawn evenly, missing ones tolerated, all counted."""

from collections import Counter

import pytest
import torch
from tiny_shards import sample_files

from datamodules import Source
from datamodules.batch import text_id

LANGUAGES = ["de", "en", "lv", "zh"]


def every(module, passes):
    return [batch for _ in range(passes) for batch in trained(module)]


def trained(module):
    for batch in module.train_dataloader():
        module.trained(batch)
        yield batch


def test_k_different_languages_are_drawn_evenly(data, plain_shards):
    captions = {language: f"in {language}" for language in LANGUAGES}
    folder = plain_shards([[sample_files(n, captions) for n in range(200)]])
    module = data(train=folder, captions_per_image=2, batch_size=50, languages=LANGUAGES)
    drawn, pairs = Counter(), Counter()
    for batch in every(module, 6):
        assert batch.present.all() and batch.tokens.shape[:2] == (50, 2)
        for pair, texts in zip(batch.languages.tolist(), batch.captions, strict=True):
            assert texts == [f"in {LANGUAGES[language]}" for language in pair]
            drawn.update(pair)
            pairs[frozenset(pair)] += 1
    # 2,400 draws of 4 languages: 600 each with a deviation of 17; 6 pairs of 200 with 13
    assert all(abs(drawn[language] - 600) < 70 for language in range(4))
    assert len(pairs) == 6 and all(abs(count - 200) < 52 for count in pairs.values())


def test_one_caption_of_several_is_drawn_evenly(data, plain_shards):
    folder = plain_shards([[sample_files(n, {"en": ["a", "b", "c"]}) for n in range(100)]])
    texts = Counter(text for batch in every(data(train=folder, batch_size=50), 9) for (text,) in batch.captions)
    assert all(abs(texts[text] - 300) < 57 for text in "abc")


def test_captions_are_drawn_by_the_weight_of_their_fields(data, plain_shards):
    fields = {"en": ["reference", "alt", "page"], "lv": ["reference"]}  # not as many as captions: they weigh alike
    captions = {"en": ["a", "b", "c"], "lv": ["d", "e"]}
    folder = plain_shards([[sample_files(n, captions, fields=fields) for n in range(100)]])
    source = Source(str(folder), caption_fields={"reference": 4, "alt": 1})
    texts = Counter(
        text
        for batch in every(data(train=[source], batch_size=50, captions_per_image=2), 9)
        for row in batch.captions
        for text in row
    )
    assert all(abs(texts[text] - 900 * share) < 60 for text, share in zip("abc", (4 / 6, 1 / 6, 1 / 6), strict=True))
    assert abs(texts["d"] - 450) < 70


def test_a_field_is_drawn_by_its_weight_however_many_captions_it_has(data, plain_shards):
    """As of pages that show one picture: three alternative texts are drawn no more often than one."""
    record = {"fields": {"en": ["reference", "alt", "alt", "alt"]}}
    folder = plain_shards([[sample_files(n, {"en": ["a", "b", "c", "d"]}, **record) for n in range(100)]])
    source = Source(str(folder), caption_fields={"reference": 4, "alt": 1})
    texts = Counter(text for batch in every(data(train=[source], batch_size=50), 9) for (text,) in batch.captions)
    assert abs(texts["a"] - 900 * 4 / 5) < 50
    assert all(abs(texts[text] - 900 / 15) < 32 for text in "bcd")


def test_every_pass_draws_captions_and_crops_anew(data, plain_shards):
    folder = plain_shards([[sample_files(n, {"en": ["a", "b"], "lv": ["c", "d"]}) for n in range(20)]])
    module = data(train=folder, batch_size=20)
    first, second = every(module, 2)
    places = [second.ids.index(name) for name in first.ids]
    captions = [second.captions[place] for place in places]
    # of 20 samples with 4 captions each, 5 draw the same again by chance; a crop is hardly ever the same
    assert sum(a == b for a, b in zip(first.captions, captions, strict=True)) < 15
    same_crops = [torch.equal(view, second.images[place]) for view, place in zip(first.images, places, strict=True)]
    assert sum(same_crops) < 10


def test_missing_languages_leave_slots_absent_behind_the_filled_ones(data, plain_shards):
    captions = [{"lv": "viens"}, {"en": "two", "zh": "二"}, {"de": "drei", "en": "three", "lv": "trīs", "zh": "三"}]
    folder = plain_shards([[sample_files(n, captions[n % 3]) for n in range(12)]])
    for batch in every(data(train=folder, captions_per_image=3, languages=LANGUAGES), 3):
        for row, name in enumerate(batch.ids):
            count = (1, 2, 3)[int(name[1:]) % 3]
            assert batch.present[row].tolist() == [True] * count + [False] * (3 - count)
        absent = ~batch.present
        assert (batch.languages[absent] == -1).all() and (batch.text_ids[absent] == -1).all()
        assert not batch.tokens[absent].any() and not batch.token_mask[absent].any()
        assert (batch.languages[batch.present] >= 0).all() and batch.token_mask[batch.present].any(-1).all()


def test_with_k_equal_to_the_languages_each_has_its_own_slot(data, plain_shards):
    folder = plain_shards([[sample_files(n, {"lv": "l", "de": "d"} if n % 2 else {"en": "e"}) for n in range(8)]])
    for batch in every(data(train=folder, captions_per_image=3, languages=["en", "de", "lv"]), 2):
        for row, name in enumerate(batch.ids):
            assert batch.captions[row] == (["", "d", "l"] if int(name[1:]) % 2 else ["e", "", ""])
            assert batch.languages[row].tolist() == ([-1, 1, 2] if int(name[1:]) % 2 else [0, -1, -1])


@pytest.mark.parametrize("listed", [True, False])
def test_samples_without_a_chosen_language_are_no_part_of_the_data(data, listed_shards, epoch, listed):
    captions = [{"en": "a"} if n % 4 else {"lv": "b", "en": "c"} for n in range(40)]
    folder = listed_shards(40, 10, captions)
    if not listed:
        (folder / "shards.json").unlink()
    module = data(train=folder, languages=["lv"], batch_size=5)
    assert module.epoch_length == 10
    assert sorted(sum(epoch(module), [])) == [f"s{n:03d}" for n in range(0, 40, 4)]
    summary = module.account.summary()
    assert (summary["skipped"], sum(summary["no_chosen_language"].values())) == (0, 30)


def test_languages_default_to_all_in_the_shards_and_keep_the_given_order(data, listed_shards):
    captions = [{"en": "a", "zh-Hant": "b"}, {"lv": "c"}] * 5
    folder = listed_shards(10, 5, captions)
    assert data(train=folder).languages == ["en", "lv", "zh-Hant"]
    assert data(train=folder, languages=["lv", "en"]).languages == ["lv", "en"]


def test_equal_texts_and_equal_pictures_have_equal_ids(data, plain_shards):
    same = sample_files(1, {"en": "  café "}), sample_files(1, {"fr": "cafe\u0301"}), sample_files(2, {"en": "tea"})
    named = sample_files(3, {"en": "x"}, image_id="p7"), sample_files(4, {"en": "y"}, image_id="p7")
    (batch,) = data("validate", val=plain_shards([[*same, *named]]), batch_size=5).val_dataloader()
    assert batch.text_ids[0, 0] == batch.text_ids[1, 0] == text_id("café") != batch.text_ids[2, 0]
    assert batch.image_ids[0] == batch.image_ids[1] != batch.image_ids[2]
    assert batch.image_ids[3] == batch.image_ids[4]
    assert (batch.image_ids >= 0).all()


def test_shards_of_img2dataset_and_open_clip_are_read_as_they_are(data, plain_shards):
    files = [
        {"png": sample_files(0)["png"], "txt": b"a dog", "json": b'{"key": "0", "url": "http", "status": "success"}'},
        {"png": sample_files(1)["png"], "txt": "kaķis\n".encode()},
        {"png": sample_files(2)["png"], "json": b'{"caption": "a bird"}'},
        {"png": sample_files(3)["png"], "txt": b""},
    ]
    module = data("validate", val=plain_shards([files]), text_language="lv")
    (batch,) = module.val_dataloader()
    assert module.languages == ["lv"]
    assert batch.captions == [["a dog"], ["kaķis"], ["a bird"]]
    assert data("validate", val=plain_shards([files], name="more")).languages == ["und"]


def test_labels_travel_as_numbers(data, listed_shards, plain_shards):
    labels = [{"mood": "sad", "stars": 3}, {"mood": "glad"}, {"stars": 1}]
    folder = plain_shards([[sample_files(n, None, labels=labels[n]) for n in range(3)]])
    module = data("validate", val=folder)
    (batch,) = module.val_dataloader()
    assert module.label_names == {"mood": ["glad", "sad"]}
    assert {task: values.tolist() for task, values in batch.labels.items()} == {"mood": [1, 0, -1], "stars": [3, -1, 1]}
    (batch,) = data("validate", val=folder, label_names={"mood": ["sad", "glad"]}).val_dataloader()
    assert batch.labels["mood"].tolist() == [0, 1, -1]


def test_a_batch_moves_whole(data, listed_shards):
    batch = next(iter(data(train=listed_shards(8)).train_dataloader()))
    moved = batch.to("meta")
    assert moved.images.device == moved.text_ids.device == torch.device("meta")
    assert (moved.ids, moved.end, len(moved)) == (batch.ids, 4, 4)
