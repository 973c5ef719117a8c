"""The `evaluate` stage: every figure of the model beside PCA and raw pixels, and the pictures, into `reports/`."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aecore import artifact, config, tracking
from aecore.analysis import baseline, claims, compare, figures, generation, protocol
from aecore.analysis.case import Case
from aecore.analysis.compare import Comparison
from aecore.analysis.kmeans import threads
from aecore.analysis.learners import COST, TREES
from aecore.analysis.protocol import EvaluateConfig, Sample
from aecore.analysis.space import Space
from aecore.artifact import Manifest
from aecore.config import Runtime, WorkFailed
from aecore.data.images import Images
from aecore.embedding import Encoder
from aecore.generate import interpolate, sample
from aecore.generate.mixture import fit_mixture, fitted_to
from aecore.models.pca import Pca
from aecore.search.metric import IndexConfig
from aecore.vectors import Embeddings

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


@dataclasses.dataclass(frozen=True)
class Workspace:
    """Every artefact, opened, and made from one another."""

    images: Images
    encoder: Encoder
    embeddings: Embeddings
    index: Manifest
    floors: Manifest
    manifests: tuple[Manifest, ...]
    """Of them all."""
    measured: dict[str, dict[str, np.ndarray]]
    pca: Pca

    @classmethod
    def open(cls, runtime: Runtime) -> Workspace:
        """Open all. Raises as `artifact.read_manifest` does, and WorkFailed where they do not fit together."""
        images, embeddings = Images.open(), Embeddings.open()
        encoder = Encoder.load(config.MODEL, runtime.device)
        index = artifact.read_manifest(config.INDEX, "index")
        floors, measured, pca = baseline.read(config.BASELINE)
        clusters = artifact.read_manifest(config.CLUSTERS, "clusters")
        places = artifact.read_manifest(config.MAP, "map")
        all_of_them = (images.manifest, encoder.manifest, embeddings.manifest, index, floors, clusters, places)
        artifact.check_chain(*all_of_them)
        return cls(images, encoder, embeddings, index, floors, all_of_them, measured, pca)


def check_settings(floors: Manifest, wanted: dict[str, Any]) -> None:
    """Raise WorkFailed unless the floors were measured with the `wanted` settings."""
    for key, value in wanted.items():
        if floors.facts[key] != value:
            raise WorkFailed(
                f"the baseline was measured with {key} {floors.facts[key]!r}, the model with {value!r}: "
                "run `dvc repro` (or `python -m aecore baseline`)."
            )


def draw_reconstructions(work: Workspace, chosen: Sample, titles: dict[str, str]) -> Figure:
    """Originals, the model's and PCA's reconstructions of a few test images."""
    shown = typical(work.images, chosen.test, COLUMNS)
    pixels = work.images.rows(shown)
    rows = [
        (titles["model"], work.encoder.reconstruct(pixels)),
        (titles["pca"], baseline.reconstruct(work.pca, pixels)),
    ]
    return figures.reconstructions(pixels.astype(np.float32) / 255, rows, _names(work.images, shown))


def draw_neighbours(work: Workspace, space: Space, chosen: Sample) -> Figure:
    """A few test images and what is nearest to them in the training split."""
    images, labels = work.images, work.images.labels()
    shown = typical(images, chosen.queries if len(chosen.queries) else chosen.test, QUERIES)
    database = chosen.database if len(chosen.database) else chosen.train
    near = space.nearest(space.read(shown), database, NEIGHBOURS)
    found = images.rows(near.ravel()).reshape(*near.shape, *images.shape)
    right = labels[near] == labels[shown][:, None] if labels is not None and len(chosen.queries) else None
    return figures.neighbours(images.rows(shown), found, _names(images, shown), right)


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
        title = f"{len(places):,} codes by {method}, coloured by {by}"
        drawn.append(figures.scatter(places, group[rows], named, title))
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
        caption = f"{entry['size']:,} images"
        if entry.get("purity") is not None:
            caption += f"\n{entry['purity']:.0%} {entry['label_name']}"
        captions.append(caption)
    of = f"the {len(rows)} largest of {len(table):,} clusters" if len(table) > len(rows) else f"{len(table)} clusters"
    return figures.clusters(rows, captions, f"{of[0].upper()}{of[1:]}: the most typical image and the next nearest")


def draw_training(path: Path) -> Figure:
    """The curves that `train` wrote."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return figures.training({name: np.array([float(row[name]) for row in rows]) for name in rows[0]})


