"""The autoencoder: a body between image and code, with the images' mean and scale inside, so that it takes pixels."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from aecore.config import WorkFailed, build
from aecore.data.corrupt import grey
from aecore.models.bodies import ARCHITECTURES, Shape
from aecore.models.bottlenecks import BOTTLENECKS, Whitening
from aecore.models.recipe import Recipe

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"


class Output(NamedTuple):
    """What `forward` returns."""

    reconstruction: torch.Tensor
    """(B, C, H, W), in pixel units where 0 is black and 1 is white; not clipped."""
    code: torch.Tensor
    """(B, latent_dim), as `encode` gives it."""
    latent: torch.Tensor
    """(B, latent_dim): what the decoder was given, before whitening; drawn at random where the bottleneck does so."""
    raw: torch.Tensor
    """(B, C, H, W): the decoder's own output; with the loss `bce`, log-odds of the pixels."""
    terms: dict[str, torch.Tensor]
    """The bottleneck's own terms, scalars; see `aecore.models.bottlenecks`."""


class Autoencoder(nn.Module):
    """Encode images (B, C, H, W) float in [0, 1] to codes (B, latent_dim) and decode them back."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, recipe: Recipe, shape: Shape, latent_dim: int) -> None:
        super().__init__()
        recipe.check_fits(shape, latent_dim)
        self.recipe: Recipe = recipe
        self.shape: Shape = shape
        self.latent_dim: int = latent_dim
        self.bottleneck = BOTTLENECKS[recipe.bottleneck](latent_dim)
        self.encoder, self.decoder = ARCHITECTURES[recipe.architecture](
            recipe, shape, self.bottleneck.width, latent_dim
        )
        self.whitening: Whitening | None = Whitening(latent_dim, recipe.whiten) if recipe.whiten else None
        self.register_buffer("mean", torch.zeros(shape[0], 1, 1))
        self.register_buffer("scale", torch.ones(shape[0], 1, 1))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) in [0, 1] -> (B, latent_dim); deterministic."""
        features, _ = self.encoder(self._seen(x))
        return self._white(self.bottleneck(features).code)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """(B, latent_dim) -> (B, C, H, W) in pixel units, float32, not clipped.

        From the code alone: max unpooling, which in `forward` is told the encoder's places, is not told them here.
        """
        return self._pixels(self.decoder(self.whitening.undo(z) if self.whitening is not None else z))

    def forward(self, x: torch.Tensor) -> Output:
        """Encode and decode."""
        features, places = self.encoder(self._seen(x))
        code, latent, terms = self.bottleneck(features)
        raw = self.decoder(latent, places if self.recipe.up == "unpool" else ())
        return Output(self._pixels(raw), self._white(code), latent, raw, terms)

    def prior(self, count: int, generator: torch.Generator) -> torch.Tensor | None:
        """Codes (count, latent_dim) from the bottleneck's prior, by a CPU `generator`; None where it has none."""
        latent = self.bottleneck.prior(count, generator)
        return None if latent is None else self._white(latent.to(self.mean.device))

    def _seen(self, x: torch.Tensor) -> torch.Tensor:
        """What the encoder sees: normalised, and without colour where the model is to find the colours itself."""
        if self.recipe.corruption == "grey":
            x, _ = grey(x, 0, None)
        return (x - self.mean) / self.scale

    def _white(self, code: torch.Tensor) -> torch.Tensor:
        return code if self.whitening is None else cast(torch.Tensor, self.whitening(code))

    def _pixels(self, raw: torch.Tensor) -> torch.Tensor:
        exact = raw.to(self.scale.dtype)  # the decoder's output may be bf16
        return exact.sigmoid() if self.recipe.loss == "bce" else exact * self.scale + self.mean

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
    """Read a model directory into an evaluating Autoencoder on the CPU and its configuration.

    Raises UserError or WorkFailed where another version of the program wrote it.
    """
    from safetensors.torch import load_file

    configuration = json.loads((directory / CONFIG).read_text())
    recipe = build(Recipe, configuration["recipe"], f"{directory / CONFIG}: recipe")
    channels, height, width = configuration["shape"]
    model = Autoencoder(recipe, (channels, height, width), configuration["latent_dim"])
    try:
        model.load_state_dict(load_file(directory / WEIGHTS))
    except RuntimeError as error:
        raise WorkFailed(f"{directory / WEIGHTS} was written by another version: run `dvc repro`.") from error
    return model.eval(), configuration
