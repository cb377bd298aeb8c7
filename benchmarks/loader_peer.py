"""open_clip's webdataset pipeline over shards, or `datasets` over parquet with open_clip's transforms and tokenizer;
started by benchmarks/loader.py in an environment of its own.

Prints one JSON object: samples, seconds, and CPU seconds of this process, from the first request to the last batch.
"""

import argparse
import json
import time
from glob import glob
from types import SimpleNamespace

import torch
from open_clip import get_tokenizer, image_transform
from open_clip_train.data import get_wds_dataset
from torch.utils.data import DataLoader


def batches(options: argparse.Namespace):
    training = options.mode != "evaluate"
    arguments = SimpleNamespace(
        train_data=options.shards,
        val_data=options.shards,
        train_num_samples=options.samples,
        val_num_samples=options.samples,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        batch_size=options.batch_size,
        workers=options.workers,
        world_size=1,
    )
    transform = image_transform(
        options.size,
        is_train=training,
        mean=(0, 0, 0) if options.save else None,
        std=(1, 1, 1) if options.save else None,
        aug_cfg={"scale": tuple(options.scale)} if training else None,
    )
    if options.mode == "tables":
        return table_batches(options, transform, get_tokenizer("ViT-B-32"))
    return get_wds_dataset(arguments, transform, training, floor=True, tokenizer=get_tokenizer("ViT-B-32")).dataloader


def table_batches(options: argparse.Namespace, transform, tokenizer):
    """Shuffled as the documentation of `datasets` says: by its cache, or as a stream with a buffer of 1,000."""
    from datasets import load_dataset

    files = sorted(glob(f"{options.shards}/*.parquet"))
    streaming = options.reading == "stream"
    data = load_dataset("parquet", data_files=files, split="train", streaming=streaming)

    def made(rows: list[dict]):
        images = torch.stack([transform(row["image"].convert("RGB")) for row in rows])
        return images, tokenizer([row["en"] for row in rows])

    shuffled = {} if streaming else {"shuffle": True}
    data = data.shuffle(seed=0, buffer_size=1000) if streaming else data
    return DataLoader(
        data, options.batch_size, num_workers=options.workers, collate_fn=made, drop_last=True, **shuffled
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards")
    parser.add_argument("--mode", choices=("train", "evaluate", "tables"), required=True)
    parser.add_argument("--epochs", type=int, default=1, help="the last one is measured")
    parser.add_argument("--reading", choices=("map", "stream"))
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--scale", type=float, nargs=2, default=(0.9, 1.0))
    parser.add_argument("--save", help="write the first batch's pixels, uint8, to this file instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    loader = batches(options)
    if options.save:
        torch.save((next(iter(loader))[0] * 255).round().to(torch.uint8), options.save)
    else:
        for _ in range(options.epochs - 1):
            for _ in loader:
                pass
        wall, processor, seen = time.perf_counter(), time.process_time(), 0
        for images, _ in loader:
            seen += len(images)
        seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}
        print(json.dumps({"samples": seen, **seconds}))