def draw_codes(work: Workspace, chosen: Sample, count: int, seed: int) -> dict[str, np.ndarray]:
    """`count` new codes each from the `mixture` and, where the bottleneck has one, from its `prior`."""
    mixture = fit_mixture(work.embeddings.rows(fitted_to(chosen.train, work.images.ids())), seed)
    prior = sample.prior_codes(work.encoder, count, seed)
    return {"mixture": mixture.draw(count, seed)} | ({} if prior is None else {"prior": prior})


def measure_generated(work: Workspace, chosen: Sample, drawn: dict[str, np.ndarray]) -> dict[str, Any]:
    """Section `generation` of the metrics: the model's reconstructions and samples beside the floors."""
    images, facts = work.images, work.floors.facts["generation"]
    yardstick = generation.load(config.BASELINE, images)
    sets = {"reconstructions": work.encoder.reconstruct(images.rows(generation.shown_test(images, chosen)))}
    sets |= {origin: work.encoder.decode(codes) for origin, codes in drawn.items()}
    measured = {name: generation.measure(shown, images, facts["unseen"], yardstick) for name, shown in sets.items()}
    return generation.flattened(facts, measured)


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
        interpolate.between(work.images.rows(ends), _names(work.images, ends) or ["", ""], work.encoder, STEPS)
        for ends in shown[: len(shown) // 2 * 2].reshape(2, -1).T
    ]
    return interpolate.draw(ways)


def report(
    work: Workspace, chosen: Sample, comparison: Comparison, claimed: list[str], generated: dict[str, Any],
    titles: dict[str, str], k: int,
) -> str:  # fmt: skip
    """The comparison as Markdown: the table, who wins, the recipe's claims, how it was measured, and samples."""
    parts, facts = chosen.facts(), work.index.facts
    how = [
        f"{parts['test']:,} test images; in brackets 95 % intervals (bootstrap of the images, paired for differences).",
        f"Find the original: {parts['originals']:,} cropped, shifted, noised test images, each among "
        f"{parts['gallery']:,} images.",
    ]
    if len(chosen.queries):
        how.append(
            f"kNN, precision and mAP: {parts['queries']:,} labelled test images ask {parts['database']:,} training "
            f"images, metric {facts['metric']}. Clusters: k-means of the training split, one a label, scored on the "
            "test images."
        )
        how.append(
            f"Linear SVM (standardised, C = {COST:g}) and random forest ({TREES} trees) learn from {parts['taught']:,} "
            "labelled training images, the same for every column."
        )
    exact = "exactly" if work.pca.exact else "by a randomised method, so it may be slightly below the best"
    how.append(f"PCA was computed {exact}. Recall of the index ({facts['index']}) at 10: {facts['recall']['10']:.4f}.")
    lines = [*compare.table(comparison, titles, k), ""]
    lines += [f"- {line}" for line in compare.verdicts(comparison, titles, k)]
    if claimed:
        lines += ["", *claimed]
    return "\n".join([*lines, "", *how, "", *generation.table(generated, titles)]) + "\n"


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


