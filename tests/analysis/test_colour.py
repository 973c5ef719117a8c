"""CIELAB against scikit-image, and the two figures against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import lab2rgb, rgb2lab

from aecore.analysis.colour import ab_error, colourfulness, lab_to_rgb, rgb_to_lab

RNG = np.random.default_rng(0)


def test_lab_is_scikit_images_dark_colours_included() -> None:
    x = np.concatenate([RNG.random((3, 3, 9, 7)), RNG.random((2, 3, 9, 7)) * 0.05])
    np.testing.assert_allclose(rgb_to_lab(x), rgb2lab(x, channel_axis=1), atol=2e-3)
    lab = rgb_to_lab(x)
    np.testing.assert_allclose(lab_to_rgb(lab), lab2rgb(lab, channel_axis=1), atol=1e-4)


def test_what_srgb_lacks_is_clipped() -> None:
    impossible = np.array([50.0, 120, -120]).reshape(1, 3, 1, 1)
    assert lab_to_rgb(impossible).min() == 0
    assert lab_to_rgb(impossible).max() <= 1


@given(st.tuples(*[st.floats(0, 1)] * 3))
def test_there_and_back(colour: tuple[float, float, float]) -> None:
    x = np.array(colour).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(lab_to_rgb(rgb_to_lab(x)), x, atol=1e-6)


def test_grey_has_no_colour() -> None:
    grey = np.repeat(RNG.random((4, 1, 6, 6)), 3, axis=1)
    assert np.abs(rgb_to_lab(grey)[:, 1:]).max() < 0.01
    assert colourfulness(grey).max() < 1e-6


def test_the_ab_error_is_a_mean_distance_and_ignores_lightness() -> None:
    lab = RNG.normal(size=(3, 3, 5, 4))
    off = lab + np.array([9.0, 3, -4]).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(ab_error(lab, off), 5)
    off[:, 1:, :, :2] = lab[:, 1:, :, :2]  # half of the pixels right
    np.testing.assert_allclose(ab_error(lab, off), 2.5)


def test_colourfulness_is_the_papers() -> None:
    red = np.zeros((1, 3, 4, 4))
    red[:, 0] = 1
    assert colourfulness(red)[0] == pytest.approx(0.3 * np.hypot(255, 127.5))
    halves = red.copy()
    halves[:, :, :, 2:] = np.array([0.0, 0, 1]).reshape(1, 3, 1, 1)  # half red, half blue
    # rg is 255 and 0: mean 127.5, spread 127.5; yb is 127.5 and -255: mean -63.75, spread 191.25
    assert colourfulness(halves)[0] == pytest.approx(np.hypot(127.5, 191.25) + 0.3 * np.hypot(127.5, 63.75))
