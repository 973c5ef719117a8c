"""An encoder with a linear head, taught by few labelled images: what `finetune` measures, as functions of arrays.

Validation images choose, never test images: the regressions' C, and the networks' learning rate and epoch. A network
begins with the head that logistic regression gives it (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features
and Underperform Out-of-Distribution"), and that beginning is one of the epochs to choose from.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from aecore.analysis import learners
from aecore.analysis.learners import Linear
from aecore.analysis.protocol import Encode, flat
from aecore.models.autoencoder import Autoencoder
from aecore.models.pca import Pca
from aecore.training.engine import BLOCK, pixels, warmup_and_cosine

RATES = (1e-3, 3e-3, 1e-2)
"""Learning rates to choose from."""
BATCH = 64
"""Images a step, or all where there are fewer: never a rest, which batch normalisation would take too seriously."""
STEPS = 25
"""Steps in an epoch at least: fewer labelled images are shown several times in one."""


class Part(NamedTuple):
    """Images and what they show."""

    pixels: np.ndarray
    """uint8 (n, C, H, W)."""
    labels: np.ndarray
    """int64 (n,), from 0; -1 where no labelled training image shows the same."""


class Measured(NamedTuple):
    """What one way makes of the test images."""

    correct: np.ndarray
    """bool (q,)."""
    chosen: dict[str, float]
    """What validation images chose."""


class Classifier(nn.Module):
    """An autoencoder's encoder and a linear head: images (B, C, H, W) in [0, 1] -> scores (B, K)."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, model: Autoencoder, linear: Linear) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.from_numpy(linear.mean))
        self.register_buffer("scale", torch.tensor(linear.scale))
        self.head = nn.Linear(linear.weight.shape[1], len(linear.weight))
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(linear.weight))
            self.head.bias.copy_(torch.from_numpy(linear.bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode and score."""
        scores: torch.Tensor = self.head((self.model.encode(x) - self.mean) / self.scale)
        return scores


def draw(positions: np.ndarray, labels: np.ndarray, each: int, seed: int) -> np.ndarray:
    """`each` of `positions` for every label in `labels` (theirs), at random; with one seed, more include the fewer."""
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(positions[labels == label])[:each] for label in np.unique(labels)]
    return np.sort(np.concatenate(drawn))


def fresh(model: Autoencoder, seed: int) -> Autoencoder:
    """The same network with fresh weights; the channels' mean and scale stay."""
    torch.manual_seed(seed)
    other = Autoencoder(model.recipe, model.shape, model.latent_dim)
    other.mean.copy_(model.mean)
    other.scale.copy_(model.scale)
    return other.eval()


def by_regression(encode: Encode, taught: Part, validation: Part, test: Part) -> tuple[Linear, Measured]:
    """Logistic regression on `encode`'s vectors."""
    vectors = [encode(part.pixels) for part in (taught, validation, test)]
    linear = learners.logistic(
        vectors[0], taught.labels, lambda candidate: float((candidate.predict(vectors[1]) == validation.labels).mean())
    )
    return linear, Measured(linear.predict(vectors[2]) == test.labels, {"C": linear.cost})


def by_training(
    model: Autoencoder, taught: Part, validation: Part, test: Part, epochs: int, seed: int, device: torch.device,
    tick: Callable[[], object],
) -> Measured:  # fmt: skip
    """Train a copy of `model`'s encoder and a head at each of RATES; keep what is best on validation images.

    Adam, a warm-up of one epoch, a cosine to zero. Of equals the smaller rate and the earlier epoch are taken; rate and
    epoch 0 are the beginning, logistic regression on the codes.
    """
    model = copy.deepcopy(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    linear, _ = by_regression(lambda x: apply(model.encode, x, device), taught, validation, test)
    best = Classifier(model, linear).to(device)
    score, chosen = float(correct(best, validation, device).mean()), dict[str, float](learning_rate=0.0, epoch=0)
    for rate in RATES:
        trained = Classifier(copy.deepcopy(model), linear).to(device)
        for epoch, _ in enumerate(train(trained, taught, epochs, rate, seed, device), start=1):
            if (found := float(correct(trained, validation, device).mean())) > score:
                score, chosen, best = found, {"learning_rate": rate, "epoch": epoch}, copy.deepcopy(trained)
            tick()
    return Measured(correct(best, test, device), chosen)


def train(
    classifier: Classifier, taught: Part, epochs: int, rate: float, seed: int, device: torch.device
) -> Iterator[None]:
    """Train in place by cross-entropy, in float32; yields after each epoch."""
    batch = min(BATCH, len(taught.labels))
    steps = max(STEPS, math.ceil(len(taught.labels) / batch))
    optimiser = torch.optim.Adam(classifier.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: warmup_and_cosine(s, steps, epochs * steps))
    torch.manual_seed(seed)
    labels = torch.from_numpy(taught.labels)
    for step, rows in enumerate(shuffled(len(labels), batch, epochs * steps, seed), start=1):
        classifier.train()
        loss = F.cross_entropy(classifier(pixels(taught.pixels[rows], device)), labels[rows].to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % steps == 0:
            yield


def shuffled(count: int, batch: int, steps: int, seed: int) -> Iterator[np.ndarray]:
    """`steps` times `batch` of 0 … count - 1: one permutation after the other, so that all come equally often."""
    generator = np.random.default_rng(seed)
    waiting = generator.permutation(count)
    for _ in range(steps):
        while len(waiting) < batch:
            waiting = np.concatenate([waiting, generator.permutation(count)])
        yield waiting[:batch]
        waiting = waiting[batch:]


@torch.inference_mode()
def apply(function: Callable[[torch.Tensor], torch.Tensor], images: np.ndarray, device: torch.device) -> np.ndarray:
    """`function` of uint8 (n, C, H, W) in blocks, as numpy."""
    blocks = range(0, len(images), BLOCK)
    return np.concatenate([function(pixels(images[i : i + BLOCK], device)).cpu().numpy() for i in blocks])


def correct(classifier: Classifier, part: Part, device: torch.device) -> np.ndarray:
    """Whether the largest score is the label's, bool (n,)."""
    return np.asarray(apply(classifier.eval(), part.pixels, device).argmax(axis=1) == part.labels)


def measure(
    model: Autoencoder, pca: Pca, taught: Part, validation: Part, test: Part, epochs: int, seed: int,
    device: torch.device, tick: Callable[[], object],
) -> dict[str, Measured]:  # fmt: skip
    """Every way, by the names that `aecore.analysis.finetune` explains; the same arguments give the same on a CPU."""
    spaces: dict[str, Encode] = {
        "frozen": lambda x: apply(model.encode, x, device),
        "pca": lambda x: pca.encode(flat(x)),
        "raw": flat,
    }
    found = {name: by_regression(encode, taught, validation, test)[1] for name, encode in spaces.items()}
    for name, begin in (("finetuned", model), ("scratch", fresh(model, seed))):
        found[name] = by_training(begin, taught, validation, test, epochs, seed, device, tick)
    return found
