"""Bottlenecks: what stands between the encoder's features and the decoder, and what it costs.

The own term of each is a sum over the code, a mean over the batch, in the units of an image's summed squared error: the
engine divides it by the image's number of values, as the mean squared error is, and multiplies it by the recipe's
`bottleneck_weight`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from aecore.models.recipe import SUBSPACE

ENTRIES = 256
"""Vectors in a codebook: one byte names one."""
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Of the kernels that compare codes with a normal prior (the authors' code of Tolstikhin et al. 2018)."""
COMMITMENT = 0.25
"""Weight of the commitment loss within the quantiser's term (van den Oord et al. 2017, eq. 3)."""


class Passed(NamedTuple):
    """What came through a bottleneck."""

    code: torch.Tensor
    """(B, d): deterministic."""
    latent: torch.Tensor
    """(B, d): what the decoder gets; while training it may be drawn at random."""
    terms: dict[str, torch.Tensor]
    """Name -> scalar to be minimised."""


class Plain(nn.Module):
    """The features are the code."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.width = dim, dim

    def forward(self, features: torch.Tensor) -> Passed:
        """Pass them on."""
        return Passed(features, features, {})

    def prior(self, count: int, generator: torch.Generator) -> torch.Tensor | None:
        """No distribution is asked of the code."""
        return None


class Variational(Plain):
    """Features are mean and log-variance of a Gaussian; the code is the mean (Kingma & Welling 2014).

    `kl`: divergence from the standard normal, appendix B: -1/2 sum(1 + log s^2 - m^2 - s^2), in nats an image. With the
    squared error e of an image, e + beta kl is, up to a constant and the factor beta, the negative evidence lower bound
    of a decoder whose Gaussian has the variance beta / 2 for every pixel.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.width = 2 * dim

    def forward(self, features: torch.Tensor) -> Passed:
        """Draw from the Gaussian while training; take its mean otherwise."""
        mean, log_variance = features.float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-30, 20)
        kl = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1).mean()
        latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if self.training else mean
        return Passed(mean, latent, {"kl": kl})

    def prior(self, count: int, generator: torch.Generator) -> torch.Tensor | None:
        """Standard normal, (count, d)."""
        return torch.randn(count, self.dim, generator=generator)


class Wasserstein(Plain):
    """The code's distribution is drawn towards the standard normal, each code stays a point (Tolstikhin et al. 2018).

    `mmd`: the squared maximum mean discrepancy between the batch and as many draws from the prior, unbiased, times d.
    """

    def forward(self, features: torch.Tensor) -> Passed:
        """Compare the batch with the prior, while training."""
        if not self.training or len(features) < 2:
            return Passed(features, features, {})
        code = features.float()
        return Passed(features, features, {"mmd": self.dim * mmd(code, torch.randn_like(code))})

    def prior(self, count: int, generator: torch.Generator) -> torch.Tensor | None:
        """Standard normal, (count, d)."""
        return torch.randn(count, self.dim, generator=generator)


