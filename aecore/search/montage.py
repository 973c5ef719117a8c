"""Montages: rows of images with a little text beneath each; and how a picture is written as its name says."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from aecore import lettering
from aecore.config import UserError

CELL = 96
"""Pixels: smaller images are scaled up to about this in a montage."""
PAD = 6
LETTERS, LINE = 11, 15
"""Pixels: size of the letters, and from a line to the next."""
MOST = 3
"""Lines of a text at most."""
CAPTION = 32
"""Pixels beneath an image: two lines; where a longer name needs more, a LINE more each."""


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
    """A row for each query: the query, then others, as many as have captions; two texts beneath each.

    `asked`: uint8 (q, C, H, W), `pixels`: uint8 (q, k, C, H, W). The picture is 2 PAD + (k + 1) (cell + PAD) wide and
    PAD + q (height + caption + PAD) high; images are enlarged by a whole factor to about CELL pixels, and a cell is
    CELL wide at least.
    """
    height, width = pixels.shape[-2:]
    factor = max(1, round(CELL / max(height, width)))
    height, width = factor * height, factor * width
    cell = max(width, CELL)
    columns = pixels.shape[1] + 1
    texts = [[first, *others] for first, others in zip(names, captions, strict=True)]
    written = [[_lines(each, cell) for each in row] for row in texts]
    caption = CAPTION + LINE * max(0, max(len(lines) for row in written for lines in row) - 2)
    canvas = Image.new("RGB", (2 * PAD + columns * (cell + PAD), PAD + len(pixels) * (height + caption + PAD)), "white")
    draw = ImageDraw.Draw(canvas)

    def place(x: int, y: int, image: np.ndarray, lines: Sequence[str]) -> None:
        canvas.paste(picture(image).resize((width, height), Image.Resampling.NEAREST), (x + (cell - width) // 2, y))
        for number, line in enumerate(lines):
            at = float(x)
            for piece, path in lettering.runs(line):
                font = ImageFont.truetype(path, LETTERS)
                draw.text((at, y + height + 2 + number * LINE), piece, "black", font)
                at += font.getlength(piece)

    for q, row in enumerate(written):
        y = PAD + q * (height + caption + PAD)
        for column, lines in enumerate(row):
            shown = asked[q] if column == 0 else pixels[q, column - 1]
            place(PAD + column * (cell + PAD) + PAD * (column > 0), y, shown, lines)
    line = PAD + cell + PAD
    draw.line([(line, PAD), (line, canvas.height - PAD)], "grey")
    return canvas


def _lines(texts: Sequence[str], cell: int) -> list[str]:
    """Each text in lines of at most `cell` pixels."""
    return [line for text in texts for line in lettering.fitted(text, cell, LETTERS, MOST).split("\n")]


def picture(pixels: np.ndarray) -> Image.Image:
    """Prepared pixels uint8 (C, H, W) as a PIL image."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
