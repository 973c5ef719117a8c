"""Every autoencoder of the lecture, trained and measured on equal terms; `benchmarks/dvc.yaml` calls this.

    python benchmarks/compare.py train  full conv 0     one recipe and seed of a budget of compare.yaml: the model
    python benchmarks/compare.py measure full conv 0    everything that `evaluate` measures of it
    python benchmarks/compare.py table full             what all of them came to, beside each other: docs/compare-full.md

Each run is a workspace of its own under `benchmarks/runs/`, over images prepared once, and an MLflow run of the
experiment `aecore-compare` in the project's store. One CPU thread each, so that a run's bytes do not depend on how many
share the machine; the seconds do.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from aecore import cli, tracking
from aecore.tracking import TrackingConfig

PROJECT = Path(__file__).resolve().parent.parent
RUNS = PROJECT / "benchmarks/runs"
EXPERIMENT = "aecore-compare"
COLOUR = ("colourise",)
"""Recipes that need images in colour."""
SETS: dict[str, dict[str, Any]] = {
    "fashion": {"data": {"source": "fashion_mnist_10k", "path": "data/raw/fashion_mnist_10k"}},
    "avatars": {
        "data": {"source": "avatars", "path": "data/raw/avatars"},
        "prepare": {"size": 32, "channels": 3},
    },
}
"""Sections of params.yaml that name each data set."""

yaml = YAML(typ="safe", pure=True)


def budgets() -> dict[str, Any]:
    """`compare.yaml`, parsed."""
    values: dict[str, Any] = yaml.load((PROJECT / "benchmarks/compare.yaml").read_text())
    return values


def set_of(recipe: str) -> str:
    """Which data set a recipe is trained on."""
    return "avatars" if recipe in COLOUR else "fashion"


def folder(budget: str, recipe: str, seed: int) -> Path:
    """The workspace of one run."""
    return RUNS / budget / f"{recipe}-{seed}"


def parameters(images: str, recipe: str, seed: int, epochs: int) -> dict[str, Any]:
    """The project's params.yaml with what a run changes."""
    values: dict[str, Any] = yaml.load((PROJECT / "params.yaml").read_text())
    for section, keys in SETS[images].items():
        values[section] |= keys
    values["data"]["path"] = str(PROJECT / values["data"]["path"])
    values["run"] |= {"seed": seed, "threads": 1}
    values["train"] |= {"recipe": recipe, "overrides": {}, "epochs": epochs, "latent_dim": 32}
    values["tracking"] |= {"mlflow": True, "experiment": EXPERIMENT}
    return values


@contextlib.contextmanager
def workspace(path: Path, values: dict[str, Any]) -> Iterator[None]:
    """Work in `path`, made where it is new, with `values` as its params.yaml; MLflow's store is the project's."""
    path.mkdir(parents=True, exist_ok=True)
    with (path / "params.yaml").open("w") as file:
        yaml.dump(values, file)
    shutil.copytree(PROJECT / "recipes", path / "recipes", dirs_exist_ok=True)
    here = Path.cwd()
    os.chdir(PROJECT)
    tracking.reap(TrackingConfig(mlflow=True, experiment=EXPERIMENT))  # makes store and experiment where they are new
    os.environ["MLFLOW_TRACKING_URI"] = tracking.store()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(here)


def stages(*names: str) -> None:
    """Run stages in the current workspace; a failure ends the program with their exit status."""
    for name in names:
        if status := cli.main([name]):
            sys.exit(status)


def link(name: str, target: Path) -> None:
    """Let `name` in the current workspace be `target`."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        path.unlink()
    path.symlink_to(target)


def prepare(images: str) -> None:
    """Prepare a data set for all runs on it."""
    with workspace(RUNS / images, parameters(images, "conv", 0, 1)):
        stages("fetch", "prepare")


def train(budget: str, recipe: str, seed: int) -> None:
    """Train one recipe."""
    images = set_of(recipe)
    with workspace(folder(budget, recipe, seed), parameters(images, recipe, seed, budgets()[budget]["epochs"])):
        link("data/prepared", RUNS / images / "data/prepared")
        stages("train")


def baseline(images: str, seed: int) -> Path:
    """The floors of a data set and seed, measured once for all recipes; returns their workspace."""
    path = RUNS / f"{images}-{seed}"
    with workspace(path, parameters(images, "conv", seed, 1)):
        link("data/prepared", RUNS / images / "data/prepared")
        if not Path("artifacts/baseline").is_dir():
            stages("baseline")
    return path


def measure(budget: str, recipe: str, seed: int) -> None:
    """Measure one trained recipe; what it came to is left in the run's `result/`."""
    images, path = set_of(recipe), folder(budget, recipe, seed)
    floors = baseline(images, seed)
    with workspace(path, parameters(images, recipe, seed, budgets()[budget]["epochs"])):
        link("data/prepared", RUNS / images / "data/prepared")
        link("artifacts/baseline", floors / "artifacts/baseline")
        stages("embed", "index", "cluster", "map", "evaluate")
        shutil.rmtree("result", ignore_errors=True)
        shutil.copytree("reports", "result")


def main() -> None:
    """Do what was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare").add_argument("images", choices=SETS)
    for name in ("train", "measure"):
        command = commands.add_parser(name)
        command.add_argument("budget", choices=("quick", "full"))
        command.add_argument("recipe")
        command.add_argument("seed", type=int)
    options = parser.parse_args()
    if options.command == "prepare":
        prepare(options.images)
    else:
        {"train": train, "measure": measure}[options.command](options.budget, options.recipe, options.seed)


if __name__ == "__main__":
    main()
