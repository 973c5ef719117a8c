"""Floors: the bytes and the operations that training cannot do without, and what a machine does of each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

STATED = {"NVIDIA H100 80GB HBM3": (3.35e12, 800e12)}
"""Bytes a second as the maker states them, and bf16 operations a second as large matrices reach them in practice."""
PASSES = 5
"""Of each activation: written and read on the way forward, read on the way back, its gradient written and read."""


class Work(NamedTuple):
    """What a step needs, an image."""

    bytes: float
    operations: float
    """A multiplication and an addition count as two."""


class Machine(NamedTuple):
    """What a device can do."""

    name: str
    bandwidth: float
    """Bytes a second, read and written together."""
    operations: float
    """A second, in the fastest precision that was tried."""
    source: str
    """`stated`, or `measured` in this run."""

    def floors(self, work: Work) -> tuple[float, float]:
        """Images a second that moving the bytes, and doing the operations, allows at most."""
        return self.bandwidth / work.bytes, self.operations / work.operations

    def at_best(self, again: Machine) -> Machine:
        """The better of each figure: another program may have been in the way of one measurement."""
        bandwidth, operations = max(self.bandwidth, again.bandwidth), max(self.operations, again.operations)
        return self._replace(bandwidth=bandwidth, operations=operations)


def training(model: nn.Module, x: torch.Tensor, size: int = 2) -> Work:
    """The work of a training step an image, counted as `model` takes `x` (B, ...); `size` bytes a number.

    Activations are the outputs of convolutions and dense layers: normalisation, ReLU and enlargement need not touch
    memory of their own. The pixels are read once, a byte each. Weights count for nothing at a large batch.
    Operations are those of the layers as they stand, forward, and twice that on the way back (once where the input
    needs no gradient). A nearest-neighbour enlargement and its 3x3 convolution can be done in 4/9 of them.
    """
    numbers, operations = 0, 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal numbers, operations
        numbers += output.numel()
        forward = 2 * _products(layer, inputs[0], output)
        operations += forward * (3 if inputs[0].requires_grad else 2)

    hooks = [
        layer.register_forward_hook(count)
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]
    with torch.enable_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return Work((PASSES * size * numbers + x.numel()) / len(x), operations / len(x))


def machine(device: str, seconds: float = 0.5) -> Machine:
    """What the device can do: as stated where it is known, else measured for about `seconds` a figure."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    if name in STATED:
        return Machine(name, *STATED[name], "stated")
    source = torch.zeros(2**30 if device == "cuda" else 2**28, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    copied = 2 * source.numel() / _fastest(lambda: target.copy_(source), device, seconds)
    side = 8192 if device == "cuda" else 2048
    multiplied = []
    for dtype in (torch.bfloat16, torch.float32):
        a, b, c = (torch.randn(side, side, device=device).to(dtype) for _ in range(3))
        multiplied.append(2 * side**3 / _fastest(partial(torch.mm, a, b, out=c), device, seconds))
    return Machine(name, copied, max(multiplied), "measured")


def _products(layer: nn.Module, x: torch.Tensor, output: torch.Tensor) -> int:
    """Multiplications of a forward pass."""
    if isinstance(layer, nn.Conv2d):
        return output.numel() * layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    if isinstance(layer, nn.ConvTranspose2d):
        return x.numel() * layer.out_channels // layer.groups * math.prod(layer.kernel_size)
    assert isinstance(layer, nn.Linear)
    return output.numel() * layer.in_features


def _fastest(function: Callable[[], Any], device: str, seconds: float) -> float:
    """Seconds of the fastest call, the first one not counted."""
    best, end = math.inf, math.inf
    while True:
        started = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if end == math.inf:
            end = now + seconds
            continue
        best = min(best, now - started)
        if now > end:
            return best
