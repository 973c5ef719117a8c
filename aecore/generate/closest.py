"""Which training image a generated one comes closest to: whether it is new, or one that was learnt by heart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aecore.data.images import Images

UNSEEN = 500
"""Test images that say how far from the training images an unseen one lies, at most: those of the smallest ids."""
BLOCK = 2**22
"""Numbers of the searched vectors held at a time."""

Rows = Callable[[np.ndarray], np.ndarray]
"""Positions (m,) -> vectors float32 (m, D), in that order."""


def closest(queries: np.ndarray, rows: Rows, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each query (q, D) the nearest of the vectors at `positions`: its position (q,), and its distance float64 (q,).

    Euclidean. Found by float32 products, the distance is then taken of the difference: 0 for the same vector.
    """
    least, found = np.full(len(queries), np.inf, np.float32), np.zeros(len(queries), np.int64)
    step = max(1, BLOCK // queries.shape[1])
    for start in range(0, len(positions), step):
        block = positions[start : start + step]
        vectors = rows(block)
        halves = np.einsum("nd,nd->n", vectors, vectors) / 2 - queries @ vectors.T  # (q, n): half of |v|² - 2qv
        here = halves.argmin(axis=1)
        value = np.take_along_axis(halves, here[:, None], axis=1)[:, 0]
        better = value < least
        least[better], found[better] = value[better], block[here[better]]
    return found, np.linalg.norm(queries.astype(np.float64) - rows(found), axis=1)


def in_pixels(pictures: np.ndarray) -> np.ndarray:
    """Vectors float32 (n, D) whose distance is the root mean square difference of pixels in [0, 1].

    Of pictures (n, C, H, W), uint8 or float in [0, 1].
    """
    flat = pictures.reshape(len(pictures), -1).astype(np.float32)
    scale = np.sqrt(flat.shape[1]) * (255 if pictures.dtype == np.uint8 else 1)
    return np.asarray(flat / np.float32(scale))


def closest_in_pixels(pictures: np.ndarray, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Of each picture the training image nearest in pixels, as `closest` gives it."""
    return closest(in_pixels(pictures), lambda rows: in_pixels(images.rows(rows)), images.positions("train"))


def unseen_distance(images: Images) -> float:
    """Median distance in pixels of a test image from the nearest training image: what being new looks like."""
    test, ids = images.positions("test"), images.ids()
    some = test[np.argsort(ids[test], kind="stable")[:UNSEEN]]
    return float(np.median(closest_in_pixels(images.rows(some), images)[1]))
