"""The judge of generated images: a small classifier of the training split's labels, whose features are compared.

It belongs to the data, not to a model: the `baseline` stage trains it once, and every recipe is judged by it. It works
on the CPU whatever the device, and in one thread: the same judge beside every model, and its layers are so small that
threads would wait for one another, on a busy machine for minutes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from aecore.data.images import Images

FILE = "judge.safetensors"
WIDTHS = (16, 32, 32, 32)
"""Channels of the levels at most; each halves the sides."""
SIDE = 7
"""Pixels of the shorter side that is halved no further, and of the grid that the features look at, at most."""
LARGEST = 64
"""Pixels of the shorter side above which images are averaged down first, by a whole number."""
FEATURES = 64
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 4, 64, 4e-3, 1e-2
FEWEST, PIXELS = 6_400, 10**8
"""Images gone through at least (over and over, where there are few), and pixels at most."""


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Judge(nn.Module):
    """Images (B, C, H, W) float in [0, 1] -> logits (B, labels), by way of features (B, FEATURES)."""

    def __init__(self, shape: tuple[int, int, int], labels: int) -> None:
        super().__init__()
        channels, *sides = shape
        self.shrink = max(1, min(sides) // LARGEST)
        sides = [side // self.shrink for side in sides]
        levels = min(max(1, round(math.log2(min(sides) / SIDE))), len(WIDTHS))
        layers: list[nn.Module] = []
        for width in WIDTHS[:levels]:
            layers += [
                nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                nn.MaxPool2d(2, ceil_mode=True),
            ]  # fmt: skip
            channels, sides = width, [-(-side // 2) for side in sides]
        grid = min(SIDE, sides[0]), min(SIDE, sides[1])
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(grid), nn.Flatten())
        self.last = nn.Sequential(nn.Linear(channels * math.prod(grid), FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, labels)
        self.to(memory_format=torch.channels_last)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, FEATURES): the last hidden layer, 0 or more."""
        small = F.avg_pool2d(x, self.shrink) if self.shrink > 1 else x
        return cast(torch.Tensor, self.last(self.body(small * 2 - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> logits (B, labels)."""
        return cast(torch.Tensor, self.head(self.features(x)))

    @_one_thread()
    @torch.inference_mode()
    def look(self, pictures: np.ndarray) -> np.ndarray:
        """Features float32 (n, FEATURES) of pictures (n, C, H, W), uint8 or float in [0, 1]."""
        blocks = np.array_split(pictures, -(-len(pictures) // 256))
        return np.concatenate([self.features(_scaled(block)).numpy() for block in blocks])

    @_one_thread()
    @torch.inference_mode()
    def accuracy(self, images: Images, positions: np.ndarray) -> float:
        """Share of the labelled images at `positions` whose label it gives."""
        labels, right = cast(np.ndarray, images.labels()), 0
        for block in np.array_split(positions, -(-len(positions) // 256)):
            right += int((self(_scaled(images.rows(block))).argmax(dim=1).numpy() == labels[block]).sum())
        return right / len(positions)


@_one_thread()
def train(images: Images, positions: np.ndarray, seed: int) -> Judge:
    """Train a judge on the labelled images at `positions`; cross-entropy, AdamW, a one-cycle learning rate.

    The same seed and images give the same weights.
    """
    labels = cast(np.ndarray, images.labels())
    _, height, width = images.shape
    most = PIXELS // (height * width // max(1, min(height, width) // LARGEST) ** 2)
    steps = max(FEWEST, min(EPOCHS * len(positions), most)) // BATCH
    generator = np.random.default_rng(seed)
    rounds = -(-steps * BATCH // len(positions))
    order = np.concatenate([generator.permutation(positions) for _ in range(rounds)])[: steps * BATCH]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge(images.shape, len(cast(list[str], images.label_names)))
    optimiser = torch.optim.AdamW(judge.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    judge.train()
    for batch in order.reshape(steps, BATCH):
        loss = F.cross_entropy(judge(_scaled(images.rows(batch))), torch.from_numpy(labels[batch]).long())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return judge.eval()


def save(judge: Judge, directory: Path) -> None:
    """Write the judge's weights."""
    from safetensors.torch import save as serialised

    weights = {name: value.contiguous() for name, value in judge.state_dict().items()}
    (directory / FILE).write_bytes(serialised(weights))


def load(directory: Path, images: Images) -> Judge:
    """Read what `save` wrote; `images` are those it was trained on."""
    from safetensors.torch import load_file

    judge = Judge(images.shape, len(cast(list[str], images.label_names)))
    judge.load_state_dict(load_file(directory / FILE))
    return judge.eval()


def _scaled(pictures: np.ndarray) -> torch.Tensor:
    x = torch.from_numpy(np.ascontiguousarray(pictures))
    return (x.float() / 255 if x.dtype == torch.uint8 else x).contiguous(memory_format=torch.channels_last)
