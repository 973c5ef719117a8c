"""One training step: gather, corrupt, forward, loss, backward, clip, optimise."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
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
from aecore.training.feed import Batch
from aecore.training.ranks import ALONE, Ranks, synchronise
from aecore.training.settings import Stepping
from aecore.training.stepping import Captured, Scalars, Step, compiled
from aecore.training.turns import Turns

Precision = Literal["fp32", "bf16"]

BLOCK = 512
"""Images read at a time where no gradient is needed."""


def choose_precision(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """`auto` takes bf16 where the hardware multiplies in it: three times faster on such a CPU, and as exact here."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"


def pixels(batch: np.ndarray | torch.Tensor, device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """uint8 (B, C, H, W) -> floats in [0, 1] on the device, channels last."""
    tensor = torch.from_numpy(batch) if isinstance(batch, np.ndarray) else batch
    return (tensor.to(device, non_blocking=True).to(dtype) / 255).contiguous(memory_format=torch.channels_last)


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
        *,
        gather: Callable[[torch.Tensor], torch.Tensor] = lambda keys: keys,
        stepping: Stepping = "eager",
        ranks: Ranks = ALONE,
    ) -> None:
        """`gather` gives the images, uint8, that a batch's keys stand for: `Feed.gather`."""
        self.model: Autoencoder = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device, self.clip_norm, self.gather, self.ranks = device, clip_norm, gather, ranks
        recipe = model.recipe
        self.loss = LOSSES[recipe.loss]
        self.autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
        self.penalties = {name: PENALTIES[name](model) for name in recipe.penalties}
        self.helpers = nn.ModuleList(p for p in self.penalties.values() if isinstance(p, nn.Module)).to(device)
        for part in (self.model, self.helpers):
            synchronise(part, device, ranks)
        self.dtype = model.scale.dtype
        self.term_weight = recipe.beta / math.prod(model.shape)
        self.schedule = partial(warmup_and_cosine, warmup_steps=warmup_steps, steps=steps)
        self.peak, self.taken = learning_rate, 0
        captured = stepping in ("compiled", "captured") and device.type == "cuda"
        rate = torch.tensor(learning_rate, device=device) if captured else learning_rate  # a graph reads it anew
        self.optimiser = torch.optim.AdamW(
            _groups(model, self.helpers), lr=rate, weight_decay=weight_decay, fused=True, capturable=captured
        )  # fused: one kernel for all parameters; on two cores 1.04 times the images/s
        self._eager: Step = partial(self._take, self._objective)
        self._whole: Step = partial(self._take, compiled(self._objective)) if stepping == "compiled" else self._eager
        if captured:
            self._whole = Captured(self._whole)
        self._size: int | None = None
        self.turns = Turns.of_all_cores(device, ranks.size)

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self.peak * self.schedule(self.taken)

    def step(self, batch: Batch) -> Scalars:
        """Train on a batch.

        Returns detached scalars float32: `loss`, what was minimised, and, where it is a sum, its parts without their
        weights (`reconstruction`, the bottleneck's terms, the penalties): of this rank's share. The next step may
        overwrite them.
        """
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(self.learning_rate)
            else:
                group["lr"] = self.learning_rate
        self.taken += 1
        self._size = self._size or len(batch.keys)  # an epoch's last batch is smaller: too few to compile for
        step = self._whole if len(batch.keys) == self._size else self._eager
        with self.turns:
            return step(batch.keys, batch.share)

    def _objective(self, keys: torch.Tensor) -> Scalars:
        """Gather, corrupt, forward: the loss by its parts."""
        recipe = self.model.recipe
        x = pixels(self.gather(keys), self.device, self.dtype)
        corrupted, hidden = corrupt(x, recipe.corruption, recipe.amount)
        with self.autocast:
            output = self.model(corrupted)
            penalties = {name: penalty(self.model, output, x) for name, penalty in self.penalties.items()}
        return {"reconstruction": self.loss(output, x, hidden), **output.terms, **penalties}

    def _take(self, objective: Callable[[torch.Tensor], Scalars], keys: torch.Tensor, share: float) -> Scalars:
        """The whole step: what may be compiled, and what is captured."""
        parts = objective(keys)
        loss = torch.stack([self._weight(name) * part for name, part in parts.items()]).sum()
        self.optimiser.zero_grad(set_to_none=True)
        (loss * share if share != 1 else loss).backward()  # type: ignore[no-untyped-call]
        self.ranks.sum([p.grad for group in self.optimiser.param_groups for p in group["params"] if p.grad is not None])
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimiser.step()
        return {"loss": loss.detach()} | ({k: v.detach() for k, v in parts.items()} if len(parts) > 1 else {})

    def _weight(self, part: str) -> float:
        if part == "reconstruction":
            return 1.0
        return self.model.recipe.penalties.get(part, self.term_weight)


def _groups(model: Autoencoder, helpers: nn.Module) -> list[dict[str, Any]]:
    """Parameters for the optimiser; those behind constrained weights are not decayed."""
    constrained = parametrised(model)
    free = [p for p in (*model.parameters(), *helpers.parameters()) if not any(p is c for c in constrained)]
    return [{"params": free}, *([{"params": constrained, "weight_decay": 0.0}] if constrained else [])]


@torch.inference_mode()
def reconstruction_mse(
    model: Autoencoder, images: Images, split: str, device: torch.device, ranks: Ranks = ALONE
) -> float:
    """Mean squared error over a split in [0, 1] pixel units, reconstructions clipped to [0, 1], of what is asked for:

    the clean image from a corrupted one (the same corruption whenever it is called), and with the loss `masked` the
    hidden pixels alone. Precision is the caller's: under its autocast, or the model's own. `ranks` share the blocks.
    """
    model.eval()
    recipe, positions = model.recipe, images.positions(split)
    generator = torch.Generator(device)
    sums = torch.zeros((2,), dtype=torch.float64, device=device)  # of errors, and how many
    for start in range(BLOCK * ranks.rank, len(positions), BLOCK * ranks.size):
        x = pixels(images.rows(positions[start : start + BLOCK]), device, model.scale.dtype)
        corrupted, hidden = corrupt(x, recipe.corruption, recipe.amount, generator.manual_seed(start))
        error = (model(corrupted).reconstruction.clamp(0, 1) - x).square()
        if recipe.loss == "masked" and hidden is not None:
            error = error[hidden.expand_as(error)]
        sums[0] += error.sum(dtype=torch.float64)
        sums[1] += error.numel()
    ranks.sum([sums])
    return float(sums[0] / sums[1])


def warmup_and_cosine(step: int, warmup_steps: int, steps: int) -> float:
    """Factor on the learning rate: linear rise over `warmup_steps`, then half a cosine down to 0 at `steps`.

    Loshchilov & Hutter 2017, "SGDR", eq. 5 without restarts.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))
