"""Inpainting: how well a context encoder fills what is hidden, beside the mean image and fills that learn nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping

import numpy as np

from aecore.analysis.case import Case, compared, scaled
from aecore.analysis.scores import psnr
from aecore.models.recipe import Recipe

RADIUS = 3
"""Pixels around a point that OpenCV's methods look at."""
NAMES = {
    "mean": "the mean image",
    "biharmonic": "biharmonic inpainting",
    "telea": "Telea's",
    "navier_stokes": "Navier-Stokes inpainting",
}


def hidden_psnr(x: np.ndarray, x_hat: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """PSNR in dB over the hidden pixels of each image alone, float64 (n,); at most 100 dB.

    `x`, `x_hat` (n, C, H, W) in [0, 1]; `hidden` bool (n, 1, H, W). nan where an image has nothing hidden.
    """
    where = np.broadcast_to(hidden, x.shape)
    errors = np.where(where, np.square(x.astype(np.float64) - x_hat), 0).sum(axis=(1, 2, 3))
    counts = where.sum(axis=(1, 2, 3))
    mse = np.divide(errors, counts, out=np.full(len(x), np.nan), where=counts > 0)
    return psnr(mse)


def biharmonic(x: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Fill by the biharmonic equation (Chui & Mhaskar 2010), scikit-image's `inpaint_biharmonic`."""
    from skimage.restoration import inpaint_biharmonic

    filled = [
        inpaint_biharmonic(image.transpose(1, 2, 0), hole[0], channel_axis=-1)
        for image, hole in zip(x, hidden, strict=True)
    ]
    return np.stack(filled).transpose(0, 3, 1, 2).astype(np.float32)


def telea(x: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Fill from the edge inwards by fast marching (Telea 2004), OpenCV's `inpaint`; in 8 bits."""
    import cv2

    return _opencv(x, hidden, cv2.INPAINT_TELEA)


def navier_stokes(x: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Continue lines of equal brightness as a fluid's (Bertalmio, Bertozzi & Sapiro 2001), OpenCV's; in 8 bits."""
    import cv2

    return _opencv(x, hidden, cv2.INPAINT_NS)


def _opencv(x: np.ndarray, hidden: np.ndarray, method: int) -> np.ndarray:
    import cv2

    filled = np.empty(x.shape, np.float32)
    for row, (image, hole) in enumerate(zip(x, hidden, strict=True)):
        pixels = np.ascontiguousarray(np.rint(image * 255).astype(np.uint8).transpose(1, 2, 0))
        done = cv2.inpaint(pixels, hole[0].astype(np.uint8), RADIUS, method)
        filled[row] = done.reshape(pixels.shape).transpose(2, 0, 1).astype(np.float32) / 255
    return filled


METHODS: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "biharmonic": ("skimage", biharmonic),
    "telea": ("cv2", telea),
    "navier_stokes": ("cv2", navier_stokes),
}
"""Name -> (the module it needs, which may be absent; the method: x float32 (n, C, H, W) in [0, 1], whatever its hidden
pixels hold, and hidden bool (n, 1, H, W) -> filled)."""


def available() -> list[str]:
    """Those of METHODS whose module is installed."""
    return [name for name, (module, _) in METHODS.items() if importlib.util.find_spec(module) is not None]


def rows(case: Case, pixels: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Fills of uint8 (n, C, H, W), each float32 (n, C, H, W) in [0, 1] with the known pixels as they are, by name.

    `holes` is what all of them see. Second: what was hidden, bool (n, 1, H, W).
    """
    seen, hidden = case.spoil(pixels)
    assert hidden is not None  # the claim is made for corruptions that hide pixels
    known, x = ~hidden, scaled(seen)
    mean = case.pca.mean.reshape(1, *case.images.shape)
    fills = {"mean": mean} | {name: METHODS[name][1](x, hidden) for name in available()}
    fills["model"] = case.encoder.reconstruct(seen)
    return {"holes": x} | {name: np.where(known, x, fill).astype(np.float32) for name, fill in fills.items()}, hidden


def measure(case: Case) -> dict[str, float]:
    """Mean PSNR in dB of the hidden pixels alone: `psnr` (the model's), `psnr_mean` (the training images' mean), those
    of METHODS that are installed; and the `gain_…` over each.
    """
    pixels = case.images.rows(case.test)
    made, hidden = rows(case, pixels)
    ratios = {n: float(np.nanmean(hidden_psnr(scaled(pixels), x, hidden))) for n, x in made.items() if n != "holes"}
    own = ratios.pop("model")
    return (
        {"psnr": own}
        | {f"psnr_{name}": value for name, value in ratios.items()}
        | {f"gain_{name}": own - value for name, value in ratios.items()}
    )


def verdict(figures: Mapping[str, float], recipe: Recipe) -> str:
    """What is gained and lost, and what could not be compared."""
    there = {name: title for name, title in NAMES.items() if f"gain_{name}" in figures}
    gains = compared({title: figures[f"gain_{name}"] for name, title in there.items()}, " dB", 1)
    absent = sorted({METHODS[name][0] for name in NAMES if name not in there})
    missing = f" ({' and '.join(absent)} not installed: `pip install 'aecore[inpainting]'`)" if absent else ""
    return f"inside what is hidden, PSNR {figures['psnr']:.1f} dB: {gains}{missing}"
