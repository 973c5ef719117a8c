"""The sparse autoencoder's curve: error and sparsity of the code against the weight of its L1 penalty.

    python benchmarks/sparsity.py                                    the bundled set, 32 dimensions, 12 epochs a weight
    python benchmarks/sparsity.py --weights 1e-3 1e-2 1e-1 --epochs 40 --figure sparsity.png

Every figure is what `evaluate` writes of the recipe `sparse`, from the stages run in a workspace of its own; a Markdown
table goes to standard output as it grows, PCA of as many dimensions in its last line.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from matplotlib.figure import Figure
from quality import PROJECT, read, run
from ruamel.yaml import YAML

from aecore.analysis.figures import PALETTE, save
from aecore.generate.sheet import GREY, INK

WEIGHTS = (1e-4, 3e-3, 1e-2, 3e-2, 1e-1)
COLUMNS = ("L1 weight", "test MSE", "units active in a code", "Hoyer", "kNN@10")
STAGES = ("train", "embed", "index", "cluster", "map", "evaluate")


def row(name: str, space: dict[str, float], sparsity: dict[str, float], suffix: str) -> str:
    """One line of the table; `suffix` tells the model's figures of sparsity from PCA's."""
    active, hoyer = sparsity[f"active{suffix}"], sparsity[f"hoyer{suffix}"]
    return f"| {name} | {space['mse']:.5f} | {active:.0%} | {hoyer:.3f} | {space['knn']:.3f} |"


def draw(points: dict[float, tuple[float, float, float]], pca: tuple[float, float, float]) -> Figure:
    """MSE, active share and Hoyer's figure (the triple) over the weight, PCA's as a line across."""
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    titles = ("test MSE", "share of units active in a code", "Hoyer's sparseness")
    for number, (axes, title) in enumerate(zip(figure.subplots(1, 3), titles, strict=True)):
        values = [triple[number] for triple in points.values()]
        axes.plot(list(points), values, "o-", color=PALETTE[0])
        axes.axhline(pca[number], color=GREY, linestyle="--", linewidth=1)
        axes.text(min(points), pca[number], "PCA", fontsize=8, color=GREY, va="bottom")
        axes.set(xscale="log", ylim=(0, 1.15 * max(*values, pca[number])))
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        axes.set_xlabel("weight of the L1 penalty", fontsize=8, color=GREY)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, colors=GREY)
    return figure


def main() -> None:
    """Train and measure every weight."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", type=float, default=WEIGHTS)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, help="where to draw the curve, a PNG")
    options = parser.parse_args()

    yaml = YAML(typ="safe", pure=True)
    parameters = yaml.load((PROJECT / "params.yaml").read_text())
    parameters["tracking"]["mlflow"] = False
    parameters["data"]["path"] = str((PROJECT / parameters["data"]["path"]).resolve())
    parameters["run"]["seed"] = options.seed
    parameters["train"] |= {"recipe": "sparse", "latent_dim": options.dim, "epochs": options.epochs}

    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}", flush=True)
    points: dict[float, tuple[float, float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        shutil.copytree(PROJECT / "recipes", workspace / "recipes")
        for weight in sorted(options.weights):
            parameters["train"]["overrides"] = {"penalties": {"l1": weight}}
            with (workspace / "params.yaml").open("w") as file:
                yaml.dump(parameters, file)
            run(workspace, *(STAGES if points else ("prepare", "baseline", *STAGES)))
            metrics = read(workspace / "reports/metrics.json")
            sparsity = metrics["claims"]["sparsity"]
            points[weight] = (metrics["model"]["mse"], sparsity["active"], sparsity["hoyer"])
            print(row(f"{weight:g}", metrics["model"], sparsity, ""), flush=True)
    print(row(f"PCA-{options.dim}", metrics["pca"], sparsity, "_pca"), flush=True)
    if options.figure is not None:
        save(draw(points, (metrics["pca"]["mse"], sparsity["active_pca"], sparsity["hoyer_pca"])), options.figure)


if __name__ == "__main__":
    main()
