"""The `report` stage: what was trained on what, what came of it and how to do it again, on one page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from aecore import artifact, config
from aecore.analysis import cluster_page, compare, page
from aecore.analysis.captions import AXES, GENERATED, LATER, MEANING, PICTURES
from aecore.analysis.findings import FLOORS, KINDS, Findings
from aecore.analysis.page import Cell, Code, Figure, Key, Link, Measured, Section, Table
from aecore.data.images import Images

PAGE = config.REPORTS / "report.html"
SPLITS = ("train", "validation", "test")
SHOWN = 20
"""Clusters in the table, and labels named, at most."""


def keys(found: Findings) -> list[Key]:
    """The strip on top: search, reconstruction, images, size of a code."""
    facts, metrics, values = found.manifests["data"].facts, found.metrics, math.prod(found.model["shape"])
    mse, floor = metrics["model"]["mse"], metrics["pca"]["mse"]
    change = (mse - floor) / max(floor, 1e-12)
    gap = "as much as" if abs(change) < 0.005 else f"{_percent(abs(change))} {'less' if change < 0 else 'more'} than"
    searched = [
        (name, _number(found.search, metrics[space][found.search]), metrics[space][found.search])
        for space, name in found.spaces.items()
    ]
    rebuilt = [
        (found.spaces[space], _number("mse", value), value / max(mse, floor, 1e-12))
        for space, value in (("model", mse), ("pca", floor))
    ]
    means = MEANING[found.search].split(";")[0].format(k=found.k)
    counts = ", ".join(f"{facts['splits'][split]:,} {split}" for split in SPLITS)
    return [
        Key(_title(found, found.search), searched[0][1], means, searched),
        Key(_title(found, "mse"), rebuilt[0][1], f"{gap} {found.spaces['pca']} on test images", rebuilt),
        Key("images", f"{facts['count']:,}", counts),
        Key("numbers a code", f"{found.dim:,}", f"of an image's {values:,}: {values / found.dim:.3g} times fewer"),
    ]


def lead(found: Findings) -> list[str]:
    """Two paragraphs: what this is, and who wins."""
    facts, recipe = found.manifests["data"].facts, found.model["training"]["recipe"]
    labels = "Labels measured it and trained nothing. " if facts["labels"] else ""
    return [
        f"From {facts['splits']['train']:,} images the autoencoder `{recipe}` learned to write an image as "
        f"{found.dim:,} numbers, alike for images that look alike. {labels}What that is worth is measured on test "
        "images that it never saw, beside PCA of the same size and beside raw pixels.",
        f"In {_title(found, found.search)} it is {standing(found, found.search)}; in {_title(found, 'mse')} it is "
        f"{standing(found, 'mse')}. {losses(found)}",
    ]


def standing(found: Findings, name: str) -> str:
    """How the model stands in one figure, in plain words, such as "better than PCA-32, level with raw pixels"."""
    sides: dict[int, list[str]] = {1: [], 0: [], -1: []}
    for floor in FLOORS:
        if (side := found.winner(name, floor)) is not None:
            sides[side].append(found.spaces[floor])
    words = {1: "better than", 0: "level with", -1: "worse than"}
    return ", ".join(f"{words[side]} {_and(floors)}" for side, floors in sides.items() if floors)


def losses(found: Findings) -> str:
    """Plainly, where the floors win."""
    pca, raw = ([_title(found, name) for name in found.measured if found.winner(name, floor) == -1] for floor in FLOORS)
    if not pca and not raw:
        return "Neither of the two is ahead in any figure."
    if pca == raw:
        return f"Both {found.spaces['pca']} and raw pixels win in {_and(pca)}."
    ahead = [f"{found.spaces['pca']} wins in {_and(pca)}."] if pca else []
    ahead += [f"Raw pixels win in {_and(raw)}."] if raw else []
    return " ".join(ahead)


def wins(found: Findings, floor: str) -> list[str]:
    """Plainly, where the model is ahead of a floor, and by how much: one sentence or none."""
    ahead = [
        f"{_title(found, name)} {_number(name, found.difference(name, floor), sign=True)}"
        for name in found.measured
        if found.winner(name, floor) == 1
    ]
    return [f"Against {found.spaces[floor]} the autoencoder wins in {_and(ahead)}."] if ahead else []


def what_was_trained(found: Findings) -> Section:
    """Curves, data, training and recipe."""
    facts, training, trained = found.manifests["data"].facts, found.model["training"], found.trained
    source, recipe = found.params["data"], found.model["recipe"]
    channels, height, width = found.model["shape"]
    data: list[Sequence[str | Cell]] = [
        ("source", str(source.get("source"))),
        ("path", Cell(str(source.get("path")), code=True)),
        ("images", f"{facts['count']:,}"),
        *((f"… {split}", f"{facts['splits'][split]:,}") for split in SPLITS),
        ("prepared to", f"{height} × {width} pixels, {'grey' if channels == 1 else 'colour'}"),
        ("labels", _few(facts["labels"]) if facts["labels"] else "none"),
        ("exact duplicates", f"{facts['aliases']:,}"),
        ("files refused", f"{facts['rejected']:,}"),
    ]
    solved = recipe["architecture"] == "pca"
    steps = [
        ("epochs", f"{training['epochs']:,}; best: {trained['best_epoch']:,}"),
        ("batch", f"{training['batch_size']:,} images"),
        ("learning rate", f"{training['learning_rate']:g} at its peak"),
        ("precision", training["precision"]),
    ]
    made = [
        ("recipe", training["recipe"]),
        ("parameters", f"{trained['parameters']:,}"),
        ("numbers a code", f"{found.dim:,}"),
        *([] if solved else steps),
        ("validation MSE", _number("mse", trained["validation_mse"])),
        ("device", f"{training['device']}, {training['threads']} thread{'s' * (training['threads'] > 1)}"),
        ("seed", str(training["seed"])),
        ("time", Measured(f"{trained['seconds']:,.3g} s, {trained['images_per_second']:,.0f} images/s")),
    ]
    order = {key: number for number, key in enumerate(AXES)}
    axes = sorted(recipe.items(), key=lambda axis: (order.get(axis[0], len(order)), axis[0]))
    prose = [
        f"The recipe `{training['recipe']}` is one point in a grid of choices, listed below. {found.why}".strip(),
        "Training images teach, validation images choose the best epoch, test images measure; exact duplicates never "
        "stand on both sides.",
    ]
    if solved:
        prose.append("This one is solved in closed form: there is nothing to train, and each curve is one point.")
    elif trained["best_epoch"] == training["epochs"]:
        prose.append("The best epoch was the last one: the error was still falling, and more epochs may lower it.")
    tables = [
        Table("The data", (), data, narrow=True),
        Table("The training", (), made, narrow=True),
        Table("The recipe", (), [(AXES.get(key, key), _choice(value)) for key, value in axes], narrow=True),
    ]
    return Section("What was trained on what", prose, pictures(found, "training"), tables)


def clusters(found: Findings) -> Section:
    """The groups: figure and table."""
    told, rows = PICTURES["clusters"], found.clusters[:SHOWN]
    labelled = any(row.get("purity") is not None for row in rows)
    cells = [
        [
            str(row["cluster"]),
            f"{row['size']:,}",
            *((row["label_name"] or "–", _percent(row["purity"], 1)) if labelled else ()),
            Cell(str(row["medoid"]), code=True),
        ]
        for row in rows
    ]
    head = ["cluster", "images", *(("commonest label", "its share") if labelled else ()), "id of the most typical"]
    all_of_them = len(found.clusters) <= SHOWN
    caption = "The clusters" if all_of_them else f"The {SHOWN} largest of {len(found.clusters):,} clusters"
    table = Table(caption, head, cells, numbers=(1, 3) if labelled else (1,))
    facts = found.manifests["clusters"].facts
    mean = f" On average {_percent(facts['purity'], 1)} of one share its commonest label." if "purity" in facts else ""
    prose = f"{cluster_page.told(facts)} {told.prose}{mean}"
    link = Link("Each cluster with its most and least typical images", cluster_page.PAGE.name)
    return Section(told.title, [prose], pictures(found, "clusters"), [table], links=[link])


def beside_the_floors(found: Findings) -> Section:
    """The comparison, and who wins."""
    rows: list[Sequence[str | Cell]] = []
    for name in found.measured:
        cells = [_compared(found, name, space) for space in found.spaces]
        meaning = MEANING.get(name, "").format(k=found.k)
        rows.append([Cell(_title(found, name), meaning), *cells, standing(found, name)])
    parts, index = found.metrics["images"], found.manifests["index"].facts
    prose = [
        "Raw pixels cost nothing, and PCA is the best that a linear code of this size can do. A model that does not "
        "beat them was not worth training.",
        losses(found),
        *(sentence for floor in FLOORS for sentence in wins(found, floor)),
    ]
    note = (
        f"Measured on {parts['test']:,} test images. Under each figure stands its 95\u202f% interval (bootstrap of the "
        "images; NMI and ARI from halves of them, none twice); better or worse is said only where the interval of the "
        "paired difference leaves zero out. A copy "
        f"looks for its original among {parts['gallery']:,} images. The index ({index['index']}, {index['metric']}) "
        f"finds {_percent(index['recall']['10'], 2)} of the true ten neighbours."
    )
    head = ["figure", *found.spaces.values(), "the autoencoder is"]
    table = Table("The autoencoder beside what costs nothing", head, rows, numbers=(1, 2, 3), note=note)
    return Section("Beside PCA and raw pixels", prose, tables=[table])


def samples(found: Findings) -> list[Section]:
    """New images, and how good they are beside those of the floors; nothing where none were drawn."""
    measured = found.metrics["generation"]
    figures = {"frechet": "Fréchet distance", "closest": "nearest training image"}
    columns = {name: title for name, title in figures.items() if name in measured}
    rows = [
        (GENERATED[kind].format(**found.spaces), *(f"{measured[name][kind]:.2f}" for name in columns))
        for kind in GENERATED
        if kind in measured["closest"]
    ]
    note = (
        "The nearest training image: median distance in pixels, where 1 is that of test images and 0 a copy. Blurred "
        "images lie nearer to all others, as the reconstructions show."
    )
    if "judge" in measured:
        note = (
            f"Fréchet distance of {measured['images']:,} images each from the training images, in the features of a "
            f"small classifier of their labels ({_percent(measured['judge'], 1)} right on test images): less is "
            f"better, and that of the test images is as good as it gets. {note}"
        )
    table = Table("How good they are", ("images", *columns.values()), rows, numbers=(1, 2), note=note)
    return [section._replace(tables=[table]) for section in shown(found, "samples")]


def claims(found: Findings) -> list[Section]:
    """What the recipe's source claims, and whether it holds here; nothing where it claims nothing."""
    told = LATER["claim"]
    verdicts = [f"{name.capitalize()}: {claim['verdict']}." for name, claim in found.metrics.get("claims", {}).items()]
    figures = pictures(found, "claim")
    prose = [*verdicts, *([told.prose] if figures else [])]
    return [Section(told.title, prose, figures)] if prose else []


