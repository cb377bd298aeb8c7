"""Small shards made inside each test."""

import pytest
from tiny_shards import made, write_tar

from datamodules import ByteTokenizer, ImagePipeline, ShardDataModule
from datamodules.shards.writing import write_shards


@pytest.fixture
def listed_shards(tmp_path):
    """listed_shards(n, per_shard, captions=None): a folder written by our writer, with its shards.json."""

    def write(samples, per_shard=10, captions=None, name="shards"):
        tasks = [
            {"first": first, "end": min(first + per_shard, samples), "captions": []}
            for first in range(0, samples, per_shard)
        ]
        for task in tasks:
            task["captions"] = captions[task["first"] : task["end"]] if captions else []
        write_shards(tmp_path / name, tasks, made)
        return tmp_path / name

    return write


@pytest.fixture
def plain_shards(tmp_path):
    """plain_shards([samples of a shard, ...]): a folder of bare tars, where a sample is its files by suffix."""

    def write(shards, name="plain"):
        folder = tmp_path / name
        folder.mkdir()
        for number, samples in enumerate(shards):
            named = samples if isinstance(samples, dict) else {f"{i:04d}": files for i, files in enumerate(samples)}
            write_tar(folder / f"part-{number:02d}.tar", named)
        return folder

    return write


@pytest.fixture
def data():
    """data(train=..., ...): a small data module without readers, set up for fitting."""

    modules = []

    def build(stage="fit", **options):
        options = {"batch_size": 4, "workers": 0, "images": ImagePipeline(size=8), **options}
        options = {"tokenizer": ByteTokenizer(32), **options}
        for split in ("train", "val", "test"):
            if options.get(split) is not None and not isinstance(options[split], list):
                options[split] = str(options[split])
        module = ShardDataModule(**options)
        module.setup(stage)
        modules.append(module)
        return module

    yield build
    for module in modules:
        module.teardown()


@pytest.fixture
def epoch():
    """epoch(module): the ids of each batch of an epoch, trained as the training module does."""

    def run(module, batches=None):
        ids = []
        for batch in module.train_dataloader():
            module.trained(batch)
            ids.append(batch.ids)
            if batches is not None and len(ids) == batches:
                break
        return ids

    return run
