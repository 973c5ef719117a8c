"""How much of a bottleneck is used: latent units, codebook entries, and how far its codes are from the prior."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from aecore.analysis.case import Case, compared, scaled
from aecore.models.bottlenecks import ENTRIES, Quantised, mmd
from aecore.models.recipe import Recipe

ACTIVE = 0.01
"""Variance of a unit's posterior mean above which it is in use (Burda, Grosse & Salakhutdinov 2016, section 5.2)."""
DRAWS = 20
"""Pairs of samples of the prior that say what chance does."""


def active_units(means: np.ndarray) -> int:
    """Units of the posterior means (n, d) whose variance over the images exceeds ACTIVE."""
    return int((means.astype(np.float64).var(axis=0) > ACTIVE).sum())


def perplexity(counts: np.ndarray) -> float:
    """Exp of the entropy of how often each codebook entry is chosen, (K,): K where all alike, 1 where one alone."""
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def variational(case: Case) -> dict[str, float]:
    """Parts of the evidence lower bound, means over test images, one draw of the code each.

    `sse`: squared error of an image; `kl` in nats; `bound` = sse + beta kl, which training minimises (with a Gaussian
    decoder of variance beta / 2 it is the negative ELBO times beta, up to a constant; Kingma & Welling 2014, eq. 3);
    `bound_collapsed`: of a decoder that always draws the mean training image and codes that tell nothing, kl 0.
    `units` of the code, and how many are `active_units`.
    """
    model, pixels, batch = case.model, case.images.rows(case.test), case.encoder.batch_size
    sse, kl, mean = 0.0, 0.0, torch.from_numpy(case.pca.mean.reshape(case.images.shape)).to(case.encoder.device)
    collapsed = 0.0
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(case.seed)
        model.bottleneck.train()  # it draws; the rest evaluates
        for start in range(0, len(pixels), batch):
            x = torch.from_numpy(scaled(pixels[start : start + batch])).to(case.encoder.device)
            output = model(x)
            sse += float((output.reconstruction - x).square().sum(dtype=torch.float64))
            kl += float(output.terms["kl"]) * len(x)
            collapsed += float((mean - x).square().sum(dtype=torch.float64))
        model.bottleneck.eval()
    sse, kl, collapsed = sse / len(pixels), kl / len(pixels), collapsed / len(pixels)
    used, units = active_units(case.codes(case.test)), model.latent_dim
    bound = sse + case.recipe.beta * kl
    return {"sse": sse, "kl": kl, "bound": bound, "bound_collapsed": collapsed, "active_units": used, "units": units}


def variational_verdict(figures: Mapping[str, float], recipe: Recipe) -> str:
    """The parts, and whether the codes tell anything."""
    gains = compared({"a collapsed posterior": figures["bound_collapsed"] - figures["bound"]}, "", 2)
    return (
        f"squared error {figures['sse']:.2f} + {recipe.beta:g} x {figures['kl']:.1f} nats an image = "
        f"{figures['bound']:.2f}: {gains}; {figures['active_units']:.0f} of {figures['units']:.0f} units active"
    )


def wasserstein(case: Case) -> dict[str, float]:
    """`mmd`: squared MMD of the test codes from draws of the prior, whitening undone.

    `mmd_chance`: what 95 % of pairs of such draws stay below; `mmd_pca`: of PCA's codes, each unit standardised by the
    training images, from a standard normal.
    """
    generator = np.random.default_rng(case.seed)
    test, dim = case.test, case.model.latent_dim

    def normal() -> np.ndarray:
        return generator.standard_normal((len(test), dim))

    def apart(x: np.ndarray, y: np.ndarray) -> float:
        return float(mmd(torch.from_numpy(x.astype(np.float64)), torch.from_numpy(y)))

    train = case.projected(case.train)
    reduced = (case.projected(test) - train.mean(axis=0)) / np.maximum(train.std(axis=0), 1e-12)
    return {
        "mmd": apart(_unwhitened(case, test), normal()),
        "mmd_chance": float(np.quantile([apart(normal(), normal()) for _ in range(DRAWS)], 0.95)),
        "mmd_pca": apart(reduced, normal()),
    }


def wasserstein_verdict(figures: Mapping[str, float], recipe: Recipe) -> str:
    """How near to the prior."""
    nearer = "nearer to the prior than" if figures["mmd"] < figures["mmd_pca"] else "**no nearer to the prior than**"
    told = "can" if figures["mmd"] > figures["mmd_chance"] else "cannot"
    return (
        f"test codes are {nearer} PCA's standardised: squared MMD {figures['mmd']:.4f} ({figures['mmd_pca']:.4f}); "
        f"they {told} be told from draws of it ({figures['mmd_chance']:.4f} by chance)"
    )


def quantised(case: Case) -> dict[str, float]:
    """Means over the codebooks, of all measured test codes: `perplexity`, the share `used` at least once; `entries`."""
    bottleneck = case.model.bottleneck
    assert isinstance(bottleneck, Quantised)
    codes = torch.from_numpy(_unwhitened(case, case.chosen.test)).to(case.encoder.device)
    chosen = bottleneck.indices(codes).cpu().numpy()  # an entry is the nearest to itself
    counts = [np.bincount(column, minlength=ENTRIES) for column in chosen.T]
    return {
        "perplexity": float(np.mean([perplexity(each) for each in counts])),
        "used": float(np.mean([(each > 0).mean() for each in counts])),
        "entries": float(ENTRIES),
    }


def quantised_verdict(figures: Mapping[str, float], recipe: Recipe) -> str:
    """How much of the codebooks."""
    return (
        f"test codes use {figures['used']:.0%} of the {figures['entries']:.0f} entries of a codebook, perplexity "
        f"{figures['perplexity']:.0f} (1 where it collapsed)"
    )


def _unwhitened(case: Case, positions: np.ndarray) -> np.ndarray:
    """The codes as the bottleneck gave them, float32 (n, d)."""
    codes = case.codes(positions)
    if case.model.whitening is None:
        return codes
    with torch.inference_mode():
        return case.model.whitening.undo(torch.from_numpy(codes).to(case.encoder.device)).cpu().numpy()
