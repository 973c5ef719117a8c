"""A sheet of small images in rows, with words around them: what every picture of images is drawn on."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from PIL import Image

from aecore import lettering
from aecore.config import UserError
from aecore.lettering import LEADING
from aecore.search.montage import save_picture

INK, GREY, ACCENT = "#222222", "#8a8f98", "#4e79a7"
DPI = 120
SIZES = {"heading": 8, "caption": 7, "name": 9}
"""Of letters, in points."""
MOST = 3
"""Lines of a heading."""


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
        self, rows: int, across: np.ndarray, title: str, cell: float, below: float, together: tuple[int, int] = (0, 0),
        headings: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """`rows` of as many images as `across` (n, C, H, W), `cell` inches wide, each with `below` inches for words.

        `together`: how many rows and columns stand together, set a little apart from the next; 0 is all. `headings`:
        names that will stand above columns; long ones need more lines.
        """
        columns, _, height, width = across.shape
        self.size = (cell, cell * height / width)
        self.pitch = (cell + self.GAP, self.size[1] + self.GAP + below)
        self.together = together
        lines = 1 + title.count("\n")
        more = max((self._headed(name).count("\n") for name in headings), default=0)
        top = self.MARGIN + self.TITLE * lines + self.HEADING + more * self._line("heading")
        self.corner = (self.MARGIN + self.NAMES, top)
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

    def heading(self, column: int, name: str, colour: str) -> None:
        """Write above a column."""
        left, top = self.place(0, column)
        self._write(left + self.size[0] / 2, top - 0.06, self._headed(name), "heading", colour, "center", "bottom")

    def caption(self, row: float, column: int, name: str, lines: int = 1) -> None:
        """Write below an image, in so many lines at most."""
        left, top = self.place(row, column)
        text = lettering.fitted(name, 72 * (self.size[0] + self.GAP), SIZES["caption"], lines)
        self._write(left + self.size[0] / 2, top + self.size[1] + 0.03, text, "caption", GREY, "center", "top")

    def name(self, row: float, *names: str) -> None:
        """Write before a row, each of the names on a line of its own, or on more as far as there is room."""
        left, top = self.place(row, 0)
        room, texts = int(self.size[1] / self._line("name")), list[str]()
        for later, name in zip(reversed(range(len(names))), names, strict=True):
            most = max(1, room - later - "".join(texts).count("\n") - len(texts))
            texts.append(lettering.fitted(name, 72 * (self.MARGIN + self.NAMES - 0.15), SIZES["name"], most))
        self._write(left - 0.1, top + self.size[1] / 2, "\n".join(texts), "name", INK, "right", "center")

    def _headed(self, name: str) -> str:
        return lettering.fitted(name, 72 * (self.size[0] + self.GAP), SIZES["heading"], MOST)

    def _line(self, kind: str) -> float:
        """Inches from a line of words to the next."""
        return SIZES[kind] * LEADING / 72

    def _write(self, x: float, y: float, text: str, kind: str, colour: str, ha: str, va: str) -> None:
        """`text` as it is: a dollar is a dollar."""
        self.axes.text(
            x, y, text, fontsize=SIZES[kind], color=colour, ha=ha, va=va, parse_math=False,
            **lettering.style(text),
        )  # fmt: skip
