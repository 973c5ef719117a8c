"""Histograms of oriented gradients as a target: what an image's edges are, whatever its brightness and contrast."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from aecore.models.recipe import CELL

BINS = 8
"""Orientations between 0 and pi."""
FLOOR = 0.02
"""Added to the local contrast, so that flat places stay near zero."""


def orientation_histograms(x: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W) in [0, 1] -> (B, BINS, H // CELL, W // CELL), in [0, 1], of the mean over channels.

    Dalal & Triggs 2005, smooth: central differences; each gradient's length goes to the orientations within pi / 4 of
    its own, by the squared cosine of twice the angle between; means over cells, divided by the local contrast (the root
    mean square of the 3 x 3 cells' lengths, edges repeated). Then the square root, as of any histogram that is compared
    by squared differences (Hellinger; Arandjelovic & Zisserman 2012).
    """
    grey = F.pad(x.float().mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = grey[:, :, 1:-1, 2:] - grey[:, :, 1:-1, :-2]
    down = grey[:, :, 2:, 1:-1] - grey[:, :, :-2, 1:-1]
    length, angle = (across.square() + down.square() + 1e-8).sqrt(), torch.atan2(down, across)
    centres = torch.arange(BINS, device=x.device).view(1, -1, 1, 1) * (math.pi / BINS)
    votes = length * torch.cos(2 * (angle - centres)).clamp_min(0).square()
    cells = F.avg_pool2d(votes, CELL)
    energy = F.pad(cells.square().sum(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    contrast = F.avg_pool2d(energy, 3, stride=1).sqrt()
    return (cells / (contrast + FLOOR)).sqrt()
