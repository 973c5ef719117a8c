"""Copies are alike once they are laid over each other, other pictures are not, whatever their size and colours."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import affine_transform, gaussian_filter

from aecore.search.likeness import fit, reduced, rough, tangents, thumbs, unlike

SHAPES = [(1, 28, 28), (3, 64, 48), (3, 70, 131), (1, 12, 12)]


def scenes(count: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Random blurred pictures, float64 (n, C, H, W) around 128."""
    rng = np.random.default_rng(seed)
    side = min(shape[1:])
    noise = gaussian_filter(rng.normal(size=(count, *shape)), (0, 0, side / 12, side / 12))
    return 128 + 45 * noise / noise.std(axis=(1, 2, 3), keepdims=True)


def bytes_of(images: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def moved(images: np.ndarray, scale: float, y: float, x: float) -> np.ndarray:
    """Enlarged around the middle by 1 / `scale` and shifted by shares of the sides, with scipy's cubic splines."""
    height, width = images.shape[2:]
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    offset = middle - scale * middle + np.array([y * height, x * width])
    return np.array([[affine_transform(c, [scale, scale], offset, mode="nearest") for c in image] for image in images])


def unlikeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return unlike(reduced(bytes_of(a)), reduced(bytes_of(b)))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_changed_copy_is_alike_and_another_picture_is_not(shape: tuple[int, int, int]) -> None:
    images = scenes(12, shape)
    copies = {
        "itself": images,
        "noisy": images + np.random.default_rng(1).normal(0, 3, images.shape),
        "brighter": 1.1 * images,
        "darker": 0.9 * images - 5,
        "cropped": moved(images, 0.96, 0.02, -0.02),
        "both": 1.1 * moved(images, 0.95, -0.01, 0.02),
    }
    others = unlikeness(images, np.roll(images, 1, axis=0))
    for kind, copy in copies.items():
        found = unlikeness(images, copy)
        assert found.max() < 0.05, kind
        assert found.max() < others.min() / 4, kind
        np.testing.assert_allclose(found, unlikeness(copy, images), atol=1e-6)
    assert (unlikeness(images, images) == 0).all() or unlikeness(images, images).max() < 1e-6
    assert others.min() > 0.2


def test_what_is_changed_more_than_a_little_is_another_picture() -> None:
    images = scenes(8, (3, 48, 48))
    for changed in (255 - images, images[:, [1, 2, 0]], moved(images, 0.6, 0, 0), images[..., ::-1],
                    128 + (images - 128) / 4, images.mean(axis=1, keepdims=True).repeat(3, axis=1)):  # fmt: skip
        assert unlikeness(images, changed).min() > 0.1


def test_blank_pictures_are_alike_where_their_grey_is() -> None:
    rng = np.random.default_rng(2)
    black, white, grey = (
        np.full((4, 1, 28, 28), value) + rng.normal(0, 0.5, (4, 1, 28, 28)) for value in (5, 250, 120)
    )
    assert unlikeness(grey, grey + 3).max() < 0.05
    assert unlikeness(black, white).min() > 1
    assert unlikeness(grey, scenes(4, (1, 28, 28))).min() > 0.5
    assert np.isfinite(unlikeness(np.zeros((2, 1, 28, 28)), np.zeros((2, 1, 28, 28)))).all()
    assert len(unlikeness(black[:0], white[:0])) == 0


def test_the_fit_finds_the_move() -> None:
    images = scenes(10, (1, 32, 40), seed=3)
    copies = moved(images, 0.95, 0.03, -0.02)
    found = fit(*(reduced(bytes_of(x))[:, 0] for x in (images, copies)))
    np.testing.assert_allclose(found.scale_y, -0.05, atol=0.01)
    np.testing.assert_allclose(found.scale_x, -0.05, atol=0.01)
    np.testing.assert_allclose(found.shift_y, 0.03 * 32, atol=0.15)
    np.testing.assert_allclose(found.shift_x, -0.02 * 40, atol=0.15)


def test_rough_is_least_squares_over_the_tangents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aecore.search.likeness.PAIRS", 5)
    a, b = thumbs(bytes_of(scenes(6, (3, 64, 64)))), thumbs(bytes_of(scenes(9, (3, 64, 64), seed=4)))
    bases, rows = tangents(a), np.array([0, 0, 1, 2, 3, 3, 4, 5, 5])
    np.testing.assert_allclose(bases.swapaxes(1, 2) @ bases, np.broadcast_to(np.eye(6), (6, 6, 6)), atol=1e-5)
    found = rough(bases, rows, b)
    for row, image, value in zip(rows, b.reshape(9, -1).astype(float), found, strict=True):
        left = np.linalg.lstsq(bases[row].astype(float), image, rcond=None)[1].item()
        assert value == pytest.approx(left / (image.var() * image.size + 4 * image.size), rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_rough_sees_small_moves_and_tells_other_pictures(shape: tuple[int, int, int]) -> None:
    images = scenes(12, shape, seed=5)
    bases, each = tangents(thumbs(bytes_of(images))), np.arange(12)
    near = rough(bases, each, thumbs(bytes_of(1.1 * moved(images, 0.97, 0.01, -0.01))))
    assert near.max() < 0.05
    assert near.max() < rough(bases, each, thumbs(bytes_of(np.roll(images, 1, axis=0)))).min() / 2
