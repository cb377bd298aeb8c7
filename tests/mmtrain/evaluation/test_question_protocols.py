"""Each protocol that asks questions on a miniature of its data set in the true file format."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datamodules.packing import Row, pack_rows
from datamodules.packing.cells import cell, read_path
from datamodules.packing.spelling import language_of
from datamodules.reading.whole import WholeSamples
from datamodules.shards.encoding import BadRow
from mmtrain.cli import main
from mmtrain.evaluation.protocols import PROTOCOLS, named_protocol
from mmtrain.evaluation.protocols.jina_vdr import language_in
from mmtrain.evaluation.questions import read_questions
from mmtrain.models.loading import load
from tests.mmtrain.small import fit


def png(seed):
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype("uint8")).save(content, "PNG")
    return content.getvalue()


def table(path, group=2, **columns):
    """A parquet file of row groups of two rows; what is bytes becomes a picture as Hugging Face stores it."""
    for name, values in columns.items():
        if isinstance(values[0], bytes):
            columns[name] = [{"bytes": value, "path": f"{number}.png"} for number, value in enumerate(values)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group)


def miracl_vision(folder):
    for language, first in (("sw", 0), ("te", 10)):
        corpus = {"_id": ["7", "8", "9"], "image_id": [f"{language}-{n}" for n in (7, 8, 9)]}
        table(folder / language / "corpus.parquet", **corpus, text=["a", "b", "c"], title=["A", "B", "C"])
        names = [f"{language}-{n}" for n in (9, 7, 8)]  # in another order than the corpus
        table(folder / language / "images.parquet", file_name=names, image=[png(first + n) for n in (9, 7, 8)])
        table(folder / language / "queries.parquet", _id=["q1", "q2"], text=[f"{language} one", f"{language} two"])
        scores = {"corpus-id": ["8", "9", "7"], "score": [1, 0, 1]}
        table(folder / language / "qrels.parquet", **{"query-id": ["q1", "q1", "q2"], **scores})


def jina_vdr(folder):
    for pool, first in (("airbnb_beir/de", 0), ("airbnb_beir/jp", 10), ("europeana-es-news_beir", 20)):
        part = "test-00000-of-00001.parquet"
        corpus = {"corpus-id": [0, 1], "image": [png(first), png(first + 1)], "text_description": ["x", "y"]}
        table(folder / pool / "corpus" / part, **corpus)
        table(folder / pool / "queries" / part, **{"query-id": [0, 1], "query": ["first", "second"]})
        table(folder / pool / "qrels" / part, **{"query-id": [0, 1], "corpus-id": [1, 0], "score": [1, 1]})
        table(folder / pool / "qrels" / "train-00000-of-00001.parquet", **{"query-id": [0], "other": [1]})


def vidore(folder):
    table(folder / "corpus" / "test-0.parquet", corpus_id=[0, 1], image=[png(0), png(1)], markdown=["m", "n"])
    queries = {"query_id": [0, 1], "query": ["Question", "Frage"], "language": ["english", "german"]}
    table(folder / "queries" / "test-0.parquet", **queries)
    table(folder / "qrels" / "test-0.parquet", query_id=[0, 1], corpus_id=[0, 0], score=[1, 2])


def mieb(folder):
    modality = ["image", "text", "image,text"]
    corpus = {"image": [png(0), b"", png(2)], "text": ["", "in words", "both"], "modality": modality}
    table(folder / "corpus" / "test-0.parquet", id=["a", "b", "c"], **corpus)
    query = {"modality": ["image,text", "text"], "text": ["like this", "plain"], "image": [png(9), b""]}
    table(folder / "query" / "test-0.parquet", id=["q0", "q1"], **query)
    table(folder / "qrels" / "test-0.parquet", **{"query-id": ["q0", "q1"], "corpus-id": ["c", "b"], "score": [1, 1]})


def image_to_text(folder):
    """Pictures ask, as MSCOCOI2TRetrieval and VQA2IT2TRetrieval have them; no table says what is a picture."""
    table(folder / "corpus" / "test-0.parquet", id=["a", "b", "c"], text=["one", "two", "three"], title=["", "T", ""])
    table(folder / "query" / "test-0.parquet", id=["q0", "q1"], image=[png(1), png(2)])
    scores = {"query-id": ["q0", "q0", "q1"], "corpus-id": ["a", "c", "b"], "score": [1, 1, 1]}
    table(folder / "qrels" / "test-0.parquet", **scores)


def compositionality(folder):
    part = "data/train-00000-of-00001.parquet"  # of the one split that there is
    captions = {"caption": ["a dog on a mat", "a cat"], "negative_caption": ["a mat on a dog", "a hat"]}
    table(folder / "SUGARCREPE_fmt" / part, images=[png(1), png(1)], **captions)
    hard = {f"hard_text_{number}": [f"order {number}"] for number in (1, 2, 3, 4)}
    table(folder / "ARO-COCO-order" / part, images=[png(2)], correct_caption=["in order"], **hard)
    pair = {"true_caption": ["the man eats the fish"], "false_caption": ["the fish eats the man"]}
    table(folder / "ARO-Visual-Relation" / part, image=[png(3)], **pair)


def visr_bench(folder):
    def document(name, questions, *texts):
        pages = [f"{name}_{page}.png" for page in range(len(texts))]
        return {"file_name": name, "all_page_images": pages, "all_page_md_str": texts, "qa_list": questions}

    asked = [{"question": "Where?", "page_index": 2, "answer": "On the last."}, {"question": "Who?", "page_index": 0}]
    german = [{"question": "Wo?", "page_index": 1, "detected_language": "German"}]
    groups = {"figure": [document("DR--1", asked, "one", "None", "three")]}
    groups["text"] = [document("DR--1", [{"question": "What?", "page_index": 1}], "one", "None", "three")]
    groups["multilingual"] = [document("DR--2", german, "eins", "zwei")]
    (folder / "QA").mkdir(parents=True)
    for group, documents in groups.items():
        (folder / "QA" / f"{group}_QA.json").write_text(json.dumps(documents))
    for place, name, pages in (("Multimodal", "DR--1", 3), ("Multilingual", "DR--2", 2)):
        (folder / place / name).mkdir(parents=True)
        for page in range(pages):
            (folder / place / name / f"{name}_{page}.png").write_bytes(png(page + ord(name[-1])))


def cvqa(folder, options=list, labels=(2, 0, 3)):
    local = [["moja", "mbili", "tatu", "nne"], ["a", "b", "c", "d"], ["ek", "do", "teen", "char"]]
    table(
        folder / "data" / "test-00000-of-00001.parquet",
        image=[png(1), png(1), png(2)],
        ID=["59_0", "59_1", "60_0"],
        Subset=["('Swahili', 'Kenya')", "('Swahili', 'Kenya')", "('Hindi', 'India')"],
        Question=["Ngapi?", "Nini?", "कितने?"],
        **{"Translated Question": ["How many?", "What?", "How many?"]},
        Options=[options(each) for each in local],
        **{"Translated Options": [options(["one", "two", "three", "four"])] * 3},
        Label=list(labels),
    )


def merit(folder):
    columns = {"idx": ["11", "12", "13"], "image": [png(n) for n in (11, 12, 13)], "title": ["ta", "tb", "tc"]}
    columns |= {"class": ["bag", "bag", "food"], "country": ["ID", "ID", "TH"], "language": ["id", "id", "th"]}
    table(folder / "data" / "test-00000-of-00001.parquet", **columns, attribute=["{}", "{}", "{}"])
    table(folder / "data" / "train-00000-of-00001.parquet", **{"idx": ["1"], "image": [png(1)], "title": ["no"]})
    lines = [
        {"query instruction": "Find <Product 1> </Product 1> in red", "query": [12], "pos_candidate": [13, 11]},
        {"query instruction": "As <Product 1> x </Product 1> and <Product 2> </Product 2>", "query": [13, 11]}
        | {"pos_candidate": [12], "hard_negative": [11]},
    ]
    (folder / "queries-test.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


MINIATURES = {"miracl_vision": miracl_vision, "jina_vdr": jina_vdr, "vidore": vidore, "mieb": mieb}
MINIATURES |= {"mieb/compositionality": compositionality}
MINIATURES |= {"visr_bench": visr_bench, "cvqa": cvqa, "cvqa/en": cvqa, "merit": merit}


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """packed(name): the questions and the samples by id of a protocol's miniature."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def pack(name):
        MINIATURES[name](tmp_path / "files")
        protocol = named_protocol(name)
        shards = protocol.shards(str(tmp_path / "files"))
        assert protocol.shards(shards) == shards == protocol.shards(str(tmp_path / "files"))
        samples = WholeSamples.named(shards)
        found = {each.sample.id: each.sample for each in (samples[row] for row in range(len(samples)))}
        return {each.id: each for each in read_questions(protocol.question_file(shards))}, found

    return pack


