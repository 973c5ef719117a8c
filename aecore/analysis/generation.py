"""How good generated images are, and whether they are new: the same measure for a model's and for the floors' samples.

- Fréchet distance from the training images in the features of the judge (`aecore.analysis.judge`), where there are
  labels to train one. That of the test images is the least a good set of so few images has.
- Median distance in pixels from the nearest training image, in units of the test images': far below 1 is a copy, or
  only a smooth picture, which the reconstructions of test images tell apart, as smooth and not in the training split.

Every set holds equally many images, since the Fréchet distance is biased upwards by an amount that depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aecore.analysis import frechet, judge
from aecore.analysis.frechet import Gaussian
from aecore.analysis.judge import FEATURES, Judge
from aecore.analysis.protocol import Sample, flat
from aecore.analysis.space import smallest
from aecore.counted import counted
from aecore.data.images import Images
from aecore.generate.closest import UNSEEN, closest_in_pixels, unseen_distance
from aecore.generate.mixture import fit_mixture, fitted_to
from aecore.models.pca import Pca

COUNT = 2_000
"""Images in a set at most: as many as there are test images, of those that are measured."""
REFERENCE = 50_000
"""Training images that the samples are compared with at most: those of the smallest ids."""
DRAWN_FROM = 10_000
"""Training images behind the Gaussian of raw pixels at most: those of the smallest ids."""
BLOCK = 1_000

SETS = {
    "test": "test images",
    "reconstructions": "their reconstructions",
    "mixture": "samples, Gaussian mixture of the codes",
    "prior": "samples, the bottleneck's prior",
    "pca": "samples, Gaussian mixture of {pca} codes",
    "raw": "samples, one Gaussian of raw pixels",
}
"""What is compared with the training images, in the order of the table."""


class Yardstick(NamedTuple):
    """What sets of images are measured with; the `baseline` stage makes it."""

    judge: Judge
    reference: Gaussian
    """Of its features of the training images."""


def make_yardstick(images: Images, chosen: Sample, seed: int) -> Yardstick | None:
    """Train the judge and let it look at the training images; None without two labels to tell apart."""
    labels = images.labels()
    if labels is None or len(chosen.queries) < 2 or len(np.unique(labels[chosen.database])) < 2:
        return None
    trained = judge.train(images, chosen.database, seed)
    some = smallest(chosen.train, images.ids(), REFERENCE)
    looks = [trained.look(images.rows(some[start : start + BLOCK])) for start in range(0, len(some), BLOCK)]
    return Yardstick(trained, frechet.fit(np.concatenate(looks)))


def save(yardstick: Yardstick, directory: Path) -> None:
    """Write it beside the floors."""
    judge.save(yardstick.judge, directory)
    np.save(directory / "judge-mean.npy", yardstick.reference.mean)
    np.save(directory / "judge-covariance.npy", yardstick.reference.covariance)


def load(directory: Path, images: Images) -> Yardstick | None:
    """Read what `save` wrote; None where there is none. `images` are those it was made of."""
    if not (directory / judge.FILE).is_file():
        return None
    mean, covariance = np.load(directory / "judge-mean.npy"), np.load(directory / "judge-covariance.npy")
    return Yardstick(judge.load(directory, images), Gaussian(mean, covariance))


def measure(pictures: np.ndarray, images: Images, unseen: float, yardstick: Yardstick | None) -> dict[str, float]:
    """`closest`, and with a yardstick `frechet`, of pictures (n, C, H, W), uint8 or float in [0, 1].

    `unseen`: the median distance of test images from the nearest training image.
    """
    apart = closest_in_pixels(pictures[:UNSEEN], images)[1]
    figures = {"closest": float(np.median(apart)) / unseen}
    if yardstick is not None:
        figures["frechet"] = frechet.distance(frechet.fit(yardstick.judge.look(pictures)), yardstick.reference)
    return {name: round(value, 6) for name, value in figures.items()}


def shown_test(images: Images, chosen: Sample) -> np.ndarray:
    """The test images of a set, positions (n,), by rising id: as many samples are drawn."""
    return chosen.test[np.argsort(images.ids()[chosen.test], kind="stable")[:COUNT]]


def pca_samples(pca: Pca, images: Images, train: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The floor under a model's samples: a mixture of PCA codes, fitted and drawn as the model's is."""
    some = fitted_to(train, images.ids())
    codes = [pca.encode(flat(images.rows(some[start : start + BLOCK]))) for start in range(0, len(some), BLOCK)]
    drawn = fit_mixture(np.concatenate(codes), seed).draw(count, seed)
    return np.asarray(np.clip(pca.decode(drawn), 0, 1).reshape(-1, *images.shape))


