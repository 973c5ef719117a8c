"""The `baseline` stage: the floors under every model, raw pixels and PCA of the same dimension."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aecore import artifact, config
from aecore.analysis import generation, protocol
from aecore.analysis.kmeans import threads
from aecore.analysis.protocol import EvaluateConfig, Sample, flat
from aecore.analysis.space import Space, blocks
from aecore.artifact import Manifest
from aecore.config import Runtime, UserError
from aecore.data.images import Images
from aecore.models.pca import Pca, fit_images
from aecore.search.metric import IndexConfig, Metric

SPACES = ("pca", "raw")


def project(images: Images, pca: Pca) -> np.ndarray:
    """Every image's PCA code, float32 (count, d), in memory: what an exact index of them would hold."""
    result = np.empty((images.count, len(pca.components)), np.float32)
    for first, shard in images.shards():
        for block in blocks(len(shard), len(pca.mean)):
            result[first + block.start : first + block.stop] = pca.encode(flat(np.asarray(shard[block])))
    return result


def reconstruct(pca: Pca, pixels: np.ndarray) -> np.ndarray:
    """PCA's reconstruction of uint8 (n, C, H, W), float32 in [0, 1], clipped as the model's is."""
    return np.asarray(np.clip(pca.decode(pca.encode(flat(pixels))), 0, 1).reshape(pixels.shape))


def floors(images: Images, pca: Pca, metric: Metric, neighbours: int, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Every figure of both spaces, a value per image: {"pca": {"knn": (q,), "mse": (n,), …}, "raw": {…}}."""
    chosen, projected = Sample.choose(images), project(images, pca)
    reduced = Space.fit(lambda positions: projected[positions], chosen.train, metric)
    pixels = Space.fit(lambda positions: flat(images.rows(positions)), chosen.train, metric)
    measured = {
        "pca": protocol.measure(reduced, lambda x: pca.encode(flat(x)), images, chosen, neighbours, seed),
        "raw": protocol.measure(pixels, flat, images, chosen, neighbours, seed),
    }
    measured["pca"] |= protocol.reconstruction(images, chosen, lambda x: reconstruct(pca, x))
    return measured


def settings(dim: int, metric: str, neighbours: int, seed: int) -> dict[str, Any]:
    """What must be equal for floors to stand beside a model's figures."""
    return {"dim": dim, "metric": metric, "neighbours": neighbours, "seed": seed}


def read(path: Path) -> tuple[Manifest, dict[str, dict[str, np.ndarray]], Pca]:
    """The floors at `path`, as `floors` gives them, and the PCA behind them."""
    manifest = artifact.read_manifest(path, "baseline")
    measured: dict[str, dict[str, np.ndarray]] = {space: {} for space in SPACES}
    for name in manifest.files:
        space, _, figure = name.removesuffix(".npy").partition("-")
        if space in measured:
            measured[space][figure] = np.load(path / name)
    mean, components = np.load(path / "mean.npy"), np.load(path / "components.npy")
    return manifest, measured, Pca(mean, components, manifest.facts["pca"] == "exact")


def main() -> None:
    """Measure raw pixels and PCA on the prepared images; write what `evaluate` pairs the model's figures with."""
    runtime, section = config.section(Runtime, "run"), config.section(EvaluateConfig, "evaluate")
    metric, dim = config.section(IndexConfig, "index").metric, _latent_dim()
    images = Images.open()
    chosen = Sample.choose(images)
    with threads(runtime.threads):
        pca = fit_images(images, dim, runtime.seed)
        measured = floors(images, pca, metric, section.neighbours, runtime.seed)
        yardstick = generation.make_yardstick(images, chosen, runtime.seed)
        generated = generation.floors(images, chosen, pca, yardstick, runtime.seed)
    facts = settings(dim, metric, section.neighbours, runtime.seed) | {
        "pca": "exact" if pca.exact else "randomised",
        "images": chosen.facts(),
        "generation": generated,
        "means": {
            space: {name: round(float(values.mean()), 6) for name, values in figures.items() if name != "cluster"}
            for space, figures in measured.items()
        },
    }
    with artifact.writing(config.BASELINE, "baseline", {"data": images.manifest}, facts) as directory:
        for space, figures in measured.items():
            for name, values in figures.items():
                np.save(directory / f"{space}-{name}.npy", values)
        np.save(directory / "mean.npy", pca.mean)
        np.save(directory / "components.npy", pca.components)
        if yardstick is not None:
            generation.save(yardstick, directory)
    manifest = artifact.read_manifest(config.BASELINE, "baseline")
    means, figure = facts["means"], "knn" if "knn" in measured["raw"] else "found_1"
    name = f"kNN@{section.neighbours}" if figure == "knn" else "original found first"
    print(
        f"measured the floors: {name} raw pixels {means['raw'][figure]:.3f}, PCA-{dim} {means['pca'][figure]:.3f} "
        f"({facts['pca']}, test MSE {means['pca']['mse']:.5f}); baseline {manifest.digest[:12]}"
    )


def _latent_dim() -> int:
    """`train.latent_dim` alone: the rest of that section does not change the floors."""
    train = config.load_yaml(config.PARAMS).get("train")
    value = train.get("latent_dim") if isinstance(train, dict) else None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{config.PARAMS}: train.latent_dim is {value!r}; expected a whole number, 1 or more.")
    return value
