"""Claims: each system is judged by the figure that its own source claims, beside the floors that figure has to beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aecore.analysis import checkerboard, colour, constraints, denoising, figures, inpainting, linear, sparsity, usage
from aecore.analysis.case import Case, scaled
from aecore.models.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Claim(NamedTuple):
    """A figure, who claims it, and how it reads."""

    title: str
    applies: Callable[[Recipe], bool]
    measure: Callable[[Case], dict[str, float]]
    """Name -> value, floors included."""
    verdict: Callable[[Mapping[str, float], Recipe], str]
    """One plain sentence of them, that says so where a floor wins."""


CLAIMS: dict[str, Claim] = {
    "linear": Claim(
        "The linear autoencoder is PCA",
        lambda recipe: recipe.architecture in ("pca", "linear"),
        linear.measure,
        linear.verdict,
    ),
    "constraints": Claim(
        "Constraints",
        lambda recipe: bool(recipe.weights) or "decorrelation" in recipe.penalties or recipe.architecture == "linear",
        constraints.measure,
        constraints.verdict,
    ),
    "checkerboard": Claim(
        "Checkerboard",
        lambda recipe: recipe.up is not None,
        checkerboard.measure,
        checkerboard.verdict,
    ),
    "denoising": Claim(
        "Denoising",
        lambda recipe: recipe.corruption in ("dropout", "gaussian", "salt_pepper"),
        denoising.measure,
        denoising.verdict,
    ),
    "sparsity": Claim(
        "Sparsity",
        lambda recipe: "l1" in recipe.penalties,
        sparsity.measure,
        sparsity.verdict,
    ),
    "inpainting": Claim(
        "Inpainting",
        lambda recipe: recipe.corruption in ("hole", "blocks"),
        inpainting.measure,
        inpainting.verdict,
    ),
    "colour": Claim(
        "Colourisation",
        lambda recipe: recipe.corruption == "grey",
        colour.measure,
        colour.verdict,
    ),
    "variational": Claim(
        "Variational bottleneck",
        lambda recipe: recipe.bottleneck == "variational",
        usage.variational,
        usage.variational_verdict,
    ),
    "wasserstein": Claim(
        "Wasserstein bottleneck",
        lambda recipe: recipe.bottleneck == "wasserstein",
        usage.wasserstein,
        usage.wasserstein_verdict,
    ),
    "quantised": Claim(
        "Quantised bottleneck",
        lambda recipe: recipe.bottleneck == "quantised",
        usage.quantised,
        usage.quantised_verdict,
    ),
}
"""Every claim, in the order in which they are told."""


def measure(case: Case) -> dict[str, dict[str, float]]:
    """The figures of each claim that the recipe makes, to six digits; a figure that is no number is left out."""
    result: dict[str, dict[str, float]] = {}
    for name, claim in CLAIMS.items():
        if claim.applies(case.recipe):
            values = {key: value for key, value in claim.measure(case).items() if math.isfinite(value)}
            result[name] = {key: float(f"{value:.6g}") for key, value in values.items()}
    return result


def verdicts(measured: Mapping[str, Mapping[str, float]], recipe: Recipe) -> dict[str, str]:
    """What the figures of each claim come to, in a sentence without its full stop."""
    return {name: CLAIMS[name].verdict(values, recipe) for name, values in measured.items()}


def section(told: Mapping[str, str]) -> list[str]:
    """Markdown lines of the verdicts: a heading and a line a claim; none where nothing is claimed."""
    if not told:
        return []
    lines = [f"- {CLAIMS[name].title}: {sentence}." for name, sentence in told.items()]
    return ["What this recipe's source claims, on test images:", "", *lines]


def draw(case: Case, positions: np.ndarray, names: list[str] | None) -> Figure | None:
    """What a model that undoes a corruption makes of a few images, row by row beside its floors; None for another."""
    pixels = case.images.rows(positions)
    if CLAIMS["denoising"].applies(case.recipe):
        made, title = (
            denoising.rows(case, pixels),
            f"Test images, {case.recipe.corruption} noise, and what takes it away",
        )
        titles = {
            "noisy": "noisy",
            "median": "median filter",
            "told": "median, told",
            "pca": f"PCA-{case.model.latent_dim}",
        }
    elif CLAIMS["inpainting"].applies(case.recipe):
        made, title = inpainting.rows(case, pixels)[0], "Test images, what is hidden, and what fills it"
        titles = {
            "holes": "seen",
            "mean": "mean image",
            "biharmonic": "biharmonic",
            "telea": "Telea",
            "navier_stokes": "Navier-Stokes",
        }
    elif CLAIMS["colour"].applies(case.recipe):
        title = "Test images, without colour, and coloured again"
        lab = colour.guesses(case, pixels, colour.mean_ab(case))
        made = {name: colour.lab_to_rgb(each).astype(np.float32) for name, each in lab.items()}
        titles = {"grey": "grey", "mean": "mean colour"}
    else:
        return None
    rows = [(name, made[key]) for key, name in titles.items() if key in made] + [("autoencoder", made["model"])]
    return figures.reconstructions(scaled(pixels), rows, names, title)
