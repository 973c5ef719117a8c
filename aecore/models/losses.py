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


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"mse": mse, "l1": l1}
