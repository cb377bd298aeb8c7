"""Runs a frozen config in processes of its own; as a module it writes the values of this maker of processors.

Written at 88189aa, and again when images were gathered in place of texts. First weights and, on one process, first
losses were equal to the last bit then; on two, first losses differed by 9e-8 at most, and the last ones by 2e-3. Those
of the second maker were written at 4013dbf.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FROZEN = Path(__file__).parent
ROOT = FROZEN.parents[1]
VALUES = {"GenuineIntel": FROZEN / "values.json", "AuthenticAMD": FROZEN / "values_amd.json"}
CONFIGS = ("quickstart", "tiny", "relation_tiny", "pivot_2017")
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=8"]  # the same global batch


def trained(name: str, processes: int, material: Path, folder: Path) -> dict[str, Any]:
    """What `Recorder` noted of a config on the material, trained on one thread a process."""
    folder.mkdir(parents=True)
    record = folder / "record.json"
    recorder = {"class_path": "tests.frozen.recorder.Recorder", "init_args": {"path": str(record)}}
    command = [sys.executable, "-m", "mmtrain.cli", "fit", "--config", str(FROZEN / f"{name}.yaml")]
    command += [f"--trainer.default_root_dir={folder / 'run'}", f"--trainer.callbacks=[{json.dumps(recorder)}]"]
    command += TWO if processes == 2 else ["--trainer.devices=1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=material, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(record.read_text(encoding="utf-8"))


def processor() -> str:
    """Who made it: libraries of linear algebra take other ways for other makers' processors."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    return next((line.split()[-1] for line in lines if line.startswith("vendor_id")), platform.processor())


def recorded() -> dict[str, Any]:
    """The values of this maker of processors; of another one, those that were written first."""
    return json.loads(VALUES.get(processor(), VALUES["GenuineIntel"]).read_text(encoding="utf-8"))


def machine() -> dict[str, str]:
    """What the last bit of a sum depends on."""
    import torch

    return {
        "machine": platform.machine(),
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__.split("+")[0],
    }


def main() -> None:
    from tests.frozen.material import write_material

    with tempfile.TemporaryDirectory() as folder:
        material = Path(folder, "material")
        material.mkdir()
        write_material(material)
        values: dict[str, Any] = {"machine": machine()}
        for name in CONFIGS:
            for processes in (1, 2):
                values[f"{name}/{processes}"] = trained(name, processes, material, Path(folder, f"{name}-{processes}"))
    VALUES[processor()].write_text(json.dumps(values) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
