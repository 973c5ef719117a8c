"""Constraints: how well weights hold what a recipe asks of them, and how uncorrelated its codes are on test images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from aecore.analysis.case import Case
from aecore.models.constraints import Dense, Tied, constraint_errors, correlation
from aecore.models.recipe import Recipe

HELD = 1e-5
"""What a constraint that holds by construction may be off, by rounding."""


def off_diagonal(codes: np.ndarray) -> float:
    """Mean absolute correlation between different units of `codes` (n, d)."""
    return correlation(np.atleast_2d(np.cov(codes.astype(np.float64), rowvar=False)))


@torch.no_grad()
def measure(case: Case) -> dict[str, float]:
    """`orthogonality` and `unit_norm` as `constraint_errors` has them (orthogonality the worse of encoder and decoder).

    `correlation`: mean absolute correlation of different units on the test codes; beside it that of PCA's codes
    (`…_pca`) and that of as many independent normal codes, by chance alone (`…_chance`, sqrt(2 / (pi n))).
    `tied`, where it is asked: the largest difference between the decoder's weights and the encoder's, transposed.
    """
    model, test = case.model, case.chosen.test
    figures, back = constraint_errors(model.encoder), constraint_errors(model.decoder)
    if back:
        figures["orthogonality"] = max(figures["orthogonality"], back["orthogonality"])
    if "tied" in case.recipe.weights:
        down = [layer.weight for layer in model.encoder.modules() if isinstance(layer, Dense)]
        up = [layer.weight for layer in model.decoder.modules() if isinstance(layer, Tied)]
        figures["tied"] = max(float((a - b.T).abs().max()) for a, b in zip(down, up[::-1], strict=True))
    figures["correlation"] = off_diagonal(case.codes(test))
    figures["correlation_pca"] = off_diagonal(case.projected(test))
    figures["correlation_chance"] = float(np.sqrt(2 / (np.pi * len(test))))
    return figures


def verdict(figures: Mapping[str, float], recipe: Recipe) -> str:
    """What holds, of what is asked."""
    parts = []
    for constraint, key, title in (
        ("orthogonal", "orthogonality", "|WᵀW − I|"),
        ("unit_norm", "unit_norm", "row norms off one by"),
        ("tied", "tied", "decoder off the transposed encoder by"),
    ):
        if key in figures:
            value = figures[key]
            asked = constraint in recipe.weights
            state = "" if not asked else ", held" if value <= HELD else ", **not held**"
            parts.append(f"{title} {value:.1e}{state}")
    asked = "decorrelation" in recipe.penalties
    parts.append(
        f"test codes correlate by {figures['correlation']:.3f}{' where 0 is asked' if asked else ''} (PCA's "
        f"{figures['correlation_pca']:.3f}, chance {figures['correlation_chance']:.3f})"
    )
    return "; ".join(parts)
