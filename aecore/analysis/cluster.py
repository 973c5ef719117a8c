"""The `cluster` stage: groups of the codes, by k-means or HDBSCAN, their sizes and their most typical images."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aecore import artifact, config
from aecore.analysis.density import FITTED, density
from aecore.analysis.kmeans import kmeans, mini_batches, refine, sample, threads
from aecore.analysis.silhouette import JUDGED, TRIED, best, silhouettes
from aecore.analysis.space import Space, smallest
from aecore.config import Runtime, require
from aecore.counted import counted
from aecore.data.images import Images
from aecore.search.clusters import NOISE, Clusters, renumbered
from aecore.search.metric import Metric

if TYPE_CHECKING:
    from aecore.vectors import Embeddings


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """Section `cluster`."""

    method: Literal["kmeans", "hdbscan"]
    """K-means puts every image into one of so many groups; HDBSCAN finds how many there are, and leaves noise out."""
    clusters: int | str
    """Of k-means: how many groups, or `auto`: as many as have the largest mean silhouette."""
    iterations: int
    """Of k-means."""
    min_size: int
    """Of HDBSCAN: images of the smallest group, and neighbours that make a place dense."""

    def __post_init__(self) -> None:
        given = self.clusters == "auto" if isinstance(self.clusters, str) else self.clusters >= 1
        require(given, "clusters", self.clusters, "1 or more, or auto")
        require(self.iterations >= 1, "iterations", self.iterations, "1 or more")
        require(self.min_size >= 2, "min_size", self.min_size, "2 or more")


def by_kmeans(
    space: Space, train: np.ndarray, ids: np.ndarray, section: ClusterConfig, seed: int
) -> tuple[Clusters, dict[str, Any]]:
    """K-means of the images at `train`, and what there is to say of it.

    Where k-means cannot hold them all it starts on a sample. Mini-batches then go on from there: the sample as the
    first, then all others, each read once. So every training image has counted, and no more than the sample and one
    mini-batch are in memory.
    """
    clusters, facts = section.clusters, dict[str, Any]()
    if isinstance(clusters, str):
        some, judged = (space.read(smallest(train, ids, most)) for most in (TRIED, JUDGED))
        tried = silhouettes(some, judged, section.iterations, seed, space.metric)
        clusters, facts = best(tried), {"silhouettes": [list(entry) for entry in tried]}
    first = sample(train, ids, len(space.center))
    vectors = space.read(first)
    centroids = kmeans(vectors, clusters, section.iterations, seed, space.metric)
    if len(first) < len(train):
        others = mini_batches(np.setdiff1d(train, first), clusters, seed)
        batches = itertools.chain([vectors], map(space.read, others))
        centroids = refine(centroids, batches, space.metric, seed)
    return Clusters(space.metric, space.center, centroids), facts


def by_density(
    space: Space, train: np.ndarray, ids: np.ndarray, section: ClusterConfig, seed: int
) -> tuple[Clusters, dict[str, Any]]:
    """HDBSCAN of the images at `train`, or FITTED of them, and what there is to say of it; nothing is drawn."""
    fitted = smallest(train, ids, FITTED)
    centroids, known = density(space.read(fitted), section.min_size, space.metric)
    return Clusters(space.metric, space.center, centroids, known), {"fitted": len(fitted)}


METHODS = {"kmeans": by_kmeans, "hdbscan": by_density}


def summarise(
    ids: np.ndarray, cluster: np.ndarray, distance: np.ndarray, labels: np.ndarray | None, names: list[str] | None
) -> dict[str, list[Any]]:
    """A row a cluster: size, medoid (the id nearest to the centroid) and, with labels, the commonest and its share.

    `cluster` int32 (n,) from 0, none empty, NOISE is left out; `labels` int32 (n,), -1 where missing (not counted in
    the purity).
    """
    order = np.lexsort((ids, distance, cluster))
    order = order[np.count_nonzero(cluster == NOISE) :]
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
    """Group the training split's codes, give every image a cluster; write the artefact, largest cluster first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    train, ids, labels = images.positions("train"), images.ids(), images.labels()
    space = Space.fit(embeddings.rows, train, metric)
    made, found = METHODS[section.method](space, train, ids, section, seed)
    parts = [made.assign(shard) for _, shard in embeddings.shards()]
    cluster, distance = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    sizes = np.bincount(cluster[cluster != NOISE], minlength=len(made.centroids))
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    cluster, made = renumbered(cluster, order), made.ordered(order)

    table = summarise(ids, cluster, distance, labels, images.label_names)
    schema = [
        ("cluster", pa.int32()), ("size", pa.int64()), ("medoid", pa.int64()),
        ("label", pa.int32()), ("label_name", pa.string()), ("purity", pa.float64()),
    ]  # fmt: skip
    facts: dict[str, Any] = {
        "method": section.method, "clusters": len(order), "metric": metric, "count": len(ids),
        "noise": int(np.count_nonzero(cluster == NOISE)), **found,
    }  # fmt: skip
    if "purity" in table:
        sized = [(n, p) for n, p in zip(table["size"], table["purity"], strict=True) if p is not None]
        if sized:  # not where every labelled image is noise
            facts["purity"] = sum(n * p for n, p in sized) / sum(n for n, _ in sized)
    sources = {"data": images.manifest, "embeddings": embeddings.manifest}
    with artifact.writing(path, "clusters", sources, facts) as directory:
        made.save(directory)
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
    facts = manifest.facts
    chosen = "".join(
        f" (silhouette {score:.3f})" for n, score in facts.get("silhouettes", []) if n == facts["clusters"]
    )
    noise = f", {facts['noise']:,} in none" if section.method == "hdbscan" else ""
    purity = f", purity {facts['purity']:.3f}" if "purity" in facts else ""
    sizes = f"{counted(images.count, 'image')} into {counted(facts['clusters'], 'cluster')}"
    print(f"grouped {sizes}{chosen}{noise}{purity}; clusters {manifest.digest[:12]}")
