"""The `duplicates` command: groups of images that are the same picture, or whose codes are near to each other.

Without a distance it looks for pictures that were saved again, scaled, brightened or cropped a little: codes propose
pairs, pixels laid over each other confirm them (`aecore.search.copies`). With one, codes alone decide.

`--json` prints one object, stable for other programs (ids are strings):

    {"source": as in `query`, "metric": "cosine" | "l2", "threshold": the largest distance of two codes of a pair,
     "pixels": null where `--distance` or `--percentile` decides, else
               {"threshold": the largest difference of a pair: the share of one picture's variance that the other,
                             laid over it, leaves,
                "copies": changed copies it was measured on, "found": {kind of change: share of them within it},
                "mirrored": images it was measured on that have no copy},
     "exact": [{"id": …, "path": …, "copies": [path, …]}, …]      files whose prepared pixels are the same: one item,
     "near": [{"distance": the longest link that holds the group together, "difference": the same of pixels, or null,
               "leak": whether it has both a training and a test image,
               "images": [{"id": …, "path": …, "label": …, "label_name": …, "split": …}, …]}, …]}

Groups come closest first (in pixels, where pixels decide), then largest first. They are linked pair by pair, so the
ends of a chain may be far apart.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from aecore.config import UserError
from aecore.counted import counted
from aecore.names import legible, ljust
from aecore.output import tell
from aecore.search import percentile
from aecore.search.copies import MISTAKEN, Rule, measure, proposed
from aecore.search.likeness import reduced, rough, tangents, thumbs, unlike
from aecore.search.metric import distances
from aecore.search.montage import check_writable, draw_montage, save_picture
from aecore.search.searcher import Searcher, Source

if TYPE_CHECKING:
    from aecore.embedding import Encoder

BLOCK = 1_024
"""Images whose neighbours are looked for at a time."""
LOOKED = 4_096
"""Pairs whose pixels are in memory at a time."""
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


def same_pairs(searcher: Searcher, encoder: Encoder, rule: Rule) -> tuple[Pairs, np.ndarray]:
    """Every pair of images that is the same picture by the rule, as far as the index proposes it, and how unlike it is.

    float64 (n,). A thumbnail of every image, 256 to 1,024 bytes, is in memory.
    """
    shape = thumbs(searcher.collection.pixels(np.arange(1))).shape[1:]
    looks = np.zeros((int(searcher.collection.starts[-1]), *shape), np.uint8)
    for positions in searcher.collection.blocks(BLOCK):
        looks[positions] = thumbs(searcher.collection.pixels(positions))
    found = []
    bar = tqdm(total=searcher.count, desc="duplicates", unit=" images", unit_scale=True,
               mininterval=0.5 if sys.stderr.isatty() else 10)  # fmt: skip
    with bar:
        for positions in searcher.collection.blocks(BLOCK):
            pixels, vectors = searcher.collection.pixels(positions), searcher.collection.vectors(positions)
            rows, others = proposed(searcher, encoder, pixels, vectors, positions)
            theirs, place = np.unique(others, return_inverse=True)
            codes = searcher.collection.codes(theirs)[place.ravel()]
            distance = distances(searcher.comparable(vectors)[rows], codes, searcher.metric)
            near = distance <= rule.distance
            rows, others, distance = rows[near], others[near], distance[near]
            alike = rough(tangents(looks[positions]), rows, looks[others]) <= rule.rough
            low, high = np.minimum(positions[rows], others)[alike], np.maximum(positions[rows], others)[alike]
            found.append(Pairs(low, high, distance[alike].astype(np.float32)))
            bar.update(len(positions))
    a, b, distance = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    _, once = np.unique(np.stack([a, b]), axis=1, return_index=True)
    a, b, distance = a[once], b[once], distance[once]
    left = _unlike(searcher, a, b)
    same = left <= rule.unlike
    return Pairs(a[same], b[same], distance[same]), left[same]


def _unlike(searcher: Searcher, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How unlike the images at positions `a` and `b`, int64 (n,) each, are: float64 (n,)."""
    parts = [np.empty(0)]
    for start in range(0, len(a), LOOKED):
        ends, places = np.unique(np.stack([a[start : start + LOOKED], b[start : start + LOOKED]]), return_inverse=True)
        images = reduced(searcher.collection.pixels(ends))
        one, other = places.reshape(2, -1)
        parts.append(unlike(images[one], images[other]))
    return np.concatenate(parts)


