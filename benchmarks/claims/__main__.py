"""Do papers' claims hold on the numbers corpus? What comes out is the finding, whichever way it points.

    python -m benchmarks.claims pairs --seeds 5 --out OUT    # trains, writes OUT/pairs.json and prints its rows
    python -m benchmarks.claims table --out OUT              # the table of all claims whose JSON lies in OUT

One file a claim tells what it says and how it is measured. Pictures are features of a frozen network
(benchmarks/number_features.py); documents.py reads stories instead. All recipes of a claim see the same pictures in the
same steps; what a recipe may choose is chosen on the validation numbers, with seeds that are not among those reported.
Every training is kept under OUT/NAME, so that a stopped command goes on; more seeds may be asked for later. Intervals
are Student's over seeds; a claim is shown where the intervals of all that it says lie on its side, refuted where one
lies on the other, else open.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from benchmarks.claims import (
    balance,
    binding,
    clip_italian,
    code_switch,
    coral,
    documents,
    emoji,
    frozen_encoders,
    general,
    hard_negatives,
    m3l,
    masked_words,
    one_to_k,
    one_tower,
    pairs,
    patches,
    ranking,
    rare_words,
    selection,
    symile,
    tasks,
    wit,
)
from benchmarks.claims.record import Claim
from benchmarks.claims.tables import rows_table, systems_table
from datamodules.files import write_whole

CLAIMS: dict[str, Claim] = {
    "one_to_k": one_to_k.CLAIM,
    "ranking": ranking.CLAIM,
    "pairs": pairs.CLAIM,
    "symile": symile.CLAIM,
    "m3l": m3l.CLAIM,
    "code_switch": code_switch.CLAIM,
    "masked_words": masked_words.CLAIM,
    "frozen_encoders": frozen_encoders.CLAIM,
    "coral": coral.CLAIM,
    "rare_words": rare_words.CLAIM,
    "patches": patches.CLAIM,
    "binding": binding.CLAIM,
    "tasks": tasks.CLAIM,
    "balance": balance.CLAIM,
    "wit": wit.CLAIM,
    "clip_italian": clip_italian.CLAIM,
    **hard_negatives.CLAIMS,
    **general.CLAIMS,
    **selection.CLAIMS,
    **documents.CLAIMS,
    **emoji.CLAIMS,
    **one_tower.CLAIMS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*CLAIMS, "table"])
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each recipe; 0 only states the claim")
    parser.add_argument("--out", type=Path, default=Path("runs/claims"), help="folder of the results")
    options = parser.parse_args()
    if options.name == "table":
        print(systems_table(options.out))
        return
    torch.set_num_threads(1)
    for record in CLAIMS[options.name].measure(options.name, options.out, options.seeds):
        write_whole(options.out / f"{options.name}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(f"\n{record['system']}: {record['claim']}: {record['verdict']}\n\n{rows_table(record['rows'])}")


if __name__ == "__main__":
    main()
