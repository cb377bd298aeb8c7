"""Every shipped config builds and trains one step, with its towers shrunk and weights made here."""

import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from webdataset import TarWriter

from datamodules import ByteTokenizer
from datamodules.numbers import pack_products
from datamodules.shards.encoding import encoded_sample
from datamodules.tokenizers.fonts import unifont_file
from mmtrain.cli import main, parse
from mmtrain.export.writing import write
from mmtrain.models.encoder import Encoder
from mmtrain.models.image_text import ImageTextModel
from mmtrain.models.run_folder import folder_of
from mmtrain.models.yaml12 import read_yaml
from mmtrain.towers import ByteGRU, FeatureTower, TransformersTower
from tests.mmtrain.encoders import QWEN

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))
WORDS = {
    "en": "one two three four five six seven eight nine ten",
    "de": "eins zwei drei vier fünf sechs sieben acht neun zehn",
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of pictures, features, pairs and products, a vocabulary, a dictionary and a tokenizer of transformers."""
    from PIL import Image
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from datamodules import WordTokenizer

    folder = tmp_path_factory.mktemp("material")
    generator = np.random.default_rng(0)
    for kind in ("pictures", "features", "texts", "pairs"):
        (folder / kind).mkdir()
        with TarWriter(str(folder / kind / "shard-000000.tar")) as shard:
            for index in range(10):
                captions = {language: words.split()[index] for language, words in WORDS.items()}
                record = {"id": f"s{index}", "captions": captions, "labels": {"relation": index % 4}}
                file, suffix, further = io.BytesIO(), None, None
                if kind == "pictures":
                    record["fields"] = {language: ["reference"] for language in WORDS}
                    Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(file, format="PNG")
                elif kind == "features":
                    np.save(file, generator.standard_normal(8).astype(np.float32))
                    suffix, further = "npy", {"audio.npy": file.getvalue()}
                elif kind == "pairs":
                    record = {"id": f"p{index}", "query": captions["en"], "positive": {"de": captions["de"]}}
                    record["negatives"] = {"de": WORDS["de"].split()[:index]}
                shard.write(encoded_sample(index, record, file.getvalue() or None, suffix, further))
    pack_products(folder / "products", "train", ["de", "en"], queries=10)
    network = ImageTextModel(FeatureTower(8), ByteGRU(width=8), 32)
    write(Encoder(network, ByteTokenizer(), None, ["en"], "cosine", "space"), "space", folder / "space")
    (folder / "kept").mkdir()
    kept = [
        {"id": f"s{i}", "language": language, "caption": words.split()[i], "matched": 1, "probability": 1, "kept": True}
        for language, words in WORDS.items()
        for i in range(10)
    ]
    (folder / "kept" / "keep.jsonl").write_text("\n".join(map(json.dumps, kept)), encoding="utf-8")
    rows = zip(*(words.split() for words in WORDS.values()), strict=True)
    (folder / "words.tsv").write_text("\n".join("\t".join(row) for row in [WORDS, *rows]), encoding="utf-8")
    WordTokenizer.build(str(folder / "features"), folder / "words.json", minimum_count=1)
    trained = Tokenizer(models.WordLevel(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(WORDS.values(), trainers.WordLevelTrainer(special_tokens=special))
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=trained, **names).save_pretrained(folder / "tokenizer")
    return folder


# sizes that stand anywhere in a config
SMALL = {"image_size": 32, "size": 32, "captions_per_image": 2, "batch_size": 4, "micro_batch": 2}
SMALL |= {"width": 32, "layers": 1, "heads": 2}
SMALL |= {"prototypes": 16, "hidden": 8, "start": 0}
DIMS = [4, 8, 16, 32]


def shrink(config: dict, material: Path, run: Path) -> dict:
    """The same config with towers of a few thousand parameters, on the material, for one step on a CPU."""
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    features = model["image"]["class_path"].endswith("FeatureTower")
    several = model["image"]["class_path"].endswith("VisionLanguageTower")
    if features:
        for tower in (model["image"], *model.get("modalities", {}).values()):
            tower["init_args"]["width"] = 8
    elif several:
        model["image"]["init_args"].pop("pretrained", None)
        model["image"]["init_args"]["config"] = QWEN
    else:
        image = model["image"]["init_args"]
        image.pop("pretrained", None)
        image |= {
            "name": image["name"] if "naflexvit" in image.get("name", "") else "vit_tiny_patch16_224",
            "image_size": 32,
            "options": {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2},
        }
    text_tower = model["text"] if model["text"] == "shared" else model["text"]["class_path"]
    if text_tower.endswith("WordGRU"):
        model["text"]["init_args"] |= {"vocabulary_size": 100, "width": 16, "embedding": 8}
        data["tokenizer"]["init_args"]["vocabulary"] = str(material / "words.json")
    if text_tower.endswith("TransformersTower"):
        tiny = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        text = model["text"]["init_args"]
        text.pop("pretrained", None)
        text["config"] = {"model_type": "xlm-roberta", "intermediate_size": 32, "max_position_embeddings": 514, **tiny}
    if data.get("tokenizer", {"class_path": ""})["class_path"].endswith("TransformersTokenizer"):
        data["tokenizer"]["init_args"]["name_or_folder"] = str(material / "tokenizer")
    for own in (model, *(stage["model"]["init_args"] for stage in config.get("stages", []) if "model" in stage)):
        if "adapters" in own and not several:  # a language each
            own["adapters"] = {"de": next(iter(own["adapters"].values()))}
        for objective in own.get("objectives", {}).values():
            if "teacher" in objective.get("init_args", {}):
                objective["init_args"]["teacher"] = str(material / "space")
        if "selection" in own:  # by the first stage
            own["selection"]["init_args"]["reference"] = str(run / "1")
    model.pop("pretrained", None)
    model["dimension"] = min(model["dimension"], 32)
    for stage in config.get("stages", []):
        stage["trainer"] = {}
        stage.get("model", {"init_args": {}})["init_args"].pop("pretrained", None)
    make_small(config)
    shards = str(material / ("products" if "composition" in model else "features" if features else "pictures"))
    for own in (data, *(stage["data"]["init_args"] for stage in config.get("stages", []) if "data" in stage)):
        own |= {name: ["en"] for name in own if name.endswith("_languages")} | {"val": shards}
        own.get("text", {"init_args": {}})["init_args"] |= {"dictionaries": [str(material / "words.tsv")]}
        for name, part in own.get("parts", {}).items():
            part["train"] = shards if name == "pictures" else str(material / ("texts" if name == "texts" else "pairs"))
            part.get("text", {"init_args": {}})["init_args"] |= {"dictionaries": [str(material / "words.tsv")]}
        if "parts" in own:
            continue
        if isinstance(own.get("train"), list):
            for source in own["train"]:
                source["shards"] = shards
                source.update({"keep": str(material / "kept")} if "keep" in source else {})
                source.get("text", {"init_args": {}})["init_args"] |= {"dictionaries": [str(material / "words.tsv")]}
        elif not any("parts" in stage.get("data", {}).get("init_args", {}) for stage in config.get("stages", [])):
            own |= {"train": shards, "batch_size": 4}
    data |= {"workers": 0} | ({"languages": ["en", "de"]} if "languages" in data else {})
    config["trainer"] |= {"default_root_dir": str(run), "max_steps": 1, "accelerator": "cpu", "val_check_interval": 1}
    config["trainer"] |= {"enable_progress_bar": False, "enable_model_summary": False}
    config["trainer"].pop("max_epochs", None)
    return config


def make_small(options: Any) -> None:
    """Sizes as in SMALL where they are larger, and prefixes that a small space has."""
    for name, value in options.items() if isinstance(options, dict) else ():
        if name in SMALL and isinstance(value, int):
            options[name] = min(value, SMALL[name])
        elif name == "dims":
            options[name] = DIMS
    for value in options.values() if isinstance(options, dict) else options if isinstance(options, list) else ():
        make_small(value)


def skip_without_unifont() -> None:
    try:
        unifont_file()
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_trains_one_step(path: Path, material: Path, tmp_path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("#"), "a config opens with what it is and its command"
    config = shrink(read_yaml(path.read_text(encoding="utf-8")), material, tmp_path / "run")
    if "RenderedText" in path.read_text(encoding="utf-8"):
        skip_without_unifont()
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert main(["fit", "--config", str(tmp_path / "small.yaml"), "--debug"]) == 0
    stages = len(config.get("stages", []))
    assert folder_of(tmp_path / "run") == tmp_path / "run" / str(stages or "")
    first = tmp_path / "run" / ("1" if stages else "")
    checkpoint = torch.load(first / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 1
    # the folder's own config.yaml is complete: it runs again as it is
    assert main(["fit", "--config", str(tmp_path / "run" / "config.yaml"), "--debug"]) == 0
    frozen = json.loads(checkpoint["mmtrain"]["description"])["model"]["init_args"]["image"]["init_args"].get(
        "frozen", False
    )
    assert frozen == config["model"]["init_args"]["image"]["init_args"].get("frozen", False)


def test_metaclip_2_reads_the_end_of_sequence_of_its_own_text_tower() -> None:
    """24 layers of 1024 for 901,629 tokens, as published; a causal tower's row is that of XLM-V's </s>, number 2."""
    page = next(path for path in CONFIGS if path.stem == "metaclip2").read_text(encoding="utf-8")
    options = read_yaml(page)["model"]["init_args"]["text"]["init_args"]
    with torch.device("meta"):
        tower = TransformersTower(**options)
    assert (tower.vocabulary_size, tower.positions, tower.width) == (901_629, 77, 1024)
    layer = 4 * 1024 * (1024 + 1) + 2 * 4 * 1024 * 1024 + 5 * 1024 + 4 * 1024  # attention, MLP, two norms
    assert sum(each.numel() for each in tower.parameters()) == (901_629 + 77) * 1024 + 24 * layer + 2 * 1024
    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower = TransformersTower(**options | {"config": options["config"] | small | {"intermediate_size": 32}}).eval()
    tokens = torch.tensor([[0, 40, 7, 2, 1, 1], [0, 9, 40, 8, 30, 2]])
    pooled, features = tower(tokens, tokens != 1)
    torch.testing.assert_close(pooled, features[torch.arange(2), torch.tensor([3, 5])])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_commands_of_a_page_are_understood(path: Path) -> None:
    """Those of fit train in the test above, as far as their page goes; `submit` sends what stands behind its --."""
    for line in re.findall(r"^# +mmtrain (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
        words = shlex.split(line)
        command = words[words.index("--") + 1 :] if words[0] == "submit" else words
        if command[0] != "fit":
            assert callable(parse(command).run), line
