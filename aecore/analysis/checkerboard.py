"""Checkerboard energy: the pattern that a decoder's strides print onto its images, read off their spectrum."""

from __future__ import annotations

import numpy as np

AROUND = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
FLOOR = 1e-12
"""Power, relative to the mean over all frequencies, below which a frequency holds rounding alone."""


def checkerboard(images: np.ndarray, stride: int) -> float:
    """Spectral energy at the stride's frequencies relative to that right beside them; 1 where nothing stands out.

    `images` float (n, C, H, W); `stride` is the product of all strides up, 2^L for L doubling levels.

    A level of stride 2 may treat output pixels unequally by their place modulo 2 (the last level), or modulo 4, 8, …
    pixels of the image (those before it): overlapping transposed convolutions do (Odena, Dumoulin & Olah 2016,
    "Deconvolution and Checkerboard Artifacts"). Together they print a pattern of period `stride` on each axis, and all
    of its energy lies at the frequencies (a / stride, b / stride) cycles a pixel, a and b in 0 … stride - 1, not both
    0: for three levels the multiples of 1/8, among them 1/4 (the last two levels) and 1/2 (the last).

    The images are cropped, centred, to multiples of `stride`, so that each of these frequencies is one bin of the
    discrete Fourier transform; P is its power, the mean over images and channels. The figure is the mean over the
    frequencies f above of P(f) / mean of P over the eight bins around f. Beside, not in total: the content of an image
    has a smooth spectrum, so it, its blur and its contrast leave the quotient near 1, while a printed pattern stands
    on single bins; and every f counts alike, so a fine pattern is not lost among coarse content.

    Where a side is less than twice the stride, bins of their own between the frequencies are wanting, and the coarsest
    levels are left out (the stride is halved until it fits); nan if not even 2 does.
    """
    while stride > 1 and min(images.shape[2:]) < 2 * stride:
        stride //= 2
    if stride < 2:
        return float("nan")
    power = _power(images, stride)
    power += FLOOR * power.mean()
    beside = sum(np.roll(power, shift, axis=(0, 1)) for shift in AROUND) / len(AROUND)
    height, width = power.shape
    quotient = np.divide(power, beside, out=np.ones_like(power), where=beside > 0)
    printed = quotient[:: height // stride, :: width // stride]  # (stride, stride), the first is the mean brightness
    return float((printed.sum() - printed[0, 0]) / (printed.size - 1))


def _power(images: np.ndarray, stride: int) -> np.ndarray:
    """Power spectrum of the centred crop to multiples of `stride`, its mean over images and channels: (h, w)."""
    (top, height), (left, width) = ((side % stride // 2, side // stride * stride) for side in images.shape[2:])
    total = np.zeros((height, width))
    for image in images:  # one at a time: complex spectra of all would take eight times their memory
        spectrum = np.fft.fft2(image[:, top : top + height, left : left + width].astype(np.float64))
        total += np.square(np.abs(spectrum)).sum(axis=0)
    return np.asarray(total / (len(images) * images.shape[1]))
