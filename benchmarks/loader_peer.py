"""open_clip's webdataset pipeline over shards; started by benchmarks/loader.py in an environment of its own.

Prints one JSON object: samples, seconds, and CPU seconds of this process, from the first request to the last batch.
"""

import argparse
import json
import time
from types import SimpleNamespace

import torch
from open_clip import get_tokenizer, image_transform
from open_clip_train.data import get_wds_dataset


def batches(options: argparse.Namespace):
    training = options.mode == "train"
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
    return get_wds_dataset(arguments, transform, training, floor=True, tokenizer=get_tokenizer("ViT-B-32")).dataloader


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards")
    parser.add_argument("--mode", choices=("train", "evaluate"), required=True)
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
        wall, processor, seen = time.perf_counter(), time.process_time(), 0
        for images, _ in loader:
            seen += len(images)
        seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}
        print(json.dumps({"samples": seen, **seconds}))
