"""Figures of written captions, by hand and beside sacrebleu's own."""

import sys

import pytest

from mmtrain.evaluation.metrics.captions import caption_metrics, token_f1


def test_exact_match_and_words_by_hand() -> None:
    written = {"en": ["A  red house", "two dogs", "x"], "lv": ["māja"]}
    references = {"en": [["a red house", "one house"], ["two big dogs"], ["y z"]], "lv": [["ma\u0304ja"]]}
    tables = caption_metrics(written, references)
    assert tables["en"]["exact_match"] == pytest.approx(100 / 3) and tables["lv"]["exact_match"] == 100
    assert tables["en"]["token_f1"] == pytest.approx(100 * (1 + 4 / 5 + 0) / 3) and tables["en"]["images"] == 3
    assert tables["mean"]["exact_match"] == pytest.approx((100 / 3 + 100) / 2)


@pytest.mark.parametrize(
    ("text", "reference", "f1"), [("a a b", "a b b", 2 / 3), ("", "", 1.0), ("", "a", 0.0), ("四十", "四七", 0.5)]
)
def test_words_count_as_often_as_they_come(text: str, reference: str, f1: float) -> None:
    assert token_f1(text, reference) == pytest.approx(f1)


def test_bleu_and_chrf_are_sacrebleus() -> None:
    from sacrebleu import corpus_bleu, corpus_chrf

    written = ["a small red house by the sea", "two dogs run in the snow"]
    references = [["a small red house by the lake", "the red house at the sea"], ["two dogs run through the snow"]]
    figures = caption_metrics({"en": written}, {"en": references})["en"]
    streams = [[each[0] for each in references], [references[0][1], None]]
    assert figures["bleu"] == pytest.approx(corpus_bleu(written, streams).score) and 10 < figures["bleu"] < 90
    assert figures["chrf"] == pytest.approx(corpus_chrf(written, streams).score) and 50 < figures["chrf"] < 95
    same = {"zh": ["海邊的一座小紅房子"], "ja": ["海のそばの小さな赤い家"], "zh-tw": ["海邊的一座小紅房子"]}
    tables = caption_metrics(same, {name: [texts] for name, texts in same.items()})
    assert all(table["bleu"] == pytest.approx(100) for table in tables.values())


def test_a_missing_sacrebleu_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ValueError, match=r"--generate: .* need sacrebleu: pip install 'mmtrain\[captions\]'"):
        caption_metrics({"en": ["a"]}, {"en": [["a"]]})
