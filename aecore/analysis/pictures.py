"""The pictures of `evaluate`: what each shows of a workspace, and how much of it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aecore import artifact, config
from aecore.analysis import baseline, claims, figures
from aecore.analysis.case import Case
from aecore.analysis.protocol import Sample
from aecore.analysis.space import Space
from aecore.analysis.workspace import Workspace
from aecore.counted import counted
from aecore.data.images import Images
from aecore.generate import interpolate, sample
from aecore.search.clusters import NOISE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (
    "reconstructions", "neighbours", "map", "map_clusters", "clusters", "samples", "interpolations", "claim", "training"
)  # fmt: skip
"""Of the reports, in this order."""
COLUMNS, QUERIES, NEIGHBOURS, MEMBERS, CLUSTERS = 12, 10, 10, 10, 20
"""What a picture shows at most: reconstructed images, queries, neighbours each, members a cluster, clusters."""
SAMPLES, WAYS, STEPS = 24, 5, 9
"""And samples, half of them from the prior where there is one, ways between two test images, steps on each."""


def draw(
    work: Workspace, space: Space, chosen: Sample, case: Case, codes: dict[str, np.ndarray], titles: dict[str, str]
) -> dict[str, Figure]:
    """Those of PICTURES that can be drawn here, by name; `codes`: new ones, by where they were drawn from."""
    drawn = {
        "reconstructions": draw_reconstructions(work, chosen, titles),
        "neighbours": draw_neighbours(work, space, chosen),
        **draw_maps(work.images, config.MAP, config.CLUSTERS),
        "clusters": draw_clusters(work.images, config.CLUSTERS),
        "samples": draw_samples(work, space, codes),
    }
    if len(chosen.test) > 1:
        drawn["interpolations"] = draw_interpolations(work, chosen)
    shown = typical(work.images, chosen.test, COLUMNS)
    if (claim := claims.draw(case, shown, names_of(work.images, shown))) is not None:
        drawn["claim"] = claim
    if (config.REPORTS / "training.csv").is_file():
        drawn["training"] = draw_training(config.REPORTS / "training.csv")
    return drawn


def draw_reconstructions(work: Workspace, chosen: Sample, titles: dict[str, str]) -> Figure:
    """Originals, the model's and PCA's reconstructions of a few test images."""
    shown = typical(work.images, chosen.test, COLUMNS)
    pixels = work.images.rows(shown)
    rows = [
        (titles["model"], work.encoder.reconstruct(pixels)),
        (titles["pca"], baseline.reconstruct(work.pca, pixels)),
    ]
    return figures.reconstructions(pixels.astype(np.float32) / 255, rows, names_of(work.images, shown))


def draw_neighbours(work: Workspace, space: Space, chosen: Sample) -> Figure:
    """A few test images and what is nearest to them in the training split."""
    images, labels = work.images, work.images.labels()
    shown = typical(images, chosen.queries if len(chosen.queries) else chosen.test, QUERIES)
    database = chosen.database if len(chosen.database) else chosen.train
    near = space.nearest(space.read(shown), database, NEIGHBOURS)
    found = images.rows(near.ravel()).reshape(*near.shape, *images.shape)
    right = labels[near] == labels[shown][:, None] if labels is not None and len(chosen.queries) else None
    return figures.neighbours(images.rows(shown), found, names_of(images, shown), right)


def draw_maps(images: Images, directory: Path, clusters: Path) -> dict[str, Figure]:
    """The map coloured by cluster and, where there are labels, by label first: {"map": …, "map_clusters": …}."""
    import pyarrow.parquet as pq

    table, manifest = pq.read_table(directory / "map.parquet"), artifact.read_manifest(directory, "map")
    places = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
    method = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}[manifest.facts["method"]]
    assigned, groups = (pq.read_table(clusters / f"{name}.parquet") for name in ("assignments", "clusters"))
    titles = [f"{row['cluster']}: {row.get('label_name') or 'cluster'}" for row in groups.to_pylist()]
    colours = {"cluster": (assigned["id"].to_numpy(), assigned["cluster"].to_numpy(), titles)}
    labels, names = images.labels(), images.label_names
    if labels is not None and names is not None:
        colours = {"label": (images.ids(), labels, names), **colours}
    drawn = []
    for by, (everyone, group, named) in colours.items():
        order = np.argsort(everyone)
        rows = order[np.searchsorted(everyone[order], table["id"].to_numpy())]
        title = f"{counted(len(places), 'code')} by {method}, coloured by {by}"
        some = ["in none"] if by == "cluster" and (group == NOISE).any() else []
        rest = " or ".join([*some, *(["other"] if not some or len(named) > len(figures.PALETTE) else [])])
        drawn.append(figures.scatter(places, group[rows], named, title, rest))
    return dict(zip(("map", "map_clusters"), drawn, strict=False))


def draw_clusters(images: Images, directory: Path) -> Figure:
    """The largest clusters: medoid, nearest others, size, and purity where there are labels."""
    import pyarrow.parquet as pq

    table = pq.read_table(directory / "clusters.parquet").to_pylist()
    assignments = pq.read_table(directory / "assignments.parquet")
    ids, cluster, distance = (assignments[name].to_numpy() for name in ("id", "cluster", "distance"))
    rows, captions = [], []
    for entry in table[:CLUSTERS]:
        members = np.flatnonzero(cluster == entry["cluster"])
        nearest = members[np.lexsort((ids[members], distance[members]))[:MEMBERS]]
        rows.append(images.rows(nearest))
        caption = [counted(entry["size"], "image")]
        if entry.get("purity") is not None:
            caption.append(f"{entry['purity']:.0%} {entry['label_name']}")
        captions.append(caption)
    of = (
        f"the {len(rows)} largest of {counted(len(table), 'cluster')}"
        if len(table) > len(rows)
        else counted(len(table), "cluster")
    )
    return figures.clusters(rows, captions, f"{of[0].upper()}{of[1:]}: the most typical image and the next nearest")


def draw_training(path: Path) -> Figure:
    """The curves that `train` wrote."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return figures.training({name: np.array([float(row[name]) for row in rows]) for name in rows[0]})


