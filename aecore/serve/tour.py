"""The `tour`: what the pipeline found, on one screen, and what to try next where it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aecore import artifact, config
from aecore.config import UserError
from aecore.names import columns, cut, legible, ljust
from aecore.search.searcher import Searcher, Source

ROWS = 10
"""Images shown, one of each label first."""
NEIGHBOURS = 4
OWN = ("folder", "archive")
"""Values of `data.source` that mean images of the user's own."""
NAME = 32
"""Columns of a name at most: what matters here is one screen."""


def tour() -> None:
    """Print the comparison that `evaluate` wrote, neighbours of test images, and commands worth trying.

    Raises as `Searcher.open` does.
    """
    source = Source.find()
    searcher = Searcher.open(source)
    comparison = config.REPORTS / "comparison.md"
    if comparison.is_file():
        table = comparison.read_text(encoding="utf-8").split("\n\n")[0]  # the rest is for reading at leisure
        print(table, end="\n\n")

    positions = _one_of_each_label(searcher)
    ids = searcher.collection.ids(positions)
    found = searcher.search(searcher.collection.vectors(positions), NEIGHBOURS + 1)
    print(f"Neighbours of images that were not trained on, from {source}:")
    for item_id, neighbours, similarity in zip(ids, found.ids, found.similarity, strict=True):
        others = [(n, s) for n, s in zip(neighbours, similarity, strict=True) if n != item_id][:NEIGHBOURS]
        shown = ", ".join(f"{_name(searcher, int(n))} {s:.2f}" for n, s in others)
        print(f"  {item_id:>19}  {ljust(_name(searcher, int(item_id)), 14)} ->  {shown}")
    page = config.REPORTS / "report.html"
    print(f"\nTo look at: {page} (in a browser; it needs no network)\n" if page.is_file() else "")
    print("Try next:")
    for command, what in suggestions(source, searcher, int(ids[0])):
        print(f"  {command:<55} {what}")


def suggestions(source: Source, searcher: Searcher, example: int) -> list[tuple[str, str]]:
    """Commands worth trying where the project stands now, and what each gives; `example` is the id of an image."""
    params: dict[str, Any] = config.load_yaml(config.PARAMS) if config.PARAMS.is_file() else {}
    found = [
        ("python -m aecore query PHOTO.png --montage out.png", "the nearest images to one of yours"),
        (f"python -m aecore query --id {example} --json", "those of one of these, for a program"),
    ]
    if not params:  # a published copy alone
        return found
    if source.kind == "workspace":
        found.append(("python -m aecore publish", "serve a copy that stays whole while you train anew"))
    elif _made_since(searcher):
        found.append(("python -m aecore publish", "serve what the workspace holds now, which is newer"))
    if params.get("data", {}).get("source") not in OWN:
        found.append(("params.yaml: data.source: folder, data.path: …", "your own images, then `dvc repro`"))
    elif source.kind == "published":
        found.append(("python -m aecore add PATH…", "more images, found at once and without a rebuild"))
    if searcher.base.images.label_names is not None and not (config.REPORTS / "finetune.json").is_file():
        found.append(("python -m aecore finetune", "what the model is worth where few images have labels"))
    another = "conv_nearest" if params.get("train", {}).get("recipe") == "mlp" else "mlp"
    if any((folder / ".git").exists() for folder in (Path.cwd(), *Path.cwd().parents)):
        change = f"dvc exp run -S train.recipe={another} && dvc metrics diff"
    else:
        change = f"params.yaml: train.recipe: {another}, then `dvc repro`"  # `dvc exp` needs git
    found.append((change, "another autoencoder, measured the same way"))
    if params.get("tracking", {}).get("mlflow"):
        found.append(("make ui", "every run, its curves and reconstructions, in MLflow"))
    return found


def _made_since(searcher: Searcher) -> bool:
    """Whether the workspace holds an index that is not the published one."""
    try:
        return artifact.load_manifest(config.INDEX, "index").digest != searcher.manifest.digest
    except UserError:  # there is none, or none that can be published
        return False


def _one_of_each_label(searcher: Searcher) -> np.ndarray:
    """Positions of up to ROWS test images, the first of each label where there are labels."""
    images = searcher.base.images
    test, labels = searcher.collection.answering(images.positions("test")), images.labels()
    if labels is None:
        return test[:ROWS]
    _, first = np.unique(labels[test], return_index=True)
    return test[first][:ROWS]


def _name(searcher: Searcher, item_id: int) -> str:
    item = searcher.collection.item(item_id)
    return cut(legible(item["label_name"] or item["path"]), lambda some: columns(some) <= NAME)
