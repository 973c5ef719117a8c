"""Pictures of the results: each function draws one matplotlib Figure, without pyplot's global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aecore import lettering
from aecore.generate.sheet import GREY, INK, Sheet
from aecore.generate.sheet import save as save

RIGHT, WRONG = "#1a9850", "#d73027"
PALETTE = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#ff9da7", "#9c755f", "#17becf",
    "#1b3a5c", "#a65e00", "#2e6b27", "#8f1d23", "#6b3f66", "#2f6f6b", "#a3861a", "#c2475b", "#5b4032", "#0e7480",
)  # fmt: skip
"""A colour each for the twenty commonest groups; the others are grey."""
LEGEND = 11
"""Points: the letters of the map's legend."""


def reconstructions(
    originals: np.ndarray,
    rows: Sequence[tuple[str, np.ndarray]],
    names: Sequence[str] | None,
    title: str = "Test images and their reconstructions",
) -> Figure:
    """Originals above their reconstructions, each with its error.

    `originals` and each of `rows` (its name, float32 (n, C, H, W) in [0, 1]); `names`: what each image shows.
    """
    sheet = Sheet(len(rows) + 1, originals, title, cell=1.0, below=0.18, headings=names or ())
    for column, original in enumerate(originals):
        sheet.image(0, column, original)
        if names is not None:
            sheet.heading(column, names[column], INK)
        for row, (_, images) in enumerate(rows, start=1):
            sheet.image(row, column, images[column])
            error = float(np.square(images[column] - original).mean())
            sheet.caption(row, column, f"MSE {error:.4f}")
    for row, name in enumerate(["original", *(name for name, _ in rows)]):
        sheet.name(row, name)
    return sheet.figure


def neighbours(queries: np.ndarray, found: np.ndarray, names: Sequence[str] | None, right: np.ndarray | None) -> Figure:
    """Queries (q, C, H, W) and their nearest (q, k, C, H, W), nearest first, uint8 or in [0, 1].

    With labels, `names` (q) what each query shows and `right` bool (q, k) whether a neighbour shows the same: framed
    green, else red.
    """
    title = "Test images and their nearest neighbours in the training split"
    if right is not None:
        title += f"\ngreen: the same label ({right.mean():.0%} of these); red: another"
    sheet = Sheet(len(queries), np.concatenate([found[0][:1], found[0]]), title, cell=0.85, below=0.02)
    for row, query in enumerate(queries):
        sheet.image(row, 0, query, INK)
        sheet.name(row, names[row] if names is not None else f"query {row + 1}")
        for column, image in enumerate(found[row], start=1):
            sheet.image(row, column, image, GREY if right is None else RIGHT if right[row, column - 1] else WRONG)
    sheet.heading(0, "query", INK)
    for column in range(1, found.shape[1] + 1):
        sheet.heading(column, str(column), GREY)
    return sheet.figure


def scatter(places: np.ndarray, groups: np.ndarray, names: Sequence[str], title: str, rest: str = "other") -> Figure:
    """The map: `places` (n, 2), coloured by group; `groups` ints (n,) index `names`, -1 is in none.

    The twenty commonest groups get a colour and an entry in the legend; all else is grey and called `rest`.
    """
    sizes = np.bincount(groups[groups >= 0], minlength=len(names))
    common = [int(group) for group in np.argsort(-sizes, kind="stable")[: len(PALETTE)] if sizes[group]]
    size = float(np.clip(30_000 / max(len(places), 1), 3, 40))
    style = {"s": size, "linewidths": 0, "rasterized": True}
    others = ~np.isin(groups, common)
    across, called = _legend([*([rest] if others.any() else []), *(names[group] for group in sorted(common))])
    side, above, below = 7.2, 0.45, 0.25 + 0.27 * -(-len(called) // across)
    height = side + above + below
    figure = Figure(figsize=(side, height))
    axes = figure.add_axes((0.005, below / height, 0.99, side / height))
    drawn = []
    if others.any():
        drawn.append(axes.scatter(*places[others].T, color=GREY, alpha=0.35, **style))  # type: ignore[arg-type]
    for colour, group in zip(PALETTE, sorted(common), strict=False):
        drawn.append(axes.scatter(*places[groups == group].T, color=colour, alpha=0.75, **style))  # type: ignore[arg-type]
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=13, color=INK, loc="left")
    axes.spines[:].set_color("#d8dbe0")
    legend = axes.legend(
        drawn, ["name"] * len(drawn), loc="upper left", bbox_to_anchor=(0, -0.015), ncols=across, frameon=False,
        fontsize=LEGEND, borderaxespad=0, handletextpad=0.2, columnspacing=1.5,
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), called, strict=True):  # a label given above would be read as markup
        text.set(text=name, parse_math=False, **lettering.style(name))
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
            handle.set_sizes([60])  # type: ignore[attr-defined]
    return figure