def main() -> None:
    """Measure the model as the floors were measured; write figures, table and pictures, and print the table."""
    runtime, section = config.section(Runtime, "run"), config.section(EvaluateConfig, "evaluate")
    metric = config.section(IndexConfig, "index").metric
    track = config.section(tracking.TrackingConfig, "tracking")
    torch.set_num_threads(runtime.threads)
    work = Workspace.open(runtime)
    images, k = work.images, section.neighbours
    check_settings(work.floors, baseline.settings(work.embeddings.dim, metric, k, runtime.seed))
    titles = {"model": "autoencoder", "pca": f"PCA-{work.embeddings.dim}", "raw": "raw pixels"}
    parameters = {"evaluate": dataclasses.asdict(section), "metric": metric, "seed": runtime.seed}
    tags = {f"aecore.{m.kind}": m.digest for m in (images.manifest, work.embeddings.manifest, work.index)}
    tags["aecore.weights"] = work.encoder.manifest.digest

    with tracking.run("evaluate", parameters, tags, track) as run, threads(runtime.threads):
        chosen = Sample.choose(images)
        space = Space.fit(work.embeddings.rows, chosen.train, metric)
        model = protocol.measure(space, work.encoder.encode, images, chosen, k, runtime.seed)
        model |= protocol.reconstruction(images, chosen, work.encoder.reconstruct)
        labels = images.labels()
        asked = labels[chosen.queries] if labels is not None and len(chosen.queries) else None
        comparison = compare.compare({"model": model, **work.measured}, asked, section.bootstrap, runtime.seed)
        errors = {name: comparison.means[name]["mse"] for name in ("model", "pca")}
        case = Case(images, work.encoder, work.embeddings.rows, work.pca, chosen, errors, runtime.seed)
        claimed = claims.measure(case)
        drawn_codes = draw_codes(work, chosen, work.floors.facts["generation"]["images"], runtime.seed)
        generated = measure_generated(work, chosen, drawn_codes)
        text = report(work, chosen, comparison, claims.section(claimed), generated, titles, k)

        drawn = {
            "reconstructions": draw_reconstructions(work, chosen, titles),
            "neighbours": draw_neighbours(work, space, chosen),
            **draw_maps(images, config.MAP, config.CLUSTERS),
            "clusters": draw_clusters(images, config.CLUSTERS),
            "samples": draw_samples(work, space, drawn_codes),
        }
        if len(chosen.test) > 1:
            drawn["interpolations"] = draw_interpolations(work, chosen)
        shown = typical(images, chosen.test, COLUMNS)
        if (picture := claims.draw(case, shown, _names(images, shown))) is not None:
            drawn["claim"] = picture
        if (config.REPORTS / "training.csv").is_file():
            drawn["training"] = draw_training(config.REPORTS / "training.csv")
        metrics: dict[str, Any] = {
            space_name: {name: round(value, 6) for name, value in values.items()}
            for space_name, values in comparison.means.items()
        }
        run.log({f"{space_name}.{name}": v for space_name, values in metrics.items() for name, v in values.items()})
        run.log({f"generation.{figure}.{name}": generated[figure][name] for figure in ("frechet", "closest")
                 if figure in generated for name in ("mixture", "prior") if name in generated[figure]})  # fmt: skip
        run.log({f"{n}.{key}": v for n, values in claimed.items() for key, v in values.items() if key != "verdict"})
        config.FIGURES.mkdir(parents=True, exist_ok=True)
        for name in PICTURES:
            path = config.FIGURES / f"{name}.png"
            if name in drawn:
                figures.save(drawn[name], path)
                run.figure(drawn[name], name)
            else:
                path.unlink(missing_ok=True)
        metrics["generation"] = generated
        metrics["index"] = {f"recall_{at}": value for at, value in work.index.facts["recall"].items()}
        metrics["images"] = chosen.facts()
        metrics["claims"] = claimed
        measured = compare.flattened(comparison) | {"measured": {m.kind: m.digest for m in work.manifests}}
        artifact.write_json(config.REPORTS / "intervals.json", measured)
        artifact.write_text(config.REPORTS / "comparison.md", text)
        artifact.write_json(config.REPORTS / "metrics.json", metrics)
    print(text)
    print("\n".join(str(config.FIGURES / f"{name}.png") for name in PICTURES if name in drawn))


def _names(images: Images, positions: np.ndarray) -> list[str] | None:
    labels, names = images.labels(), images.label_names
    if labels is None or names is None:
        return None
    return [names[label] if label >= 0 else "unlabelled" for label in labels[positions]]
