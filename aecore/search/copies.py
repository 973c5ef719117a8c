"""What "the same picture, saved again, scaled, brightened or cropped a little" comes to in a collection.

Two distributions are measured: how unlike changed copies of some of its images are to their originals, and how unlike
mirrored images are to the image most like them. A mirrored image is as much like the others as another picture can be,
and has no copy among them: it is a decoy (Elias & Gygi 2007, for spectra of peptides).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from aecore.search.likeness import reduced, rough, tangents, thumbs, unlike
from aecore.search.metric import distances
from aecore.search.searcher import Searcher

if TYPE_CHECKING:
    from aecore.embedding import Encoder

ORIGINALS = 128
"""Images that copies are made of."""
DECOYS = 512
"""Images that are mirrored."""
SEED = 0
QUALITY = 75
"""Of the JPEG: PIL's default."""
BRIGHTER = 1.1
CROPPED = 0.04
"""Of each side, what is cut away."""
SHARE = 0.99
"""Of the copies, those that the threshold lets through where different images allow it."""
MISTAKEN = 1e-3
"""Of the decoys, those that it may let through."""
FEWEST = 2.0
"""Least power of their law: pictures vary in four directions at least, and the difference is a square."""
LEAST = 1e-3
"""The threshold is at least this: rounding to whole grey levels leaves as much."""
MOST = 0.05
"""And at most this, however little there is to measure."""
NEIGHBOURS = 8
"""That each image proposes as it is, and again brightened and cropped."""
CLOSEST = 3
"""Of those that a decoy proposes, the roughly closest, which are compared well."""


class Rule(NamedTuple):
    """When two images are the same picture."""

    unlike: float
    """The most that `likeness.unlike` may say."""
    rough: float
    """Above this, `likeness.rough` need not be followed by it."""
    distance: float
    """Of their codes, above which they need not be compared at all."""
    found: dict[str, float]
    """Kind of change -> the share of the copies that are within `unlike`."""
    copies: int
    """That were made in all."""
    decoys: int
    """Images that were mirrored."""

    @property
    def share(self) -> float:
        """Of all copies, those within `unlike`."""
        return float(np.mean(list(self.found.values())))


def measure(searcher: Searcher, encoder: Encoder) -> Rule:
    """The rule for what `searcher` holds, from at most ORIGINALS and DECOYS of its images, always the same ones."""
    some = _some(searcher, ORIGINALS)
    pixels = searcher.collection.pixels(some)
    generator = np.random.default_rng(SEED)
    made = {kind: change(pixels, generator) for kind, change in CHANGES.items()}
    originals, copies = np.concatenate([pixels] * len(made)), np.concatenate(list(made.values()))
    of_copies = unlike(reduced(originals), reduced(copies))
    of_decoys = _decoys(searcher, encoder)
    highest = float(np.quantile(of_copies, SHARE)) if len(of_copies) else MOST
    most = float(np.clip(min(highest, least_told_apart(of_decoys)), LEAST, MOST))

    within = of_copies <= most
    from_originals, from_copies = (searcher.comparable(encoder.encode(p[within])) for p in (originals, copies))
    apart = distances(from_originals, from_copies, searcher.metric)
    one, other = thumbs(originals[within]), thumbs(copies[within])
    each = np.arange(len(one))
    roughly = np.concatenate([rough(tangents(one), each, other), rough(tangents(other), each, one)])
    found = dict(zip(made, within.reshape(len(made), -1).mean(axis=1).tolist(), strict=True))
    return Rule(
        most,
        max(LEAST, float(np.quantile(roughly, SHARE))) if len(roughly) else most,
        float(np.quantile(apart, SHARE)) if len(apart) else 0.0,
        found,
        len(copies),
        len(of_decoys),
    )


def least_told_apart(of_decoys: np.ndarray) -> float:
    """The value below which about MISTAKEN of the decoys lie, from those of the decoys, float64 (m,) of 0 or more.

    There are too few to count that: how the share falls between a fifth and a twentieth of them is carried on as the
    power law that nearest distances follow (Levina & Bickel 2005), of FEWEST or more. Infinite where there are none.
    """
    if not len(of_decoys):
        return np.inf
    high, low = np.maximum(np.quantile(of_decoys, [0.2, 0.05]), 1e-9)
    power = max(FEWEST, np.log(0.2 / 0.05) / max(np.log(high / low), 1e-9))
    return float(low * (MISTAKEN / 0.05) ** (1 / power))


