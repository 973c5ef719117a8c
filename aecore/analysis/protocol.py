"""What is measured on which images: the same for the model's codes, PCA and raw pixels.

Samples are the smallest ids; ids are hashes, so that is a draw without a generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aecore.analysis import learners
from aecore.analysis.distort import distort
from aecore.analysis.kmeans import kmeans, sample
from aecore.analysis.scores import average_precision, psnr, rank_of, squared_error, ssim, vote
from aecore.analysis.space import Space, blocks, leading, smallest
from aecore.config import UserError, require
from aecore.data.images import Images
from aecore.search.clusters import nearest

QUERIES = 10_000
"""Test images measured at most."""
PAIRS = 2**30
"""Queries times database images ranked at most; but never fewer than 1,000 queries."""
COPIES = 1_000
"""Test images whose distorted copies look for them, at most."""
GALLERY = 100_000
"""Images that a copy's original is looked for among, at most."""
ITERATIONS = 25
"""Of the k-means behind ACC, NMI and ARI, with one cluster a label."""

Encode = Callable[[np.ndarray], np.ndarray]
"""Prepared images uint8 (m, C, H, W) -> vectors float32 (m, D)."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Section `evaluate`."""

    neighbours: int
    """k of kNN accuracy and of precision at k."""
    bootstrap: int
    """Resamples behind each 95 % interval."""

    def __post_init__(self) -> None:
        require(self.neighbours >= 1, "neighbours", self.neighbours, "1 or more")
        require(self.bootstrap >= 20, "bootstrap", self.bootstrap, "20 or more")


