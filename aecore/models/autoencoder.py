"""The autoencoder: a body between image and code, with the images' mean and scale inside, so that it takes pixels."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from aecore.config import UserError, build
from aecore.models.bodies import ARCHITECTURES, Shape
from aecore.models.recipe import Recipe

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"


class Output(NamedTuple):
    """What `forward` returns."""

    reconstruction: torch.Tensor
    """(B, C, H, W), in pixel units where 0 is black and 1 is white; not clipped."""
    code: torch.Tensor
    """(B, latent_dim)."""


class Autoencoder(nn.Module):
    """Encode images (B, C, H, W) float in [0, 1] to codes (B, latent_dim) and decode them back."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, recipe: Recipe, shape: Shape, latent_dim: int) -> None:
        super().__init__()
        if not 1 <= latent_dim <= math.prod(shape):
            channels, height, width = shape
            raise UserError(
                f"train.latent_dim is {latent_dim}, but an image has only {math.prod(shape)} values "
                f"(prepare.channels {channels} x prepare.size {height} x {width}): choose a smaller latent_dim."
            )
        self.recipe: Recipe = recipe
        self.shape: Shape = shape
        self.latent_dim: int = latent_dim
        self.encoder, self.decoder = ARCHITECTURES[recipe.architecture](recipe, shape, latent_dim)
        self.register_buffer("mean", torch.zeros(shape[0], 1, 1))
        self.register_buffer("scale", torch.ones(shape[0], 1, 1))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) in [0, 1] -> (B, latent_dim); deterministic."""
        return cast(torch.Tensor, self.encoder((x - self.mean) / self.scale))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """(B, latent_dim) -> (B, C, H, W) in pixel units, float32, not clipped."""
        return cast(torch.Tensor, self.decoder(z).float() * self.scale + self.mean)

    def forward(self, x: torch.Tensor) -> Output:
        """Encode and decode."""
        code = self.encode(x)
        return Output(self.decode(code), code)

    def normalise_by(self, mean: torch.Tensor, scale: torch.Tensor) -> None:
        """Set the channels' mean and standard deviation, each (C,), of the training images."""
        self.mean.copy_(mean.view(-1, 1, 1))
        self.scale.copy_(scale.clamp_min(1e-3).view(-1, 1, 1))


def save(model: Autoencoder, directory: Path, preparation: dict[str, Any], training: dict[str, Any]) -> None:
    """Write weights and the resolved configuration: all that is needed to embed a new image."""
    from safetensors.torch import save as serialised

    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    (directory / WEIGHTS).write_bytes(serialised(weights))
    configuration = {
        "recipe": dataclasses.asdict(model.recipe),
        "shape": list(model.shape),
        "latent_dim": model.latent_dim,
        "preparation": preparation,
        "training": training,
    }
    (directory / CONFIG).write_text(json.dumps(configuration, indent=2, sort_keys=True) + "\n")


def load(directory: Path) -> tuple[Autoencoder, dict[str, Any]]:
    """Read a model directory into an evaluating Autoencoder on the CPU and its configuration."""
    from safetensors.torch import load_file

    configuration = json.loads((directory / CONFIG).read_text())
    recipe = build(Recipe, configuration["recipe"], f"{directory / CONFIG}: recipe")
    channels, height, width = configuration["shape"]
    model = Autoencoder(recipe, (channels, height, width), configuration["latent_dim"])
    model.load_state_dict(load_file(directory / WEIGHTS))
    return model.eval(), configuration
