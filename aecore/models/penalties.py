"""Penalties: terms beside the reconstruction loss, each a function of the model, its output and the clean images.

The weight of each stands in the recipe. `adversarial` and `gradients` bring a network of their own, which trains with
the model and is not part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from aecore.models.autoencoder import Autoencoder, Output
from aecore.models.gradients import orientation_histograms
from aecore.models.layers import StridedDown

Penalty = Callable[[Autoencoder, Output, torch.Tensor], torch.Tensor]


def l1(model: Autoencoder, output: Output, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute value of the code's numbers, each unit's in its own root mean square of the batch: in [0, 1].

    The sparse autoencoder's L1, free of scale (L1 over L2: Hoyer 2004, eq. 10): the plain norm only shrinks the code,
    and a decoder that begins with batch normalisation undoes that.
    """
    code = output.latent.to(target.dtype)
    scale = code.square().mean(dim=0).clamp_min(1e-12).sqrt()
    sparsity: torch.Tensor = (code.abs().mean(dim=0) / scale).mean()
    return sparsity


def l2(model: Autoencoder, output: Output, target: torch.Tensor) -> torch.Tensor:
    """Mean square of the code's numbers (Ghosh et al. 2020, eq. 9: the regularised autoencoder's code term)."""
    return output.latent.to(target.dtype).square().mean()


def decorrelation(model: Autoencoder, output: Output, target: torch.Tensor) -> torch.Tensor:
    """Mean squared correlation of the batch between different numbers of the code; 0 when they are uncorrelated.

    The cross terms of Cogswell et al. 2016 ("DeCov", eq. 1) on correlations, so that shrinking the code gains nothing.
    """
    code = output.latent.to(target.dtype)
    centred = code - code.mean(dim=0)
    unit = centred / centred.norm(dim=0).clamp_min(1e-6)
    correlation = unit.T @ unit
    d = len(correlation)
    crossed: torch.Tensor = correlation.square().sum() - correlation.diagonal().square().sum()
    return crossed / max(1, d * (d - 1))


def decoder_l2(model: Autoencoder, output: Output, target: torch.Tensor) -> torch.Tensor:
    """Sum of squares of the decoder's weights, biases and normalisations left out (Ghosh et al. 2020, "RAE-L2")."""
    squares = [p.square().sum() for p in model.decoder.parameters() if p.ndim > 1]
    return torch.stack(squares).sum()


def decoder_gradient(model: Autoencoder, output: Output, target: torch.Tensor) -> torch.Tensor:
    """Squared Frobenius norm of the decoder's Jacobian at the codes, a mean over the batch and the image's values.

    Estimated with one random direction v of +-1 an image: E |J^T v|^2 = |J|_F^2 (Hutchinson 1990). It asks for a smooth
    decoder (Ghosh et al. 2020, "RAE-GP").
    """
    v = torch.randint(0, 2, output.reconstruction.shape, device=target.device) * 2.0 - 1
    (pulled,) = torch.autograd.grad((output.reconstruction * v).sum(), output.latent, create_graph=True)
    squared: torch.Tensor = pulled.float().square().sum()
    return squared / output.reconstruction.numel()


class Adversarial(nn.Module):
    """Cross-entropy, in nats, of a discriminator that tells images from reconstructions; the model raises it.

    One minimax game (Goodfellow et al. 2014, eq. 1) in one backward pass: on the way from the discriminator to the
    autoencoder the gradient changes its sign (Ganin & Lempitsky 2015). The context encoder's term (Pathak et al. 2016).
    """

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        channels = [model.shape[0], 16, 32, 64]
        self.levels = nn.ModuleList(StridedDown(a, b) for a, b in pairwise(channels))
        self.judge = nn.Linear(channels[-1], 1)

    def forward(self, model: Autoencoder, output: Output, target: torch.Tensor) -> torch.Tensor:
        """Judge both."""
        shown = torch.cat([target, _Reversed.apply(output.reconstruction)])
        logits = self.score(shown)
        real = torch.cat([torch.ones_like(logits[: len(target)]), torch.zeros_like(logits[len(target) :])])
        return F.binary_cross_entropy_with_logits(logits, real)

    def score(self, x: torch.Tensor) -> torch.Tensor:  # (B, C, H, W) -> (B,)
        """Log-odds of being an image rather than a reconstruction."""
        for level in self.levels:
            x, _ = level(x)
        return self.judge(x.mean(dim=(2, 3))).float().squeeze(1)  # type: ignore[no-any-return]


class Gradients(nn.Module):
    """Mean squared error of the clean image's oriented gradients, told from the code by two dense layers.

    A code that tells edges apart from brightness is better to search by than one that only repaints pixels: the target
    of masked feature prediction (Wei et al. 2022), here beside the image's own.
    """

    HIDDEN = 512

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        features = orientation_histograms(torch.zeros(1, *model.shape)).numel()
        self.tell = nn.Sequential(nn.Linear(model.latent_dim, self.HIDDEN), nn.ReLU(), nn.Linear(self.HIDDEN, features))

    def forward(self, model: Autoencoder, output: Output, target: torch.Tensor) -> torch.Tensor:
        """Compare."""
        return F.mse_loss(self.tell(output.latent).float(), orientation_histograms(target).flatten(1))


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient is minus the gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return -gradient


PENALTIES: dict[str, Callable[[Autoencoder], Penalty]] = {
    "l1": lambda model: l1,
    "l2": lambda model: l2,
    "decorrelation": lambda model: decorrelation,
    "decoder_l2": lambda model: decoder_l2,
    "decoder_gradient": lambda model: decoder_gradient,
    "adversarial": Adversarial,
    "gradients": Gradients,
}
