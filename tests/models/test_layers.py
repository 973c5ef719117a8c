"""The ways down and up against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aecore.models.layers import DOWN, UP, Residual, halved

SIZES = [(8, 8), (7, 6), (5, 9), (2, 3)]


def expected_pool(full: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maximum of each 2x2 window (the last may be cut) and its flat place, by loops."""
    b, c, h, w = full.shape
    pooled, places = np.empty((2, b, c, (h + 1) // 2, (w + 1) // 2))
    for index in np.ndindex(pooled.shape):
        i, j, y, x = index
        window = full[i, j, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        pooled[index] = window.max()
        dy, dx = np.unravel_index(window.argmax(), window.shape)
        places[index] = (2 * y + dy) * w + 2 * x + dx
    return pooled, places


@pytest.mark.parametrize("name", DOWN)
@pytest.mark.parametrize("size", SIZES)
def test_every_way_down_halves_rounding_up(name: str, size: tuple[int, int]) -> None:
    halves, _ = DOWN[name](2, 3)(torch.rand(2, 2, *size))
    assert halves.shape == (2, 3, *halved(size))
    assert halved((7, 28)) == (4, 14)


@pytest.mark.parametrize("name", UP)
@pytest.mark.parametrize("size", SIZES)
def test_every_way_up_doubles_to_the_size_asked(name: str, size: tuple[int, int]) -> None:
    up = UP[name](3, 2, size)
    assert up(torch.rand(2, 3, *halved(size))).shape == (2, 2, *size)


@pytest.mark.parametrize("size", [(6, 6), (7, 5)])
def test_max_pooling_gives_the_maxima_and_their_places(size: tuple[int, int]) -> None:
    down = DOWN["maxpool"](2, 3).eval()
    x = torch.rand(2, 2, *size)
    full = F.relu(down.normalise(F.conv2d(x, down.convolve.weight, padding=1))).detach().numpy()
    pooled, places = down(x)
    values, where = expected_pool(full)
    np.testing.assert_allclose(pooled.detach().numpy(), values, atol=1e-6)
    alive = values > 0  # where a whole window was cut to zero any place may be named
    np.testing.assert_array_equal(places.numpy()[alive], where[alive])


@pytest.mark.parametrize("size", [(6, 6), (7, 5)])
def test_max_unpooling_puts_values_back_where_they_were(size: tuple[int, int]) -> None:
    up = UP["unpool"](3, 2, size).eval()
    x = torch.rand(2, 3, *size)
    pooled, places = F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
    back = torch.where(torch.isin(x, pooled), x, torch.zeros(()))  # all values differ
    expected = F.relu(up.normalise(F.conv2d(back, up.convolve.weight, padding=1)))
    torch.testing.assert_close(up(pooled, places), expected)
    nails = torch.zeros_like(x)
    for i in range(pooled.shape[2]):
        for j in range(pooled.shape[3]):
            nails[:, :, 2 * i, 2 * j] = pooled[:, :, i, j]
    expected = F.relu(up.normalise(F.conv2d(nails, up.convolve.weight, padding=1)))
    torch.testing.assert_close(up(pooled), expected)


def test_nearest_up_repeats_pixels_before_it_convolves() -> None:
    up = UP["nearest"](2, 3, (7, 6)).eval()
    x = torch.rand(1, 2, 4, 3)
    rows, columns = torch.arange(7) * 4 // 7, torch.arange(6) * 3 // 6
    repeated = x[:, :, rows][:, :, :, columns]
    expected = torch.relu(up.normalise(F.conv2d(repeated, up.convolve.weight, padding=1)))
    torch.testing.assert_close(up(x), expected)


def test_bilinear_up_is_scipys_linear_interpolation() -> None:
    from scipy.ndimage import map_coordinates

    up = UP["bilinear"](1, 1, (8, 6)).eval()
    x = torch.rand(1, 1, 4, 3)
    places = np.meshgrid((np.arange(8) + 0.5) / 2 - 0.5, (np.arange(6) + 0.5) / 2 - 0.5, indexing="ij")
    resized = map_coordinates(x[0, 0].numpy().astype(np.float64), places, order=1, mode="nearest")
    expected = torch.relu(
        up.normalise(F.conv2d(torch.from_numpy(resized).float()[None, None], up.convolve.weight, padding=1))
    )
    torch.testing.assert_close(up(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_transposed_convolution_is_the_adjoint_of_the_strided_one(size: tuple[int, int]) -> None:
    up = UP["transposed"](3, 2, size).double()
    z = torch.rand(2, 3, *halved(size), dtype=torch.float64)
    x = torch.rand(2, 2, *size, dtype=torch.float64)
    there = F.conv2d(x, up.convolve.weight, stride=2, padding=1)
    back = up.convolve(z, output_size=size)
    with torch.no_grad():
        assert float((there * z).sum()) == pytest.approx(float((x * back).sum()), rel=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_a_padded_convolution_is_scipys_full_one(size: tuple[int, int]) -> None:
    from scipy.signal import correlate2d

    up = UP["padding"](1, 1, size).double()
    z = torch.rand(1, 1, *halved(size), dtype=torch.float64)
    first, second = (layer for layer in up.grow if isinstance(layer, nn.Conv2d))
    grown = z[0, 0].numpy()
    for layer in (first, second):
        grown = correlate2d(grown, layer.weight[0, 0].detach().numpy(), mode="full")
    assert grown.shape == size
    np.testing.assert_allclose(second(first(z)).detach().numpy()[0, 0], grown, rtol=1e-12)


def test_pixel_shuffle_interleaves_four_maps() -> None:
    up = UP["shuffle"](2, 1, (6, 5)).eval()
    x = torch.rand(1, 2, 3, 3)
    maps = F.conv2d(x, up.convolve.weight, padding=1)
    expected = torch.empty(1, 1, 6, 6)
    for number in range(4):
        expected[0, 0, number // 2 :: 2, number % 2 :: 2] = maps[0, number]
    torch.testing.assert_close(up(x), F.relu(up.normalise(expected[:, :, :, :5])))


def test_a_residual_block_that_changes_nothing_only_cuts_at_zero() -> None:
    block = Residual(3).eval()
    nn.init.zeros_(block.change[-1].weight)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(block(x), x.clamp_min(0))
