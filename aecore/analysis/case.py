"""What a claim is measured on: a trained model, test images, and PCA of the same dimension beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from aecore.analysis.protocol import Sample, flat
from aecore.analysis.space import Rows, blocks, smallest
from aecore.data.corrupt import corrupt
from aecore.data.images import Images
from aecore.embedding import Encoder
from aecore.models.autoencoder import Autoencoder
from aecore.models.pca import Pca
from aecore.models.recipe import Recipe

IMAGES, LEARNT = 1_000, 2_000
"""Test images measured at most, and training images read for what a figure needs to know of them: the smallest ids."""
VALUES = 2**23
"""Values in either at most (32 MiB of float32), so that a claim takes seconds of one core whatever their size."""


@dataclass(frozen=True)
class Case:
    """A model and what it is measured on."""

    images: Images
    encoder: Encoder
    codes: Rows
    """Reads the model's codes by the images' positions."""
    pca: Pca
    chosen: Sample
    errors: Mapping[str, float]
    """Mean squared error on the test images, clipped to [0, 1], of `model` and `pca`."""
    seed: int

    @property
    def model(self) -> Autoencoder:
        """The network, evaluating."""
        return self.encoder.model

    @property
    def recipe(self) -> Recipe:
        """What it is."""
        return self.encoder.model.recipe

    @property
    def test(self) -> np.ndarray:
        """Positions of the test images that are measured."""
        return smallest(self.chosen.test, self.images.ids(), self._most(IMAGES))

    @property
    def train(self) -> np.ndarray:
        """Positions of the training images that are read."""
        return smallest(self.chosen.train, self.images.ids(), self._most(LEARNT))

    def projected(self, positions: np.ndarray) -> np.ndarray:
        """PCA's codes of the images at `positions` (n,), float32 (n, d)."""
        slices = blocks(len(positions), math.prod(self.images.shape))
        return np.concatenate([self.pca.encode(flat(self.images.rows(positions[some]))) for some in slices])

    def spoil(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Corrupt uint8 (n, C, H, W) as the recipe does: (uint8, hidden pixels bool (n, 1, H, W) or None).

        The noise depends on the run's seed, the corruption and the images alone, so every recipe meets the same.
        """
        x = torch.from_numpy(pixels.astype(np.float32) / 255)
        generator = torch.Generator().manual_seed(self.seed)
        spoilt, hidden = corrupt(x, self.recipe.corruption, self.recipe.amount, generator)
        return np.rint(spoilt.numpy() * 255).astype(np.uint8), None if hidden is None else hidden.numpy()

    def _most(self, count: int) -> int:
        return max(1, min(count, VALUES // math.prod(self.images.shape)))


def scaled(pixels: np.ndarray) -> np.ndarray:
    """The values 0 … 255 as float32 in [0, 1]."""
    return np.asarray(pixels, np.float32) / 255


def compared(gains: Mapping[str, float], unit: str, digits: int) -> str:
    """A plain sentence of `gains` (over what -> how much): `gains 6.1 dB over the noisy input; loses 0.2 dB to …`."""
    sides: dict[str, list[str]] = {"gains": [], "loses": [], "equals": []}
    for other, gain in gains.items():
        amount = f"{abs(gain):.{digits}f}"
        if float(amount) == 0:
            sides["equals"].append(other)
        elif gain > 0:
            sides["gains"].append(f"{amount}{unit} over {other}")
        else:
            sides["loses"].append(f"{amount}{unit} to {other}")
    return "; ".join(f"{verb} {', '.join(parts)}" for verb, parts in sides.items() if parts)