@dataclass(frozen=True)
class Sample:
    """Positions of the images that play each part, ascending."""

    train: np.ndarray
    """The training split: fits the centre and the clusters."""
    test: np.ndarray
    """Measured for reconstruction: up to QUERIES of the test split."""
    database: np.ndarray
    """Labelled training images, which are ranked; empty where no test image has a label of theirs."""
    taught: np.ndarray
    """Those of `database` that teach the classic learners: all, or as many as `learners.most` allows."""
    queries: np.ndarray
    """Labelled test images, which ask: up to QUERIES, or what PAIRS allows."""
    originals: np.ndarray
    """Up to COPIES of `test`: those whose distorted copies look for them."""
    gallery: np.ndarray
    """Where they look: all images, or `originals` and others up to GALLERY."""

    @classmethod
    def choose(cls, images: Images) -> Sample:
        """Choose the parts. Raises UserError where there is no training or no test image."""
        ids, labels = images.ids(), images.labels()
        train, tested = images.positions("train"), images.positions("test")
        for name, split in (("train", train), ("test", tested)):
            if len(split) == 0:
                raise UserError(
                    f"there is no image in the {name} split: raise prepare.split.{name} and run `dvc repro`."
                )
        labelled = np.zeros(images.count, bool) if labels is None else labels >= 0
        database, queries = train[labelled[train]], tested[labelled[tested]]
        if labels is None or not np.isin(labels[queries], labels[database]).any():  # such as a label an image
            database, queries = train[:0], tested[:0]
        most = min(QUERIES, max(1_000, PAIRS // max(len(database), 1)))
        originals = smallest(tested, ids, COPIES)
        others = np.setdiff1d(np.arange(images.count), originals)
        gallery = np.sort(np.r_[originals, smallest(others, ids, GALLERY - len(originals))])
        taught = smallest(database, ids, learners.most(math.prod(images.shape)))
        asking = smallest(queries, ids, most)
        return cls(train, smallest(tested, ids, QUERIES), database, taught, asking, originals, gallery)

    def facts(self) -> dict[str, int]:
        """How many images play each part."""
        return {name: len(getattr(self, name)) for name in self.__dataclass_fields__}


def measure(
    space: Space, encode: Encode, images: Images, chosen: Sample, neighbours: int, seed: int
) -> dict[str, np.ndarray]:
    """Every figure of a space, a value per image (shapes: `originals` for the first, `queries` for the others).

    Always `found_1`, `found_10`; with labels also `knn`, `precision`, `map`, `svm` and `forest` (whether the learner is
    right) and `cluster` (the k-means cluster of each query, int32, from which ACC, NMI and ARI follow).
    """
    figures = find_originals(space, encode, images, chosen, seed)
    labels = images.labels()
    if labels is not None and len(chosen.queries):
        figures |= rank(space, chosen, labels, neighbours)
        asked = (space.rows(chosen.queries[block]) for block in blocks(len(chosen.queries), len(space.center)))
        said = learners.predict(space.rows(chosen.taught), labels[chosen.taught], asked, seed)
        figures |= {name: (labels[chosen.queries] == answer).astype(np.float64) for name, answer in said.items()}
        clusters = min(len(np.unique(labels[chosen.database])), len(chosen.train))
        training = space.read(sample(chosen.train, images.ids(), len(space.center)))
        centroids = kmeans(training, min(clusters, len(training)), ITERATIONS, seed, space.metric)
        figures["cluster"] = nearest(space.read(chosen.queries), centroids, space.metric)[0]
    return figures


def rank(space: Space, chosen: Sample, labels: np.ndarray, neighbours: int) -> dict[str, np.ndarray]:
    """Rank `database` for each of `queries`, the training split for test images, by the index's metric.

    `knn`: whether the majority of the `neighbours` nearest, ties to the nearer, has the query's label; `precision`:
    the share of them that has; `map`: average precision of the whole ranking. float64 (q,) each.
    """
    figures = {name: np.zeros(len(chosen.queries)) for name in ("knn", "precision", "map")}
    ranked = labels[chosen.database]
    for rows, scores in space.scores(space.read(chosen.queries), chosen.database):
        truth = labels[chosen.queries[rows]]
        near = ranked[leading(scores, neighbours)]
        figures["knn"][rows] = vote(near) == truth
        figures["precision"][rows] = (near == truth[:, None]).mean(axis=1)
        figures["map"][rows] = average_precision(scores, ranked == truth[:, None])
    return figures


def find_originals(space: Space, encode: Encode, images: Images, chosen: Sample, seed: int) -> dict[str, np.ndarray]:
    """Whether the distorted copy of each of `originals` finds it in `gallery`, first and within ten: float64 (n,) each.

    No label is needed. An image exactly as near as the original counts as nearer, so codes that are all alike find
    nothing.
    """
    copies = distort(images.rows(chosen.originals), images.ids()[chosen.originals], seed)
    columns = np.searchsorted(chosen.gallery, chosen.originals)
    ranks = np.zeros(len(copies), np.int64)
    for rows, scores in space.scores(space.comparable(encode(copies)), chosen.gallery):
        ranks[rows] = rank_of(scores, columns[rows])
    return {"found_1": (ranks <= 1).astype(np.float64), "found_10": (ranks <= 10).astype(np.float64)}


def reconstruction(images: Images, chosen: Sample, reconstruct: Encode) -> dict[str, np.ndarray]:
    """`mse`, `psnr`, `ssim` of the reconstruction of each of `test`, float64 (n,); `reconstruct` gives (m, C, H, W)."""
    errors, likeness = [], []
    for start in range(0, len(chosen.test), 256):
        pixels = images.rows(chosen.test[start : start + 256])
        x, x_hat = pixels.astype(np.float32) / 255, reconstruct(pixels)
        errors.append(squared_error(x, x_hat))
        likeness.append(ssim(x, x_hat))
    mse = np.concatenate(errors)
    return {"mse": mse, "psnr": psnr(mse), "ssim": np.concatenate(likeness)}


def flat(pixels: np.ndarray) -> np.ndarray:
    """Raw pixels as vectors: uint8 (m, C, H, W) -> float32 (m, C * H * W) in [0, 1]."""
    return pixels.reshape(len(pixels), -1).astype(np.float32) / 255
