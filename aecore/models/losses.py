"""Reconstruction losses: pure functions of (reconstruction, target), both (B, C, H, W) float, target in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


def mse(reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error over images and pixels, a scalar."""
    return F.mse_loss(reconstruction, target)


def l1(reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute error over images and pixels, a scalar."""
    return F.l1_loss(reconstruction, target)


def bce(reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of pixels read as Bernoulli means (Vincent et al. 2010, eq. 5); the reconstruction is clipped."""
    return F.binary_cross_entropy(reconstruction.clamp(1e-6, 1 - 1e-6), target)


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"mse": mse, "l1": l1, "bce": bce}
