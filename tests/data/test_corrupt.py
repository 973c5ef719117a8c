"""Corruptions: what they hide, how much, and that they are the generator's alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from aecore.data.corrupt import BLOCKS, CORRUPTIONS, GREY, corrupt
from aecore.models.recipe import AMOUNTS, HIDING


def images(count: int = 200, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, 20, 16, generator=torch.Generator().manual_seed(5)) * 0.8 + 0.1


def seeded(x: torch.Tensor, kind: str, amount: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor | None]:
    return corrupt(x, kind, amount, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_shape_range_determinism_and_what_is_hidden(kind: str) -> None:
    x, amount = images(), AMOUNTS.get(kind, 0.0)
    kept = x.clone()
    first, hidden = seeded(x, kind, amount)
    again, _ = seeded(x, kind, amount)
    assert torch.equal(x, kept)
    assert first.shape == x.shape
    assert first.dtype == x.dtype
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert torch.equal(first, again)
    assert (hidden is not None) == (kind in HIDING)
    if kind not in ("none", "grey", "hole"):
        assert not torch.equal(first, seeded(x, kind, amount, seed=1)[0])
        assert not torch.equal(first[0] - x[0], first[1] - x[1])
    if hidden is not None:
        assert hidden.shape == (200, 1, 20, 16)
        outside = ~hidden.expand_as(x)
        assert torch.equal(first[outside], x[outside])


def test_dropout_blackens_the_rate_in_all_channels_at_once() -> None:
    given, hidden = seeded(images(), "dropout", 0.3)
    assert hidden is not None
    assert float(hidden.float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(given[hidden.expand_as(given)].max()) == 0


def test_gaussian_noise_has_its_deviation() -> None:
    x = torch.full((100, 1, 20, 16), 0.5)
    noise = seeded(x, "gaussian", 0.1)[0] - x
    assert float(noise.mean()) == pytest.approx(0, abs=0.002)
    assert float(noise.std()) == pytest.approx(0.1, abs=0.002)


def test_salt_and_pepper_are_equally_many() -> None:
    given, _ = seeded(images(), "salt_pepper", 0.2)
    assert float((given == 0).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert float((given == 1).float().mean()) == pytest.approx(0.1, abs=0.01)


def test_the_hole_is_the_centred_square() -> None:
    given, hidden = seeded(images(), "hole", 0.5)
    expected = np.zeros((20, 16), bool)
    expected[6:14, 4:12] = True
    assert hidden is not None
    assert np.array_equal(hidden[0, 0].numpy(), expected)
    assert torch.all(given[hidden.expand_as(given)] == GREY)


def test_blocks_hide_squares_of_the_stated_area_evenly_spread() -> None:
    _, hidden = seeded(images(4000), "blocks", 0.2)
    assert hidden is not None
    side = round(math.sqrt(0.2 * 20 * 16 / BLOCKS))
    area = hidden.sum(dim=(1, 2, 3)).numpy()
    assert area.max() == BLOCKS * side**2
    assert area.min() >= side**2
    columns = hidden.float().mean(dim=(0, 1, 2)).numpy()
    np.testing.assert_allclose(columns, columns[::-1], atol=0.02)
    assert columns[8] > 2 * columns[0] > 0


def test_grey_is_pils_luminance() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float64)
    x = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32)) / 255
    given, _ = corrupt(x, "grey", 0)
    for channel in range(3):
        np.testing.assert_allclose(given[0, channel].numpy() * 255, expected, atol=1)


def test_an_affine_of_no_amount_changes_nothing_and_the_turn_is_scipys() -> None:
    from scipy.ndimage import map_coordinates

    x = torch.nn.functional.avg_pool2d(torch.rand(3, 1, 20, 20, generator=torch.Generator().manual_seed(1)), 5, 1, 2)
    torch.testing.assert_close(seeded(x, "affine", 1e-9)[0], x, atol=1e-5, rtol=0)
    given, _ = seeded(x, "affine", 1.0, seed=3)
    u = torch.rand(3, 4, generator=torch.Generator().manual_seed(3)) * 2 - 1
    places = (np.mgrid[:20, :20] + 0.5) / 10 - 1  # rows, columns in [-1, 1]
    for image, draw, expected in zip(x, u.numpy(), given, strict=True):
        turn, scale = math.radians(16) * draw[0], 1 + 0.2 * draw[1]
        c, s = math.cos(turn) / scale, math.sin(turn) / scale
        columns = c * places[1] - s * places[0] + 0.2 * draw[2]
        rows = s * places[1] + c * places[0] + 0.2 * draw[3]
        back = [(v + 1) * 10 - 0.5 for v in (rows, columns)]
        moved = map_coordinates(image[0].numpy().astype(np.float64), back, order=1, mode="nearest")
        np.testing.assert_allclose(expected[0].numpy(), moved, atol=1e-4)
