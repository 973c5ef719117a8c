"""The `interpolate` command: the way from one image to another through the codes, above a cross-fade of the pixels."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from aecore.config import UserError
from aecore.data.decode import decode
from aecore.data.given import check_files
from aecore.embedding import Encoder
from aecore.generate import sheet
from aecore.generate.sheet import ACCENT, GREY, Sheet
from aecore.names import legible
from aecore.search.montage import check_writable
from aecore.search.searcher import Searcher, Source

SPHERICAL = ("variational", "wasserstein")
"""Bottlenecks with a normal prior, in which a straight line would leave the shell where the codes are."""


class Way(NamedTuple):
    """Two images and what lies between them."""

    ends: np.ndarray
    """uint8 (2, C, H, W): the images themselves."""
    names: Sequence[str]
    """Of both."""
    decoded: np.ndarray
    """float32 (steps, C, H, W): through the codes; the first and the last are the reconstructions."""
    faded: np.ndarray
    """float32 (steps, C, H, W): through the pixels; the first and the last are the images."""
    route: str
    """What the codes lie on: `a straight line` or `a great circle`."""


def linear(a: np.ndarray, b: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Points (steps, …) on the straight line from `a` to `b`, at `shares` (steps,) from 0 to 1."""
    t = shares.reshape(-1, *[1] * a.ndim)
    return np.asarray((1 - t) * a + t * b, np.float32)


def spherical(a: np.ndarray, b: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Points (steps, d) on the great circle from `a` to `b` (d,), at `shares` (steps,) of the angle w between them.

    White 2016, "Sampling generative networks", section 2.1: sin((1 - t) w) / sin w a + sin(t w) / sin w b. Where sin w
    is 0 (codes in line, one of length 0) the points lie on the straight line.
    """
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    angle = np.arccos(np.clip(a.astype(np.float64) @ b / lengths, -1, 1)) if lengths > 0 else 0.0
    if np.sin(angle) < 1e-4:
        return linear(a, b, shares)
    t = shares[:, None]
    return np.asarray((np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle), np.float32)


def between(ends: np.ndarray, names: Sequence[str], encoder: Encoder, steps: int) -> Way:
    """The way between two images uint8 (2, C, H, W): spherical in SPHERICAL's codes, straight in all others."""
    shares = np.linspace(0, 1, steps)
    curved = encoder.model.recipe.bottleneck in SPHERICAL
    a, b = encoder.encode(ends)
    decoded = encoder.decode((spherical if curved else linear)(a, b, shares))
    faded = linear(ends[0] / np.float32(255), ends[1] / np.float32(255), shares)
    return Way(ends, names, decoded, faded, "a great circle" if curved else "a straight line")


def draw(ways: Sequence[Way]) -> Figure:
    """Two rows a way between its framed images: decoded from the codes between theirs, and their pixels cross-faded."""
    steps = len(ways[0].decoded)
    title = (
        "From one image to another, both framed\n"
        f"codes: decoded along {ways[0].route} between the two; pixels: cross-faded"
    )
    shown = Sheet(2 * len(ways), np.repeat(ways[0].decoded[:1], steps + 2, axis=0), title, 0.8, 0.0, together=(2, 0))
    for column in range(steps):
        shown.heading(column + 1, f"{column / (steps - 1):.0%}", GREY)
    for number, way in enumerate(ways):
        for side, column in enumerate((0, steps + 1)):
            shown.image(2 * number + 0.5, column, way.ends[side], ACCENT)
            shown.caption(2 * number + 0.5, column, way.names[side], lines=3)
        for row, (name, pictures) in enumerate((("codes", way.decoded), ("pixels", way.faded))):
            shown.name(2 * number + row, name)
            for column, picture in enumerate(pictures, start=1):
                shown.image(2 * number + row, column, picture)
    return shown.figure


def run(a: str, b: str, steps: int, picture: Path, root: Path = Path()) -> None:
    """Draw the way from `a` to `b`, each an image file or the id of an indexed image, into the file `picture`.

    Raises UserError for fewer than 2 steps, what is neither a file nor an id, and a picture that cannot be written.
    """
    if steps < 2:
        raise UserError(f"--steps is {steps}; expected 2 or more: both images are among them.")
    check_writable(picture)
    check_files([name for name in (a, b) if _is_file(name)])
    source = Source.find(root)
    print(f"aecore interpolate: asking {source}", file=sys.stderr)
    encoder = Encoder.load(source.path("model"), "cpu")
    (first, second), called = zip(*(_end(name, source, encoder) for name in (a, b)), strict=True)
    sheet.save(draw([between(np.stack([first, second]), called, encoder, steps)]), picture)
    print(legible(picture))


def _is_file(name: str) -> bool:
    """Whether a name means a file; a number means an id, unless a file is called so."""
    return Path(name).is_file() or not name.isdecimal()


def _end(name: str, source: Source, encoder: Encoder) -> tuple[np.ndarray, str]:
    """The prepared pixels uint8 (C, H, W) of an image file or an id, and what to call it."""
    if _is_file(name):
        encoder.encode_files([name])  # says what is wrong with it
        return decode(Path(name).read_bytes(), encoder.preparation).pixels, Path(name).name
    collection = Searcher.open(source, encoder.manifest).collection
    position = np.array([collection.position(int(name))])
    (item,) = collection.items(position, ["id", "label_name"])
    return collection.pixels(position)[0], item["label_name"] or str(item["id"])
