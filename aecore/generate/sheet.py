"""A sheet of small images in rows, with words around them: what every picture of images is drawn on."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from PIL import Image

from aecore.config import UserError
from aecore.search.montage import save_picture

INK, GREY, ACCENT = "#222222", "#8a8f98", "#4e79a7"
DPI = 120


MOST = 2**16 - 1
"""Pixels of a side that matplotlib draws at most."""


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its suffix, through a temporary sibling; the same figure gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, facecolor="white", metadata={"Software": "matplotlib"})
    if path.suffix.lower() == ".png":
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(drawn.getvalue())
        os.replace(temporary, path)
    else:
        save_picture(Image.open(drawn).convert("RGB"), path)


class Sheet:
    """Rows of small images on one Axes in inches: a hundred Axes would take seconds to lay out."""

    MARGIN, GAP, APART, TITLE, HEADING, NAMES = 0.12, 0.07, 0.18, 0.28, 0.26, 1.15

    def __init__(
        self, rows: int, across: np.ndarray, title: str, cell: float, below: float, together: tuple[int, int] = (0, 0)
    ) -> None:
        """`rows` of as many images as `across` (n, C, H, W), `cell` inches wide, each with `below` inches for words.

        `together`: how many rows and columns stand together, set a little apart from the next; 0 is all.
        """
        columns, _, height, width = across.shape
        self.size = (cell, cell * height / width)
        self.pitch = (cell + self.GAP, self.size[1] + self.GAP + below)
        self.together = together
        lines = 1 + title.count("\n")
        self.corner = (self.MARGIN + self.NAMES, self.MARGIN + self.TITLE * lines + self.HEADING)
        right, bottom = self.place(rows - 1, columns - 1)
        total = (
            max(right + self.pitch[0] - self.GAP + self.MARGIN, 6.6),
            bottom + self.pitch[1] - self.GAP + self.MARGIN,
        )
        if (side := max(total) * DPI) > MOST:
            raise UserError(f"the picture would be {side:,.0f} pixels long, and {MOST:,} are the most: ask for fewer.")
        self.figure = Figure(figsize=total)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, total[0]), ylim=(total[1], 0))
        self.axes.set_axis_off()
        self.axes.text(total[0] / 2, self.MARGIN, title, fontsize=12, color=INK, ha="center", va="top")

    def place(self, row: float, column: int) -> tuple[float, float]:
        """Inches of a cell's upper left corner."""
        apart = [
            self.APART * (number // size) if size else 0.0
            for number, size in zip((row, column), self.together, strict=True)
        ]
        return self.corner[0] + column * self.pitch[0] + apart[1], self.corner[1] + row * self.pitch[1] + apart[0]

    def image(self, row: float, column: int, image: np.ndarray, frame: str | None = None) -> None:
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

    def caption(self, row: float, column: int, text: str) -> None:
        """Write below an image."""
        left, top = self.place(row, column)
        self.axes.text(
            left + self.size[0] / 2, top + self.size[1] + 0.03, text, fontsize=7, color=GREY, ha="center", va="top"
        )

    def name(self, row: float, text: str) -> None:
        """Write before a row."""
        left, top = self.place(row, 0)
        self.axes.text(left - 0.1, top + self.size[1] / 2, text, fontsize=9, color=INK, ha="right", va="center")


def short(name: str, most: int = 14) -> str:
    """A name cut to `most` characters."""
    return name if len(name) <= most else name[: most - 1] + "…"
