"""A linear autoencoder against PCA: the same error, the same subspace (Baldi & Hornik 1989)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from aecore.analysis.case import Case
from aecore.models.recipe import Recipe

WITHIN = 1.01
"""Times PCA's error that a trained one may have."""


def largest_angle(basis: np.ndarray, other: np.ndarray) -> float:
    """Largest principal angle, in degrees, between the spans of the rows of (d, D) and (e, D).

    Knyazev & Argentati 2002, exact for small angles too. 90 where a row of one is orthogonal to all of the other.
    """
    from scipy.linalg import subspace_angles

    return float(np.degrees(subspace_angles(basis.T.astype(np.float64), other.T.astype(np.float64)).max()))


def directions(case: Case) -> np.ndarray:
    """What the affine decoder adds to an image for each unit of the code, (d, D) in pixel units."""
    units = np.eye(case.model.latent_dim, dtype=np.float32)
    with torch.inference_mode():
        drawn = case.model.decode(
            torch.from_numpy(np.concatenate([units, np.zeros_like(units[:1])])).to(case.encoder.device)
        )
    flat = drawn.flatten(1).double().cpu().numpy()
    return np.asarray(flat[:-1] - flat[-1])


def measure(case: Case) -> dict[str, float]:
    """`mse_ratio`: test MSE over PCA's; `angle`: the largest principal angle, in degrees, between what the decoder and
    PCA's components span. (The encoder's rows are free where pixels never change, so they say less.)
    """
    return {
        "mse_ratio": case.errors["model"] / case.errors["pca"],
        "angle": largest_angle(directions(case), case.pca.components),
    }


def verdict(figures: Mapping[str, float], recipe: Recipe) -> str:
    """How near."""
    ratio = figures["mse_ratio"]
    within = "within 1 % of PCA's" if ratio <= WITHIN else "**not within 1 % of PCA's**"
    angle = f"the largest angle between the subspaces is {figures['angle']:.2f}°"
    return f"test MSE {within} ({100 * (ratio - 1):+.2f} %); {angle}"
