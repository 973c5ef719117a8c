"""Montages: rows of images with a little text beneath each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from aecore.config import UserError

CELL = 96
"""Pixels: smaller images are scaled up to about this in a montage."""
PAD = 6
CAPTION = 32
"""Pixels beneath an image: two lines."""


def check_writable(path: Path | None) -> None:
    """Raise UserError where a picture asked for cannot be written to `path`; None: none was asked for."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise UserError(f"{path} cannot be written: its folder must exist, and it must not be one itself.")


def draw_montage(
    names: Sequence[Sequence[str]], asked: np.ndarray, captions: list[list[list[str]]], pixels: np.ndarray
) -> Image.Image:
    """A row for each query: the query, then others, as many as have captions; two lines of text beneath each.

    `asked`: uint8 (q, C, H, W), `pixels`: uint8 (q, k, C, H, W). The picture is 2 PAD + (k + 1) (cell + PAD) wide and
    PAD + q (height + CAPTION + PAD) high; images are enlarged by a whole factor to about CELL pixels, and a cell is
    CELL wide at least.
    """
    height, width = pixels.shape[-2:]
    factor = max(1, round(CELL / max(height, width)))
    height, width = factor * height, factor * width
    cell = max(width, CELL)
    columns = pixels.shape[1] + 1
    canvas = Image.new("RGB", (2 * PAD + columns * (cell + PAD), PAD + len(pixels) * (height + CAPTION + PAD)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=12)

    def place(x: int, y: int, image: np.ndarray, lines: Sequence[str]) -> None:
        canvas.paste(picture(image).resize((width, height), Image.Resampling.NEAREST), (x + (cell - width) // 2, y))
        for number, line in enumerate(lines):
            while draw.textlength(line, font) > cell:
                line = line[:-2].rstrip("…") + "…"
            draw.text((x, y + height + 2 + number * (CAPTION // 2 - 1)), line, "black", font)

    for q, row in enumerate(captions):
        y = PAD + q * (height + CAPTION + PAD)
        place(PAD, y, asked[q], names[q])
        for column, lines in enumerate(row):
            place(2 * PAD + (column + 1) * (cell + PAD), y, pixels[q, column], lines)
    line = PAD + cell + PAD
    draw.line([(line, PAD), (line, canvas.height - PAD)], "grey")
    return canvas


def picture(pixels: np.ndarray) -> Image.Image:
    """Prepared pixels uint8 (C, H, W) as a PIL image."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
