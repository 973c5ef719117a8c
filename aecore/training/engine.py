"""One training step, and how images reach it: device, precision, memory format, schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from aecore.data.corrupt import corrupt
from aecore.data.images import Images
from aecore.models.autoencoder import Autoencoder
from aecore.models.constraints import parametrised
from aecore.models.losses import LOSSES
from aecore.models.penalties import PENALTIES

Precision = Literal["fp32", "bf16"]

BLOCK = 512
"""Images read at a time where no gradient is needed."""
RESIDENT_SHARE = 0.25
"""A data set that takes at most this share of the GPU's free memory is kept there."""


def choose_precision(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """`auto` takes bf16 where the hardware multiplies in it: three times faster on such a CPU, and as exact here."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"


def pixels(batch: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 (B, C, H, W) -> float32 in [0, 1] on the device, channels last."""
    tensor = torch.from_numpy(batch) if isinstance(batch, np.ndarray) else batch
    return (tensor.to(device, non_blocking=True).float() / 255).contiguous(memory_format=torch.channels_last)


class Feed:
    """Batches of training images in a fresh order every epoch; resident on the GPU when they fit there."""

    def __init__(self, images: Images, split: str, batch_size: int, seed: int, device: torch.device) -> None:
        self.images, self.batch_size, self.seed, self.device = images, batch_size, seed, device
        self.positions = images.positions(split)
        self.resident: torch.Tensor | None = None
        size = len(self.positions) * math.prod(images.shape)
        if device.type == "cuda" and size <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            self.resident = torch.empty((len(self.positions), *images.shape), dtype=torch.uint8, device=device)
            for start in range(0, len(self.positions), BLOCK):
                rows = images.rows(self.positions[start : start + BLOCK])
                self.resident[start : start + BLOCK] = torch.from_numpy(rows)

    @property
    def steps(self) -> int:
        """Steps in an epoch; a last batch of one image, which batch normalisation cannot use, is left out."""
        full, rest = divmod(len(self.positions), self.batch_size)
        return max(1, full + (rest > 1))

    def epoch(self, epoch: int) -> Iterator[torch.Tensor]:
        """Yield the epoch's batches as `pixels` does; the order depends on seed and epoch alone."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.positions))
        for step in range(self.steps):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            if self.resident is not None:
                yield pixels(self.resident[torch.from_numpy(chosen).to(self.device)], self.device)
            else:
                yield pixels(self.images.rows(self.positions[chosen]), self.device)


class Engine:
    """Model, optimiser and schedule; `step` trains on one batch."""

    def __init__(
        self,
        model: Autoencoder,
        device: torch.device,
        precision: Precision,
        learning_rate: float,
        weight_decay: float,
        clip_norm: float,
        warmup_steps: int,
        steps: int,
    ) -> None:
        self.model: Autoencoder = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device, self.clip_norm = device, clip_norm
        recipe = model.recipe
        self.loss = LOSSES[recipe.loss]
        self.autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
        self.penalties = {name: PENALTIES[name](model) for name in recipe.penalties}
        self.helpers = nn.ModuleList(p for p in self.penalties.values() if isinstance(p, nn.Module)).to(device)
        self.term_weight = recipe.beta / math.prod(model.shape)
        self.optimiser = torch.optim.AdamW(
            _groups(model, self.helpers), lr=learning_rate, weight_decay=weight_decay, fused=device.type == "cuda"
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: warmup_and_cosine(step, warmup_steps, steps)
        )

    def step(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Corrupt, forward, loss, backward, clip, optimise.

        Returns detached scalars float32: `loss`, what was minimised, and, where it is a sum, its parts without their
        weights (`reconstruction`, the bottleneck's terms, the penalties).
        """
        recipe = self.model.recipe
        corrupted, hidden = corrupt(x, recipe.corruption, recipe.amount)
        with self.autocast:
            output = self.model(corrupted)
            penalties = {name: penalty(self.model, output, x) for name, penalty in self.penalties.items()}
        parts = {"reconstruction": self.loss(output, x, hidden), **output.terms, **penalties}
        weights = {"reconstruction": 1.0, **dict.fromkeys(output.terms, self.term_weight), **recipe.penalties}
        loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimiser.step()
        self.schedule.step()
        return {"loss": loss.detach()} | ({k: v.detach() for k, v in parts.items()} if len(parts) > 1 else {})


def _groups(model: Autoencoder, helpers: nn.Module) -> list[dict[str, Any]]:
    """Parameters for the optimiser; those behind constrained weights are not decayed."""
    constrained = parametrised(model)
    free = [p for p in (*model.parameters(), *helpers.parameters()) if not any(p is c for c in constrained)]
    return [{"params": free}, *([{"params": constrained, "weight_decay": 0.0}] if constrained else [])]


@torch.inference_mode()
def reconstruction_mse(model: Autoencoder, images: Images, split: str, device: torch.device) -> float:
    """Mean squared error over a split in [0, 1] pixel units, reconstructions clipped to [0, 1], of what is asked for:

    the clean image from a corrupted one (the same corruption whenever it is called), and with the loss `masked` the
    hidden pixels alone. Precision is the caller's: under its autocast, or float32.
    """
    model.eval()
    recipe, positions = model.recipe, images.positions(split)
    generator = torch.Generator(device).manual_seed(0)
    total, values = torch.zeros((2,), dtype=torch.float64, device=device)
    for start in range(0, len(positions), BLOCK):
        x = pixels(images.rows(positions[start : start + BLOCK]), device)
        corrupted, hidden = corrupt(x, recipe.corruption, recipe.amount, generator)
        error = (model(corrupted).reconstruction.clamp(0, 1) - x).square()
        if recipe.loss == "masked" and hidden is not None:
            error = error[hidden.expand_as(error)]
        total += error.sum(dtype=torch.float64)
        values += error.numel()
    return float(total / values)


def warmup_and_cosine(step: int, warmup_steps: int, steps: int) -> float:
    """Factor on the learning rate: linear rise over `warmup_steps`, then half a cosine down to 0 at `steps`.

    Loshchilov & Hutter 2017, "SGDR", eq. 5 without restarts.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))
