"""Nothing that came with a model runs, and no file names another: descriptions, other libraries' folders, an index."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mmtrain
from datamodules import ByteTokenizer
from datamodules.tokenizers import TransformersTokenizer
from mmtrain.cli import main
from mmtrain.models.description import FORMAT
from mmtrain.models.loading import load_onnx
from mmtrain.models.spec import spec_of
from mmtrain.towers import ByteGRU, FeatureTower, TimmTower, TransformersTower
from tests.mmtrain.encoders import XLMR, saved, write_words
from tests.mmtrain.small import fit

Change = Callable[[dict[str, Any]], object]
CODE = "open({ran!r}, 'w').close()\nfrom datamodules import ByteTokenizer\nclass Tok(ByteTokenizer): pass\n"


@pytest.fixture(scope="module")
def export_of_ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(saved(tmp_path_factory.mktemp("ours") / "export", ByteGRU(width=8), ByteTokenizer(), FeatureTower(6)))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which one stands, as in a notebook; a model's folder in it is a package by Python's rules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def model(place: Path, export_of_ours: Path) -> Path:
    """An export with code beside it."""
    shutil.copytree(export_of_ours, place / "cool_model")
    (place / "cool_model" / "tok.py").write_text(CODE.format(ran=str(place / "RAN")))
    yield place / "cool_model"
    for name in [name for name in sys.modules if name.startswith("cool_model")]:
        del sys.modules[name]


def change(file: Path, how: Change) -> None:
    settings = json.loads(file.read_text(encoding="utf-8"))
    how(settings)
    file.write_text(json.dumps(settings), encoding="utf-8")


def refusal(load: Callable[[], object], place: Path) -> str:
    """The one line that refuses; nothing has run."""
    with pytest.raises(ValueError) as error:
        load()
    assert not (place / "RAN").exists()
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- classes

EVIL = {"class_path": "cool_model.tok.Tok", "init_args": {}}
NAMED: dict[str, Change] = {
    "tokenizer": lambda d: d.update(tokenizer=EVIL),
    "images": lambda d: d.update(images=EVIL),
    "image tower": lambda d: d["model"]["init_args"].update(image=EVIL),
    "text tower": lambda d: d["model"]["init_args"].update(text=EVIL),
    "modality": lambda d: d["model"]["init_args"].update(modalities={"sound": EVIL}),
    "model": lambda d: d.update(model={"class_path": "cool_model.tok.Tok", "init_args": d["model"]["init_args"]}),
    "head": lambda d: d.update(head={"class_path": "mmtrain.fusion.MatchingHead", "init_args": {"fusion": EVIL}}),
    "in a list": lambda d: d["tokenizer"]["init_args"].update(parts=[EVIL]),
}


@pytest.mark.parametrize("named", NAMED)
def test_no_module_is_imported_because_a_description_names_it(model: Path, place: Path, named: str) -> None:
    change(model / "mmtrain.json", NAMED[named])
    message = refusal(lambda: mmtrain.load("cool_model"), place)
    assert "cool_model.tok.Tok" in message and "mmtrain.json" in message and "--trust cool_model.tok" in message
    assert not [name for name in sys.modules if name.startswith("cool_model")]


def checkpoint_of(model: Path, path: Path) -> Path:
    description = json.loads((model / "mmtrain.json").read_text(encoding="utf-8"))
    torch.save({"mmtrain": {"description": json.dumps(description)}, "state_dict": {}}, path)
    return path


def test_nor_a_checkpoint_or_graphs(model: Path, place: Path) -> None:
    change(model / "mmtrain.json", NAMED["tokenizer"])
    checkpoint = checkpoint_of(model, place / "evil.ckpt")
    assert "evil.ckpt" in refusal(lambda: mmtrain.load(checkpoint), place)
    shutil.copy(model / "mmtrain.json", place / "preprocessing.json")
    assert "preprocessing.json" in refusal(lambda: load_onnx(place), place)


@pytest.mark.parametrize("path", ["antigravity.X", "mmtrain_evil.X", "losses2.X", "os.system", "X", "", 3, None, ".X"])
def test_a_name_is_ours_whole_or_not_at_all(model: Path, place: Path, path: Any) -> None:
    (place / "mmtrain_evil.py").write_text(CODE.format(ran=str(place / "RAN")))
    change(model / "mmtrain.json", lambda d: d["tokenizer"].update(class_path=path))
    assert "mmtrain.json" in refusal(lambda: mmtrain.load(model), place)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("trust", [["cool_model"], ["cool_model.tok"], ["other", "cool_model.tok"], ["a,cool_model"]])
def test_a_trusted_module_is_imported_with_what_is_below_it(model: Path, trust: list[str]) -> None:
    change(model / "mmtrain.json", NAMED["tokenizer"])
    assert type(mmtrain.load(model, trust=trust).tokenizer).__name__ == "Tok"


def test_trust_of_a_project_and_of_what_is_imported(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(model / "mmtrain.json", NAMED["tokenizer"])
    monkeypatch.setenv("MMTRAIN_TRUST", "elsewhere, cool_model")
    assert type(mmtrain.load(model).tokenizer).__name__ == "Tok"
    monkeypatch.delenv("MMTRAIN_TRUST")
    assert type(mmtrain.load(model).tokenizer).__name__ == "Tok"  # imported by now
    with pytest.raises(ValueError, match="not trusted"):
        del sys.modules["cool_model.tok"]
        mmtrain.load(model, trust=["cool_mod", "cool_model.to"])


def test_every_verb_with_a_model_takes_trust(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(model / "mmtrain.json", NAMED["tokenizer"])
    assert main(["average", "cool_model", "cool_model", "--out", "x"]) == 1
    assert "--trust cool_model.tok" in capsys.readouterr().err
    assert main(["average", "cool_model", "cool_model", "--out", "x", "--trust", "a,b", "--trust", "cool_model"]) == 0
    for verb in ("evaluate", "compare", "export", "index", "search"):
        main([verb, "--help"])
        assert "--trust MODULE" in capsys.readouterr().out


def test_fit_trusts_what_its_config_names(shards: Path, place: Path) -> None:
    (place / "mine.py").write_text(CODE.format(ran=str(place / "RAN")))
    options = ["--trainer.max_steps=1", "--data.tokenizer={class_path: mine.Tok}"]
    assert fit(shards, place / "run", *options) == 0
    del sys.modules["mine"]
    (place / "RAN").unlink()
    assert "mine.Tok" in refusal(lambda: mmtrain.load("run"), place)
    assert fit(shards, place / "next", *options, "--model.pretrained=run") == 0


# ---- fields

FIELDS: dict[str, Change] = {
    "checkpoint_path": lambda d: image(d, options={"checkpoint_path": "x.pth"}),
    "pretrained_cfg": lambda d: image(d, options={"pretrained_cfg": {"file": "x.pth"}}),
    "pretrained_cfg_overlay": lambda d: image(d, options={"pretrained_cfg_overlay": {"url": "x"}}),
    "cache_dir": lambda d: image(d, options={"cache_dir": "x"}),
    "pretrained": lambda d: image(d, pretrained="owner/name"),
    "name": lambda d: image(d, name="hf-hub:owner/name"),
    "auto_map": lambda d: text(d, config=XLMR | {"auto_map": {"AutoModel": "owner/name--evil.Model"}}),
    "attn_implementation": lambda d: text(d, config=XLMR | {"attn_implementation": "owner/kernel"}),
    "trust_remote_code": lambda d: d["tokenizer"]["init_args"].update(options={"trust_remote_code": True}),
    "code_revision": lambda d: d["tokenizer"]["init_args"].update(deep=[{"er": {"code_revision": "x"}}]),
    "tokenizer.name_or_folder": lambda d: tokenizer(d, name_or_folder="/etc"),
    "tokenizer.vocabulary": lambda d: tokenizer(d, vocabulary="../../etc/passwd"),
    "tokenizer.words": lambda d: tokenizer(d, words="./tokenizer/../../passwd"),
}


def image(description: dict[str, Any], **arguments: object) -> None:
    spec = {"class_path": "mmtrain.towers.TimmTower", "init_args": {"name": "resnet10t"} | arguments}
    description["model"]["init_args"]["image"] = spec


def text(description: dict[str, Any], **arguments: object) -> None:
    spec = {"class_path": "mmtrain.towers.TransformersTower", "init_args": arguments}
    description["model"]["init_args"]["text"] = spec


def tokenizer(description: dict[str, Any], **arguments: object) -> None:
    description["tokenizer"] = {"class_path": "datamodules.WordTokenizer", "init_args": arguments}


@pytest.mark.parametrize("field", FIELDS)
def test_fields_that_open_more_are_refused(model: Path, place: Path, field: str) -> None:
    change(model / "mmtrain.json", FIELDS[field])
    message = refusal(lambda: mmtrain.load(model), place)
    assert f" {field} is " in message and "mmtrain.json" in message


def test_a_run_may_have_started_from_a_file_and_still_be_loaded(tmp_path: Path) -> None:
    weights = TimmTower("resnet10t", options={"channels": [4, 4, 8, 8], "stem_width": 4})
    torch.save(weights.network.state_dict(), tmp_path / "start.pth")
    options = weights.options | {"checkpoint_path": str(tmp_path / "start.pth")}
    assert spec_of(TimmTower("resnet10t", options=options)) == spec_of(weights)


# ---- damage

DAMAGE: dict[str, Change] = {
    "no model": lambda d: d.pop("model"),
    "model is a list": lambda d: d.update(model=[]),
    "languages are null": lambda d: d.update(languages=None),
    "an unknown similarity": lambda d: d.update(similarity="euclid"),
    "a scale below zero": lambda d: d.update(scale=-1),
    "dimension is a word": lambda d: d["model"]["init_args"].update(dimension="x"),
    "dimension is immense": lambda d: d["model"]["init_args"].update(dimension=2**50),
    "tokenizer is a list": lambda d: d.update(tokenizer=[1]),
    "an argument too many": lambda d: d["tokenizer"]["init_args"].update(foo=1),
    "a width without memory": lambda d: d["model"]["init_args"]["text"]["init_args"].update(width=10**9),
    "a size of picture": lambda d: d.update(
        images={"class_path": "datamodules.ImagePipeline", "init_args": {"size": 10**9}}
    ),
    "no class": lambda d: d["tokenizer"].pop("class_path"),
    "no arguments": lambda d: d["model"].pop("init_args"),
    "another base": lambda d: d["tokenizer"].update(class_path="mmtrain.towers.ByteGRU"),
    "a newer format": lambda d: d.update(format=FORMAT + 5),
    "a format that is no number": lambda d: d.update(format="new"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_damage_is_one_line_with_the_file(model: Path, place: Path, damage: str) -> None:
    change(model / "mmtrain.json", DAMAGE[damage])
    message = refusal(lambda: mmtrain.load(model), place)
    assert str(model / "mmtrain.json") in message
    if damage == "a newer format":
        assert str(FORMAT + 5) in message and f"up to {FORMAT}" in message
    checkpoint = checkpoint_of(model, place / "damaged.ckpt")
    assert "damaged.ckpt" in refusal(lambda: mmtrain.load(checkpoint), place)


@pytest.mark.parametrize("content", ["", "[" * 100_000, "null", "3", "[]", "\0", '{"format": 2}'])
def test_so_is_what_is_no_json_of_ours(model: Path, place: Path, content: str) -> None:
    (model / "mmtrain.json").write_text(content)
    assert str(model / "mmtrain.json") in refusal(lambda: mmtrain.load(model), place)
    assert main(["inspect", str(model)]) == 1


# ---- other libraries' folders


def evil_module(folder: Path, ran: Path) -> None:
    code = f"open({str(ran)!r}, 'w').close()\nfrom transformers import PreTrainedTokenizerFast, CLIPConfig, CLIPModel\n"
    classes = ("Tok(PreTrainedTokenizerFast)", "Config(CLIPConfig)", "Model(CLIPModel)")
    (folder / "evil.py").write_text(code + "".join(f"class {each}: pass\n" for each in classes))


AUTO = {"auto_map": {"AutoTokenizer": ["evil.Tok", "evil.Tok"], "AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
TRANSFORMERS: dict[str, tuple[str, Change]] = {
    "model's code": ("config.json", lambda c: c.update(AUTO, model_type="evil")),
    "model's code beside its own": ("config.json", lambda c: c.update(AUTO)),
    "tokenizer's code": ("tokenizer_config.json", lambda c: c.update(AUTO, tokenizer_class="Tok")),
    "processor's code": ("preprocessor_config.json", lambda c: c.update(auto_map={"AutoImageProcessor": "evil.Tok"})),
    "a hub's kernels": ("config.json", lambda c: c.update(attn_implementation="owner/kernel")),
    "other weights": ("config.json", lambda c: c.update(transformers_weights="/etc/x.safetensors")),
    "options of timm": ("config.json", lambda c: c["vision_config"].update(model_args={"checkpoint_path": "x.pth"})),
    "a model of timm's": ("config.json", lambda c: c["vision_config"].update(architecture="hf-hub:owner/name")),
    "quantised": ("config.json", lambda c: c.update(quantization_config={"quant_method": "hqq"})),
}


@pytest.fixture
def clip(place: Path) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    layers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = layers | {"image_size": 32, "patch_size": 16}
    text = layers | {"vocab_size": 300, "max_position_embeddings": 16, "eos_token_id": 2, "bos_token_id": 0}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)).save_pretrained(place / "clip")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(place / "clip")
    write_words(place / "clip")
    evil_module(place / "clip", place / "RAN")
    return place / "clip"


def test_transformers_runs_no_code_of_a_folder_and_asks_nobody(
    clip: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mmtrain.load(f"hf:{clip}").model.dimension == 24
    for what, (file, how) in TRANSFORMERS.items():
        folder = place / what
        shutil.copytree(clip, folder)
        change(folder / file, how)
        monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\ny\n"))
        message = refusal(lambda folder=folder: mmtrain.load(f"hf:{folder}"), place)
        assert str(folder / file) in message, what
        assert sys.stdin.read() == "y\ny\ny\n"


def test_adapters_pickles_and_weights_elsewhere_are_refused(clip: Path, place: Path) -> None:
    (clip / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../b.safetensors"}}')
    assert "../../b.safetensors" in refusal(lambda: mmtrain.load(f"hf:{clip}"), place)
    (clip / "model.safetensors.index.json").unlink()
    (clip / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/name", "megatron_core": "evil"}')
    assert "adapter" in refusal(lambda: mmtrain.load(f"hf:{clip}"), place)
    (clip / "adapter_config.json").unlink()
    (clip / "model.safetensors").unlink()
    torch.save({"weight": Payload(place / "RAN")}, clip / "pytorch_model.bin")
    message = refusal(lambda: mmtrain.load(f"hf:{clip}"), place)
    assert "pickle" in message and "weights_only" not in message


class Payload:
    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> Any:
        return open, (str(self.ran), "w")


def test_towers_and_tokenizers_run_no_code_of_a_folder(
    clip: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    change(clip / "tokenizer_config.json", lambda c: c.update(AUTO, tokenizer_class="Tok"))
    change(clip / "config.json", lambda c: c.update(AUTO, model_type="evil"))
    refusal(lambda: TransformersTokenizer(str(clip)), place)
    refusal(lambda: TransformersTower(str(clip)), place)
    refusal(lambda: TransformersTower(config=XLMR | {"auto_map": AUTO["auto_map"], "model_type": "evil"}), place)
    torch.save({"weight": Payload(place / "RAN")}, place / "evil.pth")
    settings = {"architecture": "resnet10t", "pretrained_cfg": {}, "model_args": {"checkpoint_path": "evil.pth"}}
    (clip / "config.json").write_text(json.dumps(settings))
    refusal(lambda: TimmTower(pretrained=str(clip)), place)
    assert sys.stdin.read() == "y\n"


def test_an_export_whose_tokenizer_has_code(place: Path) -> None:
    tokenizer = TransformersTokenizer(write_words(place / "words"))
    model = Path(saved(place / "export", ByteGRU(width=8, vocabulary_size=300), tokenizer, FeatureTower(6)))
    evil_module(model / "tokenizer", place / "RAN")
    change(model / "tokenizer" / "tokenizer_config.json", lambda c: c.update(AUTO, tokenizer_class="Tok"))
    refusal(lambda: mmtrain.load(model), place)


OPEN_CLIP: dict[str, Change] = {
    "trust_remote_code": lambda c: c["text_cfg"].update(tokenizer_kwargs={"trust_remote_code": True}),
    "bpe_path": lambda c: c["text_cfg"].update(tokenizer_kwargs={"bpe_path": "/etc/passwd"}),
    "code_revision": lambda c: c["text_cfg"].update(tokenizer_kwargs={"clean": "lower", "code_revision": "x"}),
    "hf_model_name": lambda c: c["text_cfg"].update(hf_model_name="clip"),
    "timm_model_name": lambda c: c["vision_cfg"].update(timm_model_name="local-dir:clip"),
    "cache_dir": lambda c: c.update(cache_dir="x"),
    "pretrained_image_path": lambda c: c.update(pretrained_image_path="x.pth"),
    "some_path": lambda c: c["vision_cfg"].update(some_path="x.pth"),
}


@pytest.mark.parametrize("field", OPEN_CLIP)
def test_a_config_of_open_clip_passes_by_its_fields(clip: Path, place: Path, field: str) -> None:
    open_clip = pytest.importorskip("open_clip")
    settings = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 300, "width": 32, "heads": 2, "layers": 1},
    }
    from safetensors.torch import save_file

    folder = place / "theirs"
    folder.mkdir()
    save_file(open_clip.CLIP(**settings).state_dict(), folder / "open_clip_model.safetensors")
    settings["text_cfg"]["hf_tokenizer_name"] = "clip"  # type: ignore[index]
    for file in clip.iterdir():
        shutil.copy(file, folder) if file.name.startswith(("tokenizer", "evil")) else None
    change(folder / "tokenizer_config.json", lambda c: c.update(AUTO, tokenizer_class="Tok"))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings, "preprocess_cfg": {}}))
    assert "auto_map" in refusal(lambda: mmtrain.load(folder), place)
    shutil.copy(clip / "tokenizer_config.json", folder)
    assert mmtrain.load(folder).model.dimension == 24
    change(folder / "open_clip_config.json", lambda c: OPEN_CLIP[field](c["model_cfg"]))
    assert field in refusal(lambda: mmtrain.load(folder), place)


def test_a_hubs_model_of_one_commit(clip: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fetched before is found without a network, by commit or by name."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = place / "hub" / "models--owner--name"
    shutil.copytree(clip, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("owner/name", f"owner/name@{commit}"):
        assert mmtrain.load(f"hf:{name}").model.dimension == 24
    other = refusal(lambda: mmtrain.load(f"hf:owner/name@{commit[::-1]}"), place)
    assert f"owner/name@{commit[::-1]}" in other


# ---- an index


def test_an_index_loads_no_model_but_a_local_one_of_ours(place: Path, clip: Path) -> None:
    from types import SimpleNamespace

    from mmtrain.search.queries import open_model

    for name in (f"hf:{clip}", str(clip), "hf:owner/name", "open_clip:ViT-B-32/openai", "no/such/run"):
        index = SimpleNamespace(folder=place, description={"model": name, "weights": None, "fingerprint": "0"})
        message = refusal(lambda index=index: open_model(index), place)  # type: ignore[arg-type]
        assert name in message and "--model" in message