def proposed(
    searcher: Searcher, encoder: Encoder, pixels: np.ndarray, codes: np.ndarray, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which other images could be copies of those with `pixels` uint8 (n, C, H, W) and raw `codes` float32 (n, dim).

    The nearest of each as it is, brightened and cropped: a brighter copy is far from its original and near to what
    that becomes when it is brightened. Rows and positions, int64 (m,) each, every pair once, ascending; not `own` (n,).
    """
    looked = [codes, encoder.encode(brightened(pixels)), encoder.encode(cropped(pixels))]
    found = np.concatenate([searcher.search(vectors, NEIGHBOURS + 1).ids for vectors in looked], axis=1)
    others = searcher.collection.positions(found)
    rows = np.broadcast_to(np.arange(len(own))[:, None], others.shape)
    pairs = np.unique(np.stack([rows, others])[:, others != own[:, None]], axis=1)
    return pairs[0], pairs[1]


def brightened(pixels: np.ndarray, by: float = BRIGHTER) -> np.ndarray:
    """Images uint8 (n, C, H, W) with every value multiplied, and clipped."""
    return np.rint(np.minimum(pixels * np.float32(by), 255)).astype(np.uint8)


def cropped(pixels: np.ndarray, generator: np.random.Generator | None = None) -> np.ndarray:
    """Images uint8 (n, C, H, W) less CROPPED of each side, at a drawn place or all round, and enlarged again."""
    height, width = pixels.shape[2:]

    def crop(image: Image.Image) -> Image.Image:
        x, y = (0.5, 0.5) if generator is None else generator.random(2)
        left, top = x * CROPPED * width, y * CROPPED * height
        box = (left, top, left + (1 - CROPPED) * width, top + (1 - CROPPED) * height)
        return image.resize(image.size, Image.Resampling.BICUBIC, box)

    return _each(pixels, crop)


def saved(pixels: np.ndarray) -> np.ndarray:
    """Images uint8 (n, C, H, W) through JPEG of QUALITY."""

    def save(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=QUALITY)
        return Image.open(file)

    return _each(pixels, save)


def scaled(pixels: np.ndarray) -> np.ndarray:
    """Images uint8 (n, C, H, W) at half their size and back."""

    def scale(image: Image.Image) -> Image.Image:
        half = max(1, image.width // 2), max(1, image.height // 2)
        return image.resize(half, Image.Resampling.LANCZOS).resize(image.size, Image.Resampling.BICUBIC)

    return _each(pixels, scale)


CHANGES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "saved": lambda pixels, _: saved(pixels),
    "scaled": lambda pixels, _: scaled(pixels),
    "brighter": lambda pixels, _: saved(brightened(pixels)),
    "darker": lambda pixels, _: saved(brightened(pixels, 1 / BRIGHTER)),
    "cropped": lambda pixels, generator: saved(cropped(pixels, generator)),
    "all": lambda pixels, generator: saved(brightened(cropped(pixels, generator))),
}
"""Kind -> what makes copies of that kind, of images uint8 (n, C, H, W)."""


def _some(searcher: Searcher, count: int) -> np.ndarray:
    """Positions of `count` images that answer, at most, spread over all: ascending."""
    positions = np.concatenate(list(searcher.collection.blocks(2**20)))
    chosen: np.ndarray = positions[np.unique(np.linspace(0, len(positions) - 1, count).astype(np.int64))]
    return chosen


def _decoys(searcher: Searcher, encoder: Encoder) -> np.ndarray:
    """How unlike mirrored images are to the image most like them, other than themselves: float64 (m,)."""
    own = _some(searcher, DECOYS)
    mirrored = np.ascontiguousarray(searcher.collection.pixels(own)[..., ::-1])
    rows, others = proposed(searcher, encoder, mirrored, encoder.encode(mirrored), own)
    pixels = searcher.collection.pixels(others)
    near = rough(tangents(thumbs(mirrored)), rows, thumbs(pixels))
    order = np.lexsort((near, rows))
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)  # within its row, as both are sorted by row
    chosen = order[rank < CLOSEST]
    least = np.full(len(own), np.inf)
    np.minimum.at(least, rows[chosen], unlike(reduced(mirrored)[rows[chosen]], reduced(pixels[chosen])))
    found: np.ndarray = least[np.isfinite(least)]
    return found


def _each(pixels: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Each image changed on its own; of the same size."""
    result = np.empty_like(pixels)
    for row, image in enumerate(pixels):
        changed = np.asarray(change(Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))))
        result[row] = changed if len(image) == 1 else changed.transpose(2, 0, 1)
    return result
