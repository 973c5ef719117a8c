"""Bodies: an encoder from image to features and its decoder back, one pair for each architecture.

An encoder gives (features (B, width), places of its poolings' maxima, a list); a decoder takes (code (B, latent_dim),
such places or []). `width` is what the bottleneck asks for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

from aecore.models.constraints import Dense, Tied, constrain
from aecore.models.layers import DOWN, UP, Places, Residual, Size, halved
from aecore.models.recipe import Recipe

Shape = tuple[int, int, int]
Pair = tuple[nn.Module, nn.Module]


class DenseEncoder(nn.Sequential):
    """Layers, on flattened images."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[Places]]:  # (B, C, H, W) -> (B, width)
        """Encode."""
        x = x.flatten(1)
        for layer in self:
            x = layer(x)
        return x, []


class DenseDecoder(nn.Sequential):
    """Layers, then the image's shape again."""

    def __init__(self, shape: Shape, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.shape = shape

    def forward(self, z: torch.Tensor, places: Sequence[Places] = ()) -> torch.Tensor:  # (B, d) -> (B, C, H, W)
        """Decode."""
        for layer in self:
            z = layer(z)
        return z.view(-1, *self.shape)


class ConvEncoder(nn.Module):
    """Levels that each halve the map, then one dense layer."""

    def __init__(self, recipe: Recipe, shape: Shape, sizes: Sequence[Size], width: int) -> None:
        super().__init__()
        assert recipe.down is not None  # Recipe refuses anything else
        channels = [shape[0], *recipe.widths]
        residual = recipe.architecture == "resnet"
        self.levels = nn.ModuleList(DOWN[recipe.down](a, b) for a, b in pairwise(channels))
        self.refine = nn.ModuleList(Residual(c) if residual else nn.Identity() for c in recipe.widths)
        self.head = nn.Linear(channels[-1] * math.prod(sizes[-1]), width)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[Places]]:  # (B, C, H, W) -> (B, width)
        """Encode."""
        places: list[Places] = []
        for level, refine in zip(self.levels, self.refine, strict=True):
            x, place = level(x)
            x = refine(x)
            places.append(place)
        return self.head(x.flatten(1)), places


class ConvDecoder(nn.Module):
    """One dense layer, the levels mirrored, and at full resolution a plain convolution to the image's channels."""

    def __init__(self, recipe: Recipe, shape: Shape, sizes: Sequence[Size], latent_dim: int) -> None:
        super().__init__()
        assert recipe.up is not None
        self.deepest = (recipe.widths[-1], *sizes[-1])
        back = [*recipe.widths[::-1], recipe.widths[0]]  # e.g. 64, 32, 16, 16
        residual = recipe.architecture == "resnet"
        self.head = nn.Linear(latent_dim, math.prod(self.deepest))
        self.refine = nn.ModuleList(Residual(c) if residual else nn.Identity() for c in back[:-1])
        self.levels = nn.ModuleList(
            UP[recipe.up](a, b, size) for (a, b), size in zip(pairwise(back), sizes[-2::-1], strict=True)
        )
        self.paint = nn.Conv2d(back[-1], shape[0], 3, padding=1)

    def forward(self, z: torch.Tensor, places: Sequence[Places] = ()) -> torch.Tensor:  # (B, d) -> (B, C, H, W)
        """Decode."""
        x = self.head(z).unflatten(1, self.deepest)
        backwards = list(places[::-1]) or [None] * len(self.levels)
        for refine, level, place in zip(self.refine, self.levels, backwards, strict=True):
            x = level(refine(x), place)
        return self.paint(x)  # type: ignore[no-any-return]


def dense(recipe: Recipe, shape: Shape, width: int, latent_dim: int) -> Pair:
    """Fully connected layers with ReLU between them, mirrored in the decoder (Hinton & Salakhutdinov 2006).

    Without hidden layers: one affine map each way, whose best solution spans PCA's subspace (Baldi & Hornik 1989).
    """
    units = [math.prod(shape), *recipe.widths, width]
    down = [constrain(Dense(a, b), recipe.weights, units=0) for a, b in pairwise(units)]
    up: list[nn.Module]
    if "tied" in recipe.weights:
        up = [Tied(layer) for layer in reversed(down)]
    else:
        back = [latent_dim, *units[-2::-1]]
        up = [constrain(Dense(a, b), recipe.weights, units=1) for a, b in pairwise(back)]
    return DenseEncoder(*_with_relu(down)), DenseDecoder(shape, *_with_relu(up))


def convolutional(recipe: Recipe, shape: Shape, width: int, latent_dim: int) -> Pair:
    """Levels of convolution, each halving the map; one dense layer to the features; the levels mirrored.

    `resnet` puts a residual block after each level down and before each level up.
    """
    sizes: list[Size] = [shape[1:]]
    for _ in recipe.widths:
        sizes.append(halved(sizes[-1]))
    return ConvEncoder(recipe, shape, sizes, width), ConvDecoder(recipe, shape, sizes, latent_dim)


def _with_relu(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The `layers` with ReLU between them; in the middle of the autoencoder there is none."""
    return [module for layer in layers for module in (layer, nn.ReLU())][:-1]


ARCHITECTURES: dict[str, Callable[[Recipe, Shape, int, int], Pair]] = {
    "pca": dense,
    "linear": dense,
    "mlp": dense,
    "conv": convolutional,
    "resnet": convolutional,
}
