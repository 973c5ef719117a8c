"""Montages: rows of images with a little text beneath each; and how a picture is written as its name says."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from aecore.config import UserError

CELL = 96
"""Pixels: smaller images are scaled up to about this in a montage."""
PAD = 6
CAPTION = 32
"""Pixels beneath an image: two lines."""


FORMATS: dict[str, tuple[str, dict[str, object], int]] = {
    ".png": ("PNG", {}, 2**31 - 1),
    ".jpg": ("JPEG", {"quality": 95}, 65_535),
    ".jpeg": ("JPEG", {"quality": 95}, 65_535),
    ".webp": ("WEBP", {"lossless": True}, 16_383),
}
"""Suffix of a picture -> what Pillow calls its format, how it is written, and the most pixels that a side may have."""


def check_writable(path: Path | None, suffixes: Collection[str] = FORMATS) -> None:
    """Raise UserError, before any work, where no file of such a name can be written; None: none was asked for."""
    if path is None:
        return
    refused = f"{path} cannot be written:"
    if path.is_dir():
        raise UserError(f"{refused} it is a folder; name a file in it.")
    if not path.parent.is_dir():
        what = "is no folder" if path.parent.exists() else "is not there; make that folder first"
        raise UserError(f"{refused} {path.parent} {what}.")
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{refused} its name must end in {' or '.join(suffixes)}.")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{refused} there is no right to write into {path.parent.absolute()}.")


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a grey or RGB picture in the format of its suffix, through a temporary sibling: whole or not there.

    Raises UserError where that format holds no picture so large.
    """
    name, options, most = FORMATS[path.suffix.lower()]
    if max(image.size) > most:
        raise UserError(
            f"{path} cannot be written: the picture has {image.width:,} x {image.height:,} pixels, and a "
            f"{path.suffix} at most {most:,} a side; ask for fewer images, or name a .png."
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        image.save(temporary, format=name, **options)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