def lineage(found: Findings) -> Section:
    """Which bytes came from which, and the parameters behind them."""
    rows: list[Sequence[str | Cell]] = []
    for kind, (name, path) in KINDS.items():
        manifest = found.manifests[kind]
        origin = ", ".join(f"{KINDS[source][0]} {digest[:12]}" for source, digest in manifest.sources.items())
        rows.append([Cell(name, str(path)), Cell(manifest.digest, code=True), origin or "the source"])
    commit, _, changed = found.commit.partition("-")
    if commit:
        state = "git, and changes that are not committed" if changed else "git"
        rows.append(["code", Cell(Measured(commit), code=True), Measured(state)])
    prose = [
        "Every artefact carries the sha256 of its content and of what it was made from; the chain was checked before "
        "this page was written. In MLflow a run carries them as the tags `aecore.data`, `aecore.weights`, "
        "`aecore.embeddings` and `aecore.index`.",
    ]
    table = Table("What was made from what", ("artefact", "digest (sha256)", "made from"), rows)
    parameters = Code("The parameters, as `params.yaml` holds them", _yaml(found.params), columns=True)
    return Section("Lineage", prose, tables=[table], code=[parameters])


def again(found: Findings) -> Section:
    """The commands."""
    commit = found.commit.partition("-")[0]
    prose = ["The same inputs give the same bytes on the same machine, device and number of threads."]
    example = found.clusters[0]["medoid"]
    reproduce = [
        *([Measured(f"git checkout {commit}")] if commit else []),
        "make repro                     # installs, runs what changed, publishes",
        "dvc repro                      # the same, without installing and publishing",
        "python -m aecore report        # this page alone",
    ]
    query = [
        "python -m aecore query PHOTO.png --montage out.png",
        f"python -m aecore query --id {example} -k {found.k} --json",
        f"python -m aecore inspect --id {example} --png out.png",
    ]
    other = [
        "dvc exp run -S train.recipe=mlp && dvc metrics diff",
        "make ui                        # every run, its curves and reconstructions, in MLflow",
    ]
    code = [Code("Reproduce", reproduce), Code("Query", query), Code("Try another autoencoder", other)]
    return Section("Run it again", prose, code=code)


