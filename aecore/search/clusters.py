"""Clusters: which group a code belongs to, for the stage that made the groups and for images that come later."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aecore import artifact, config
from aecore.artifact import Manifest
from aecore.config import WorkFailed
from aecore.search.metric import BLOCK, Metric, affinity, apart, comparable

SCORES = 2**24
"""Scores held at a time (64 MiB of float32)."""
NOISE = -1
"""The cluster of what belongs to none."""


class Fitted(NamedTuple):
    """The m images that density-based clusters were found among: what comes later is known by the nearest of them."""

    vectors: np.ndarray
    """Comparable codes, float32 (m, dim)."""
    cluster: np.ndarray
    """int32 (m,), NOISE where in none."""
    radius: np.ndarray
    """float32 (clusters,): the farthest that a member is from the member next to it."""


@dataclass(frozen=True)
class Clusters:
    """Groups of codes, which any code can be given to: `artifacts/clusters/`, opened or still being made."""

    metric: Metric
    center: np.ndarray
    """float32 (dim,): mean of the training codes."""
    centroids: np.ndarray
    """Comparable, float32 (clusters, dim)."""
    fitted: Fitted | None = None
    """Of density-based clusters; None where the nearest centroid decides."""
    manifest: Manifest | None = None
    """None while they are being made."""

    @classmethod
    def open(cls, directory: Path = config.CLUSTERS) -> Clusters:
        """Check the manifest and open; raises as `artifact.read_manifest` does."""
        manifest = artifact.read_manifest(directory, "clusters")
        if "center.npy" not in manifest.files:
            raise WorkFailed(f"{directory} was made by an older version: run `python -m aecore cluster` again.")
        arrays = {Path(name).stem: np.load(directory / name) for name in manifest.files if name.endswith(".npy")}
        fitted = [arrays.get(f"fitted_{name}") for name in Fitted._fields]
        known = None if any(array is None for array in fitted) else Fitted(*fitted)  # type: ignore[arg-type]
        return cls(manifest.facts["metric"], arrays["center"], arrays["centroids"], known, manifest)

    def save(self, directory: Path) -> None:
        """Write what `open` reads into an artefact's `directory`."""
        np.save(directory / "center.npy", self.center)
        np.save(directory / "centroids.npy", self.centroids)
        for name, array in ({} if self.fitted is None else self.fitted._asdict()).items():
            np.save(directory / f"fitted_{name}.npy", array)

    def assign(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The cluster of each code float32 (n, dim), int32 (n,), and its distance to that centroid, float32 (n,).

        Of k-means: the nearest centroid. Of density-based clusters: that of the nearest fitted image, if that is no
        farther than the cluster's radius; else NOISE, and the distance is that to the nearest centroid. The distance is
        the index's: 1 - cosine of centred codes, or Euclidean.
        """
        assert vectors.shape[1:] == self.center.shape, (vectors.shape, self.center.shape)
        cluster, distance = np.empty(len(vectors), np.int32), np.empty(len(vectors), np.float32)
        for start in range(0, len(vectors), BLOCK):
            block = slice(start, start + BLOCK)
            ready = comparable(vectors[block], self.center, self.metric)
            cluster[block], distance[block] = nearest(ready, self.centroids, self.metric)
            if self.fitted is not None:
                beside, gap = nearest(ready, self.fitted.vectors, self.metric)
                given = self.fitted.cluster[beside]
                given[gap > self.fitted.radius[given]] = NOISE
                own = np.where(given == NOISE, cluster[block], given)
                cluster[block], distance[block] = given, apart(ready, self.centroids[own], self.metric)
        return cluster, distance

    def ordered(self, order: np.ndarray) -> Clusters:
        """Those clusters whose numbers `order` (m,) holds, numbered from 0 in that order."""
        fitted = self.fitted and Fitted(
            self.fitted.vectors, renumbered(self.fitted.cluster, order), self.fitted.radius[order]
        )
        return dataclasses.replace(self, centroids=self.centroids[order], fitted=fitted)


def renumbered(cluster: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Clusters int32 (n,) under new numbers: `order` (m,) holds the old ones, no other may occur but NOISE."""
    number = np.full(max(order, default=NOISE) + 2, NOISE, np.int32)  # the last entry is that of NOISE
    number[order] = np.arange(len(order))
    return np.asarray(number[cluster])


def nearest(vectors: np.ndarray, points: np.ndarray, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of `points` (m, D) to each comparable vector (n, D), int32 (n,), and how far it is, float32 (n,)."""
    found = np.empty(len(vectors), np.int32)
    height = max(1, SCORES // len(points))
    for start in range(0, len(vectors), height):
        block = slice(start, start + height)
        found[block] = affinity(vectors[block], points, metric).argmax(axis=1)
    return found, apart(vectors, points[found], metric)
