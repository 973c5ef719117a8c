"""Percentiles of a distance: how many of all pairs of images, drawn at random, are farther apart.

A distance of 0.03 says little, "nearer than 99.8 % of random pairs" says it of any model, metric and collection.
Nothing is stored: the pairs are drawn from the stored codes at every call, always the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from aecore.config import UserError
from aecore.counted import counted
from aecore.search.metric import Metric, distances
from aecore.search.searcher import Searcher

PAIRS = 300_000
"""Pairs that are drawn; all there are of fewer than 776 images."""
TOLD = 3
"""Pairs of the sample below which a share is not told from 0: where none of m is so near, fewer than 3 in m of all are,
with 95 % confidence (Hanley and Lippman-Hand 1983, the rule of three). 3 of PAIRS are 0.001 %."""
SEED = 0
GATHERED = 2**23
"""Numbers of codes in memory at a time, about."""

Read = Callable[[np.ndarray], np.ndarray]
"""Gives the codes as they are compared, float32 (m, dim), at positions int64 (m,)."""


class Spread(NamedTuple):
    """How far random pairs of images are apart; r different distances."""

    distance: np.ndarray
    """float32 (r,), ascending."""
    share: np.ndarray
    """float64 (r,), ascending to 1: of the pairs, those at most so far apart."""
    pairs: int
    """Pairs drawn."""

    @property
    def most(self) -> float:
        """The largest share of pairs that can be said to be farther apart than anything."""
        return max(0.0, 1 - TOLD / self.pairs)


def measure(read: Read, positions: np.ndarray, metric: Metric, pairs: int = PAIRS, seed: int = SEED) -> Spread:
    """Distances of different random pairs of the images at `positions`, ascending; all pairs where there are no more.

    Besides the sample, about GATHERED numbers are in memory; `positions` are read in ascending order within a block.
    Raises UserError for fewer than two images.
    """
    count = len(positions)
    if count < 2:
        raise UserError(f"--percentile compares with pairs of images, and there is {count} image: leave it out.")
    total = count * (count - 1) // 2
    if total <= pairs:
        numbers = np.arange(total)
    else:
        numbers = np.sort(np.random.default_rng(seed).choice(total, pairs, replace=False, shuffle=False))
    found = np.empty(len(numbers), np.float32)
    for start, block in _blocks(numbers, read(positions[:1]).shape[1]):
        ends, places = np.unique(np.stack(pair(block)), return_inverse=True)
        codes = read(positions[ends])
        a, b = places.reshape(2, -1)
        found[start : start + len(block)] = distances(codes[a], codes[b], metric)
    distance, counts = np.unique(found, return_counts=True)
    return Spread(distance, np.cumsum(counts) / len(found), len(found))


def pair(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pair a < b, int64 (m,) each, with this number int64 (m,), counting (0, 1), (0, 2), (1, 2), (0, 3), …"""
    b = ((1 + np.sqrt(1 + 8 * number.astype(np.float64))) / 2).astype(np.int64)
    b -= b * (b - 1) // 2 > number  # above 2^50 the root may be off by one
    b += b * (b + 1) // 2 <= number
    return number - b * (b - 1) // 2, b


def closer_than(spread: Spread, distance: np.ndarray) -> np.ndarray:
    """Of each distance (m,), the share of random pairs that are farther apart: float64 (m,), 0 up to `spread.most`.

    Falls with the distance; linear between two distances of the sample.
    """
    nearer = np.interp(distance, spread.distance, spread.share, left=0)
    share: np.ndarray = np.minimum(1 - nearer, spread.most)
    return share


def distance_at(spread: Spread, share: float) -> float:
    """The largest distance that this share of random pairs exceeds; the smallest there is where too many pairs have it.

    Raises UserError for a share outside 0…1 and one so near 1 that the sample cannot tell it.
    """
    if not 0 < share <= spread.most:
        raise UserError(
            f"--percentile is {100 * share:.9g}; expected more than 0 and up to {100 * spread.most:.9g}, which is as "
            f"much as {counted(spread.pairs, 'random pair')} can tell. Use --distance for what is nearer still."
        )
    return float(np.interp(1 - share, spread.share, spread.distance))


def percent(share: float) -> float:
    """A share as per cent, rounded down to 0.001."""
    return math.floor(1e5 * share + 1e-6) / 1e3  # 0.99999 is stored as a little less


def spread_of(searcher: Searcher) -> Spread:
    """The spread of all images that answer."""
    positions = np.concatenate(list(searcher.collection.blocks(2**20)))
    return measure(searcher.collection.codes, positions, searcher.metric)


def _blocks(numbers: np.ndarray, dim: int) -> Iterator[tuple[int, np.ndarray]]:
    size = max(1, GATHERED // (6 * dim))  # two ends, and both once more in float64 to subtract
    for start in range(0, len(numbers), size):
        yield start, numbers[start : start + size]
