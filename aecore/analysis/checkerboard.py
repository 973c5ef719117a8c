"""Checkerboard energy: the pattern that a decoder's strides print onto its images, read off their spectrum."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch

from aecore.analysis.case import Case, scaled
from aecore.embedding import Encoder
from aecore.models.autoencoder import Autoencoder
from aecore.models.recipe import Recipe

AROUND = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
FLOOR = 1e-12
"""Power, relative to the mean over all frequencies, below which a frequency holds rounding alone."""
SEEDS, UNTRAINED, BATCH = 3, 256, 128
"""Fresh models behind an untrained figure, the images they are shown, and how many at a time."""


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


def measure(case: Case) -> dict[str, float]:
    """Energy of test images as they come out of a model, relative to their own, which is `images`.

    `trained`: out of the model; `untrained`: out of fresh models of its recipe, the mean of SEEDS; `untrained_resized`:
    the same with `up: nearest`, resize and convolution, which treats all pixels alike. Empty where images are small.
    """
    pixels, stride = case.images.rows(case.test), 2 ** len(case.recipe.widths)
    few = pixels[:UNTRAINED]
    own, own_few = checkerboard(scaled(pixels), stride), checkerboard(scaled(few), stride)
    if np.isnan(own):
        return {}
    untrained = _untrained(case, case.recipe, few, stride) / own_few
    resized = dataclasses.replace(case.recipe, up="nearest")
    return {
        "images": own,
        "trained": checkerboard(case.encoder.reconstruct(pixels), stride) / own,
        "untrained": untrained,
        "untrained_resized": untrained if resized == case.recipe else _untrained(case, resized, few, stride) / own_few,
    }


def verdict(figures: Mapping[str, float], recipe: Recipe) -> str:
    """How far the stride shows."""
    if not figures:
        return "the images are too small to show a checkerboard"
    trained, untrained = figures["trained"], figures["untrained"]
    more = "**more than**" if round(trained, 2) > 1 else "no more than"
    fresh = f"untrained {untrained:.2f} times"
    if recipe.up != "nearest":
        fresh += f", where resize + convolution has {figures['untrained_resized']:.2f}"
    return f"at its stride's frequencies {more} the images themselves: {trained:.2f} times their energy; {fresh}"


def _untrained(case: Case, recipe: Recipe, pixels: np.ndarray, stride: int) -> float:
    """Mean energy of what fresh models of `recipe`, seeded from the run's seed on, make of `pixels`."""
    energies = []
    for seed in range(case.seed, case.seed + SEEDS):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = Autoencoder(recipe, case.images.shape, case.model.latent_dim).eval()
        model.mean.copy_(case.model.mean)
        model.scale.copy_(case.model.scale)
        fresh = Encoder(model, case.encoder.preparation, case.encoder.manifest, case.encoder.device, BATCH)
        energies.append(checkerboard(fresh.reconstruct(pixels), stride))
    return float(np.mean(energies))


def _power(images: np.ndarray, stride: int) -> np.ndarray:
    """Power spectrum of the centred crop to multiples of `stride`, its mean over images and channels: (h, w)."""
    (top, height), (left, width) = ((side % stride // 2, side // stride * stride) for side in images.shape[2:])
    total = np.zeros((height, width))
    for image in images:  # one at a time: complex spectra of all would take eight times their memory
        spectrum = np.fft.fft2(image[:, top : top + height, left : left + width].astype(np.float64))
        total += np.square(np.abs(spectrum)).sum(axis=0)
    return np.asarray(total / (len(images) * images.shape[1]))
