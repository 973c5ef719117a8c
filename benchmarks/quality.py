"""Quality of a recipe beside raw pixels and PCA, over seeds and dimensions, with paired 95 % intervals.

    python benchmarks/quality.py                                     the bundled set: 32 and 64 dimensions, three seeds
    python benchmarks/quality.py --source fashion_mnist --path DIR --dims 64 --seeds 0 --epochs 24
    python benchmarks/quality.py --recipes mlp linear --dims 32

Every figure is what `evaluate` writes, from the stages run in a workspace of its own; a Markdown table goes to standard
output as it grows. Nothing else should run meanwhile if the seconds are to mean anything.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

PROJECT = Path(__file__).resolve().parent.parent
COLUMNS = (
    "recipe",
    "d",
    "seed",
    "test MSE",
    "PCA",
    "change",
    "kNN@10",
    "PCA",
    "difference",
    "raw",
    "difference",
    "train s",
)


def run(workspace: Path, *stages: str) -> None:
    """Run stages of the pipeline in `workspace`; their chatter is kept for failures only."""
    for stage in stages:
        done = subprocess.run([sys.executable, "-m", "aecore", stage], cwd=workspace, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{stage} failed:\n{done.stderr[-2000:]}")


def read(path: Path) -> Any:
    """Parse a JSON file."""
    return json.loads(path.read_text())


def row(workspace: Path, recipe: str, dim: int, seed: int) -> list[str]:
    """One line of the table from the workspace's reports."""
    metrics = read(workspace / "reports/metrics.json")
    differences = read(workspace / "reports/intervals.json")["differences"]
    model, pca, raw = metrics["model"], metrics["pca"], metrics["raw"]

    def interval(key: str, floor: str) -> str:
        low, high = differences[f"model-{floor}"][key]["interval"]
        return f"[{low:+.3f}, {high:+.3f}]"

    seconds = read(workspace / "reports/train.json")["seconds"]
    return [
        recipe, str(dim), str(seed),
        f"{model['mse']:.5f}", f"{pca['mse']:.5f}", f"{100 * (model['mse'] / pca['mse'] - 1):+.0f} %",
        f"{model['knn']:.3f}", f"{pca['knn']:.3f}", interval("knn", "pca"), f"{raw['knn']:.3f}", interval("knn", "raw"),
        f"{seconds:.0f}",
    ]  # fmt: skip


def main() -> None:
    """Train and measure every combination."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["conv_nearest"])
    parser.add_argument("--dims", nargs="+", type=int, default=[32, 64])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--source", help="data.source (default: as params.yaml says)")
    parser.add_argument("--path", help="data.path")
    parser.add_argument("--epochs", type=int, help="train.epochs")
    options = parser.parse_args()

    yaml = YAML(typ="safe", pure=True)
    parameters = yaml.load((PROJECT / "params.yaml").read_text())
    parameters["tracking"]["mlflow"] = False
    parameters["data"]["path"] = str((PROJECT / parameters["data"]["path"]).resolve())
    if options.source:
        parameters["data"] |= {
            "source": options.source,
            "path": str(Path(options.path).resolve()),
            "split_folders": "auto",
        }
    if options.epochs:
        parameters["train"]["epochs"] = options.epochs

    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        shutil.copytree(PROJECT / "recipes", workspace / "recipes")
        for stage, combinations in (("prepare", [(options.recipes[0], options.dims[0], 0)]), ("", _grid(options))):
            for recipe, dim, seed in combinations:
                parameters["run"]["seed"] = seed
                parameters["train"] |= {"recipe": recipe, "latent_dim": dim}
                with (workspace / "params.yaml").open("w") as file:
                    yaml.dump(parameters, file)
                if stage:
                    run(workspace, stage)
                else:
                    run(workspace, "baseline", "train", "embed", "index", "cluster", "map", "evaluate")
                    print(f"| {' | '.join(row(workspace, recipe, dim, seed))} |", flush=True)


def _grid(options: argparse.Namespace) -> list[tuple[str, int, int]]:
    return [(recipe, dim, seed) for recipe in options.recipes for dim in options.dims for seed in options.seeds]


if __name__ == "__main__":
    main()
