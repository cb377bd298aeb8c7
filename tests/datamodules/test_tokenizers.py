"""Bytes, transformers' tokenizers from a folder, and words."""

import json

import pytest
import torch

from datamodules import ByteTokenizer, TransformersTokenizer, WordTokenizer
from datamodules.tokenizers.tokenizer import Prompted
from datamodules.tokenizers.words import split_words


def test_bytes_are_utf8_between_start_and_end():
    ids, mask = ByteTokenizer(16)(["ā", "no"], ["lv", "en"])
    assert ids.tolist() == [[1, 0xC4 + 3, 0x81 + 3, 2], [1, ord("n") + 3, ord("o") + 3, 2]]
    assert mask.all() and ids.max() < ByteTokenizer.vocabulary_size


def test_bytes_are_cut_between_characters_and_padded_with_zeros():
    ids, mask = ByteTokenizer(6)(["āāā", "a", ""], ["lv"] * 3)
    assert mask.sum(1).tolist() == [6, 3, 2]
    assert ByteTokenizer(5)(["āāā"], ["lv"])[1].sum() == 4
    assert not ids[~mask].any()


def test_composed_and_decomposed_letters_are_the_same():
    ids, _ = ByteTokenizer()(["č", "c\u030c "], ["lv", "lv"])
    assert torch.equal(ids[0], ids[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny tokenizer in the form of a hub download."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "one": 4, "two": 5, "One": 6}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    folder = tmp_path_factory.mktemp("tokenizer")
    tokens = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=made, **tokens).save_pretrained(folder)
    return folder


def test_a_transformers_tokenizer_by_folder(folder, tmp_path):
    tokenizer = TransformersTokenizer(str(folder), max_length=4)
    ids, mask = tokenizer(["one", "one two two two"], ["en", "en"])
    assert ids.tolist() == [[1, 4, 2, 0], [1, 4, 5, 2]]
    assert mask.tolist() == [[True, True, True, False], [True] * 4]
    assert tokenizer.vocabulary_size == 7
    tokenizer.save(tmp_path / "saved")
    assert torch.equal(
        TransformersTokenizer(str(tmp_path / "saved"), max_length=4)(["One"], ["en"])[0], torch.tensor([[1, 6, 2]])
    )


def test_lower_case_and_full_padding_for_siglip(folder):
    ids, mask = TransformersTokenizer(str(folder), max_length=6, lowercase=True, padding="max_length")(["One"], ["en"])
    assert ids.tolist() == [[1, 4, 2, 0, 0, 0]] and mask.sum() == 3


def test_padding_that_is_read_counts_as_text_whatever_the_batch(folder):
    """SigLIP's text towers have no mask and take the last of their 64 positions."""
    options = {"max_length": 6, "lowercase": True, "padding": "max_length", "attend_padding": True}
    tokenizer = TransformersTokenizer(str(folder), **options)
    ids, mask = tokenizer(["One", "two two two two two two"], ["en", "en"])
    assert ids.shape == (2, 6) and mask.all()
    assert torch.equal(tokenizer(["ONE"], ["en"])[0][0], ids[0])
    with pytest.raises(ValueError, match="tokenizer.attend_padding: with padding longest a text would depend"):
        TransformersTokenizer(str(folder), attend_padding=True)


def test_a_tokenizer_that_is_not_there_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(ValueError, match="tokenizer.name_or_folder: .* could not be loaded") as error:
            TransformersTokenizer(str(name))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("tokenizer", [lambda: ByteTokenizer(2), lambda: WordTokenizer("none.json")])
def test_settings_that_cannot_be_are_one_line(tokenizer):
    with pytest.raises(ValueError, match="^tokenizer[.]") as error:
        tokenizer()
    assert "\n" not in str(error.value)


def test_words_are_split_without_spaces_where_the_script_has_none():
    assert split_words("A dog's bone, 12!") == ["a", "dog", "'", "s", "bone", ",", "12", "!"]
    assert split_words("四十七 ok") == ["四", "十", "七", "ok"]
    assert split_words("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]


def test_each_language_has_its_own_words(listed_shards, tmp_path):
    captions = [{"en": "in a house", "de": "in dem Haus"}] * 3 + [{"en": "rare", "de": "Haus"}]
    shards = str(listed_shards(4, 2, captions))
    tokenizer = WordTokenizer.build(shards, tmp_path / "words.json", minimum_count=3)
    assert tokenizer.words == {"de": ["haus", "dem", "in"], "en": ["a", "house", "in"]}
    assert tokenizer.vocabulary_size == 4 + 6
    ids, mask = tokenizer(["in Haus", "in rare", "in"], ["de", "en", "lv"])
    assert ids.tolist() == [[2, 6, 4, 3], [2, 9, 1, 3], [2, 1, 3, 0]]
    assert mask.sum(1).tolist() == [4, 4, 3]
    tokenizer.save(tmp_path / "model")
    assert WordTokenizer(str(tmp_path / "model" / "words.json"))(["in"], ["en"])[0].tolist() == [[2, 9, 3]]


def test_the_words_of_pairs_count_too(plain_shards, tmp_path):
    pair = {"json": b'{"query": {"en": "one"}, "positive": {"lv": "viens"}, "negatives": {"lv": ["divi"]}}'}
    words = WordTokenizer.build(str(plain_shards([[pair] * 2])), tmp_path / "words.json", minimum_count=2).words
    assert words == {"en": ["one"], "lv": ["divi", "viens"]}


def test_a_shared_vocabulary_has_one_id_a_word(listed_shards, tmp_path):
    shards = str(listed_shards(3, 2, [{"en": "in a house", "de": "in dem Haus"}] * 3))
    tokenizer = WordTokenizer.build(shards, tmp_path / "words.json", minimum_count=1, shared=True, max_length=3)
    assert json.loads((tmp_path / "words.json").read_text()) == {"words": {"*": ["in", "a", "dem", "haus", "house"]}}
    assert tokenizer(["in a", "IN"], ["en", "de"])[0].tolist() == [[2, 4, 3], [2, 4, 3]]
    with pytest.raises(ValueError, match="comes 9 times; lower minimum_count"):
        WordTokenizer.build(shards, tmp_path / "none.json", minimum_count=9)


def test_ids_become_text_again_without_special_ones(folder, listed_shards, tmp_path):
    shards = str(listed_shards(3, 2, [{"en": "in a house", "de": "in dem Haus"}] * 3))
    words = WordTokenizer.build(shards, tmp_path / "words.json", minimum_count=1)
    for tokenizer, text in (
        (ByteTokenizer(), "ātrā zīme 中"),
        (words, "in dem haus"),
        (TransformersTokenizer(str(folder)), "one two"),
        (Prompted(TransformersTokenizer(str(folder)), {"query": "One "}), "two One"),
    ):
        ids, _ = tokenizer([text], ["de"])
        assert tokenizer.decode([id for id in ids[0].tolist() if id not in tokenizer.special_ids]).strip() == text
        assert {int(ids[0, 0]), int(ids[0, -1])} < tokenizer.special_ids
        assert len(tokenizer.special_ids) == (3 if isinstance(tokenizer, ByteTokenizer) else 4)
    assert ByteTokenizer().decode([0xC4 + 3]) == "\ufffd"  # half a character
    assert words.mask_id == words.PADDING and words.mask_id in words.special_ids


def marks(kind, tmp_path, languages, **options):
    """The language token of one caption in each language, by a tokenizer without any words."""
    import transformers

    getattr(transformers, kind)().save_pretrained(tmp_path)
    tokenizer = TransformersTokenizer(str(tmp_path), max_length=8, **options)
    rows, mask = tokenizer(["a dog"] * (len(languages) - 1) + ["x"], languages)
    assert mask.sum(1).tolist() == [mask.shape[1]] * (len(languages) - 1) + [int(mask[-1].sum())]
    place = 0 if kind != "MBartTokenizer" else -1  # mBART's stands behind the text
    texts = [tokenizer.tokenizer.convert_ids_to_tokens(rows[i][mask[i]].tolist()) for i in range(len(languages))]
    assert set(tokenizer.tokenizer.convert_tokens_to_ids([tokens[place] for tokens in texts])) <= tokenizer.special_ids
    return [tokens[place] for tokens in texts]


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        ("NllbTokenizer", "eng_Latn deu_Latn lvs_Latn zho_Hans zho_Hant nob_Latn tgl_Latn eng_Latn"),
        ("MBart50Tokenizer", "en_XX de_DE lv_LV zh_CN zh_CN en_XX tl_XX en_XX"),
        ("MBartTokenizer", "en_XX de_DE lv_LV zh_CN zh_CN en_XX en_XX en_XX"),
    ],
)
def test_a_captions_language_sets_its_token(kind, codes, tmp_path):
    languages = ["en", "de", "lv", "zh", "zh-TW", "no", "fil", "und"]
    stand_in = {"MBart50Tokenizer": {"no": "en_XX"}, "MBartTokenizer": {"no": "en_XX", "fil": "en_XX"}}.get(kind)
    assert marks(kind, tmp_path, languages, language_codes=stand_in) == codes.split()


def test_a_language_without_a_token_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"no token for the language 'da'.*language_codes \{da: en_XX\}"):
        marks("MBart50Tokenizer", tmp_path, ["en", "da"])
    with pytest.raises(ValueError, match="tokenizer.language_codes.da: 'dk' is no language token"):
        marks("MBart50Tokenizer", tmp_path, ["en"], language_codes={"da": "dk"})
