"""The data module's arguments are the command line's."""

from jsonargparse import ArgumentParser
from pytorch_lightning import LightningDataModule

from datamodules import ByteTokenizer, ImagePipeline, ShardDataModule, WordTokenizer


def parsed(*arguments):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    config = parser.parse_args(["--data=datamodules.ShardDataModule", *arguments])
    return config, parser.instantiate(config).data


def test_defaults_can_be_changed_by_dots():
    config, module = parsed("--data.images.size=32", "--data.tokenizer.max_length=40", "--data.languages=[en,lv]")
    assert type(module) is ShardDataModule
    assert (type(module.images), module.images.size) == (ImagePipeline, 32)
    assert (type(module.tokenizer), module.tokenizer.max_length) == (ByteTokenizer, 40)
    assert module.languages == ["en", "lv"]
    assert config.data.init_args.images.class_path.endswith("ImagePipeline")


def test_another_tokenizer_is_named_by_its_path(listed_shards, tmp_path):
    WordTokenizer.build(str(listed_shards(4)), tmp_path / "words.json", minimum_count=1)
    _, module = parsed(
        "--data.tokenizer=datamodules.WordTokenizer", f"--data.tokenizer.vocabulary={tmp_path}/words.json"
    )
    assert type(module.tokenizer) is WordTokenizer


def test_in_python_the_defaults_are_plain_objects():
    module = ShardDataModule()
    assert (type(module.images), type(module.tokenizer)) == (ImagePipeline, ByteTokenizer)
