"""Pictures of the results: each function draws one matplotlib Figure, without pyplot's global state."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, GREY, RIGHT, WRONG = "#222222", "#8a8f98", "#1a9850", "#d73027"
PALETTE = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#ff9da7", "#9c755f", "#17becf",
    "#1b3a5c", "#a65e00", "#2e6b27", "#8f1d23", "#6b3f66", "#2f6f6b", "#a3861a", "#c2475b", "#5b4032", "#0e7480",
)  # fmt: skip
"""A colour each for the twenty commonest groups; the others are grey."""
DPI = 120


def reconstructions(
    originals: np.ndarray, rows: Sequence[tuple[str, np.ndarray]], names: Sequence[str] | None
) -> Figure:
    """Originals above their reconstructions, each with its error.

    `originals` and each of `rows` (its name, float32 (n, C, H, W) in [0, 1]); `names`: what each image shows.
    """
    figure, axes = _grid(len(rows) + 1, len(originals), "Test images and their reconstructions", 1.05)
    for column, original in enumerate(originals):
        _image(axes[0][column], original)
        if names is not None:
            axes[0][column].set_title(_short(names[column]), fontsize=8, color=INK)
        for row, (_, images) in enumerate(rows, start=1):
            _image(axes[row][column], images[column])
            error = float(np.square(images[column] - original).mean())
            axes[row][column].set_xlabel(f"MSE {error:.4f}", fontsize=7, color=GREY, labelpad=2)
    for row, name in enumerate(["original", *(name for name, _ in rows)]):
        _row_name(axes[row][0], name)
    return figure


def neighbours(queries: np.ndarray, found: np.ndarray, names: Sequence[str] | None, right: np.ndarray | None) -> Figure:
    """Queries (q, C, H, W) and their nearest (q, k, C, H, W), nearest first, uint8 or in [0, 1].

    With labels, `names` (q) what each query shows and `right` bool (q, k) whether a neighbour shows the same: framed
    green, else red.
    """
    title = "Test images and their nearest neighbours in the training split"
    if right is not None:
        title += f"\ngreen: the same label ({right.mean():.0%} of these); red: another"
    figure, axes = _grid(len(queries), found.shape[1] + 1, title, 0.9)
    for row, query in enumerate(queries):
        _image(axes[row][0], query, INK, 2.0)
        _row_name(axes[row][0], _short(names[row]) if names is not None else f"query {row + 1}")
        for column, image in enumerate(found[row]):
            colour = GREY if right is None else RIGHT if right[row, column] else WRONG
            _image(axes[row][column + 1], image, colour, 2.2)
    axes[0][0].set_title("query", fontsize=8, color=INK)
    for column in range(found.shape[1]):
        axes[0][column + 1].set_title(str(column + 1), fontsize=8, color=GREY)
    return figure


def scatter(places: np.ndarray, groups: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """The map: `places` (n, 2), coloured by group; `groups` ints (n,) index `names`, -1 is unlabelled.

    The twenty commonest groups get a colour and a line in the legend.
    """
    figure = Figure(figsize=(9.6, 7.2), layout="constrained")
    axes = figure.subplots()
    sizes = np.bincount(groups[groups >= 0], minlength=len(names))
    common = [int(group) for group in np.argsort(-sizes, kind="stable")[: len(PALETTE)] if sizes[group]]
    size = float(np.clip(30_000 / max(len(places), 1), 3, 40))
    style = {"s": size, "linewidths": 0, "rasterized": True}
    others = ~np.isin(groups, common)
    if others.any():
        axes.scatter(*places[others].T, color=GREY, alpha=0.35, label="other", **style)  # type: ignore[arg-type]
    for colour, group in zip(PALETTE, sorted(common), strict=False):
        axes.scatter(*places[groups == group].T, color=colour, alpha=0.75, label=_short(names[group], 24), **style)  # type: ignore[arg-type]
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=13, color=INK, loc="left")
    axes.spines[:].set_color("#d8dbe0")
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
            handle.set_sizes([40])  # type: ignore[attr-defined]
    return figure


def clusters(rows: Sequence[np.ndarray], captions: Sequence[str], title: str) -> Figure:
    """A row a cluster: its medoid, framed, and the nearest others; `rows` uint8 (m, C, H, W), m may differ."""
    figure, axes = _grid(len(rows), max(len(row) for row in rows), title, 0.8)
    for row, (images, caption) in enumerate(zip(rows, captions, strict=True)):
        for column, cell in enumerate(axes[row]):
            if column < len(images):
                _image(cell, images[column], INK if column == 0 else None, 2.0)
            else:
                cell.set_axis_off()
        _row_name(axes[row][0], caption)
    axes[0][0].set_title("medoid", fontsize=8, color=INK)
    return figure


def training(curves: dict[str, np.ndarray]) -> Figure:
    """Training loss, validation error (its best epoch marked) and learning rate, an entry an epoch."""
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    epochs, validation = curves["epoch"], curves["validation_mse"]
    mark = "o" if len(epochs) == 1 else ""
    panels = (
        ("train_loss", "Training loss", "#4e79a7"),
        ("validation_mse", "Validation MSE", "#e15759"),
        ("learning_rate", "Learning rate", "#59a14f"),
    )
    for axes, (name, title, colour) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.plot(epochs, curves[name], color=colour, linewidth=1.8, marker=mark)
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        axes.set_xlabel("epoch", fontsize=8, color=GREY)
        axes.tick_params(labelsize=8, colors=GREY)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if name != "learning_rate" and np.ptp(curves[name]) > 0 and curves[name].min() > 0:
            axes.set_yscale("log")
        if name == "validation_mse":
            best = int(validation.argmin())
            axes.plot(epochs[best], validation[best], "o", color=INK, markersize=5)
            axes.annotate(
                f"best {validation[best]:.5f}\nepoch {epochs[best]:.0f}", (epochs[best], validation[best]),
                xytext=(-6, 14), textcoords="offset points", ha="right", fontsize=8, color=INK,
            )  # fmt: skip
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG through a temporary sibling; the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    figure.savefig(temporary, format="png", dpi=DPI, facecolor="white", metadata={"Software": "matplotlib"})
    os.replace(temporary, path)


def _grid(rows: int, columns: int, title: str, cell: float) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(columns * cell + 1.9, rows * (cell + 0.12) + 0.9))
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    figure.suptitle(title, fontsize=12, color=INK)
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def _image(axes: Axes, image: np.ndarray, frame: str | None = None, width: float = 0.0) -> None:
    """Draw (C, H, W), uint8 or float in [0, 1], grey or colour."""
    top = 255 if image.dtype == np.uint8 else 1
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=top, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(frame is not None)
    if frame is not None:
        axes.spines[:].set(color=frame, linewidth=width)


def _row_name(axes: Axes, name: str) -> None:
    axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, color=INK, labelpad=8)


def _short(name: str, most: int = 14) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
