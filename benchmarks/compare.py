"""Every autoencoder of the lecture, trained and measured on equal terms; `benchmarks/dvc.yaml` calls this.

    python benchmarks/compare.py train full mlp 0       one recipe and seed of a budget of compare.yaml: the model
    python benchmarks/compare.py measure full mlp 0     everything that `evaluate` measures of it
    python benchmarks/compare.py table full             what all of them came to: docs/compare-full.md

Each run is a workspace of its own under `benchmarks/runs/`, over images prepared once, and an MLflow run of the
experiment `aecore-compare` in the project's store. One CPU thread each, so that a run's bytes do not depend on how many
share the machine; the seconds do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from ruamel.yaml import YAML

from aecore import cli, tracking
from aecore.counted import counted
from aecore.generate.sheet import save
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

Columns = tuple[tuple[str, str, int], ...]

COLUMNS: Columns = (
    ("test MSE", "model.mse", 5),
    ("SSIM", "model.ssim", 3),
    ("kNN@10", "model.knn", 3),
    ("SVM", "model.svm", 3),
    ("forest", "model.forest", 3),
    ("ACC", "model.acc", 3),
    ("NMI", "model.nmi", 3),
    ("ARI", "model.ari", 3),
    ("Fréchet, mixture", "generation.frechet.mixture", 1),
    ("Fréchet, prior", "generation.frechet.prior", 1),
    ("parameters", "train.parameters", 0),
    ("images/s", "train.images_per_second", 0),
)
"""Title, where the number stands in a run's metrics, digits (0: a plain mean)."""

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
    with workspace(RUNS / images, parameters(images, "conv_nearest", 0, 1)):
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
    with workspace(path, parameters(images, "conv_nearest", seed, 1)):
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


def results(budget: str) -> dict[str, list[dict[str, Any]]]:
    """Recipe -> what each measured seed came to: the metrics of `evaluate`, with `train` beside them."""
    found: dict[str, list[dict[str, Any]]] = {}
    settings = budgets()
    for recipe in settings["recipes"]:
        for seed in settings[budget]["seeds"]:
            result = folder(budget, recipe, seed) / "result"
            if (result / "metrics.json").is_file():
                metrics = json.loads((result / "metrics.json").read_text())
                metrics["train"] = json.loads((result / "train.json").read_text())
                if (result / "claims.json").is_file():  # runs of before have the sentences among the metrics
                    for name, sentence in json.loads((result / "claims.json").read_text()).items():
                        metrics["claims"][name]["verdict"] = sentence
                found.setdefault(recipe, []).append(metrics)
    return found


def value(metrics: dict[str, Any], path: str) -> float | None:
    """The number at a dotted `path`, None where there is none."""
    for key in path.split("."):
        if not isinstance(metrics, dict) or key not in metrics:
            return None
        metrics = metrics[key]
    return float(metrics)  # type: ignore[arg-type]


def cell(runs: list[dict[str, Any]], path: str, digits: int) -> str:
    """Mean over the seeds and, where there are several, their spread (standard deviation, n - 1)."""
    values = [v for run in runs if (v := value(run, path)) is not None]
    if not values:
        return "–"
    if digits == 0:
        return f"{statistics.mean(values):,.0f}"
    spread = f"{statistics.stdev(values):.{digits}f}" if len(values) > 1 else "0"
    return f"{statistics.mean(values):.{digits}f}" + (f" ± {spread}" if float(spread) else "")


def cells(runs: list[dict[str, Any]], columns: Columns, floor: str = "") -> list[str]:
    """A row of the table: of a recipe's `runs`, or of a `floor`, raw or pca, as it was measured beside them."""
    row = []
    for _, path, digits in columns:
        if floor and path == "generation.frechet.mixture":
            path = f"generation.frechet.{floor}"
        elif floor:
            path = path.replace("model.", f"{floor}.") if path.startswith("model.") else ""
        row.append(cell(runs, path, digits))
    return row


