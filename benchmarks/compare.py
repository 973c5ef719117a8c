"""Every autoencoder of the lecture, trained and measured on equal terms: `make compare`, `make compare-full`.

    python benchmarks/compare.py run full               what of the following is not done yet, for all of compare.yaml
    python benchmarks/compare.py prepare fashion        the images
    python benchmarks/compare.py train full mlp 0       one recipe and seed of a budget: the model
    python benchmarks/compare.py measure full mlp 0     everything that `evaluate` measures of it
    python benchmarks/compare.py table full             what all of them came to: docs/compare-full.md

How each is made, and when it is made again, is in trials.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

import trials
from matplotlib.figure import Figure
from trials import PROJECT, SETS, budgets, folder, set_of

from aecore.counted import counted
from aecore.generate.sheet import save

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


def run(budget: str) -> None:
    """Do what is not done yet, each piece in a process of its own; then tell what all of it came to."""
    settings = budgets()
    for images in dict.fromkeys(map(set_of, settings["recipes"])):
        trials.do(trials.preparing(images))
    for seed in settings[budget]["seeds"]:
        for recipe in settings["recipes"]:
            trials.do(trials.training(budget, recipe, seed))
            trials.do(trials.measuring(budget, recipe, seed))
    table(budget)
    trials.call("lecture.py", budget)


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
    commands.add_parser("run").add_argument("budget", choices=("quick", "full"))
    commands.add_parser("prepare").add_argument("images", choices=SETS)
    for name in ("train", "measure"):
        command = commands.add_parser(name)
        command.add_argument("budget", choices=("quick", "full"))
        command.add_argument("recipe")
        command.add_argument("seed", type=int)
    commands.add_parser("table").add_argument("budget", choices=("quick", "full"))
    options = parser.parse_args()
    if options.command == "run":
        run(options.budget)
    elif options.command == "prepare":
        trials.prepare(options.images)
    elif options.command == "table":
        table(options.budget)
    else:
        do = {"train": trials.train, "measure": trials.measure}[options.command]
        do(options.budget, options.recipe, options.seed)


if __name__ == "__main__":
    main()
