"""Bodies: an encoder from image to features-of-the-code and its decoder back, one pair for each architecture."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from torch import nn

from aecore.models.layers import DOWN, UP, Size, halved
from aecore.models.recipe import Recipe

Shape = tuple[int, int, int]


def linear(recipe: Recipe, shape: Shape, latent_dim: int) -> tuple[nn.Module, nn.Module]:
    """One affine map each way: the autoencoder whose best solution spans PCA's subspace (Baldi & Hornik 1989)."""
    pixels = math.prod(shape)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, latent_dim))
    decoder = nn.Sequential(nn.Linear(latent_dim, pixels), nn.Unflatten(1, shape))
    return encoder, decoder


def mlp(recipe: Recipe, shape: Shape, latent_dim: int) -> tuple[nn.Module, nn.Module]:
    """Fully connected layers with ReLU between them, mirrored in the decoder (Hinton & Salakhutdinov 2006)."""
    units = [math.prod(shape), *recipe.widths, latent_dim]
    encoder = nn.Sequential(nn.Flatten(), *_dense(units))
    decoder = nn.Sequential(*_dense(units[::-1]), nn.Unflatten(1, shape))
    return encoder, decoder


def conv(recipe: Recipe, shape: Shape, latent_dim: int) -> tuple[nn.Module, nn.Module]:
    """Levels of convolution, each halving the map; one dense layer to the code and back; the levels mirrored.

    The decoder ends at full resolution with the first level's width and a plain convolution to the image's channels.
    """
    assert recipe.down is not None  # Recipe refuses anything else
    assert recipe.up is not None
    channels, *size = shape
    sizes: list[Size] = [(size[0], size[1])]
    for _ in recipe.widths:
        sizes.append(halved(sizes[-1]))
    widths = [channels, *recipe.widths]
    deepest = (widths[-1], *sizes[-1])

    encoder = nn.Sequential(
        *(DOWN[recipe.down](widths[i], widths[i + 1]) for i in range(len(recipe.widths))),
        nn.Flatten(),
        nn.Linear(math.prod(deepest), latent_dim),
    )
    back = [*recipe.widths[::-1], recipe.widths[0]]  # e.g. 64, 32, 16, 16
    decoder = nn.Sequential(
        nn.Linear(latent_dim, math.prod(deepest)),
        nn.Unflatten(1, deepest),
        *(UP[recipe.up](back[i], back[i + 1], sizes[-2 - i]) for i in range(len(recipe.widths))),
        nn.Conv2d(back[-1], channels, 3, padding=1),
    )
    return encoder, decoder


def _dense(units: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(units):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return layers[:-1]


ARCHITECTURES: dict[str, Callable[[Recipe, Shape, int], tuple[nn.Module, nn.Module]]] = {
    "pca": linear,
    "linear": linear,
    "mlp": mlp,
    "conv": conv,
}
