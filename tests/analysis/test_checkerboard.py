"""Checkerboard energy: against plain sums of cosines, on patterns that are known, and on what must not count."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from aecore.analysis.checkerboard import checkerboard
from aecore.models.autoencoder import Autoencoder
from aecore.models.layers import UP
from aecore.models.recipe import Recipe

RAW = Path(__file__).parents[2] / "data/raw/fashion_mnist_10k/images-idx3-ubyte.gz"


@pytest.fixture(scope="module")
def photographs() -> np.ndarray:
    """300 of the bundled images, (300, 1, 28, 28) in [0, 1]."""
    with gzip.open(RAW) as file:
        pixels = np.frombuffer(file.read(16 + 300 * 784), np.uint8, offset=16)
    return pixels.reshape(300, 1, 28, 28).astype(np.float32) / 255


def naive(images: np.ndarray, stride: int) -> float:
    """The docstring's definition by explicit sums over pixels."""
    height, width = (side // stride * stride for side in images.shape[2:])
    top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
    y, x = np.mgrid[:height, :width]

    def power(row: int, column: int) -> float:
        wave = np.exp(-2j * np.pi * (row * y / height + column * x / width))
        crop = images[:, :, top : top + height, left : left + width]
        return float(np.mean(np.abs((crop * wave).sum(axis=(2, 3))) ** 2))

    quotients = []
    for a in range(stride):
        for b in range(stride):
            if (a, b) != (0, 0):
                row, column = a * height // stride, b * width // stride
                ring = [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
                quotients.append(power(row, column) / np.mean([power(*place) for place in ring]))
    return float(np.mean(quotients))


@pytest.mark.parametrize(("shape", "stride"), [((4, 1, 28, 28), 8), ((3, 3, 17, 26), 4), ((2, 1, 9, 8), 2)])
def test_it_is_the_definition(shape: tuple[int, ...], stride: int) -> None:
    images = np.random.default_rng(0).random(shape)
    assert checkerboard(images, stride) == pytest.approx(naive(images, stride), rel=1e-9)


def test_nothing_stands_out_in_noise_in_photographs_and_in_what_blur_or_contrast_makes_of_them(
    photographs: np.ndarray,
) -> None:
    noise = np.random.default_rng(1).random((2000, 1, 28, 28))
    assert checkerboard(noise, 8) == pytest.approx(1, abs=0.03)
    own = checkerboard(photographs, 8)
    assert own == pytest.approx(1, abs=0.15)
    assert checkerboard(0.01 * photographs + 7, 8) == pytest.approx(own, rel=1e-4)
    blurred = gaussian_filter(photographs, (0, 0, 1, 1))
    assert checkerboard(blurred, 8) == pytest.approx(own, abs=0.25)
    assert checkerboard(np.full((2, 1, 16, 16), 0.5), 4) == pytest.approx(1)


@pytest.mark.parametrize("period", [2, 4, 8])
def test_a_faint_pattern_of_each_level_shows(photographs: np.ndarray, period: int) -> None:
    tile = np.random.default_rng(2).normal(size=(period, period))
    pattern = np.tile(tile, (28 // period + 1, 28 // period + 1))[:28, :28]
    own = checkerboard(photographs, 8)
    energies = [checkerboard(photographs + size * pattern, 8) for size in (0.02, 0.05, 0.1)]
    assert own < energies[0] < energies[1] < energies[2]
    assert energies[1] > 1.5 * own
    other = np.tile(np.random.default_rng(3).normal(size=(7, 7)), (4, 4))  # a pattern, but of no stride
    assert checkerboard(photographs + 0.1 * other, 8) < 1.2 * own


def test_a_pattern_that_follows_the_brightness_shows(photographs: np.ndarray) -> None:
    board = np.indices((28, 28)).sum(axis=0) % 2
    assert checkerboard(photographs * (1 + 0.3 * board), 8) > 1.25 * checkerboard(photographs, 8)


def test_levels_too_coarse_for_an_image_are_left_out() -> None:
    images = np.random.default_rng(4).random((5, 1, 12, 12))
    assert checkerboard(images, 8) == checkerboard(images, 4) != checkerboard(images, 2)
    assert np.isnan(checkerboard(images[:, :, :3, :3], 8))


def energy(up: str, images: np.ndarray, seed: int) -> float:
    """What a fresh model of the recipe `conv_nearest` with this way up makes of the images."""
    torch.manual_seed(seed)
    recipe = Recipe("conv", (16, 32, 64), down="maxpool" if up == "unpool" else "strided", up=up)  # type: ignore[arg-type]
    with torch.inference_mode():
        return checkerboard(Autoencoder(recipe, (1, 28, 28), 32).eval()(torch.from_numpy(images))[0].numpy(), 8)


def test_untrained_transposed_convolution_prints_a_checkerboard_and_resize_with_convolution_none(
    photographs: np.ndarray,
) -> None:
    own = checkerboard(photographs[:64], 8)
    energies = {up: np.mean([energy(up, photographs[:64], seed) for seed in range(3)]) / own for up in UP}
    assert energies["transposed"] > 3 * max(energies["nearest"], energies["bilinear"], 1)
    assert energies["nearest"] < 1.1
    assert energies["bilinear"] < 1.1
