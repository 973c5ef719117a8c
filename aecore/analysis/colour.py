"""Colourisation: how far a model's colours are off and how colourful they are, in CIELAB, where distances are seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aecore.analysis.case import Case, compared, scaled
from aecore.models.recipe import Recipe

BLOCK = 64
"""Images in CIELAB at a time."""

TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
"""Linear sRGB to CIE XYZ (ITU-R BT.709 primaries)."""
WHITE = np.array([0.95047, 1.0, 1.08883])
"""D65 seen by the 2 degree observer."""
EDGE, SLOPE, OFFSET = 216 / 24389, 24389 / 27 / 116, 16 / 116
"""CIE 15:2004, 8.2.1.1: below EDGE the cube root is a line of this SLOPE and OFFSET."""


def rgb_to_lab(x: np.ndarray) -> np.ndarray:
    """SRGB in [0, 1] (n, 3, H, W) -> CIELAB float64 (n, 3, H, W): L in 0 … 100, a and b about -100 … 100."""
    x = np.moveaxis(x.astype(np.float64), 1, -1)
    linear = np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)  # IEC 61966-2-1
    relative = linear @ TO_XYZ.T / WHITE
    bent = np.where(relative > EDGE, np.cbrt(relative), SLOPE * relative + OFFSET)
    fx, fy, fz = np.moveaxis(bent, -1, 0)
    return np.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], axis=1)


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """CIELAB (n, 3, H, W) -> sRGB float64 (n, 3, H, W), clipped to [0, 1] where sRGB lacks the colour."""
    lightness, a, b = np.moveaxis(lab.astype(np.float64), 1, 0)
    fy = (lightness + 16) / 116
    bent = np.stack([fy + a / 500, fy, fy - b / 200], axis=-1)
    relative = np.where(bent > np.cbrt(EDGE), bent**3, (bent - OFFSET) / SLOPE)
    linear = np.clip((relative * WHITE) @ np.linalg.inv(TO_XYZ).T, 0, 1)
    x = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return np.moveaxis(np.clip(x, 0, 1), -1, 1)


def ab_error(lab: np.ndarray, lab_hat: np.ndarray) -> np.ndarray:
    """Mean distance in the ab plane between the pixels of each image, (n, 3, H, W) -> float64 (n,).

    Lightness, which a colouriser is given, does not count (Zhang, Isola & Efros 2016, section 3.1: raw accuracy).
    """
    off = lab[:, 1:] - lab_hat[:, 1:]
    return np.asarray(np.sqrt(np.square(off).sum(axis=1)).mean(axis=(1, 2)))


def colourfulness(x: np.ndarray) -> np.ndarray:
    """Colourfulness of each image, sRGB in [0, 1] (n, 3, H, W) -> float64 (n,): 0 grey, 33 moderate, 109 extreme.

    M-hat 3 of Hasler & Suesstrunk 2003, "Measuring colourfulness in natural images", in their units of 0 … 255.
    """
    red, green, blue = np.moveaxis(x.astype(np.float64) * 255, 1, 0)
    opponents = np.stack([red - green, (red + green) / 2 - blue], axis=1)  # (n, 2, H, W)
    spread, centre = opponents.std(axis=(2, 3)), opponents.mean(axis=(2, 3))
    return np.asarray(np.sqrt(np.square(spread).sum(axis=1)) + 0.3 * np.sqrt(np.square(centre).sum(axis=1)))


def mean_ab(case: Case) -> np.ndarray:
    """Mean colour of each place over training images, (1, 2, H, W): a and b alone."""
    positions, total = case.train, np.zeros((1, 2, *case.images.shape[1:]))
    for start in range(0, len(positions), BLOCK):
        lab = rgb_to_lab(scaled(case.images.rows(positions[start : start + BLOCK])))
        total += lab[:, 1:].sum(axis=0)
    return np.asarray(total / len(positions))


def guesses(case: Case, pixels: np.ndarray, mean: np.ndarray) -> dict[str, np.ndarray]:
    """Uint8 (n, 3, H, W) coloured again, CIELAB (n, 3, H, W), all with each pixel's own lightness, which is given.

    `grey` has no colour, `mean` the colour `mean_ab` of its place, `model` that of what the model draws.
    """
    lightness = rgb_to_lab(scaled(pixels))[:, :1]
    drawn = rgb_to_lab(case.encoder.reconstruct(pixels))[:, 1:]
    colours = {"grey": np.zeros_like(drawn), "mean": np.broadcast_to(mean, drawn.shape), "model": drawn}
    return {name: np.concatenate([lightness, ab], axis=1) for name, ab in colours.items()}


def measure(case: Case) -> dict[str, float]:
    """Means over test images: `ab_error` of the model, of no colour (`…_grey`) and of the mean colour (`…_mean`).

    `colourfulness` of the model's colours, of the mean colour, and of the images themselves (`…_images`); grey has 0.
    """
    mean, sums = mean_ab(case), dict[str, float]()
    positions = case.test
    for start in range(0, len(positions), BLOCK):
        pixels = case.images.rows(positions[start : start + BLOCK])
        truth, made = rgb_to_lab(scaled(pixels)), guesses(case, pixels, mean)
        values = {
            "ab_error": ab_error(truth, made["model"]),
            "ab_error_grey": ab_error(truth, made["grey"]),
            "ab_error_mean": ab_error(truth, made["mean"]),
            "colourfulness": colourfulness(lab_to_rgb(made["model"])),
            "colourfulness_mean": colourfulness(lab_to_rgb(made["mean"])),
            "colourfulness_images": colourfulness(scaled(pixels)),
        }
        for name, each in values.items():
            sums[name] = sums.get(name, 0.0) + float(each.sum())
    return {name: total / len(positions) for name, total in sums.items()}


def verdict(figures: Mapping[str, float], recipe: Recipe) -> str:
    """How near, how colourful."""
    off = figures["ab_error"]
    gains = {"grey": figures["ab_error_grey"] - off, "the mean colour": figures["ab_error_mean"] - off}
    return (
        f"colours are off by {off:.1f} in the ab plane: {compared(gains, '', 1)}; colourfulness "
        f"{figures['colourfulness']:.1f}, the mean colour's {figures['colourfulness_mean']:.1f}, the images' "
        f"{figures['colourfulness_images']:.1f}"
    )
