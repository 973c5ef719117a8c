"""Reconstruction losses: pure functions of what the autoencoder gave, what was asked, and what had been hidden."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from aecore.models.autoencoder import Output

Hidden = torch.Tensor | None
"""bool (B, 1, H, W), True where the input's pixel was unknown; None where nothing was hidden."""


def mse(output: Output, target: torch.Tensor, hidden: Hidden) -> torch.Tensor:
    """Mean squared error over images and pixels, a scalar."""
    return F.mse_loss(output.reconstruction, target)


def l1(output: Output, target: torch.Tensor, hidden: Hidden) -> torch.Tensor:
    """Mean absolute error over images and pixels, a scalar."""
    return F.l1_loss(output.reconstruction, target)


def bce(output: Output, target: torch.Tensor, hidden: Hidden) -> torch.Tensor:
    """Mean binary cross-entropy over images and pixels in nats, a scalar: -t log p - (1 - t) log(1 - p).

    The pixel's value t in [0, 1] counts as a probability; p is the logistic function of the decoder's output, which the
    loss reads before that function, so it has a gradient however wrong it is.
    """
    return F.binary_cross_entropy_with_logits(output.raw.float(), target)


def masked(output: Output, target: torch.Tensor, hidden: Hidden) -> torch.Tensor:
    """Mean squared error over the hidden pixels alone, a scalar (Pathak et al. 2016, eq. 1); 0 where none is."""
    assert hidden is not None  # Recipe refuses a corruption that hides nothing
    inside = hidden.expand_as(target)
    return ((output.reconstruction - target).square() * inside).sum() / inside.sum().clamp_min(1)


LOSSES: dict[str, Callable[[Output, torch.Tensor, Hidden], torch.Tensor]] = {
    "mse": mse,
    "l1": l1,
    "bce": bce,
    "masked": masked,
}
