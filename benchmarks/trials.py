"""The trials of the comparison: a workspace each, what it is made from, and how it is made where that has changed.

Each lies under `benchmarks/runs/`, over images prepared once, and is an MLflow run of the experiment `aecore-compare`
in the project's store. One CPU thread each, so that its bytes do not depend on how many share the machine; the seconds
do. What it is made with stands in compare.yaml, whatever params.yaml says.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import once
from ruamel.yaml import YAML

from aecore import artifact, cli, config, tracking
from aecore.tracking import TrackingConfig

PROJECT = once.PROJECT
RUNS = PROJECT / "benchmarks/runs"
EXPERIMENT = "aecore-compare"
COLOUR = ("colourise",)
"""Recipes that need images in colour."""
SETS: dict[str, dict[str, Any]] = {
    "fashion": {
        "data": {"source": "fashion_mnist_10k", "path": "data/raw/fashion_mnist_10k"},
        "prepare": {"size": 28, "channels": 1},
    },
    "avatars": {
        "data": {"source": "avatars", "path": "data/raw/avatars"},
        "prepare": {"size": 32, "channels": 3},
    },
}
"""Sections of params.yaml that name each data set."""
FETCHING = ("aecore/data/fetch.py", "aecore/data/avatars.py")
"""Code that decides which images there are, and is no stage's."""
MEASURING = ("baseline", "embed", "index", "cluster", "map", "evaluate")

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
    """A params.yaml: the sections of compare.yaml with what differs from run to run."""
    values: dict[str, Any] = copy.deepcopy(budgets()["params"])
    for section, keys in SETS[images].items():
        values[section] |= keys
    values["run"]["seed"] = seed
    values["train"] |= {"recipe": recipe, "epochs": epochs}
    values["tracking"] = {"mlflow": True, "experiment": EXPERIMENT}
    return values


@contextlib.contextmanager
def workspace(path: Path, values: dict[str, Any]) -> Iterator[None]:
    """Work in `path`, made where it is new, with `values` as its params.yaml; MLflow's store is the project's."""
    path.mkdir(parents=True, exist_ok=True)
    with (path / "params.yaml").open("w") as file:
        yaml.dump(values | {"data": values["data"] | {"path": str(PROJECT / values["data"]["path"])}}, file)
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


class Piece(NamedTuple):
    """A piece of the comparison: a command of this program, and what it is made from."""

    command: tuple[str, ...]
    made: Path
    key: str


def manifest(folder: Path) -> Path:
    """The file that changes with anything in an artefact."""
    return folder / artifact.MANIFEST


def preparing(images: str) -> Piece:
    """What `prepare` does for a data set."""
    values = parameters(images, "conv_nearest", 0, 1)
    source = sorted(path for path in (PROJECT / values["data"]["path"]).glob("*") if path.is_file())
    files = [*(PROJECT / name for name in FETCHING), *(source if images == "fashion" else ())]  # others are made
    return Piece(("prepare", images), RUNS / images / config.PREPARED, once.key(["prepare"], values, files))


def training(budget: str, recipe: str, seed: int) -> Piece:
    """What `train` does for one recipe; its images are prepared."""
    images, settings = set_of(recipe), budgets()[budget]
    files = [PROJECT / "recipes" / f"{recipe}.yaml", manifest(RUNS / images / config.PREPARED)]
    made = folder(budget, recipe, seed) / config.MODEL
    key = once.key(["train"], parameters(images, recipe, seed, settings["epochs"]), files)
    return Piece(("train", budget, recipe, str(seed)), made, key)


def measuring(budget: str, recipe: str, seed: int) -> Piece:
    """What `measure` does for one recipe, which is trained."""
    images, path = set_of(recipe), folder(budget, recipe, seed)
    values = parameters(images, recipe, seed, budgets()[budget]["epochs"])
    key = once.key(MEASURING, values, [manifest(path / config.MODEL)])
    return Piece(("measure", budget, recipe, str(seed)), path / "result", key)


def prepare(images: str) -> None:
    """Prepare a data set for all runs on it."""
    piece = preparing(images)
    with once.doing(piece.made, piece.key), workspace(RUNS / images, parameters(images, "conv_nearest", 0, 1)):
        stages("fetch", "prepare")


def train(budget: str, recipe: str, seed: int) -> None:
    """Train one recipe."""
    images, piece = set_of(recipe), training(budget, recipe, seed)
    values = parameters(images, recipe, seed, budgets()[budget]["epochs"])
    with once.doing(piece.made, piece.key), workspace(folder(budget, recipe, seed), values):
        link("data/prepared", RUNS / images / "data/prepared")
        stages("train")


def baseline(images: str, seed: int) -> Path:
    """The floors of a data set and seed, measured once for all recipes; returns their workspace."""
    path, values = RUNS / f"{images}-{seed}", parameters(images, "conv_nearest", seed, 1)
    made, key = path / config.BASELINE, once.key(["baseline"], values, [manifest(RUNS / images / config.PREPARED)])
    if not once.is_done(made, key):
        with once.doing(made, key), workspace(path, values):
            link("data/prepared", RUNS / images / "data/prepared")
            stages("baseline")
    return path


def measure(budget: str, recipe: str, seed: int) -> None:
    """Measure one trained recipe; what it came to is left in the run's `result/`."""
    images, piece = set_of(recipe), measuring(budget, recipe, seed)
    floors = baseline(images, seed)
    values = parameters(images, recipe, seed, budgets()[budget]["epochs"])
    with once.doing(piece.made, piece.key), workspace(folder(budget, recipe, seed), values):
        link("data/prepared", RUNS / images / "data/prepared")
        link("artifacts/baseline", floors / "artifacts/baseline")
        stages("embed", "index", "cluster", "map", "evaluate")
        shutil.rmtree("result", ignore_errors=True)
        shutil.copytree("reports", "result")


def do(piece: Piece) -> None:
    """Do one piece, unless it is done."""
    if not once.is_done(piece.made, piece.key):
        print(f"compare: {' '.join(piece.command)}", file=sys.stderr, flush=True)
        call("compare.py", *piece.command)


def call(script: str, *arguments: str) -> None:
    """Run a script of this folder; its failure ends this program with its exit status."""
    path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(PROJECT / "benchmarks" / script), *arguments]
    if status := subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=False).returncode:
        sys.exit(status)