def test_miracl_vision_joins_pictures_and_pages_and_keeps_the_languages_apart(packed):
    questions, items = packed("miracl_vision")
    assert len(items) == 6 and items["te/8"].image == png(18) and items["sw/9"].image == png(9)
    assert items["te/8"].record | {} == {"text": "b", "title": "B", "id": "te/8", "pool": "te"}
    assert questions["sw/q1"].relevant == {"sw/8": 1, "sw/9": 0} and questions["sw/q1"].right == {"sw/8": 1}
    assert {each.language: each.pool for each in questions.values()} == {"sw": "sw", "te": "te"}


def test_jina_vdr_has_a_pool_a_language_and_a_group_a_data_set(packed):
    questions, items = packed("jina_vdr")
    asked = questions["airbnb_beir/jp/0"]
    assert (asked.language, asked.pool, asked.group) == ("ja", "airbnb_beir/jp", "airbnb_beir")
    assert asked.relevant == {"airbnb_beir/jp/1": 1} and items["airbnb_beir/jp/1"].image == png(11)
    assert questions["europeana-es-news_beir/1"].language == "es"
    assert len(items) == 6 and items["airbnb_beir/de/0"].record["text"] == "x"


def test_one_data_set_of_vidore_says_the_languages_of_its_queries(packed):
    questions, items = packed("vidore")
    assert {each.id: each.language for each in questions.values()} == {"0": "en", "1": "de"}
    assert questions["1"].relevant == {"0": 2} and questions["1"].pool is None and questions["1"].group is None
    assert items["0"].record["text"] == "m"


