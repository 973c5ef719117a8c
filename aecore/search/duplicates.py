"""The `duplicates` command: groups of images whose codes are as near to each other as a re-saved copy to its original.

`--json` prints one object, stable for other programs (ids are strings):

    {"source": as in `query`, "metric": "cosine" | "l2", "threshold": the distance, however it was given,
     "exact": [{"id": …, "path": …, "copies": [path, …]}, …]      files whose prepared pixels are the same: one item,
     "near": [{"distance": the longest link that holds the group together,
               "leak": whether it has both a training and a test image,
               "images": [{"id": …, "path": …, "label": …, "label_name": …, "split": …}, …]}, …]}

Groups come closest first, then largest first. They are linked pair by pair, so the ends of a chain may be far apart.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from aecore.config import UserError
from aecore.counted import counted
from aecore.names import legible, ljust
from aecore.output import tell
from aecore.search import percentile
from aecore.search.montage import check_writable, draw_montage, save_picture
from aecore.search.searcher import Searcher, Source

BLOCK = 1_024
"""Images whose neighbours are looked for at a time."""
RESAVED = 256
"""Images that are saved again to learn how far apart a copy and its original are."""
QUALITY = 75
"""Of the JPEG they are saved as: PIL's default."""
SHARE = 50
"""Per cent of those copies that are nearer to their originals than the threshold."""
SHOWN = 8
"""Images of a group in a line of the montage."""


class Pairs(NamedTuple):
    """Pairs of images; n of them."""

    a: np.ndarray
    """Positions, int64 (n,)."""
    b: np.ndarray
    """Positions, int64 (n,), each larger than its `a`."""
    distance: np.ndarray
    """float32 (n,)."""


def near_pairs(searcher: Searcher, threshold: float) -> Pairs:
    """Every pair of images at most `threshold` apart, as far as the index finds them; a block of queries at a time."""
    found: list[Pairs] = []
    bar = tqdm(total=searcher.count, desc="duplicates", unit=" images", unit_scale=True,
               mininterval=0.5 if sys.stderr.isatty() else 10)  # fmt: skip
    with bar:
        for positions in searcher.collection.blocks(BLOCK):
            found += _near(searcher, searcher.collection.vectors(positions), positions, threshold)
            bar.update(len(positions))
    a, b, distance = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    low, high = np.minimum(a, b), np.maximum(a, b)
    _, once = np.unique(np.stack([low, high]), axis=1, return_index=True)  # each was found from both of its ends
    return Pairs(low[once], high[once], distance[once])


def _near(searcher: Searcher, vectors: np.ndarray, positions: np.ndarray, threshold: float) -> list[Pairs]:
    """The pairs of these images; asks for more neighbours where all that came were near."""
    found, k = [], 8
    while len(vectors):
        neighbours = searcher.search(vectors, k)
        near = neighbours.distance <= threshold
        rows, columns = np.nonzero(near)
        others = searcher.collection.positions(neighbours.ids[rows, columns])
        different = others != positions[rows]
        found.append(
            Pairs(positions[rows][different], others[different], neighbours.distance[rows, columns][different])
        )
        more = near[:, -1] & (near.shape[1] < searcher.count)
        vectors, positions, k = vectors[more], positions[more], 4 * k
    return found


