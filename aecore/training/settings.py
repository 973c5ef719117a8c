"""Section `train`: what the training loop is asked for. Reading it takes no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from aecore.config import refuse, require

Stepping = Literal["auto", "eager", "compiled", "captured"]


@dataclass(frozen=True)
class TrainConfig:
    """Section `train`."""

    recipe: str
    """One of `recipes/*.yaml`."""
    overrides: dict[str, Any]
    """Keys of the recipe to change; they win over it."""
    latent_dim: int
    """Numbers in a code."""
    epochs: int
    """Passes over the training images."""
    batch_size: int
    """Images a step."""
    learning_rate: float
    """Peak of the schedule."""
    weight_decay: float
    """AdamW's decoupled decay."""
    warmup_epochs: float
    """Epochs of linear warm-up; a cosine to zero follows."""
    clip_norm: float
    """Largest norm of the model's gradient."""
    precision: Literal["auto", "fp32", "bf16"]
    """`auto` takes bf16 where the hardware multiplies in it."""
    stepping: Stepping
    """How a step is taken: see `aecore.training.stepping`."""
    shuffle_gb: float
    """Up to so many GB of images are shuffled as a whole; a larger set window by window: see `Feed`."""
    devices: int
    """Processes that train together, each on a GPU of its own or, without one, on its share of the threads."""

    def __post_init__(self) -> None:
        require(self.latent_dim >= 1, "latent_dim", self.latent_dim, "1 or more")
        require(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        require(self.batch_size >= 2, "batch_size", self.batch_size, "2 or more")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "more than 0")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        require(self.clip_norm > 0, "clip_norm", self.clip_norm, "more than 0")
        require(self.shuffle_gb > 0, "shuffle_gb", self.shuffle_gb, "more than 0")
        require(self.devices >= 1, "devices", self.devices, "1 or more")
        if not 0 <= self.warmup_epochs < self.epochs:
            refuse(f"warmup_epochs is {self.warmup_epochs}, but epochs is {self.epochs}: make it smaller.")
        if self.devices > 1 and self.batch_size < 2 * self.devices:
            refuse(f"batch_size is {self.batch_size}, but devices is {self.devices}: each needs two images of a batch.")
