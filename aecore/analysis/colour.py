"""Colours as people see them: CIELAB, how far colours are off, and how colourful an image is."""

from __future__ import annotations

import numpy as np

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
