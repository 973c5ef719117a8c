"""The `cluster` stage: k-means of the codes, the groups' sizes and their most typical images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aecore import artifact, config
from aecore.analysis.kmeans import assign, kmeans, sample, threads
from aecore.analysis.space import Space
from aecore.config import Runtime, require
from aecore.data.images import Images
from aecore.search.metric import Metric

if TYPE_CHECKING:
    from aecore.vectors import Embeddings


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
