"""Oriented gradients against loops, and what they should not care about."""

from __future__ import annotations

import math

import numpy as np
import torch

from aecore.models.gradients import BINS, CELL, FLOOR, orientation_histograms


def by_loops(image: np.ndarray) -> np.ndarray:
    """(H, W) -> (BINS, H // CELL, W // CELL), a pixel at a time."""
    height, width = image.shape
    edge = np.pad(image, 1, mode="edge")
    cells = np.zeros((BINS, height // CELL, width // CELL))
    for i in range(cells.shape[1] * CELL):
        for j in range(cells.shape[2] * CELL):
            dx, dy = edge[i + 1, j + 2] - edge[i + 1, j], edge[i + 2, j + 1] - edge[i, j + 1]
            length, angle = math.sqrt(dx * dx + dy * dy + 1e-8), math.atan2(dy, dx)
            for b in range(BINS):
                vote = max(0.0, math.cos(2 * (angle - b * math.pi / BINS))) ** 2
                cells[b, i // CELL, j // CELL] += length * vote / CELL**2
    energy = np.pad(np.square(cells).sum(axis=0), 1, mode="edge")
    contrast = np.array([[np.sqrt(energy[i : i + 3, j : j + 3].mean()) for j in range(cells.shape[2])]
                         for i in range(cells.shape[1])])  # fmt: skip
    return np.sqrt(cells / (contrast + FLOOR))


def test_they_equal_their_definition() -> None:
    image = np.random.default_rng(0).random((13, 10))
    found = orientation_histograms(torch.from_numpy(image)[None, None])
    np.testing.assert_allclose(found[0].numpy(), by_loops(image), atol=1e-5)


def test_an_edge_votes_for_its_own_direction() -> None:
    step = torch.zeros(1, 1, 12, 12)
    step[:, :, :, 6:] = 1  # gradient along the rows: angle 0
    assert int(orientation_histograms(step).sum(dim=(0, 2, 3)).argmax()) == 0
    assert int(orientation_histograms(step.mT).sum(dim=(0, 2, 3)).argmax()) == BINS // 2


def test_brightness_does_not_matter_and_contrast_hardly() -> None:
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.5
    reference = orientation_histograms(x)
    torch.testing.assert_close(orientation_histograms(x + 0.3), reference, atol=1e-4, rtol=0)
    assert float((orientation_histograms(2 * x) - reference).abs().max()) < 0.15
    assert float(orientation_histograms(torch.full((1, 1, 8, 8), 0.4)).max()) < 0.1
