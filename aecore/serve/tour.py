"""The `tour`: what the pipeline found, on one screen, and what to try next."""

from __future__ import annotations

import numpy as np

from aecore import config
from aecore.names import columns, cut, legible, ljust
from aecore.search.searcher import Searcher, Source

ROWS = 10
"""Images shown, one of each label first."""
NEIGHBOURS = 4
NAME = 32
"""Columns of a name at most: what matters here is one screen."""

NEXT = """\
Try next:
  python -m aecore query PHOTO.png --montage out.png    the nearest images to one of yours
  python -m aecore query --id {example} --json
  dvc exp run -S train.recipe=mlp && dvc metrics diff    another autoencoder, measured the same way
  make ui                                                every run, its curves and reconstructions, in MLflow
  params.yaml: data.source: folder, data.path: …         your own images"""


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
    print(NEXT.format(example=ids[0]))


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