class Quantised(Plain):
    """Every SUBSPACE numbers are replaced by the nearest of ENTRIES vectors, learnt (van den Oord et al. 2017).

    Each part of the code has a codebook of its own, so a code takes d / SUBSPACE bytes (product quantisation, Jégou et
    al. 2011). Gradients pass straight through. `codebook`: |sg(z) - e|^2 + COMMITMENT |z - sg(e)|^2. The codebooks
    begin with the first training batch's own features, repeated.
    """

    begun: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        assert dim % SUBSPACE == 0, "Recipe.check_fits refuses it"
        self.codebooks = nn.Parameter(torch.randn(dim // SUBSPACE, ENTRIES, SUBSPACE))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))
        self._known_to_have_begun = False  # asking a GPU at every step would wait for it

    def forward(self, features: torch.Tensor) -> Passed:
        """Replace; the code is what replaced, and while training it passes gradients on as the latent does."""
        z = features.to(self.codebooks.dtype).reshape(len(features), -1, SUBSPACE)  # (B, parts, SUBSPACE)
        if self.training and not self._known_to_have_begun:
            if not self.begun:
                self._begin(z)
            self._known_to_have_begun = True
        chosen = self.indices(features)  # (B, parts)
        e = self.codebooks[torch.arange(len(self.codebooks), device=z.device), chosen]
        term = (z.detach() - e).square().sum(dim=(1, 2)) + COMMITMENT * (z - e.detach()).square().sum(dim=(1, 2))
        latent = (z + (e - z).detach()).flatten(1)
        return Passed(latent if self.training else e.flatten(1), latent, {"codebook": term.mean()})

    def indices(self, features: torch.Tensor) -> torch.Tensor:
        """Which entry of its codebook is nearest to each part, int64 (B, d / SUBSPACE)."""
        z = (
            features.detach().to(self.codebooks.dtype).reshape(len(features), -1, SUBSPACE).transpose(0, 1)
        )  # (parts, B, SUBSPACE)
        return torch.cdist(z, self.codebooks.detach(), compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=2).T

    def prior(self, count: int, generator: torch.Generator) -> torch.Tensor | None:
        """Every entry of every codebook alike, (count, d)."""
        parts, entries, _ = self.codebooks.shape
        chosen = torch.randint(entries, (count, parts), generator=generator).to(self.codebooks.device)
        return self.codebooks.detach()[torch.arange(parts, device=chosen.device), chosen].flatten(1)

    @torch.no_grad()
    def _begin(self, z: torch.Tensor) -> None:
        rows = torch.arange(ENTRIES, device=z.device) % len(z)
        scale = z.std(dim=0, keepdim=True).transpose(0, 1)  # (parts, 1, SUBSPACE)
        self.codebooks.copy_(z[rows].transpose(0, 1) + 0.1 * scale * self.codebooks)
        if dist.is_initialized():  # the ranks see different images, and train one model
            dist.broadcast(self.codebooks, 0)
        self.begun.fill_(True)


class Whitening(nn.Module):
    """An invertible affine map of the code, identity until it is `fit`: white = (code - mean) @ matrix."""

    mean: torch.Tensor
    matrix: torch.Tensor
    inverse: torch.Tensor

    def __init__(self, dim: int, strength: float) -> None:
        super().__init__()
        self.strength = strength
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("matrix", torch.eye(dim))
        self.register_buffer("inverse", torch.eye(dim))

    def fit(self, mean: torch.Tensor, covariance: torch.Tensor) -> None:
        """From the codes' mean (d,) and covariance (d, d), float64: principal axes by falling variance.

        A variance v becomes v^(1 - strength): one where whitening is whole. One below a millionth of the largest counts
        as that much, so that a dead unit is not blown up.
        """
        values, vectors = torch.linalg.eigh(covariance)
        values, vectors = values.flip(0), vectors.flip(1)
        scale = values.clamp_min(1e-6 * values[0].clamp_min(1e-30)) ** (self.strength / 2)
        largest = vectors.abs().argmax(dim=0)
        vectors = vectors * vectors[largest, torch.arange(len(vectors))].sign()  # a sign is nobody's choice
        self.mean.copy_(mean)
        self.matrix.copy_(vectors / scale)
        self.inverse.copy_((vectors * scale).T)

    def forward(self, code: torch.Tensor) -> torch.Tensor:  # (B, d) -> (B, d)
        """Whiten."""
        return (code.float() - self.mean) @ self.matrix

    def undo(self, white: torch.Tensor) -> torch.Tensor:  # (B, d) -> (B, d)
        """Give back the code as the decoder knows it."""
        return white.float() @ self.inverse + self.mean


def mmd(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Squared maximum mean discrepancy of samples (n, d) and (m, d), unbiased, a scalar: 0 on average where alike.

    Gretton et al. 2012, eq. 3, with the sum over SCALES s of the inverse multiquadratic kernels C / (C + |a - b|^2),
    C = 2 d s (Tolstikhin et al. 2018, section 4). Holds n x m numbers.
    """

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        squared = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
        return torch.stack([c / (c + squared) for c in (2.0 * a.shape[1] * s for s in SCALES)]).sum(dim=0)

    within = [(kernel(z, z).sum() - len(SCALES) * len(z)) / (len(z) * (len(z) - 1)) for z in (x, y)]
    return within[0] + within[1] - 2 * kernel(x, y).mean()


BOTTLENECKS: dict[str, Callable[[int], Plain]] = {
    "plain": Plain,
    "variational": Variational,
    "wasserstein": Wasserstein,
    "quantised": Quantised,
}
