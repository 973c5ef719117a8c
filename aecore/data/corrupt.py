"""Corruptions of the input: what a denoising, inpainting or colourising autoencoder has to undo.

Each takes images float (B, C, H, W) in [0, 1], an amount and a generator (None: torch's own), and gives corrupted
images of the same kind and which pixels are unknown, bool (B, 1, H, W), or None. Every image has randomness of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

Corrupted = tuple[torch.Tensor, torch.Tensor | None]
Random = torch.Generator | None

GREY = 0.5
"""What stands in a hole."""
BLOCKS = 4
"""Squares that `blocks` hides, which may overlap."""
LUMINANCE = (0.299, 0.587, 0.114)
"""Of red, green and blue (ITU-R BT.601), as PIL's conversion to grey."""


def dropout(x: torch.Tensor, amount: float, generator: Random) -> Corrupted:
    """Each pixel is black with probability `amount` (masking noise, Vincent et al. 2008)."""
    hidden = _uniform(x, (len(x), 1, *x.shape[2:]), generator) < amount
    return x * ~hidden, hidden


def gaussian(x: torch.Tensor, amount: float, generator: Random) -> Corrupted:
    """Normal noise of standard deviation `amount` on every value, which then is clipped to [0, 1]."""
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    return (x + amount * noise).clamp(0, 1), None


def salt_pepper(x: torch.Tensor, amount: float, generator: Random) -> Corrupted:
    """Each pixel is, with probability `amount`, black or white with equal chances."""
    u = _uniform(x, (len(x), 1, *x.shape[2:]), generator)
    return torch.where(u < amount, (u < amount / 2).to(x.dtype), x), None


def hole(x: torch.Tensor, amount: float, generator: Random) -> Corrupted:
    """A centred square of `amount` times the shorter side is GREY (context encoder, Pathak et al. 2016)."""
    height, width = x.shape[2:]
    side = max(1, round(amount * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    hidden = torch.zeros(len(x), 1, height, width, dtype=torch.bool, device=x.device)
    hidden[:, :, top : top + side, left : left + side] = True
    return torch.where(hidden, GREY, x), hidden


def blocks(x: torch.Tensor, amount: float, generator: Random) -> Corrupted:
    """BLOCKS squares at random places, together `amount` of the image's area where none overlap, are GREY."""
    height, width = x.shape[2:]
    side = min(max(1, round(math.sqrt(amount * height * width / BLOCKS))), height, width)
    hidden = torch.zeros(len(x), 1, height, width, dtype=torch.bool, device=x.device)
    for _ in range(BLOCKS):
        inside = []
        for axis, length in enumerate((height, width)):
            start = (_uniform(x, (len(x), 1), generator) * (length - side + 1)).floor()
            place = torch.arange(length, device=x.device)[None]
            along = (place >= start) & (place < start + side)  # (B, length)
            inside.append(along[:, None, :, None] if axis == 0 else along[:, None, None, :])
        hidden |= inside[0] & inside[1]
    return torch.where(hidden, GREY, x), hidden


def grey(x: torch.Tensor, amount: float, generator: Random) -> Corrupted:
    """Every channel becomes the LUMINANCE of the three."""
    luminance = sum(weight * x[:, i : i + 1] for i, weight in enumerate(LUMINANCE))
    return torch.as_tensor(luminance).expand_as(x), None


def affine(x: torch.Tensor, amount: float, generator: Random) -> Corrupted:
    """Turned by up to 16 degrees, scaled by 0.8-1.2, shifted by up to 10 % of each side, all times `amount`.

    Bilinear; what comes from outside the image repeats its edge.
    """
    u = _uniform(x, (len(x), 4), generator) * 2 - 1  # (B, 4) in [-1, 1]
    angle, scale = u[:, 0] * amount * math.radians(16), 1 + u[:, 1] * amount * 0.2
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    shift = u[:, 2:] * amount * 0.2  # affine_grid counts a side as 2
    theta = torch.stack([cosine, -sine, shift[:, 0], sine, cosine, shift[:, 1]], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False).contiguous(
        memory_format=torch.channels_last
    ), None


CORRUPTIONS: dict[str, Callable[[torch.Tensor, float, Random], Corrupted]] = {
    "none": lambda x, amount, generator: (x, None),
    "dropout": dropout,
    "gaussian": gaussian,
    "salt_pepper": salt_pepper,
    "hole": hole,
    "blocks": blocks,
    "grey": grey,
    "affine": affine,
}


def corrupt(x: torch.Tensor, kind: str, amount: float, generator: Random = None) -> Corrupted:
    """Corrupt images by the `kind` of a recipe's `corruption`."""
    return CORRUPTIONS[kind](x, amount, generator)


def _uniform(x: torch.Tensor, shape: tuple[int, ...], generator: Random) -> torch.Tensor:
    return torch.rand(shape, generator=generator, device=x.device)
