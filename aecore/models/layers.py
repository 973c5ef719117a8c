"""The ways down and up: blocks that halve or double a feature map."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

Size = tuple[int, int]


def halved(size: Size) -> Size:
    """Height and width after one level: half, rounded up, so that any image size has a way down."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2


class StridedDown(nn.Sequential):
    """3x3 convolution of stride 2, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )


class NearestUp(nn.Module):
    """Nearest-neighbour resize to `size`, then 3x3 convolution, batch normalisation, ReLU.

    Resizing before convolving covers every output pixel evenly, which transposed convolution does not: no checkerboard
    (Odena, Dumoulin & Olah 2016, "Deconvolution and Checkerboard Artifacts").
    """

    def __init__(self, inputs: int, outputs: int, size: Size) -> None:
        super().__init__()
        self.size = size
        self.convolve = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.normalise = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, inputs, h, w) -> (B, outputs, *size)
        """Resize and convolve."""
        resized = F.interpolate(x, size=self.size, mode="nearest")
        return F.relu(self.normalise(self.convolve(resized)))


DOWN: dict[str, Callable[[int, int], nn.Module]] = {"strided": StridedDown}
UP: dict[str, Callable[[int, int, Size], nn.Module]] = {"nearest": NearestUp}
