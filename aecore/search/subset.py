"""A few images that stand for many: farthest-first traversal, its cells, and the medoids they settle on.

Codes are read block by block, in passes over all of them. In memory are two numbers an image, a block and a pool.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from aecore.search.metric import Metric, distances

GATHERED = 2**21
"""Numbers in memory at a time, about: of a block, of its scores, of the pool."""
ROUNDS = 10
"""Of k-means at most, each a pass: more gained less than 1 % of the mean distance on 70,000 Fashion-MNIST images."""


@dataclass(frozen=True, eq=False)
class Codes:
    """The codes of n images as they are compared, read whenever they are asked for; a place is 0…n - 1."""

    read: Callable[[np.ndarray], np.ndarray]
    """Gives the codes, float32 (m, dim), at places int64 (m,)."""
    ids: np.ndarray
    """int64 (n,)."""
    metric: Metric

    @cached_property
    def origin(self) -> np.ndarray:
        """float32 (dim,), taken off every code: distances stay, but squares far from 0 would cancel. 0 for cosine."""
        some = self.read(np.unique(np.linspace(0, len(self.ids) - 1, 1_024).astype(np.int64)))
        middle = some.mean(axis=0, dtype=np.float64) if self.metric == "l2" else np.zeros(some.shape[1])
        return middle.astype(np.float32)

    def at(self, places: np.ndarray) -> np.ndarray:
        """The codes at `places`, float32 (m, dim)."""
        codes: np.ndarray = self.read(places) - self.origin
        return codes

    def blocks(self, width: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (places, codes) of all, so many at a time that GATHERED holds `width` numbers of each."""
        size = max(1, GATHERED // max(width, len(self.origin)))
        for start in range(0, len(self.ids), size):
            places = slice(start, min(start + size, len(self.ids)))
            yield places, self.at(np.arange(places.start, places.stop))

    def scores(self, block: np.ndarray, points: np.ndarray) -> np.ndarray:
        """How near codes (m, dim) are to points (p, dim), float32 (m, p); of a code, the larger the nearer."""
        products: np.ndarray = block @ points.T
        return products if self.metric == "cosine" else products - np.square(points).sum(axis=1) / 2

    def distance(self, block: np.ndarray, score: np.ndarray) -> np.ndarray:
        """The distance that a score (m,) of each code (m, dim) means, float32 to rounding."""
        apart: np.ndarray = 1 - score if self.metric == "cosine" else np.square(block).sum(axis=1) - 2 * score
        np.maximum(apart, 0, out=apart)
        return apart if self.metric == "cosine" else np.sqrt(apart, out=apart)


class Cells(NamedTuple):
    """Of every image, which of the chosen is nearest."""

    chosen: np.ndarray
    """int32 (n,): a number of a chosen image; each is in a cell of its own."""
    distance: np.ndarray
    """float32 (n,): to that one."""


def farthest_first(codes: Codes, n: int, chosen: np.ndarray) -> np.ndarray:
    """Places int64 (n,): `chosen`, one or more, then again and again the image farthest from all so far, ties by id.

    From one, the largest distance of an image to these is at most twice the least that n images can have (Gonzalez
    1985), in Euclidean distance of the codes: at most four times in 1 - cosine. Sums are float32: what they cannot tell
    apart is a tie.

    A pass folds in all that were chosen since the last. Of the images that are then farthest, a pool is kept in memory;
    as distances only fall, the farthest of the pool is the farthest of all while it is beyond all that were left out.
    """
    if len(chosen) >= n:
        return chosen[:n]
    distance, known = np.full(len(codes.ids), np.inf, np.float32), 0
    with _bar("choosing", n, " images") as bar:
        bar.update(len(chosen))
        while len(chosen) < n:
            points = codes.at(chosen[known:])
            for places, block in codes.blocks(len(points)):
                new = codes.distance(block, codes.scores(block, points).max(axis=1))
                np.minimum(distance[places], new, out=distance[places])
            known = len(chosen)
            distance[chosen] = -1  # not again
            more = _from_pool(codes, distance, n - known)
            chosen = np.concatenate([chosen, more])
            bar.update(len(more))
    return chosen


def _from_pool(codes: Codes, distance: np.ndarray, n: int) -> np.ndarray:
    """Places of the next up to `n` farthest images, one at least, that can be told without another pass."""
    size = max(1, GATHERED // len(codes.origin))
    left_out = -np.inf if len(distance) <= size else np.partition(distance, len(distance) - size - 1)[-size - 1]
    pool = np.flatnonzero(distance >= left_out)
    pool = pool[np.lexsort((codes.ids[pool], -distance[pool]))[:size]]
    pool = pool[np.argsort(codes.ids[pool])]  # so that the first of the farthest has the smallest id
    inside, far = codes.at(pool), distance[pool]
    more: list[int] = []
    while len(more) < n:
        place = int(far.argmax())
        if more and far[place] <= left_out:
            break
        more.append(int(pool[place]))
        new = codes.distance(inside, codes.scores(inside, inside[place : place + 1])[:, 0])
        far = np.minimum(far, new)
        far[place] = -1
    return np.array(more, np.int64)


def settled(codes: Codes, chosen: np.ndarray, rounds: int = ROUNDS) -> np.ndarray:
    """Means of the cells after some rounds of k-means (Lloyd 1982) from `chosen`, float32 (n, dim).

    For cosine they have length 1 (spherical k-means). A cell that loses all its images keeps its mean.
    """
    means = codes.at(chosen)
    with _bar("settling", rounds * len(codes.ids)) as bar:
        for _ in range(rounds):
            sums, sizes = np.zeros(means.shape), np.zeros(len(means))
            for _, block in codes.blocks(len(means)):
                cell = codes.scores(block, means).argmax(axis=1)
                order = np.argsort(cell, kind="stable")
                there, first = np.unique(cell[order], return_index=True)
                sums[there] += np.add.reduceat(block[order], first, axis=0, dtype=np.float64)
                sizes += np.bincount(cell, minlength=len(means))
                bar.update(len(block))
            length = sizes[:, None] if codes.metric == "l2" else np.linalg.norm(sums, axis=1, keepdims=True)
            new = np.where(sizes[:, None] > 0, sums / np.maximum(length, 1e-12), means).astype(np.float32)
            if np.array_equal(new, means):
                break
            means = new
    return means


def medoids(codes: Codes, means: np.ndarray) -> np.ndarray:
    """Places, int64 ascending, of each mean's nearest image in its cell, ties by id; an empty cell has none."""
    best = np.full(len(means), np.inf)
    place = np.full(len(means), -1, np.int64)
    for places, block in codes.blocks(len(means)):
        cell = codes.scores(block, means).argmax(axis=1)
        distance = distances(block, means[cell], codes.metric)
        order = np.lexsort((codes.ids[places], distance, cell))
        there, first = np.unique(cell[order], return_index=True)
        found = order[first]
        tied = codes.ids[places.start + found] < codes.ids[place[there]]
        nearer = (distance[found] < best[there]) | ((distance[found] == best[there]) & tied)
        best[there[nearer]], place[there[nearer]] = distance[found[nearer]], places.start + found[nearer]
    return np.sort(place[place >= 0])


def mean_of(codes: Codes) -> np.ndarray:
    """Mean of all codes, float32 (dim,); of length 1 for cosine, unless it is 0."""
    total = np.zeros(len(codes.origin))
    for _, block in codes.blocks(0):
        total += block.sum(axis=0, dtype=np.float64)
    length = len(codes.ids) if codes.metric == "l2" else max(float(np.linalg.norm(total)), 1e-12)
    return np.asarray(total / length, np.float32)


def cells(codes: Codes, chosen: np.ndarray) -> Cells:
    """The cells of the images at places `chosen`; of equally near ones the first counts."""
    result = Cells(np.empty(len(codes.ids), np.int32), np.empty(len(codes.ids), np.float32))
    points = codes.at(chosen)
    with _bar("grouping", len(codes.ids)) as bar:
        for places, block in codes.blocks(len(points)):
            cell = codes.scores(block, points).argmax(axis=1)
            result.chosen[places], result.distance[places] = cell, distances(block, points[cell], codes.metric)
            bar.update(len(block))
    result.chosen[chosen], result.distance[chosen] = np.arange(len(chosen)), 0
    return result


def reach(codes: Codes, subsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and largest distance of all images to the nearest of each subset, float64 (s,); places int64 (s, n)."""
    each = [codes.at(subset) for subset in subsets]
    total, largest = np.zeros(len(subsets)), np.zeros(len(subsets))
    with _bar("comparing", len(codes.ids)) as bar:
        for _, block in codes.blocks(subsets.shape[1]):
            for number, points in enumerate(each):
                nearest = points[codes.scores(block, points).argmax(axis=1)]
                distance = distances(block, nearest, codes.metric)
                total[number] += distance.sum()
                largest[number] = max(largest[number], distance.max())
            bar.update(len(block))
    return total / len(codes.ids), largest


def _bar(name: str, total: int, unit: str = " images") -> tqdm:  # type: ignore[type-arg]
    return tqdm(total=total, desc=name, unit=unit, unit_scale=True, mininterval=0.5 if sys.stderr.isatty() else 10)
