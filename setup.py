"""The packages of the wheel: those that stand here, and configs/ as mmtrain/configs. pyproject.toml says all else."""

from setuptools import find_namespace_packages, find_packages, setup

setup(
    packages=[
        *find_packages(include=["mmtrain*", "losses*", "datamodules*", "slurm*"]),
        *(f"mmtrain.{folder}" for folder in find_namespace_packages(include=["configs*"])),
    ],
    package_dir={"mmtrain.configs": "configs"},
)
