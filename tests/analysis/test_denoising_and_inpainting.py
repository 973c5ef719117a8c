"""The floors that learn nothing: against windows by hand, scikit-image, and equations with known solutions."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from skimage.metrics import peak_signal_noise_ratio

from aecore.analysis import denoising, inpainting
from aecore.analysis.denoising import mean_psnr, median, told_median
from aecore.analysis.inpainting import METHODS, available, hidden_psnr

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_median_is_of_nine_pixels_of_a_channel(channels: int) -> None:
    x = RNG.random((2, channels, 7, 9), np.float32)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    expected = np.median(sliding_window_view(padded, (3, 3), axis=(2, 3)), axis=(4, 5))
    np.testing.assert_array_equal(median(x), expected)


def test_the_median_removes_single_pixels_whole() -> None:
    clean = np.full((1, 1, 12, 12), 0.4, np.float32)
    noisy = clean.copy()
    noisy[0, 0, 2::4, 2::4] = 1
    assert mean_psnr(clean, median(noisy)) == 100
    assert mean_psnr(clean, noisy) == pytest.approx(peak_signal_noise_ratio(clean, noisy, data_range=1), abs=1e-4)


def test_the_told_median_is_of_the_known_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    x = RNG.random((5, 2, 6, 7), np.float32)
    hidden = RNG.random((5, 1, 6, 7)) < 0.6
    hidden[0, 0, :3, :3] = True  # the corner has no known neighbour
    expected = x.copy()
    for n, row, column in zip(*np.nonzero(hidden[:, 0]), strict=True):
        window = np.s_[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        for channel in range(2):
            left = x[n, channel][window][~hidden[n, 0][window]]
            expected[n, channel, row, column] = np.median(left) if len(left) else 0
    np.testing.assert_allclose(told_median(x, hidden), expected, rtol=1e-6)
    assert expected[0, 0, 0, 0] == 0
    monkeypatch.setattr(denoising, "BLOCK", 100)
    np.testing.assert_allclose(told_median(x, hidden), expected, rtol=1e-6)


def holes(count: int, height: int, width: int) -> np.ndarray:
    hidden = np.zeros((count, 1, height, width), bool)
    hidden[:, :, 4:9, 5:11] = True
    hidden[0, :, 10:12, 2:4] = True
    return hidden


def test_the_psnr_is_of_the_hidden_pixels_alone() -> None:
    x, x_hat = RNG.random((3, 3, 14, 16)), RNG.random((3, 3, 14, 16))
    hidden = holes(3, 14, 16)
    expected = [
        peak_signal_noise_ratio(a[:, h[0]], b[:, h[0]], data_range=1) for a, b, h in zip(x, x_hat, hidden, strict=True)
    ]
    np.testing.assert_allclose(hidden_psnr(x, x_hat, hidden), expected)
    x_hat[1][:, hidden[1, 0]] = x[1][:, hidden[1, 0]]
    hidden[2] = False
    result = hidden_psnr(x, x_hat, hidden)
    assert result[1] == 100
    assert np.isnan(result[2])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_fill_reads_no_hidden_pixel_and_keeps_the_others(method: str, channels: int) -> None:
    assert method in available()  # the suite has both libraries
    x = RNG.random((2, channels, 14, 16), np.float32)
    hidden, fill = holes(2, 14, 16), METHODS[method][1]
    secret = np.where(hidden, 1 - x, x).astype(np.float32)
    filled = fill(x, hidden)
    assert filled.dtype == np.float32
    assert filled.shape == x.shape
    np.testing.assert_allclose(np.where(hidden, 0, filled - x), 0, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(fill(secret, hidden), filled)


@pytest.mark.parametrize("method", METHODS)
def test_a_slope_goes_on_through_the_hole(method: str) -> None:
    y, x = np.mgrid[:14, :16]
    ramp = ((2 * y + x) / 45).astype(np.float32)[None, None]
    error = np.abs(METHODS[method][1](ramp, holes(1, 14, 16)) - ramp).max()
    assert error < (1e-4 if method == "biharmonic" else 0.15)  # a slope solves the biharmonic equation


def test_a_method_whose_library_is_absent_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(inpainting.importlib.util, "find_spec", lambda name: None if name == "cv2" else real(name))
    assert available() == ["biharmonic"]