def draw_samples(work: Workspace, space: Space, drawn: dict[str, np.ndarray]) -> Figure:
    """The first of the `drawn` codes decoded, each beside the training images nearest to it."""
    groups = {
        origin: sample.beside_nearest(
            codes[: SAMPLES // len(drawn)], work.encoder, work.images, work.embeddings, space.center, space.metric
        )
        for origin, codes in drawn.items()
    }
    return sample.draw(groups, work.images, work.floors.facts["generation"]["unseen"])


def draw_interpolations(work: Workspace, chosen: Sample) -> Figure:
    """The ways between a few test images, of different labels where there are enough."""
    shown = typical(work.images, chosen.test, 2 * WAYS)  # sorted by label: the first half goes to the second
    ways = [
        interpolate.between(work.images.rows(ends), names_of(work.images, ends) or ["", ""], work.encoder, STEPS)
        for ends in shown[: len(shown) // 2 * 2].reshape(2, -1).T
    ]
    return interpolate.draw(ways)


def typical(images: Images, positions: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` of `positions` to show: the smallest ids, one a label in turn where there are labels."""
    ids, labels = images.ids(), images.labels()
    order = positions[np.argsort(ids[positions], kind="stable")]
    if labels is None:
        return order[:count]
    turn = np.zeros(len(order), np.int64)  # how many of the same label came before
    for label in np.unique(labels[order]):
        mine = np.flatnonzero(labels[order] == label)
        turn[mine] = np.arange(len(mine))
    chosen = order[np.lexsort((np.arange(len(order)), turn))[:count]]
    return np.asarray(chosen[np.lexsort((ids[chosen], labels[chosen]))])


def names_of(images: Images, positions: np.ndarray) -> list[str] | None:
    """What the images at `positions` show, None without labels."""
    labels, names = images.labels(), images.label_names
    if labels is None or names is None:
        return None
    return [names[label] if label >= 0 else "unlabelled" for label in labels[positions]]
