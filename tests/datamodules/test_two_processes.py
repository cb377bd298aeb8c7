"""Two processes of a gloo group share an epoch, and one account."""

import json
import multiprocessing

import torch
from tiny_shards import sample_files

from datamodules import ByteTokenizer, ImagePipeline, ShardDataModule


def work(rank, folder, out):
    torch.distributed.init_process_group("gloo", init_method=f"file://{out}/group", rank=rank, world_size=2)
    module = ShardDataModule(
        train=str(folder),
        val=str(folder),
        batch_size=4,
        workers=0,
        max_skip_rate=1.0,
        images=ImagePipeline(size=8),
        tokenizer=ByteTokenizer(16),
    )
    module.setup("fit")
    batches = list(module.train_dataloader())
    for batch in batches:
        module.trained(batch)
    for batch in module.val_dataloader():
        module.evaluated(batch)
    state = module.state_dict()
    found = {
        "train": [batch.ids for batch in batches],
        "val": [row for batch in module.val_dataloader() for row in batch.rows.tolist()],
        "skipped": len([skip for batch in batches for skip in batch.skipped]),
        "state": state,
        "summary": module.account.merged().summary(),
    }
    (out / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def meet(rank, folder, out):
    """Process 1 finds shards that process 0 does not have, or none at all."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{out}/group-{folder.name}", rank=rank, world_size=2
    )
    module = ShardDataModule(train=str(folder / str(rank)), batch_size=4, workers=0, images=ImagePipeline(size=8))
    try:
        module.setup("fit")
    except ValueError as error:
        (out / f"{folder.name}-{rank}.txt").write_text(str(error))
    torch.distributed.destroy_process_group()


def run_twice(function, *arguments):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=function, args=(rank, *arguments)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def test_a_process_that_finds_other_shards_stops_all_of_them(plain_shards, tmp_path):
    (tmp_path / "unlike").mkdir()
    plain_shards([[sample_files(n) for n in range(8)]], "unlike/0")
    plain_shards([[sample_files(n) for n in range(9)]], "unlike/1")
    run_twice(meet, tmp_path / "unlike", tmp_path)
    said = {(tmp_path / f"unlike-{rank}.txt").read_text() for rank in (0, 1)}
    assert len(said) == 1
    assert "process 1 found other shards than process 0 (train is [9, " in said.pop()


def test_an_error_of_one_process_stops_all_of_them(plain_shards, tmp_path):
    (tmp_path / "gone").mkdir()
    plain_shards([[sample_files(n) for n in range(8)]], "gone/0")
    run_twice(meet, tmp_path / "gone", tmp_path)
    said = [(tmp_path / f"gone-{rank}.txt").read_text() for rank in (0, 1)]
    assert said[0] == f"{said[1]} (met by process 1)" and "gone/1 does not exist" in said[1]


def test_two_processes_read_each_sample_once_and_count_together(plain_shards, tmp_path):
    samples = [sample_files(n) for n in range(33)]
    samples[5]["json"] = samples[20]["json"] = b"broken"
    folder = plain_shards([samples])
    run_twice(work, folder, tmp_path)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    whole = {f"s{n:03d}" for n in range(33)} - {"s005", "s020"}
    assert [len(part["train"]) for part in found] == [4, 4]
    ids = [name for part in found for batch in part["train"] for name in batch]
    # 32 places; a broken sample's place is filled by one more draw of another
    assert len(ids) == 32 and set(ids) <= whole and len(set(ids)) >= 29
    rows = [row for part in found for row in part["val"]]
    assert sorted(row for row in rows if row >= 0) == [row for row in range(33) if row not in (5, 20)]
    assert [len(part["val"]) for part in found] == [17, 17]
    assert found[0]["state"] == found[1]["state"] and found[0]["state"]["cursor"]["position"] == 32
    assert found[0]["summary"] == found[1]["summary"]
    (drawn,) = found[0]["summary"]["drawn"].values()
    assert drawn["samples"] == sum(drawn["captions"].values()) == 32
    trained = found[0]["skipped"] + found[1]["skipped"]
    assert trained >= 1
    assert sum(count for *_, count in found[0]["state"]["account"]["skipped"]) == trained
    assert found[0]["summary"]["skipped"] == trained + 2  # and each of the two once for validation
