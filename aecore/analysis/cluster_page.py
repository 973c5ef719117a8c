"""The page of the clusters: of each its size, its labels, its most and its least typical images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aecore import config
from aecore.analysis import page
from aecore.analysis.page import Bars, Key, Link, Section, Strip, Thumb
from aecore.counted import counted
from aecore.data.images import Images
from aecore.names import legible
from aecore.search.clusters import NOISE
from aecore.search.montage import picture

PAGE = config.REPORTS / "clusters.html"
SHOWN = 40
"""Clusters shown at most, the largest."""
TYPICAL, ODD, ALONE = 10, 10, 28
"""Images shown of a cluster beside its medoid: the nearest to the centre, and the farthest; and of those in none."""
LABELS = 6
"""Labels counted in a cluster, the commonest."""
THUMB = 64
"""Pixels of a small picture at most; larger images are scaled down to it."""


def read_assignments(directory: Path = config.CLUSTERS) -> tuple[np.ndarray, np.ndarray]:
    """Cluster int32 (n,) and distance to its centre float32 (n,) of every image, in the images' order."""
    import pyarrow.parquet as pq

    table = pq.read_table(directory / "assignments.parquet", columns=["cluster", "distance"])
    return table["cluster"].to_numpy(), table["distance"].to_numpy()


def told(facts: dict[str, Any]) -> str:
    """How the clusters came about, in a sentence; `facts` of their manifest."""
    count = counted(facts["clusters"], "cluster")
    if facts.get("method") == "hdbscan":
        return (
            f"HDBSCAN found {count} where the codes lie densely; {facts['noise']:,} of "
            f"{counted(facts['count'], 'image')} ({_percent(facts['noise'] / facts['count'])}) belong to no cluster."
        )
    chosen = "; of the numbers tried this one has the largest mean silhouette" if "silhouettes" in facts else ""
    return f"K-means put every image into one of {count}, by its code alone{chosen}."


def members(cluster: np.ndarray, distance: np.ndarray, ids: np.ndarray) -> dict[int, np.ndarray]:
    """Positions of each cluster's images, the nearest to its centre first; of NOISE too, where there is any."""
    order = np.lexsort((ids, distance, cluster))
    parts = np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1)
    return {int(cluster[part[0]]): part for part in parts}


def write(
    images: Images, facts: dict[str, Any], table: list[dict[str, Any]], cluster: np.ndarray, distance: np.ndarray
) -> str:
    """The page's HTML, of the clusters' `facts` and `table`, and of each image's cluster and distance (n,)."""
    groups = members(cluster, distance, images.ids())
    noise = groups.get(NOISE, np.empty(0, np.int64))
    labels, names = images.labels(), images.label_names
    sections = [overview(facts, table)]
    for row in table[:SHOWN]:
        positions = groups[row["cluster"]]
        counts = [] if labels is None or names is None else label_counts(labels[positions], names)
        sections.append(section(images, row, positions, distance[positions], counts))
    if len(noise):
        far = Strip("The farthest from every cluster first", thumbs(images, noise[::-1][:ALONE]))
        prose = [f"{counted(len(noise), 'image')} where codes are sparse, or too far from the cluster next to them."]
        sections.append(Section("In no cluster", prose, strips=[far]))
    more = f" The {SHOWN} largest of {len(table):,} are shown." if len(table) > SHOWN else ""
    return page.page(
        "aecore report · clusters",
        counted(len(table), "cluster"),
        [told(facts), f"Point at an image to see its path and id.{more}"],
        keys(facts, table),
        [],
        sections,
        "Written by `python -m aecore report` from `artifacts/clusters`. One file: it loads nothing and runs nothing.",
    )


def keys(facts: dict[str, Any], table: list[dict[str, Any]]) -> list[Key]:
    """The strip on top: sizes, noise, purity, silhouette, where there are such."""
    sizes = [row["size"] for row in table]
    found = [Key("images a cluster", f"{int(np.median(sizes)):,}", f"the median; {min(sizes):,} to {max(sizes):,}")]
    if facts.get("method") == "hdbscan":
        found.append(Key("in no cluster", _percent(facts["noise"] / facts["count"]), counted(facts["noise"], "image")))
    if "purity" in facts:
        found.append(Key("purity", f"{facts['purity']:.3f}", "share of a cluster's images with its commonest label"))
    if "silhouettes" in facts:
        score = max(value for _, value in facts["silhouettes"] if value is not None)
        found.append(Key("mean silhouette", f"{score:.3f}", "1: far from all other clusters; 0: between two"))
    return found