def test_mieb_asks_by_pictures_too(packed):
    questions, items = packed("mieb")
    assert questions["q0"].images[0].read_bytes() == png(9) and not questions["q1"].images
    assert items["b"].image is None and items["b"].captions == {"und": ["in words"]} and items["c"].image == png(2)


def test_mieb_looks_for_texts_too(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image_to_text(tmp_path / "files")
    data = ["--data", str(tmp_path / "files"), "--protocol", "mieb", "--workers", "0", "--device", "cpu"]
    assert main(["evaluate", str(run), *data, "--out", str(tmp_path / "out")]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["protocol"]["questions"] | {"items": 3, "text_items": 3} == metrics["protocol"]["questions"]
    encoder = load(run)
    rows = encoder.encode_image([Image.open(io.BytesIO(png(number))) for number in (1, 2)])
    scores = rows @ encoder.encode_text(["one", "T two", "three"], role="passage").T
    first = [scores[0].argmax() in (0, 2), scores[1].argmax() == 1]
    assert metrics["questions"]["en"]["R@1"] == pytest.approx(100 * np.mean(first))
    assert metrics["questions"]["en"]["R@5"] == 100 and "text_to_image" not in metrics
    assert "T two" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_of_compositionality_the_right_caption_is_offered_last(packed):
    questions, items = packed("mieb/compositionality")
    assert len(items) == 3  # each picture once
    by_group = {each.group: each for each in questions.values()}
    assert sorted(by_group) == ["ARO-COCO-order", "ARO-Visual-Relation", "SUGARCREPE_fmt"] and len(questions) == 4
    asked = by_group["ARO-COCO-order"]
    assert asked.choices == [*(f"order {number}" for number in (1, 2, 3, 4)), "in order"] and asked.answer == 4
    assert asked.images[0].read_bytes() == png(2) and asked.language == "en" and not asked.text
    assert by_group["ARO-Visual-Relation"].choices == ["the fish eats the man", "the man eats the fish"]


def test_visr_bench_asks_within_a_document_whose_every_page_counts(packed):
    questions, items = packed("visr_bench")
    assert sorted(items) == ["DR--1/0", "DR--1/1", "DR--1/2", "DR--2/0", "DR--2/1"]
    assert items["DR--1/1"].record["text"] == "" and items["DR--1/1"].image is not None  # its text is "None"
    assert {each.pool for each in questions.values()} == {"DR--1", "DR--2"}
    assert questions["figure/0/0"].relevant == {"DR--1/2": 1} and questions["figure/0/0"].answer is None
    spoken = {id: (each.language, each.group) for id, each in questions.items()}
    assert spoken["text/0/0"] == ("en", "text") and spoken["multilingual/0/0"] == ("de", "multilingual")


@pytest.mark.parametrize("name", ["cvqa", "cvqa/en"])
def test_cvqa_asks_in_both_languages(name, packed):
    questions, items = packed(name)
    asked = questions["59_0"]
    assert sorted(items) == ["59", "60"]  # two questions about one picture
    assert asked.images == questions["59_1"].images and asked.images[0].read_bytes() == png(1)
    assert (asked.answer, asked.group, asked.relevant) == (2, "Swahili, Kenya", {})
    expected = ("en", "How many?", "three") if name == "cvqa/en" else ("sw", "Ngapi?", "tatu")
    assert (asked.language, asked.text, asked.choices[2]) == expected
    assert questions["60_0"].language == ("en" if name == "cvqa/en" else "hi")


@pytest.mark.parametrize("options", [str, "\n".join], ids=["list as text", "lines"])
def test_options_of_cvqa_may_be_a_text(options, tmp_path):
    cvqa(tmp_path, options)
    read = list(named_protocol("cvqa").questions(tmp_path))
    assert read[0]["choices"] == ["moja", "mbili", "tatu", "nne"]


@pytest.mark.parametrize("hidden", [None, -1])
def test_hidden_labels_are_refused(hidden, tmp_path):
    cvqa(tmp_path, labels=(2, hidden, 3))
    with pytest.raises(ValueError, match=rf"row 2 \(59_1\): Label is {hidden}, hidden; 0 to 3"):
        list(named_protocol("cvqa").questions(tmp_path))


def test_merit_shows_products_and_looks_among_all_of_the_test_set(packed):
    questions, items = packed("merit")
    assert sorted(items) == ["11", "12", "13"] and items["13"].record["text"] == "tc"
    assert (
        questions["1"].text == "Find <image> in red"
        and questions["1"].words == "Find in red"
        and questions["1"].relevant == {"13": 1, "11": 1}
    )
    assert [each.read_bytes() for each in questions["2"].images] == [png(13), png(11)]
    assert (questions["2"].language, questions["2"].group) == ("th", "food") and questions["1"].language == "id"


def test_a_picture_in_a_table_is_read_like_a_file(tmp_path):
    table(tmp_path / "a.parquet", image=[png(n) for n in range(5)], group=2)
    assert [read_path(tmp_path, cell("a.parquet", "image", row)) for row in (4, 0, 2)] == [png(4), png(0), png(2)]
    (tmp_path / "b.png").write_bytes(png(7))
    assert read_path(tmp_path, "b.png") == png(7)
    for name in (cell("a.parquet", "image", 5), cell("a.parquet", "none", 0), cell("c.parquet", "image", 0)):
        with pytest.raises(OSError):
            read_path(tmp_path, name)


def test_tables_pack_the_same_in_two_processes(tmp_path):
    table(tmp_path / "a.parquet", image=[png(n) for n in range(6)], group=2)
    rows = [Row(n, {"id": str(n)}, (cell("a.parquet", "image", n),), complete=False) for n in range(7)]
    found = [pack_rows(rows, tmp_path / f"{n}", images=tmp_path, samples_per_shard=2, workers=n) for n in (1, 2)]
    assert [each["checksum"] for each in found[0]["shards"]] == [each["checksum"] for each in found[1]["shards"]]
    assert found[0]["samples"] == 6 and found[0]["skipped"] == {"missing image": 1}


def test_pages_without_a_picture_and_pictures_without_a_page_are_counted(tmp_path):
    miracl_vision(tmp_path)
    table(tmp_path / "sw" / "images.parquet", file_name=["sw-7", "sw-99"], image=[png(1), png(2)])
    bad = [str(row) for row in named_protocol("miracl_vision").read(tmp_path) if isinstance(row, BadRow)]
    assert [line.partition(": ")[2] for line in bad] == ["a picture that is no item's sw-99", *["missing image"] * 2]


@pytest.mark.parametrize(
    ("name", "code"),
    [("jp", "ja"), ("english", "en"), ("Egyptian_Arabic", "arz"), ("pt_BR", "pt-BR"), ("Sinhala", "si"), ("?!", "und")],
)
def test_spellings_of_languages(name, code):
    assert language_of(name) == code


@pytest.mark.parametrize(
    ("name", "code"),
    [("x/europeana-de-news_beir", "de"), ("x/jdocqa_beir", "ja"), ("x/hindi-gov-vqa_beir", "hi"), ("x/tqa_beir", "en")]
    + [("x/github-readme-retrieval-multilingual_beir/jp", "ja"), ("x/wikimedia-commons-documents-ml_beir/my", "my")],
)
def test_languages_of_data_sets(name, code):
    assert language_in(name) == code


def spoilt(folder, name):
    MINIATURES[name](folder)
    if name == "jina_vdr":
        (folder / "airbnb_beir/de/qrels/test-00000-of-00001.parquet").unlink()
        (folder / "airbnb_beir/de/qrels/train-00000-of-00001.parquet").unlink()
    elif name == "vidore":
        (folder / "corpus" / "test-0.parquet").write_bytes(b"no table")
    elif name == "visr_bench":
        documents = json.loads((folder / "QA/text_QA.json").read_text())
        documents[0]["qa_list"][0]["page_index"] = 3
        (folder / "QA/text_QA.json").write_text(json.dumps(documents))
    elif name == "merit":
        with (folder / "queries-test.json").open("a") as file:
            file.write('{"query instruction": "x", "query": [1], "pos_candidate": [11]}\n')
    elif name == "cvqa":
        cvqa(folder, lambda each: each[:3])
    else:
        table(folder / "qrels" / "test-0.parquet", **{"query-id": ["q0"], "corpus-id": ["c"], "grade": [1]})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("jina_vdr", "airbnb_beir/de lacks qrels; the complete data set"),
        ("vidore", "test-0.parquet: unreadable shard; a parquet or arrow file"),
        ("visr_bench", "question 1: page_index is 3 and question 'What?'; a page from 0 to 2"),
        ("merit", "line 3: product 1 is none of the test set"),
        ("cvqa", "row 1 (59_0): Options are ['moja', 'mbili', 'tatu']; a list of 4"),
        ("mieb", "row 1 has no score"),
    ],
)
def test_data_sets_that_are_not_as_they_should_be(name, says, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spoilt(tmp_path / "files", name)
    with pytest.raises(ValueError) as raised:
        named_protocol(name).shards(str(tmp_path / "files"))
    assert says in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", MINIATURES)
def test_an_empty_folder_is_one_line(name, tmp_path):
    with pytest.raises(ValueError, match=f"--data: {tmp_path}"):
        named_protocol(name).shards(str(tmp_path))


def test_shards_of_others_have_no_questions(tmp_path):
    for protocol in PROTOCOLS.values():
        if protocol.questions is None:
            assert protocol.question_file(str(tmp_path)) is None
        else:
            with pytest.raises(ValueError, match=r"has no questions\.jsonl"):
                protocol.question_file(str(Path(tmp_path)))


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert fit(shards, folder, "--trainer.max_steps=1") == 0
    return folder


@pytest.mark.parametrize(
    "name", ["miracl_vision", "visr_bench", "jina_vdr", "mieb", "mieb/compositionality", "cvqa", "merit"]
)
def test_from_the_files_to_figures(name, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    MINIATURES[name](tmp_path / "files")
    data = ["--data", str(tmp_path / "files"), "--protocol", name, "--workers", "0", "--device", "cpu"]
    assert main(["evaluate", str(run), *data, "--out", str(tmp_path / "out")]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    figures, protocol = metrics["questions"], metrics["protocol"]
    assert f"{protocol['name']}/{protocol['variant']}" == str(named_protocol(name)) and not protocol["complete"]
    assert "comparable (" in " ".join(capsys.readouterr().out.split())
    assert "text_to_image" not in metrics and (tmp_path / "out" / "report.html").is_file()
    expected = {
        "miracl_vision": (["sw", "te"], []),
        "visr_bench": (["de", "en"], ["figure", "multilingual", "text"]),
        "jina_vdr": (["de", "es", "ja"], ["airbnb_beir", "europeana-es-news_beir"]),
        "mieb": (["en"], []),
        "mieb/compositionality": (["en"], ["ARO-COCO-order", "ARO-Visual-Relation", "SUGARCREPE_fmt"]),
        "cvqa": (["hi", "sw"], ["Hindi, India", "Swahili, Kenya"]),
        "merit": (["id", "th"], ["bag", "food"]),
    }[name]
    assert (sorted(figures.keys() - {"mean", "groups"}), sorted(figures["groups"])) == expected
    assert (("accuracy" if name in ("cvqa", "mieb/compositionality") else "nDCG@5") in figures["mean"]) and protocol[
        "questions"
    ]
    if name == "visr_bench":  # every pool has at most 3 pages
        assert figures["mean"]["R@5"] == 100


def test_a_protocol_asks_its_own_questions_alone(run, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    miracl_vision(tmp_path / "files")
    data = ["--data", str(tmp_path / "files"), "--protocol", "miracl_vision", "--questions", "q.jsonl"]
    assert main(["evaluate", str(run), *data, "--out", str(tmp_path / "out")]) == 1
    assert "--questions: q.jsonl beside --protocol miracl_vision/all" in capfd.readouterr().err
    assert main(["compare", str(run), str(run), *data[:4], "--out", str(tmp_path / "out")]) == 1
    assert "miracl_vision/all asks questions; evaluate each model" in capfd.readouterr().err
