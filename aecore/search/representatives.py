"""The `representatives` command: a few images that stand for all, and how many each stands for.

`--json` prints one object, stable for other programs (ids are strings):

    {"source": as in `query`, "metric": "cosine" | "l2", "where": the condition that all images meet, or null,
     "by": "typical" | "coverage", "count": images that are represented,
     "mean": mean distance of an image to the nearest representative, "radius": the largest,
     "random": {"subsets": number, "mean": number, "radius": number},      the same of random images, the subsets' mean
     "representatives": [{"id": …, "path": …, "label": number or null, "label_name": text or null, "split": …,
                          "size": images it is the nearest of, itself among them,
                          "mean": their mean distance to it, "radius": the largest}, …]}

The one that stands for most comes first, then by id.

Farthest-first traversal leaves no image far from a chosen one, but chooses the odd: from 100 of 70,000 Fashion-MNIST
images the others are at a mean distance of 0.46 and 0.71 at most, from 100 random ones at 0.40 and 0.82. So by default
it only says where k-means starts, and each cell's mean gives way to the image nearest to it: 0.32 and 0.75 (from
k-means++ starts 0.31 and 0.80). `--by coverage` keeps the traversal's own choice, where the rare must not be missed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from aecore.config import UserError
from aecore.counted import counted
from aecore.names import legible, ljust
from aecore.output import tell
from aecore.search.montage import check_writable, draw_montage, save_picture
from aecore.search.searcher import Searcher, Source
from aecore.search.subset import Cells, Codes, cells, farthest_first, mean_of, medoids, reach, settled

By = Literal["typical", "coverage"]
SUBSETS = 5
"""Random subsets that the representatives are compared with."""
SEED = 0
SHOWN = 8
"""Images of a cell beside its representative in a line of the montage."""
LINES = 100
"""Of a montage at most."""


def choose(codes: Codes, n: int, by: By) -> np.ndarray:
    """Places of `n` different representatives, int64 (n,)."""
    start = medoids(codes, mean_of(codes)[None])  # the most typical of all, not whichever comes first
    spread = farthest_first(codes, n, start)
    if by == "coverage":
        return spread
    found = medoids(codes, settled(codes, spread))
    return farthest_first(codes, n, found)  # where some have equal codes, cells may be empty


def run(
    n: int = 20, by: By = "typical", where: str | None = None, as_json: bool = False, montage: Path | None = None,
    root: Path = Path(),
) -> None:  # fmt: skip
    """Print `n` images that stand for all, or for those that meet the condition `where`; `montage` receives a picture.

    Raises UserError for n below 1 and above the number of images, a condition that is none or that no image meets, and
    a place where the montage cannot be written, and as `Searcher.open`.
    """
    if n < 1:
        raise UserError(f"-n is {n}; expected 1 or more.")
    check_writable(montage)
    source = Source.find(root)
    print(f"aecore representatives: asking {source}", file=sys.stderr)
    searcher = Searcher.open(source)
    collection = searcher.collection
    if where is None:
        positions = np.concatenate(list(collection.blocks(2**20)))
    else:
        positions = searcher.matching(where)
        print(f"aecore representatives: {len(positions):,} of {counted(searcher.count, 'image')} meet "
              f"{where!r}", file=sys.stderr)  # fmt: skip
        if not len(positions):
            raise UserError(f"no image meets --where {where!r}.")
    count = len(positions)
    if n > count:
        raise UserError(f"-n is {n:,}, more than the {counted(count, 'image')} to represent: lower it.")
    codes = Codes(lambda places: collection.codes(positions[places]), collection.ids(positions), searcher.metric)
    chosen = choose(codes, n, by)
    chosen = chosen[np.argsort(codes.ids[chosen])]
    found = cells(codes, chosen)
    chosen, found = _largest_first(chosen, found)
    entries = _entries(searcher, positions[chosen], found)
    rng = np.random.default_rng(SEED)
    means, radii = reach(codes, np.stack([rng.choice(count, n, replace=False) for _ in range(SUBSETS)]))
    mean, radius = float(found.distance.mean(dtype=np.float64)), float(found.distance.max())
    if montage is not None:
        save_picture(_drawn(searcher, positions, codes.ids, chosen, found, entries), montage)
        drawn = f", the first {LINES} of {n:,}" if n > LINES else ""
        print(f"aecore representatives: drew {legible(montage)}{drawn}", file=sys.stderr)
    if as_json:
        answer = {
            "source": searcher.told(),
            "metric": searcher.metric,
            "where": where,
            "by": by,
            "count": count,
            "mean": round(mean, 6),
            "radius": round(radius, 6),
            "random": {
                "subsets": SUBSETS,
                "mean": round(float(means.mean()), 6),
                "radius": round(float(radii.mean()), 6),
            },
            "representatives": entries,
        }
        tell(answer)
        return
    print(f"{counted(n, 'image')} for {count:,}: at mean distance {mean:.4f} from them, {radius:.4f} at most")
    print(f"{counted(n, 'random one')}: {means.mean():.4f}, and {radii.mean():.4f} at most (mean of {SUBSETS} draws)\n")
    print(_table(entries, count))


def _largest_first(chosen: np.ndarray, found: Cells) -> tuple[np.ndarray, Cells]:
    """The chosen, given by ascending id, by descending size of their cells."""
    order = np.argsort(-np.bincount(found.chosen, minlength=len(chosen)), kind="stable")
    number = np.argsort(order).astype(np.int32)
    return chosen[order], found._replace(chosen=number[found.chosen])


def _entries(searcher: Searcher, positions: np.ndarray, found: Cells) -> list[dict[str, Any]]:
    """The representatives, at `positions`, as `--json` gives them."""
    n = len(positions)
    sizes = np.bincount(found.chosen, minlength=n)
    means = np.bincount(found.chosen, found.distance, minlength=n) / sizes
    radii = np.zeros(n, np.float32)
    np.maximum.at(radii, found.chosen, found.distance)
    items = searcher.collection.items(positions, ["id", "path", "label", "label_name", "split"])
    return [
        {**item, "id": str(item["id"]), "size": int(size), "mean": round(float(mean), 6),
         "radius": round(float(radius), 6)}
        for item, size, mean, radius in zip(items, sizes, means, radii, strict=True)
    ]  # fmt: skip


def _table(entries: list[dict[str, Any]], count: int) -> str:
    lines = [f"{'images':>10} {'share':>7} {'mean':>8} {'radius':>8}  {'id':>19}  {'split':<10}  {'label':<12}  path"]
    for e in entries:
        measured = f"{e['size']:10,} {e['size'] / count:7.2%} {e['mean']:8.4f} {e['radius']:8.4f}"
        label = ljust(legible(e["label_name"] or ""), 12)
        lines.append(f"{measured}  {e['id']:>19}  {e['split']:<10}  {label}  {legible(e['path'])}".rstrip())
    return "\n".join(lines)


def _drawn(
    searcher: Searcher, positions: np.ndarray, ids: np.ndarray, chosen: np.ndarray, found: Cells,
    entries: list[dict[str, Any]],
) -> Image.Image:  # fmt: skip
    """A line a representative, up to LINES: itself, and the nearest images of its cell, with distance and label."""
    collection, lines = searcher.collection, min(LINES, len(entries))
    beside = np.zeros((lines, SHOWN, *collection.shape), np.uint8)
    captions = []
    for number in range(lines):
        places = np.flatnonzero(found.chosen == number)
        places = places[places != chosen[number]]
        places = places[np.lexsort((ids[places], found.distance[places]))[:SHOWN]]
        beside[number, : len(places)] = collection.pixels(positions[places])
        names = [str(item["label_name"] or "") for item in collection.items(positions[places], ["label_name"])]
        captions.append([
            [f"{distance:.3f}", name] for distance, name in zip(found.distance[places], names, strict=True)
        ])  # fmt: skip
    named = [[f"for {entry['size']:,}", str(entry["label_name"] or "")] for entry in entries[:lines]]
    return draw_montage(named, collection.pixels(positions[chosen[:lines]]), captions, beside)
