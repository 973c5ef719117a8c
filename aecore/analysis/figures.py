"""Pictures of the results: each function draws one matplotlib Figure, without pyplot's global state."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

INK, GREY, RIGHT, WRONG = "#222222", "#8a8f98", "#1a9850", "#d73027"
PALETTE = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#edc948", "#ff9da7", "#9c755f", "#17becf",
    "#1b3a5c", "#a65e00", "#2e6b27", "#8f1d23", "#6b3f66", "#2f6f6b", "#a3861a", "#c2475b", "#5b4032", "#0e7480",
)  # fmt: skip
"""A colour each for the twenty commonest groups; the others are grey."""
DPI = 120


def reconstructions(
    originals: np.ndarray,
    rows: Sequence[tuple[str, np.ndarray]],
    names: Sequence[str] | None,
    title: str = "Test images and their reconstructions",
) -> Figure:
    """Originals above their reconstructions, each with its error.

    `originals` and each of `rows` (its name, float32 (n, C, H, W) in [0, 1]); `names`: what each image shows.
    """
    sheet = _Sheet(len(rows) + 1, originals, title, cell=1.0, below=0.18)
    for column, original in enumerate(originals):
        sheet.image(0, column, original)
        if names is not None:
            sheet.heading(column, _short(names[column]), INK)
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
    sheet = _Sheet(len(queries), np.concatenate([found[0][:1], found[0]]), title, cell=0.85, below=0.02)
    for row, query in enumerate(queries):
        sheet.image(row, 0, query, INK)
        sheet.name(row, _short(names[row]) if names is not None else f"query {row + 1}")
        for column, image in enumerate(found[row], start=1):
            sheet.image(row, column, image, GREY if right is None else RIGHT if right[row, column - 1] else WRONG)
    sheet.heading(0, "query", INK)
    for column in range(1, found.shape[1] + 1):
        sheet.heading(column, str(column), GREY)
    return sheet.figure


def scatter(places: np.ndarray, groups: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """The map: `places` (n, 2), coloured by group; `groups` ints (n,) index `names`, -1 is unlabelled.

    The twenty commonest groups get a colour and a line in the legend.
    """
    figure = Figure(figsize=(9.6, 7.2))
    axes = figure.add_axes((0.02, 0.02, 0.75, 0.92))
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
    sheet = _Sheet(len(rows), max(rows, key=len), title, cell=0.8, below=0.04)
    for row, (images, caption) in enumerate(zip(rows, captions, strict=True)):
        for column, image in enumerate(images):
            sheet.image(row, column, image, INK if column == 0 else None)
        sheet.name(row, caption)
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


def save(figure: Figure, path: Path) -> None:
    """Write a PNG through a temporary sibling; the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    figure.savefig(temporary, format="png", dpi=DPI, facecolor="white", metadata={"Software": "matplotlib"})
    os.replace(temporary, path)


class _Sheet:
    """Rows of small images on one Axes in inches: a hundred Axes would take seconds to lay out."""

    MARGIN, GAP, TITLE, HEADING, NAMES = 0.12, 0.07, 0.28, 0.26, 1.15

    def __init__(self, rows: int, across: np.ndarray, title: str, cell: float, below: float) -> None:
        """`rows` of as many images as `across` (n, C, H, W), `cell` inches wide, each with `below` inches for words."""
        columns, _, height, width = across.shape
        self.size = (cell, cell * height / width)
        self.pitch = (cell + self.GAP, self.size[1] + self.GAP + below)
        lines = 1 + title.count("\n")
        self.corner = (self.MARGIN + self.NAMES, self.MARGIN + self.TITLE * lines + self.HEADING)
        total = (
            max(self.corner[0] + columns * self.pitch[0] - self.GAP + self.MARGIN, 6.6),
            self.corner[1] + rows * self.pitch[1] - self.GAP + self.MARGIN,
        )
        self.figure = Figure(figsize=total)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, total[0]), ylim=(total[1], 0))
        self.axes.set_axis_off()
        self.axes.text(total[0] / 2, self.MARGIN, title, fontsize=12, color=INK, ha="center", va="top")

    def place(self, row: int, column: int) -> tuple[float, float]:
        """Inches of a cell's upper left corner."""
        return self.corner[0] + column * self.pitch[0], self.corner[1] + row * self.pitch[1]

    def image(self, row: int, column: int, image: np.ndarray, frame: str | None = None) -> None:
        """Draw (C, H, W), uint8 or float in [0, 1], grey or colour."""
        (left, top), (width, height) = self.place(row, column), self.size
        shown = AxesImage(
            self.axes, cmap="gray", norm=Normalize(0, 255 if image.dtype == np.uint8 else 1), interpolation="nearest",
            extent=(left, left + width, top + height, top), origin="upper",
        )  # fmt: skip
        shown.set_data(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        self.axes.add_image(shown)
        if frame is not None:
            self.axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=frame, linewidth=2.2))

    def heading(self, column: int, text: str, colour: str) -> None:
        """Write above a column."""
        left, top = self.place(0, column)
        self.axes.text(left + self.size[0] / 2, top - 0.06, text, fontsize=8, color=colour, ha="center", va="bottom")

    def caption(self, row: int, column: int, text: str) -> None:
        """Write below an image."""
        left, top = self.place(row, column)
        self.axes.text(
            left + self.size[0] / 2, top + self.size[1] + 0.03, text, fontsize=7, color=GREY, ha="center", va="top"
        )

    def name(self, row: int, text: str) -> None:
        """Write before a row."""
        left, top = self.place(row, 0)
        self.axes.text(left - 0.1, top + self.size[1] / 2, text, fontsize=9, color=INK, ha="right", va="center")


def _short(name: str, most: int = 14) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