def raw_samples(images: Images, train: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draws from the Gaussian with the mean and covariance of the training images' pixels, float32 in [0, 1].

    Each is the mean plus the images' deviations from it, weighted by normal numbers over the root of their count: no
    covariance matrix of all pixels is needed.
    """
    some = smallest(train, images.ids(), DRAWN_FROM)
    weights = np.random.default_rng(seed).standard_normal((count, len(some)), np.float32) / np.sqrt(len(some))
    # The weights need not know the mean: sum w (x - m) = sum w x - (sum w) m.
    mean, drawn = np.zeros(int(np.prod(images.shape))), np.zeros((count, int(np.prod(images.shape))), np.float32)
    for start in range(0, len(some), BLOCK):
        pixels = flat(images.rows(some[start : start + BLOCK]))
        mean += pixels.sum(axis=0, dtype=np.float64) / len(some)
        drawn += weights[:, start : start + BLOCK] @ pixels
    drawn += ((1 - weights.sum(axis=1, keepdims=True)) * mean).astype(np.float32)
    return np.asarray(np.clip(drawn, 0, 1).reshape(-1, *images.shape))


def floors(images: Images, chosen: Sample, pca: Pca, yardstick: Yardstick | None, seed: int) -> dict[str, Any]:
    """What no model has a part in: {"images": how many in a set, "unseen": see `measure`, "sets": {name: figures}}.

    With a yardstick also `judge`, the share of the labelled test images whose label the judge gives.
    """
    test, train = shown_test(images, chosen), chosen.train
    unseen = unseen_distance(images)
    sets = {
        "test": images.rows(test),
        "pca": pca_samples(pca, images, train, len(test), seed),
        "raw": raw_samples(images, train, len(test), seed),
    }
    measured = {name: measure(pictures, images, unseen, yardstick) for name, pictures in sets.items()}
    facts = {"images": len(test), "unseen": round(unseen, 6), "sets": measured}
    return facts if yardstick is None else facts | {"judge": round(yardstick.judge.accuracy(images, chosen.queries), 6)}


def flattened(facts: Mapping[str, Any], measured: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Section `generation` of the metrics: floors and the model's sets, figure by figure."""
    sets = {name: {**facts["sets"], **measured}[name] for name in SETS if name in facts["sets"] or name in measured}
    section = {
        figure: {name: figures[figure] for name, figures in sets.items()}
        for figure in ("frechet", "closest") if figure in facts["sets"]["test"]
    }  # fmt: skip
    return section | {key: facts[key] for key in ("images", "unseen", "judge") if key in facts}


def table(section: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    """Markdown lines: the figures of `flattened`, and how to read them; `titles` names the spaces."""
    judged = "frechet" in section
    lines = [
        "| images | " + "Fréchet distance | " * judged + "nearest training image |",
        "| --- |" + " --- |" * (1 + judged),
    ]
    for name, value in section["closest"].items():
        distance = f"{section['frechet'][name]:.2f} | " if judged else ""
        lines.append(f"| {SETS[name].format(**titles)} | {distance}{value:.2f} |")
    count = counted(section["images"], "image")
    if judged:
        how = (
            f"Fréchet distance of {count} each from the training images, in the {FEATURES} features of a small "
            f"classifier of their labels ({section['judge']:.3f} right on the test images): less is better, and that "
            "of the test images is as good as it gets with so few."
        )
    else:
        how = "Without labels there is no classifier in whose features a Fréchet distance could be taken."
    return [*lines, "", how, (
        f"Nearest training image: median distance in pixels, in units of the test images' ({section['unseen']:.4f}). "
        "Near 0 would be learnt by heart; smooth images lie nearer to all others, as the reconstructions show."
    )]  # fmt: skip