def overview(facts: dict[str, Any], table: list[dict[str, Any]]) -> Section:
    """Sizes, and the numbers of clusters that were tried."""
    sizes = [(title(row), row["size"]) for row in table[:SHOWN]]
    if len(table) > SHOWN:
        sizes.append((f"{len(table) - SHOWN:,} more", sum(row["size"] for row in table[SHOWN:])))
    if facts.get("noise"):
        sizes.append(("in no cluster", facts["noise"]))
    longest = max(size for _, size in sizes)
    bars = [Bars("Images", [(name, f"{size:,}", size / longest) for name, size in sizes])]
    if "silhouettes" in facts:
        tried = [(number, score) for number, score in facts["silhouettes"] if score is not None]
        scores = [score for _, score in tried]
        rows = [(counted(number, "cluster"), f"{score:.3f}", score / max(*scores, 1e-12)) for number, score in tried]
        bars.append(Bars("Mean silhouette of the numbers tried", rows, scores.index(max(scores))))
    return Section("Overview", bars=bars, links=[Link("Back to the report", "report.html")])


def section(
    images: Images, row: dict[str, Any], positions: np.ndarray, distance: np.ndarray, counts: list[tuple[str, int]]
) -> Section:
    """A cluster: its `row` of the table, its images' `positions` (m,), the nearest first, and their `distance` (m,)."""
    share, purity = _percent(row["size"] / images.count), row.get("purity")
    pure = "" if purity is None else f"; {_percent(purity)} of those with a label have the commonest"
    prose = (
        f"**{counted(row['size'], 'image')}**, {share} of all{pure}. "
        f"Distance to the centre: median {np.median(distance):.3f}, at most {distance[-1]:.3f}."
    )
    near, far = positions[1 : 1 + TYPICAL], positions[1 + TYPICAL :][::-1][:ODD]
    strips = [Strip("Most typical (medoid)", thumbs(images, positions[:1]), large=True)]
    strips += [
        Strip(label, thumbs(images, some))
        for label, some in (("The next nearest to the centre", near), ("The farthest from it", far))
        if len(some)
    ]
    bars = [Bars("Labels", [(name, f"{n:,}", n / row["size"]) for name, n in counts])] if counts else []
    return Section(title(row), [prose], bars=bars, strips=strips)


def title(row: dict[str, Any]) -> str:
    """A cluster's name: its number and, with labels, the commonest."""
    name = row.get("label_name")
    return f"{row['cluster']} · {legible(name)}" if name else f"Cluster {row['cluster']}"


def label_counts(labels: np.ndarray, names: Sequence[str]) -> list[tuple[str, int]]:
    """(label, how many of `labels` (m,) are it), the LABELS commonest first, then the others, then those without.

    A single other one is named too.
    """
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    named, others = (order, []) if len(order) == LABELS + 1 else (order[:LABELS], order[LABELS:])
    found = [(legible(names[label]), int(counts[label])) for label in named]
    if others:
        found.append((f"{len(others):,} others", int(counts[others].sum())))
    missing = int((labels < 0).sum())
    return [*found, ("without a label", missing)] if missing else found


def thumbs(images: Images, positions: np.ndarray) -> list[Thumb]:
    """Small pictures of the images at `positions`, each with its path, id and label."""
    rows = images.items.take(positions).select(["path", "id", "label_name"]).to_pylist()
    shown = []
    for pixels, row in zip(images.rows(positions), rows, strict=True):
        small, file = picture(pixels), io.BytesIO()
        small.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS)
        small.save(file, "PNG", optimize=True)
        said = [row["path"], f"id {row['id']}", *([row["label_name"]] if row["label_name"] else [])]
        shown.append(Thumb(file.getvalue(), "\n".join(map(legible, said))))
    return shown


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u202f%"