def run(
    distance: float | None = None, as_json: bool = False, montage: Path | None = None, shown: int = 20,
    percent: float | None = None, root: Path = Path(),
) -> None:  # fmt: skip
    """Print the groups; `montage` receives a picture of the first `shown` of them.

    Pixels decide, or `distance`, or the distance that so many per cent of random pairs of images exceed. Raises
    UserError for both, a negative distance, a percentile that random pairs cannot tell, and a place where the montage
    cannot be written, and as `Searcher.open`.
    """
    if distance is not None and percent is not None:
        raise UserError("--distance and --percentile both set the threshold: give one of them.")
    if distance is not None and not distance >= 0:
        raise UserError(f"--distance is {distance}; expected 0 or more.")
    check_writable(montage)
    source = Source.find(root)
    print(f"aecore duplicates: asking {source}", file=sys.stderr)
    searcher = Searcher.open(source)
    size = int(searcher.collection.starts[-1])
    rule = None
    if distance is None and percent is None:
        rule, found, longest = _same(searcher, source, size)
        threshold, why = rule.distance, _measured(rule)
    else:
        threshold, why = _threshold(searcher, distance, percent)
        found = groups(near_pairs(searcher, threshold), size)
        longest = [link for _, link in found]
    exact = _exact(searcher)
    near = [
        _told(searcher, positions, apart, None if rule is None else link)
        for (positions, link), apart in zip(found, longest, strict=True)
    ]
    if montage is not None and near:
        save_picture(_drawn(searcher, found[:shown], near[:shown]), montage)
        print(f"aecore duplicates: drew {legible(montage)}", file=sys.stderr)
    if as_json:
        answer = {
            "source": searcher.told(),
            "metric": searcher.metric,
            "threshold": threshold,
            "pixels": None if rule is None else _rule(rule),
            "exact": exact,
            "near": near,
        }
        tell(answer)
        return
    leaks = sum(group["leak"] for group in near)
    images = sum(len(group["images"]) for group in near)
    copies = counted(sum(len(entry["copies"]) for entry in exact), "copy", "copies")
    print(f"{counted(len(exact), 'image')} with copies equal once prepared, {copies} in all")
    told = f"within distance {threshold:.6f}" if rule is None else f"within {rule.unlike:.4f}"
    print(f"{counted(len(near), 'group')} of {counted(images, 'near-duplicate')} {told} ({why})")
    if not near:
        drawn = "; nothing was drawn" if montage is not None else ""
        further = 4 * threshold or 1e-3 if rule is None else threshold
        print(f"No two images are so near{drawn}: --distance {further:.4g} looks further.")
        return
    print(f"{leaks:,} of them have both a training and a test image")
    for number, group in enumerate(near[:shown], start=1):
        link = group["distance"] if rule is None else group["difference"]
        print(f"\n{number}. {counted(len(group['images']), 'image')}, longest link {link:.6f}"
              + (", training and test" if group["leak"] else ""))  # fmt: skip
        for row in group["images"][: 2 * SHOWN]:
            label = ljust(legible(row["label_name"] or ""), 14)
            print(f"{row['id']:>21}  {row['split']:<10}  {label}  {legible(row['path'])}".rstrip())
        if len(group["images"]) > 2 * SHOWN:
            print(f"{'…':>21}  and {len(group['images']) - 2 * SHOWN:,} more")
    if len(near) > shown:
        print(f"\n… and {counted(len(near) - shown, 'more group')}: -n {len(near)}, or --json")


def _threshold(searcher: Searcher, distance: float | None, percent: float | None) -> tuple[float, str]:
    """The largest distance of a link that was asked for, and why it is that."""
    if distance is not None:
        return distance, "as asked"
    assert percent is not None
    spread = percentile.spread_of(searcher)
    at = percentile.distance_at(spread, percent / 100)
    return at, f"which {percent:.9g} % of {counted(spread.pairs, 'random pair')} exceed"


def _same(searcher: Searcher, source: Source, size: int) -> tuple[Rule, list[tuple[np.ndarray, float]], list[float]]:
    """The rule, the groups that it finds with the longest link of pixels, and the longest of codes of each."""
    from aecore.embedding import Encoder

    encoder = Encoder.load(source.path("model"), "cpu")
    rule = measure(searcher, encoder)
    pairs, left = same_pairs(searcher, encoder, rule)
    found = groups(pairs._replace(distance=left), size)
    apart = {positions[0]: link for positions, link in groups(pairs, size)}
    return rule, found, [apart[positions[0]] for positions, _ in found]


def _measured(rule: Rule) -> str:
    """What the rule means and was measured on, for a person."""
    return (
        "of a picture's variance left when the other is laid over it: the same picture saved again, scaled, "
        f"brightened or cropped a little, as {100 * rule.share:.0f} % of "
        f"{counted(rule.copies, 'such copy', 'such copies')} are and about "
        f"{1000 * MISTAKEN:.0f} in 1,000 of {counted(rule.decoys, 'mirrored image')}, which have no copy, at most"
    )


def _rule(rule: Rule) -> dict[str, Any]:
    found = {kind: round(share, 6) for kind, share in rule.found.items()}
    return {"threshold": rule.unlike, "copies": rule.copies, "found": found, "mirrored": rule.decoys}


def _exact(searcher: Searcher) -> list[dict[str, Any]]:
    """Files whose prepared pixels are an image's own: `prepare` or `add` found them."""
    copies: dict[int, list[str]] = {}
    for row in searcher.aliases().to_pylist():
        copies.setdefault(row["item"], []).append(row["path"])
    ids = np.array(sorted(copies, key=lambda item: (-len(copies[item]), item)), np.int64)
    ids = ids[searcher.collection.positions(ids) >= 0]
    rows = searcher.collection.items(searcher.collection.positions(ids), ["path"])
    return [
        {"id": str(item), "path": row["path"], "copies": sorted(copies[item])}
        for item, row in zip(ids.tolist(), rows, strict=True)
    ]


def _told(searcher: Searcher, positions: np.ndarray, longest: float, unlike: float | None) -> dict[str, Any]:
    rows = searcher.collection.items(positions, ["id", "path", "label", "label_name", "split"])
    splits = {row["split"] for row in rows}
    images = [{**row, "id": str(row["id"])} for row in rows]
    difference = None if unlike is None else round(unlike, 6)
    leak = {"train", "test"} <= splits
    return {"distance": round(longest, 6), "difference": difference, "leak": leak, "images": images}


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
