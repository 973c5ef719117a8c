"""The `outliers` command: images far from all others, and images that the model cannot paint.

`--json` prints one object, stable for other programs (ids are strings):

    {"source": as in `query`, "metric": "cosine" | "l2", "count": images ranked,
     "far": [entry, …], "unlike_reconstruction": [entry, …]}      each the first n, most outlying first
    entry: {"id": …, "path": …, "label_name": …, "split": …,
            "distance": mean distance to its NEIGHBOURS nearest, "distance_rank": 1 for the farthest,
            "error": mean squared error of its reconstruction, "error_rank": 1 for the largest}

Training images are reconstructed a little better for having been trained on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from aecore.config import UserError
from aecore.counted import counted
from aecore.names import legible, ljust
from aecore.output import tell
from aecore.search.montage import check_writable, draw_montage, save_picture
from aecore.search.searcher import Searcher, Source

if TYPE_CHECKING:
    from aecore.embedding import Encoder

NEIGHBOURS = 10
"""Nearest other images that a distance is the mean over (Ramaswamy et al. 2000 take the last; the mean is steadier)."""
BLOCK = 1_024
"""Images in memory at a time."""
DRAWN = 4
"""Nearest images beside an outlier in the montage."""


class Scores(NamedTuple):
    """How outlying each of n images is."""

    distance: np.ndarray
    """float32 (n,) by position, NaN where it was removed: mean distance to its nearest, in the index's metric."""
    error: np.ndarray
    """float32 (n,): mean squared error of the reconstruction, pixels in [0, 1]."""


def scores(searcher: Searcher, encoder: Encoder) -> Scores:
    """Both scores of every image, a block at a time."""
    count = int(searcher.collection.starts[-1])
    result = Scores(np.full(count, np.nan, np.float32), np.full(count, np.nan, np.float32))
    bar = tqdm(total=searcher.count, desc="outliers", unit=" images", unit_scale=True,
               mininterval=0.5 if sys.stderr.isatty() else 10)  # fmt: skip
    with bar:
        for positions in searcher.collection.blocks(BLOCK):
            result.distance[positions] = _isolation(searcher, positions)
            pixels = searcher.collection.pixels(positions)
            painted = encoder.reconstruct(pixels)
            result.error[positions] = np.square(painted - pixels.astype(np.float32) / 255).mean(axis=(1, 2, 3))
            bar.update(len(positions))
    return result


def _isolation(searcher: Searcher, positions: np.ndarray) -> np.ndarray:
    """Mean distance of images to their nearest others, float32 (m,); 0 where there is no other."""
    found = searcher.search(searcher.collection.vectors(positions), NEIGHBOURS + 1)
    own = searcher.collection.ids(positions)[:, None] == found.ids
    own[~own.any(axis=1), -1] = True  # not found itself: leave out the farthest
    others = np.where(own, 0, found.distance).sum(axis=1)
    mean: np.ndarray = others / max(1, found.ids.shape[1] - 1)
    return mean.astype(np.float32)


def run(n: int = 10, as_json: bool = False, montage: Path | None = None, root: Path = Path()) -> None:
    """Print the `n` most outlying images by each score; `montage` receives a picture of them.

    Raises UserError for n below 1 and a place where the montage cannot be written, and as `Searcher.open`.
    """
    if n < 1:
        raise UserError(f"-n is {n}; expected 1 or more.")
    check_writable(montage)
    from aecore.embedding import Encoder

    source = Source.find(root)
    print(f"aecore outliers: asking {source}", file=sys.stderr)
    encoder = Encoder.load(source.path("model"))
    searcher = Searcher.open(source, encoder.manifest)
    found = scores(searcher, encoder)
    order = Scores(*(np.argsort(-values, kind="stable") for values in found))
    rank = Scores(*(np.argsort(numbers) + 1 for numbers in order))
    far, unlike = (
        [_entry(searcher, found, rank, int(p)) for p in numbers[: min(n, searcher.count)]] for numbers in order
    )
    if montage is not None:
        drawn = np.concatenate([numbers[: len(far)] for numbers in order])
        save_picture(_drawn(searcher, encoder, drawn, [*far, *unlike]), montage)
        print(f"aecore outliers: drew {legible(montage)}", file=sys.stderr)
    if as_json:
        answer = {"source": searcher.told(), "metric": searcher.metric, "count": searcher.count}
        tell(answer | {"far": far, "unlike_reconstruction": unlike})
        return
    print(f"Farthest from their {NEIGHBOURS} nearest, of {counted(searcher.count, 'image')}:")
    print(_table(far))
    print("\nLeast like their reconstructions:")
    print(_table(unlike))


def _entry(searcher: Searcher, found: Scores, rank: Scores, position: int) -> dict[str, Any]:
    row = searcher.collection.items(np.array([position]), ["id", "path", "label_name", "split"])[0]
    measured = {"distance": round(float(found.distance[position]), 6), "distance_rank": int(rank.distance[position]),
                "error": round(float(found.error[position]), 6), "error_rank": int(rank.error[position])}  # fmt: skip
    return {**row, "id": str(row["id"]), **measured}


def _table(entries: list[dict[str, Any]]) -> str:
    lines = [f"{'distance':>9} {'rank':>7} {'error':>9} {'rank':>7}  {'id':>19}  {'split':<10}  {'label':<12}  path"]
    for e in entries:
        measured = f"{e['distance']:9.4f} {e['distance_rank']:7,} {e['error']:9.5f} {e['error_rank']:7,}"
        label = ljust(legible(e["label_name"] or ""), 12)
        lines.append(f"{measured}  {e['id']:>19}  {e['split']:<10}  {label}  {legible(e['path'])}".rstrip())
    return "\n".join(lines)


def _drawn(searcher: Searcher, encoder: Encoder, positions: np.ndarray, entries: list[dict[str, Any]]) -> Any:
    """A line an image: itself, its reconstruction, its nearest images."""
    pixels = searcher.collection.pixels(positions)
    painted = np.round(encoder.reconstruct(pixels) * 255).astype(np.uint8)
    found = searcher.search(searcher.collection.vectors(positions), DRAWN + 1)
    nearest = [
        [int(i) for i in ids if int(i) != int(e["id"])][:DRAWN] for ids, e in zip(found.ids, entries, strict=True)
    ]
    beside = np.zeros((len(positions), 1 + DRAWN, *searcher.collection.shape), np.uint8)
    beside[:, 0] = painted
    captions = []
    for row, (ids, entry) in enumerate(zip(nearest, entries, strict=True)):
        places = searcher.collection.positions(np.array(ids, np.int64))
        beside[row, 1 : 1 + len(ids)] = searcher.collection.pixels(places)
        names = [[str(item["label_name"] or ""), item["split"]] for item in searcher.collection.items(places)]
        captions.append([["reconstruction", f"{entry['error']:.4f}  #{entry['error_rank']:,}"], *names])
    named = [[f"{e['distance']:.3f}  #{e['distance_rank']:,}", str(e["label_name"] or "")] for e in entries]
    return draw_montage(named, pixels, captions, beside)
