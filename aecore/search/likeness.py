"""How much of one picture another cannot explain, once it is moved, enlarged and brightened a little to fit it.

A copy that was brightened or cropped a little is farther from its original, in many a code, than another picture is.
Pixels tell them apart, where one is laid over the other first. `rough` asks that in a microsecond, `unlike` well.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SIDE = 32
"""Pixels of the shorter side, about, at which pictures are compared: finer detail is what saving again loses."""
BLUR = 0.7
"""Standard deviation, in those pixels, of the Gaussian that smooths them; twice that for the first steps."""
STEPS = (4, 3)
"""Of the fit, with the wider and then with the narrower blur."""
LONGEST = 0.05
"""Of the side, how far one step goes at most."""
SHIFT = 0.08
"""Of the side, how far a picture is moved at most."""
SCALE = 0.12
"""By how much it is enlarged, or made smaller, at most."""
GAIN = 1.5
"""By how much its contrast is multiplied, or divided, at most."""
OFFSET = 32.0
"""Grey levels, of 255, that are added at most."""
NOISE = 2.0
"""Grey levels: what differs by so little differs by nothing, or two blank pictures would have nothing in common."""
HELD = 2**20
"""Numbers of one side of the pairs in memory at a time; the fit takes some twenty times that."""
PAIRS = 2_048
"""Pairs that `rough` compares at a time."""
THUMB, THUMB_BLUR = 16, 1.0
"""Side and blur of what `rough` compares: a picture moved by some per cent is moved by less than the blur."""


class Fit(NamedTuple):
    """Where pictures are read: `place * (1 + scale) + shift` from the middle, in pixels of an axis; float64 (n,)."""

    scale_y: np.ndarray
    shift_y: np.ndarray
    scale_x: np.ndarray
    shift_x: np.ndarray


def reduced(pixels: np.ndarray) -> np.ndarray:
    """Prepared images uint8 (n, C, H, W) as `unlike` compares them: float32 (n, C, h, w)."""
    return _smaller(pixels, SIDE, BLUR)


def thumbs(pixels: np.ndarray) -> np.ndarray:
    """Prepared images uint8 (n, C, H, W) as `rough` compares them: grey, uint8 (n, h, w)."""
    grey = _smaller(pixels, THUMB, THUMB_BLUR).mean(axis=1)
    return np.asarray(np.rint(grey), np.uint8)


def unlike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each pair of `reduced` images, float32 (n, C, h, w), the share that is not the same picture: float64 (n,).

    The share of the variance of one that the other leaves when it is moved and enlarged to fit, and given another
    brightness and contrast, all within the limits above: the lesser of both ways round. 0 for the same pixels, about 1
    for pictures that have nothing in common; the same for (b, a).
    """
    size = max(1, HELD // max(1, a[:1].size))
    parts = [np.empty(0)]
    for start in range(0, len(a), size):
        one, other = a[start : start + size], b[start : start + size]
        parts.append(np.minimum(_left(one, other), _left(other, one)))
    return np.concatenate(parts)


def tangents(images: np.ndarray) -> np.ndarray:
    """What each of `thumbs` uint8 (n, h, w) becomes by small moves and changes of light: bases float32 (n, h * w, 6).

    The columns are orthonormal and span the picture, its slopes along the moves, and a constant (Simard, LeCun &
    Denker 1993).
    """
    image = images.astype(np.float32)
    spanned = np.stack([*_slopes(image), image, np.ones_like(image)], axis=-1).reshape(len(image), -1, 6)
    return np.asarray(np.linalg.qr(spanned)[0])


def rough(bases: np.ndarray, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The share of the variance of each of `thumbs` uint8 (n, h, w) outside the span of its basis: float32 (n,).

    `rows` int64 (n,) says which of the `bases`, as `tangents` gives them, that is.
    """
    target = images.reshape(len(images), bases.shape[1]).astype(np.float32)
    target -= target.mean(axis=1, keepdims=True)
    explained = np.empty(len(images), np.float32)
    for start in range(0, len(images), PAIRS):
        part = slice(start, start + PAIRS)
        shares = np.einsum("np,npk->nk", target[part], bases[rows[part]])
        explained[part] = np.einsum("nk,nk->n", shares, shares)
    whole = np.einsum("np,np->n", target, target)
    return np.asarray(np.maximum(whole - explained, 0) / (whole + NOISE**2 * target.shape[1]))


def fit(a: np.ndarray, b: np.ndarray) -> Fit:
    """Where grey pictures `a`, float32 (n, h, w), are read to look like `b`: Gauss-Newton steps (Lucas & Kanade 1981).

    Each finds the move, and with it a gain and an offset, that leave the least squares of what lies inside `a`.
    """
    from scipy.ndimage import gaussian_filter

    count, *sides = a.shape
    limits = np.array([SCALE, SHIFT * sides[0], SCALE, SHIFT * sides[1]])
    longest = np.array([LONGEST, LONGEST * sides[0], LONGEST, LONGEST * sides[1]])
    found = np.zeros((count, 4))
    for steps, wider in zip(STEPS, (BLUR * 3**0.5, 0), strict=True):  # variances add: the first are blurred by 2 BLUR
        start, target = (gaussian_filter(image, (0, wider, wider)) for image in (a, b))
        for _ in range(steps):
            moved, inside = _read(start[:, None], Fit(*found.T))
            weight = inside.astype(np.float32)
            basis = np.stack([*_slopes(moved[:, 0]), moved[:, 0], np.ones_like(start)], axis=1) * weight
            basis = basis.reshape(count, 6, -1)
            square = (basis @ basis.swapaxes(1, 2)).astype(np.float64)
            product = (basis @ (target * weight[:, 0]).reshape(count, -1, 1)).astype(np.float64)
            length = np.sqrt(np.einsum("nii->ni", square)) + 1e-9
            square = square / length[:, :, None] / length[:, None, :] + 1e-4 * np.eye(
                6
            )  # a blank picture has no slopes
            solved = np.linalg.solve(square, product / length[:, :, None])[..., 0] / length
            step = solved[:, :4] / np.maximum(solved[:, 4:5], 1 / GAIN)
            found = np.clip(found + np.clip(step, -longest, longest), -limits, limits)
    return Fit(*found.T)


def _smaller(pixels: np.ndarray, side: int, blur: float) -> np.ndarray:
    """Means of blocks of whole pixels, until the shorter side is about `side`, smoothed: float32 (n, C, h, w)."""
    from scipy.ndimage import gaussian_filter1d

    small: np.ndarray = np.asarray(pixels, np.float32)
    factor = max(1, round(min(pixels.shape[2:]) / side))
    for axis in (2, 3):
        starts = np.arange(0, pixels.shape[axis], factor)
        widths = np.diff(starts, append=pixels.shape[axis]).astype(np.float32)
        small = np.add.reduceat(small, starts, axis) / (widths[:, None] if axis == 2 else widths)
        small = np.asarray(gaussian_filter1d(small, blur, axis, mode="nearest"))
    return small


def _slopes(images: np.ndarray) -> list[np.ndarray]:
    """Slopes of grey images (n, h, w) along the axes of `Fit`, in its order."""
    y, x = ((np.arange(side, dtype=np.float32) - (side - 1) / 2) for side in images.shape[1:])
    down, right = np.gradient(images, axis=(1, 2))
    return [down * y[:, None], down, right * x, right]


def _read(images: np.ndarray, at: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 (n, C, h, w) read linearly where the fit says, and what lies inside them: bool (n, 1, h, w)."""
    readers, inside = [], []
    for side, scale, shift in zip(images.shape[2:], (at.scale_y, at.scale_x), (at.shift_y, at.shift_x), strict=True):
        middle = (side - 1) / 2
        places = middle + (np.arange(side) - middle) * (1 + scale[:, None]) + shift[:, None]
        inside.append((places > -0.5) & (places < side - 0.5))
        near = np.clip(places, 0, side - 1).astype(np.float32)[:, None, :, None]
        readers.append(np.maximum(0, 1 - np.abs(near - np.arange(side, dtype=np.float32))))  # (n, 1, place, pixel)
    down, right = readers
    return np.asarray(down @ images @ right.swapaxes(2, 3)), (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def _left(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What `a`, moved or as it is, leaves of `b`: float64 (n,)."""
    moved, inside = _read(a, fit(a.mean(axis=1), b.mean(axis=1)))
    return np.asarray(np.minimum(_residual(moved, b, inside), _residual(a, b, np.ones((1, 1, 1, 1), bool))))


def _residual(a: np.ndarray, b: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The share of the variance of `b` that `gain * a + offset` leaves, of what lies `inside`: float64 (n,).

    One gain and one offset for all channels: what differs in colour differs.
    """
    weight = np.broadcast_to(inside, b.shape).astype(np.float32)
    count = weight.sum(axis=(2, 3))
    mean_a, mean_b = ((weight * image).sum(axis=(2, 3)) / count for image in (a, b))  # (n, C)
    from_a, from_b = weight * (a - mean_a[..., None, None]), weight * (b - mean_b[..., None, None])

    def together(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.asarray((np.einsum("nchw,nchw->nc", one, other) / count).mean(axis=1, dtype=np.float64))

    of_a, of_b, both = together(from_a, from_a), together(from_b, from_b), together(from_a, from_b)
    gain = np.clip((both + NOISE**2) / (of_a + NOISE**2), 1 / GAIN, GAIN)
    apart = mean_b - gain[:, None] * mean_a
    apart = apart - np.clip(apart.mean(axis=1, keepdims=True), -OFFSET, OFFSET)
    left = of_b - 2 * gain * both + gain**2 * of_a + np.square(apart).mean(axis=1)
    return np.asarray(np.maximum(left, 0) / (of_b + NOISE**2))