def _legend(names: Sequence[str]) -> tuple[int, list[str]]:
    """Columns of the map's legend, as many as hold its names whole, and the names as they are drawn there."""
    whole = [lettering.drawable(name) for name in names]
    for across in (3, 2, 1):
        width = 72 * (7.1 / across - 0.57)  # beside a mark and the space between columns
        called = [lettering.fitted(name, width, LEGEND) for name in names]
        if called == whole:
            return across, called
    return 1, called


def clusters(rows: Sequence[np.ndarray], captions: Sequence[Sequence[str]], title: str) -> Figure:
    """A row a cluster: its medoid, framed, and the nearest others; `rows` uint8 (m, C, H, W), m may differ.

    `captions`: what is written before each row, lines.
    """
    sheet = Sheet(len(rows), max(rows, key=len), title, cell=0.8, below=0.04)
    for row, (images, caption) in enumerate(zip(rows, captions, strict=True)):
        for column, image in enumerate(images):
            sheet.image(row, column, image, INK if column == 0 else None)
        sheet.name(row, *caption)
    sheet.heading(0, "medoid", INK)
    return sheet.figure


def training(curves: dict[str, np.ndarray]) -> Figure:
    """Training loss, validation error (its best epoch marked) and learning rate, an entry an epoch."""
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    epochs, validation = curves["epoch"], curves["validation_mse"]
    alone = len(epochs) == 1
    panels = (
        ("train_loss", "Training loss", "#4e79a7"),
        ("validation_mse", "Validation MSE", "#e15759"),
        ("learning_rate", "Learning rate", "#59a14f"),
    )
    for axes, (name, title, colour) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.plot(epochs, curves[name], color=colour, linewidth=1.8, marker="o" if alone else "")
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        axes.set_xlabel("epoch", fontsize=8, color=GREY)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if alone:
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
        if name != "learning_rate" and np.ptp(curves[name]) > 0 and curves[name].min() > 0:
            axes.set_yscale("log")
        axes.tick_params(which="both", labelsize=8, colors=GREY)
        axes.grid(which="both", alpha=0.25)
        if name == "validation_mse":
            best = int(validation.argmin())
            axes.plot(epochs[best], validation[best], "o", color=INK, markersize=5)
            axes.annotate(
                f"best {validation[best]:.5f}\nepoch {epochs[best]:.0f}", (epochs[best], validation[best]),
                xytext=(-6, 14), textcoords="offset points", ha="right", fontsize=8, color=INK,
            )  # fmt: skip
    return figure


def few_labels(
    labels: Sequence[int], lines: Mapping[str, Sequence[tuple[float, float]]], title: str, floors: int = 2
) -> Figure:
    """Accuracy against `labels` a class, a line each way: name -> (mean, deviation) at each; the last are floors."""
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    axes = figure.subplots()
    colours = (*PALETTE[: len(lines) - floors], GREY, INK)
    for number, (name, values) in enumerate(lines.items()):
        mean, deviation = np.array(values).T
        aside = np.array(labels) * 1.025 ** (number - (len(lines) - 1) / 2)  # so that no bar hides another
        floor = number >= len(lines) - floors
        axes.errorbar(
            aside, mean, deviation, label=name, color=colours[number], linewidth=1.8, marker="o", markersize=4.5,
            capsize=3, elinewidth=1.2, linestyle="--" if floor else "-",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks(labels, [f"{count:,}" for count in labels])
    axes.minorticks_off()
    axes.set_xlim(min(labels) / 1.5, max(labels) * 1.5)
    axes.set_xlabel("labelled training images a class", fontsize=9, color=GREY)
    axes.set_ylabel("accuracy on the test images", fontsize=9, color=GREY)
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=GREY)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