def pictures(found: Findings, *names: str) -> list[Figure]:
    """The figures of these names that are there; several stand side by side."""
    there = {name: (PICTURES | LATER)[name] for name in names if name in found.figures}
    labelled = found.manifests["data"].facts["labels"]
    return [
        Figure(
            found.figures[name],
            told.alt,
            f"{told.caption} {told.labelled}".strip() if labelled else told.caption,
            told.chart,
            narrow=len(there) > 1,
        )
        for name, told in there.items()
    ]


def shown(found: Findings, *names: str) -> list[Section]:
    """A section of the figures of these names, told as the first one; none where that is not there."""
    told = (PICTURES | LATER)[names[0]]
    return [Section(told.title, [told.prose], pictures(found, *names))] if names[0] in found.figures else []


def write(found: Findings) -> str:
    """The page's HTML."""
    count = found.manifests["data"].facts["count"]
    sections = [
        what_was_trained(found),
        *shown(found, "neighbours"),
        *shown(found, "map", "map_clusters"),
        clusters(found),
        beside_the_floors(found),
        *claims(found),
        *samples(found),
        *shown(found, "interpolations"),
        *shown(found, "compression"),
        *shown(found, "finetune"),
        lineage(found),
        again(found),
    ]
    return page.page(
        f"aecore report · {found.model['training']['recipe']} on {found.params['data'].get('source')}",
        f"{count:,}\u00a0images, {found.dim:,}\u00a0numbers each",
        lead(found),
        keys(found),
        pictures(found, "reconstructions"),
        sections,
        "Written by `python -m aecore report` from the artefacts and reports of its workspace. One file: it loads "
        "nothing and runs nothing.",
    )