def markdown(budget: str, found: dict[str, list[dict[str, Any]]]) -> str:
    """The table, the floors on top of each data set, and what each recipe claims, a line each."""
    settings = budgets()[budget]
    seeds = max(len(runs) for runs in found.values())
    lines = [
        f"{settings['epochs']} epochs, {counted(seeds, 'seed')}, 32 dimensions, batch 64; mean ± standard deviation "
        f"over seeds. Printed by `make compare{'-full' if budget == 'full' else ''}`.",
        "",
        f"| {' | '.join(['recipe', *(title for title, _, _ in COLUMNS)])} |",
        "|" + " --- |" * (len(COLUMNS) + 1),
    ]
    for images in SETS:
        recipes = {recipe: runs for recipe, runs in found.items() if set_of(recipe) == images}
        if not recipes:
            continue
        runs = next(iter(recipes.values()))
        for name, title in (("raw", "raw pixels"), ("pca", "PCA-32")):
            lines.append(f"| *{title}, {images}* | {' | '.join(cells(runs, COLUMNS, name))} |")
        for recipe, runs in recipes.items():
            lines.append(f"| `{recipe}` | {' | '.join(cells(runs, COLUMNS))} |")
    lines += ["", "What each claims, in the words of its seed 0:", ""]
    for recipe, runs in found.items():
        lines += [f"- `{recipe}`, {name}: {claim['verdict']}." for name, claim in runs[0].get("claims", {}).items()]
    return "\n".join(lines) + "\n"


def figure(found: dict[str, list[dict[str, Any]]]) -> Figure:
    """A line a recipe, a dot a seed: test MSE on the left, kNN accuracy on the right; PCA and raw pixels as lines."""
    fashion = {recipe: runs for recipe, runs in found.items() if set_of(recipe) == "fashion"}
    floors = next(iter(fashion.values()))[0]
    drawn = Figure(figsize=(9.6, 1.4 + 0.26 * len(fashion)), layout="constrained")
    panels = (("mse", "Test MSE (log; less is better)"), ("knn", "kNN@10 accuracy of the code (more is better)"))
    for axes, (key, title) in zip(drawn.subplots(1, 2, sharey=True), panels, strict=True):
        for row, runs in enumerate(fashion.values()):
            values = [v for run in runs if (v := value(run, f"model.{key}")) is not None]
            axes.plot(values, [row] * len(values), "o", color="#4e79a7", markersize=5, alpha=0.7)
        for name, label, colour in (("raw", "raw pixels", "#8a8f98"), ("pca", "PCA-32", "#e15759")):
            if (level := value(floors, f"{name}.{key}")) is not None:
                axes.axvline(level, color=colour, linewidth=1.2, linestyle="--", label=label, zorder=0)
        axes.set_yticks(range(len(fashion)), list(fashion), fontsize=8)
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, loc="lower right" if key == "mse" else "lower left")
        if key == "mse":
            axes.set_xscale("log")
            axes.invert_yaxis()
    return drawn


def table(budget: str) -> None:
    """Write and print what all runs of a budget came to."""
    found = results(budget)
    if not found:
        sys.exit(f"no run of the budget {budget} is measured: `make compare{'-full' if budget == 'full' else ''}`.")
    text, name = markdown(budget, found), "compare-full" if budget == "full" else "compare"
    target = PROJECT / ("docs" if budget == "full" else "benchmarks/runs")
    target.mkdir(parents=True, exist_ok=True)
    (target / f"{name}.md").write_text(text)
    save(figure(found), target / f"{name}.png")
    print(text)
    print(target / f"{name}.png")


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
    commands.add_parser("table").add_argument("budget", choices=("quick", "full"))
    options = parser.parse_args()
    if options.command == "prepare":
        prepare(options.images)
    elif options.command == "table":
        table(options.budget)
    else:
        {"train": train, "measure": measure}[options.command](options.budget, options.recipe, options.seed)


if __name__ == "__main__":
    main()
