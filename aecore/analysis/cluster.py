"""The `cluster` stage: k-means of the codes, the groups' sizes and their most typical images."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aecore import artifact, config
from aecore.analysis.space import Space, affinity, blocks
from aecore.config import Runtime, UserError, require
from aecore.data.images import Images
from aecore.search.metric import Metric

if TYPE_CHECKING:
    from aecore.vectors import Embeddings

SAMPLE = 2**26
"""Numbers that k-means is trained on at most (256 MiB of float32): of larger training splits, the smallest ids."""
RESTARTS = 3
"""Random starts, of which the best is kept."""


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """Section `cluster`."""

    clusters: int
    """How many groups."""
    iterations: int
    """Of k-means."""

    def __post_init__(self) -> None:
        require(self.clusters >= 1, "clusters", self.clusters, "1 or more")
        require(self.iterations >= 1, "iterations", self.iterations, "1 or more")


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Let FAISS and numpy's linear algebra use `number` threads inside the block."""
    import faiss
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    faiss.omp_set_num_threads(number)
    with threadpool_limits(number):
        yield


def kmeans(vectors: np.ndarray, clusters: int, iterations: int, seed: int, metric: Metric) -> np.ndarray:
    """Centroids float32 (clusters, D) of comparable vectors float32 (n, D); spherical for `cosine`.

    Raises UserError where there are fewer vectors than clusters.
    """
    import faiss

    if clusters > len(vectors):
        raise UserError(
            f"cluster.clusters is {clusters:,}, but there are only {len(vectors):,} images to group: lower it."
        )
    model = faiss.Kmeans(
        vectors.shape[1], clusters, niter=iterations, nredo=RESTARTS, seed=seed % 2**31, spherical=metric == "cosine",
        max_points_per_centroid=len(vectors), min_points_per_centroid=1,
    )  # fmt: skip
    model.train(np.ascontiguousarray(vectors, dtype=np.float32))
    return np.asarray(model.centroids, dtype=np.float32)


def assign(vectors: np.ndarray, centroids: np.ndarray, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Nearest centroid int32 (n,) of comparable vectors (n, D), and the distance to it float32 (n,), as the index's.

    1 - cosine, or the Euclidean distance.
    """
    cluster = np.empty(len(vectors), np.int32)
    for block in blocks(len(vectors), len(centroids)):
        cluster[block] = affinity(vectors[block], centroids, metric).argmax(axis=1)
    own = centroids[cluster]
    if metric == "l2":
        return cluster, np.linalg.norm(vectors - own, axis=1).astype(np.float32)
    return cluster, np.maximum(1 - np.einsum("nd,nd->n", vectors, own), 0).astype(np.float32)


def sample(positions: np.ndarray, ids: np.ndarray, width: int) -> np.ndarray:
    """As many of `positions` as k-means may hold of `width` numbers each: the smallest ids, ascending by position."""
    most = max(1, SAMPLE // width)
    return positions if len(positions) <= most else np.sort(positions[np.argsort(ids[positions])[:most]])


def summarise(
    ids: np.ndarray, cluster: np.ndarray, distance: np.ndarray, labels: np.ndarray | None, names: list[str] | None
) -> dict[str, list[Any]]:
    """A row a cluster: size, medoid (the id nearest to the centroid) and, with labels, the commonest and its share.

    `cluster` int32 (n,) from 0, none empty; `labels` int32 (n,), -1 where missing (not counted in the purity).
    """
    order = np.lexsort((ids, distance, cluster))
    members = np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1)
    table: dict[str, list[Any]] = {
        "cluster": list(range(len(members))),
        "size": [len(rows) for rows in members],
        "medoid": [int(ids[rows[0]]) for rows in members],
    }
    if labels is not None and names is not None:
        counts = [np.bincount(labels[rows][labels[rows] >= 0], minlength=len(names)) for rows in members]
        table["label"] = [int(c.argmax()) if c.sum() else None for c in counts]
        table["label_name"] = [names[int(c.argmax())] if c.sum() else None for c in counts]
        table["purity"] = [float(c.max() / c.sum()) if c.sum() else None for c in counts]
    return table


def group(
    images: Images, embeddings: Embeddings, section: ClusterConfig, metric: Metric, seed: int, path: Path
) -> artifact.Manifest:
    """Train k-means on the training split's codes, assign every image; write the artefact, largest cluster first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    train, ids, labels = images.positions("train"), images.ids(), images.labels()
    space = Space.fit(embeddings.rows, train, metric)
    centroids = kmeans(
        space.read(sample(train, ids, embeddings.dim)), section.clusters, section.iterations, seed, metric
    )
    parts = [assign(space.comparable(np.asarray(shard)), centroids, metric) for _, shard in embeddings.shards()]
    cluster, distance = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    sizes = np.bincount(cluster, minlength=section.clusters)
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    number = np.zeros(section.clusters, np.int32)
    number[order] = np.arange(len(order))
    cluster, centroids = number[cluster], centroids[order]

    table = summarise(ids, cluster, distance, labels, images.label_names)
    schema = [
        ("cluster", pa.int32()), ("size", pa.int64()), ("medoid", pa.int64()),
        ("label", pa.int32()), ("label_name", pa.string()), ("purity", pa.float64()),
    ]  # fmt: skip
    facts: dict[str, Any] = {"clusters": len(order), "metric": metric, "count": len(ids)}
    if "purity" in table:
        sized = [(n, p) for n, p in zip(table["size"], table["purity"], strict=True) if p is not None]
        facts["purity"] = sum(n * p for n, p in sized) / sum(n for n, _ in sized)
    sources = {"data": images.manifest, "embeddings": embeddings.manifest}
    with artifact.writing(path, "clusters", sources, facts) as directory:
        np.save(directory / "centroids.npy", centroids)
        pq.write_table(
            pa.table({"id": ids, "cluster": cluster, "distance": distance}), directory / "assignments.parquet"
        )
        columns = pa.schema([(name, kind) for name, kind in schema if name in table])
        pq.write_table(pa.table(table, schema=columns), directory / "clusters.parquet")
    return artifact.read_manifest(path, "clusters")


def main() -> None:
    """Read the embeddings and group them."""
    from aecore.search.metric import IndexConfig
    from aecore.vectors import Embeddings

    runtime, section = config.section(Runtime, "run"), config.section(ClusterConfig, "cluster")
    metric = config.section(IndexConfig, "index").metric
    images, embeddings = Images.open(), Embeddings.open()
    artifact.check_chain(images.manifest, embeddings.manifest)
    with threads(runtime.threads):
        manifest = group(images, embeddings, section, metric, runtime.seed, config.CLUSTERS)
    purity = f", purity {manifest.facts['purity']:.3f}" if "purity" in manifest.facts else ""
    print(
        f"grouped {images.count:,} images into {manifest.facts['clusters']:,} clusters{purity}; "
        f"clusters {manifest.digest[:12]}"
    )