def main() -> None:
    """Read what the other stages made; write both pages and print where they are."""
    found, images = Findings.read(), Images.open()
    facts, assigned = found.manifests["clusters"].facts, cluster_page.read_assignments()
    clustered = cluster_page.write(images, facts, found.clusters, *assigned)
    for path, text in ((cluster_page.PAGE, clustered), (PAGE, write(found))):
        artifact.write_text(path, text)
        print(f"wrote {path}: one file of {len(text.encode()) / 1e6:.1f} MB")


def _compared(found: Findings, name: str, space: str) -> str | Cell:
    """One cell of the comparison, bold where it wins."""
    if name not in found.metrics[space]:
        return "–"
    low, high = (_number(name, bound) for bound in found.intervals["intervals"][space][name])
    sides = [found.winner(name, floor) for floor in FLOORS]
    best = all(side in (1, None) for side in sides) if space == "model" else found.winner(name, space) == -1
    return Cell(_number(name, found.metrics[space][name]), f"{low} to {high}", strong=best)


def _title(found: Findings, name: str) -> str:
    return compare.FIGURES[name].title.format(k=found.k)


def _number(name: str, value: float, sign: bool = False) -> str:
    return f"{value:{'+' if sign else ''}.{compare.FIGURES[name].digits}f}".replace("-", "−")


def _percent(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}\u202f%"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{len(names):,}: {', '.join(names[:SHOWN])}{more}"


def _choice(value: Any) -> str:
    """A recipe's value as words."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {weight}" for name, weight in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "–" if value is None else ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _yaml(values: dict[str, Any], indent: str = "") -> list[str]:
    """Nested keys and values as lines of YAML."""
    lines = list[str]()
    for key, value in values.items():
        nested = isinstance(value, dict) and bool(value)
        lines.append(f"{indent}{key}:" if nested else f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}")
        lines += _yaml(value, indent + "  ") if nested else []
    return lines


def _and(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