def groups(pairs: Pairs, count: int) -> list[tuple[np.ndarray, float]]:
    """The connected groups of two or more of `count` images: positions ascending, and the longest link needed.

    That is the longest edge of the group's minimum spanning tree. Closest first, then largest, then by first position.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

    length = pairs.distance.astype(np.float64) + 1e-12  # a sparse zero would be no edge
    tree = minimum_spanning_tree(coo_array((length, (pairs.a, pairs.b)), shape=(count, count)).tocsr()).tocoo()
    _, group = connected_components(tree, directed=False)
    longest = np.zeros(count)
    np.maximum.at(longest, group[tree.row], tree.data - 1e-12)
    members = np.flatnonzero(np.bincount(group, minlength=count)[group] > 1)
    members = members[np.argsort(group[members], kind="stable")]
    parts = np.split(members, np.flatnonzero(np.diff(group[members])) + 1) if len(members) else []
    found = [(part, float(longest[group[part[0]]])) for part in parts]
    return sorted(found, key=lambda entry: (entry[1], -len(entry[0]), entry[0][0]))


def resaved_distance(searcher: Searcher, source: Source) -> float:
    """The distance below which SHARE per cent of images find themselves saved again as JPEG of QUALITY."""
    from aecore.embedding import Encoder

    encoder = Encoder.load(source.path("model"), "cpu")
    positions = np.unique(np.linspace(0, searcher.collection.starts[-1] - 1, RESAVED).astype(np.int64))
    positions = searcher.collection.answering(positions)
    pixels = searcher.collection.pixels(positions)
    copies = encoder.encode(np.stack([_resaved(image) for image in pixels]))
    alone = [searcher.search(copies[i : i + 1], 1, positions[i : i + 1]) for i in range(len(positions))]
    return float(np.percentile([found.distance[0, 0] for found in alone], SHARE))


def run(
    distance: float | None = None, as_json: bool = False, montage: Path | None = None, shown: int = 20,
    percent: float | None = None, root: Path = Path(),
) -> None:  # fmt: skip
    """Print the groups; `montage` receives a picture of the first `shown` of them.

    The threshold is `distance`, or the one that so many per cent of random pairs of images exceed. Raises UserError for
    both, a negative distance, a percentile that random pairs cannot tell, and a place where the montage cannot be
    written, and as `Searcher.open`.
    """
    if distance is not None and percent is not None:
        raise UserError("--distance and --percentile both set the threshold: give one of them.")
    if distance is not None and not distance >= 0:
        raise UserError(f"--distance is {distance}; expected 0 or more.")
    check_writable(montage)
    source = Source.find(root)
    print(f"aecore duplicates: asking {source}", file=sys.stderr)
    searcher = Searcher.open(source)
    threshold, why = _threshold(searcher, source, distance, percent)
    found = groups(near_pairs(searcher, threshold), int(searcher.collection.starts[-1]))
    exact = _exact(searcher)
    near = [_told(searcher, positions, longest) for positions, longest in found]
    if montage is not None and near:
        save_picture(_drawn(searcher, found[:shown], near[:shown]), montage)
        print(f"aecore duplicates: drew {legible(montage)}", file=sys.stderr)
    if as_json:
        answer = {
            "source": searcher.told(),
            "metric": searcher.metric,
            "threshold": threshold,
            "exact": exact,
            "near": near,
        }
        tell(answer)
        return
    leaks = sum(group["leak"] for group in near)
    images = sum(len(group["images"]) for group in near)
    copies = counted(sum(len(entry["copies"]) for entry in exact), "copy", "copies")
    print(f"{counted(len(exact), 'image')} with copies equal once prepared, {copies} in all")
    print(
        f"{counted(len(near), 'group')} of {counted(images, 'near-duplicate')} within distance {threshold:.6f} ({why})"
    )
    if not near:
        drawn = "; nothing was drawn" if montage is not None else ""
        print(f"No two images are so near{drawn}: --distance {4 * threshold or 1e-3:.4g} looks further.")
        return
    print(f"{leaks:,} of them have both a training and a test image")
    for number, group in enumerate(near[:shown], start=1):
        print(f"\n{number}. {counted(len(group['images']), 'image')}, longest link {group['distance']:.6f}"
              + (", training and test" if group["leak"] else ""))  # fmt: skip
        for row in group["images"][: 2 * SHOWN]:
            label = ljust(legible(row["label_name"] or ""), 14)
            print(f"{row['id']:>21}  {row['split']:<10}  {label}  {legible(row['path'])}".rstrip())
        if len(group["images"]) > 2 * SHOWN:
            print(f"{'…':>21}  and {len(group['images']) - 2 * SHOWN:,} more")
    if len(near) > shown:
        print(f"\n… and {counted(len(near) - shown, 'more group')}: -n {len(near)}, or --json")


def _threshold(searcher: Searcher, source: Source, distance: float | None, percent: float | None) -> tuple[float, str]:
    """The largest distance of a link, and why it is that."""
    if distance is not None:
        return distance, "as asked"
    if percent is not None:
        spread = percentile.spread_of(searcher)
        at = percentile.distance_at(spread, percent / 100)
        return at, f"which {percent:.9g} % of {counted(spread.pairs, 'random pair')} exceed"
    resaved = resaved_distance(searcher, source)
    return resaved, f"where {SHARE} % of some images find themselves saved again as JPEG"


def _exact(searcher: Searcher) -> list[dict[str, Any]]:
    """Files whose prepared pixels are an item's own: `prepare` found them."""
    import pyarrow.parquet as pq

    copies: dict[int, list[str]] = {}
    table = pq.read_table(searcher.base.images.directory / "aliases.parquet", columns=["item", "path"])
    for row in table.to_pylist():
        copies.setdefault(row["item"], []).append(row["path"])
    ids = np.array(sorted(copies, key=lambda item: (-len(copies[item]), item)), np.int64)
    ids = ids[searcher.collection.positions(ids) >= 0]
    rows = searcher.collection.items(searcher.collection.positions(ids), ["path"])
    return [
        {"id": str(item), "path": row["path"], "copies": sorted(copies[item])}
        for item, row in zip(ids.tolist(), rows, strict=True)
    ]


def _told(searcher: Searcher, positions: np.ndarray, longest: float) -> dict[str, Any]:
    rows = searcher.collection.items(positions, ["id", "path", "label", "label_name", "split"])
    splits = {row["split"] for row in rows}
    images = [{**row, "id": str(row["id"])} for row in rows]
    return {"distance": round(longest, 6), "leak": {"train", "test"} <= splits, "images": images}


def _drawn(searcher: Searcher, found: list[tuple[np.ndarray, float]], near: list[dict[str, Any]]) -> Image.Image:
    """A line a group: its first images, up to SHOWN, with split and label beneath."""
    pixels = np.zeros((len(near), SHOWN, *searcher.collection.shape), np.uint8)
    for row, (positions, _) in enumerate(found):
        pixels[row, : len(positions[:SHOWN])] = searcher.collection.pixels(positions[:SHOWN])
    captions = [
        [[image["split"], str(image["label_name"] or "")] for image in group["images"][:SHOWN]] for group in near
    ]
    first = [[f"1 of {len(group['images'])}", caption[0][0]] for group, caption in zip(near, captions, strict=True)]
    return draw_montage(first, pixels[:, 0], [caption[1:] for caption in captions], pixels[:, 1:])


def _resaved(image: np.ndarray) -> np.ndarray:
    """uint8 (C, H, W) through JPEG and back."""
    file = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)).save(file, "JPEG", quality=QUALITY)
    again = np.asarray(Image.open(file))
    return again[None] if again.ndim == 2 else np.moveaxis(again, -1, 0)
