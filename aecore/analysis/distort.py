"""The copies behind find-the-original: cropped, shifted, noised."""

from __future__ import annotations

import numpy as np

SMALLEST_AREA = 0.8
LARGEST_SHIFT = 1 / 14
NOISE = 0.05


def distort(pixels: np.ndarray, ids: np.ndarray, seed: int) -> np.ndarray:
    """A cropped, shifted, noised copy of each image, uint8 (n, C, H, W) -> the same; `ids` int64 (n,).

    Each image has a generator of its own, seeded by (`seed`, its id), so a copy does not depend on its neighbours:
    1. a window of the image's proportions, its area uniform in 80-100 % and its place uniform inside the image, is
       stretched over the whole image (bilinear);
    2. that is shifted by whole pixels, uniform in -s … s on each axis, s = a fourteenth of the side, rounded, at least
       1 (2 pixels of 28); what comes from outside the image repeats its edge;
    3. Gaussian noise of standard deviation 0.05 of the range is added to every value, which is clipped and rounded.
    """
    copies = np.empty_like(pixels)
    for row, (image, identity) in enumerate(zip(pixels, ids, strict=True)):
        generator = np.random.default_rng([seed, int(identity)])
        scale = float(np.sqrt(generator.uniform(SMALLEST_AREA, 1)))
        moved = image.astype(np.float32)
        for axis in (1, 2):
            side = image.shape[axis]
            most = max(1, round(side * LARGEST_SHIFT))
            corner = generator.uniform(0, side * (1 - scale))
            shift = int(generator.integers(-most, most, endpoint=True))
            moved = _resample(moved, corner + (np.arange(side) - shift + 0.5) * scale - 0.5, axis)
        noisy = moved + generator.normal(0, NOISE * 255, image.shape)
        copies[row] = np.clip(np.rint(noisy), 0, 255)
    return copies


def _resample(image: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """Read `image` at fractional `places` along `axis`, linearly; outside, the edge."""
    places = np.clip(places, 0, image.shape[axis] - 1)
    below = np.floor(places).astype(np.int64)
    above = np.minimum(below + 1, image.shape[axis] - 1)
    share = (places - below).astype(np.float32)
    share = share[:, None] if axis == 1 else share
    return np.asarray(image.take(below, axis) * (1 - share) + image.take(above, axis) * share)
