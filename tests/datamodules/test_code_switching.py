"""M3P's code-switching, by counting, and the dictionaries it reads."""

import random
import unicodedata
from collections import Counter

import pytest
from tiny_shards import sample_files

from datamodules import CodeSwitch

TABLE = "en\tde\tlv\ndog\tHund\tsuns\ncat\tKatze\t\ndog\tHündin\nred\t\tsarkans\nRed\trot\t\n"
SWITCHES = 20_000


@pytest.fixture
def dictionary(tmp_path):
    def write(content=TABLE, name="words.tsv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def switched(transform, caption, language="en"):
    rng = random.Random(0)
    return Counter(transform(caption, language, rng) for _ in range(SWITCHES))


def test_a_word_is_replaced_by_an_even_language_and_then_an_even_translation(dictionary):
    counts = switched(CodeSwitch([dictionary()], sentence_ratio=1.0, word_ratio=1.0), "dog")
    shares = {text: count / SWITCHES for text, count in counts.items()}
    assert shares == pytest.approx({"suns": 0.5, "Hund": 0.25, "Hündin": 0.25}, abs=0.015)


def test_ratios_are_those_of_sentences_and_of_their_words(dictionary):
    counts = switched(CodeSwitch([dictionary()], sentence_ratio=0.8, word_ratio=0.5), "cat and cat")
    shares = {text: count / SWITCHES for text, count in counts.items()}
    expected = {"Katze and Katze": 0.2, "Katze and cat": 0.2, "cat and Katze": 0.2, "cat and cat": 0.2 + 0.2}
    assert shares == pytest.approx(expected, abs=0.015)
    assert set(switched(CodeSwitch([dictionary()], sentence_ratio=0.0), "dog")) == {"dog"}
    assert set(switched(CodeSwitch([dictionary()], word_ratio=0.0), "dog")) == {"dog"}


def test_words_match_as_written_between_spaces_and_in_their_own_language_only(dictionary):
    always = CodeSwitch([dictionary()], 1.0, 1.0)
    rng = random.Random(0)
    assert always("red  Red dog, RED", "en", rng) == "sarkans  rot dog, RED"
    assert always("cat red", "de", rng) == "cat red"


NUMBERS = "en\tde\ttr\none\tein\t∅\nhundred\thundert\tyüz\nand\t∅\t∅\nforty-seven\tsiebenundvierzig\tkırk yedi\n"


def test_a_caption_goes_into_one_language_and_is_joined_as_that_writes(dictionary):
    options = {"language_by": "caption", "join": {"de": ""}}
    whole = CodeSwitch([dictionary(NUMBERS)], 1.0, 1.0, **options)
    counts = switched(whole, "one hundred and forty-seven")
    shares = {text: count / SWITCHES for text, count in counts.items()}
    assert shares == pytest.approx({"einhundertsiebenundvierzig": 0.5, "yüz kırk yedi": 0.5}, abs=0.015)
    assert set(switched(whole, "page one hundred of one")) == {"page einhundert of ein", "page yüz of"}
    assert set(switched(whole, "page of")) == {"page of"} and set(switched(whole, "and")) == {"and"}
    parts = switched(CodeSwitch([dictionary(NUMBERS)], 1.0, 0.5, **options), "one hundred")
    assert parts.keys() == {"one hundred", "ein hundred", "one hundert", "einhundert", "hundred", "one yüz", "yüz"}


def test_files_of_one_language_are_taken_together_and_accents_meet(dictionary):
    decomposed = unicodedata.normalize("NFD", "lv\tet\r\nkaķis\tkass\r\n\r\n")
    paths = [dictionary("lv\ten\nkaķis\tcat\n", "lv-en.tsv"), dictionary(decomposed, "lv-et.tsv")]
    both = CodeSwitch(paths, 1.0, 1.0)
    assert set(switched(both, "kaķis", "lv")) == set(switched(both, unicodedata.normalize("NFD", "kaķis"), "lv"))
    assert set(switched(both, "kaķis", "lv")) == {"cat", "kass"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "line 1: names no two languages: ''"),
        ("en\ndog\n", "line 1: names no two languages: 'en'"),
        ("en\ten\ndog\tdog\n", "line 1: names no two languages"),
        ("en\t\tde\n", "line 1: names no two languages"),
        ("en\tde\ndog\tHund\tsuns\n", "line 2: 3 cells in"),
        ("en\tde\ncat\tKatze\n\tHund\n", "line 3: no word in"),
        ("en\tde\ndog\t\n", "holds no translation"),
        (b"en\tde\n\xff\tx\n", "is not UTF-8"),
    ],
)
def test_a_malformed_dictionary_is_one_line_that_names_the_file(dictionary, content, says):
    with pytest.raises(ValueError, match=f"^text.dictionaries: .*words.tsv.*{says}.* a TSV whose first line") as error:
        CodeSwitch([dictionary(content)])
    assert "\n" not in str(error.value)


def test_settings_that_cannot_be_are_one_line(dictionary, tmp_path):
    with pytest.raises(ValueError, match="none.tsv: cannot be read .No such file"):
        CodeSwitch([tmp_path / "none.tsv"])
    with pytest.raises(ValueError, match="text.word_ratio: 1.5 is no share; 0 to 1"):
        CodeSwitch([dictionary()], word_ratio=1.5)
    with pytest.raises(ValueError, match="text.dictionaries: none are named"):
        CodeSwitch([])
    with pytest.raises(ValueError, match="text.language_by: 'sentence' is unknown; word or caption"):
        CodeSwitch([dictionary()], language_by="sentence")
    with pytest.raises(ValueError, match="text.join: no translations into fr; de, lv"):
        CodeSwitch([dictionary()], join={"fr": ""})


def test_switched_captions_keep_their_language_and_are_the_same_in_any_reader(data, plain_shards, dictionary):
    folder = plain_shards([[sample_files(n, {"en": "the dog", "lv": "suns"}) for n in range(40)]])
    options = {"train": folder, "captions_per_image": 2, "text": CodeSwitch([dictionary()]), "val": folder}
    read = [list(data(**options, workers=workers).train_dataloader()) for workers in (0, 2)]
    texts = [[caption for batch in batches for caption in batch.captions] for batches in read]
    assert texts[0] == texts[1]
    assert {english for english, _ in texts[0]} == {"the dog", "the suns", "the Hund", "the Hündin"}
    assert all(batch.languages.tolist() == [[0, 1]] * 4 for batch in read[0])
    batch = read[0][0]
    ids = dict(zip([english for english, _ in batch.captions], batch.text_ids[:, 0].tolist(), strict=True))
    assert len(set(ids.values())) == len(ids)
    validated = data(**options).val_dataloader()
    assert {text for batch in validated for caption in batch.captions for text in caption} == {"the dog", "suns"}


def test_a_dictionary_for_none_of_the_languages_is_one_line(data, plain_shards, dictionary):
    folder = plain_shards([[sample_files(n, {"lv": "suns"}) for n in range(4)]])
    with pytest.raises(ValueError, match="text.dictionaries: words of en, but the languages in use are lv;"):
        data(train=folder, text=CodeSwitch([dictionary()]))
