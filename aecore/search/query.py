"""The `query` and `inspect` commands: which images are most similar, as a table, as JSON or drawn as a montage.

`query --json` prints one object, stable for other programs (ids are strings: they exceed what JavaScript counts to):

    {"source": {"kind": "published" | "workspace", "path": …,
                "digests": {"data": hex, "model": hex, "embeddings": hex, "index": hex},
                "growth": {"digest": hex, "added": number, "removed": number}, or null: as it was published},
     "metric": "cosine" | "l2",
     "where": the condition that neighbours meet, or null,
     "k": number of neighbours given for each query,
     "queries": [{"path": file asked for (bytes that are not UTF-8 as \\xNN), or null,
                  "id": id asked for, or null,
                  "neighbours": [{"rank": 1…k, "id": …, "path": the source's name of the image,
                                  "label": number or null, "label_name": text or null,
                                  "similarity": number, "distance": number}, …]}, …]}

With `--percentile` each neighbour has besides "percentile": per cent of random pairs of images that are farther apart
than it is from its query, rounded down to 0.001; and the object "random_pairs": {"count": number, "most": per cent that
means so many or more}. Without it neither key is there.

Files come first, then ids, each in the order given. An image that is indexed and meets the condition is its own first
neighbour, at distance 0.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from aecore import config
from aecore.config import UserError
from aecore.counted import counted
from aecore.data.decode import Preparation, decode
from aecore.data.entry import printable
from aecore.data.given import check_files
from aecore.names import aligned, columns, legible, ljust
from aecore.output import tell
from aecore.search import percentile
from aecore.search.collection import parse_id
from aecore.search.metric import IndexConfig
from aecore.search.montage import check_writable, draw_montage, picture, save_picture
from aecore.search.searcher import Neighbours, Searcher, Source


class Queries(NamedTuple):
    """What is looked for."""

    names: list[str]
    """What a person calls each: the file, or `id …`."""
    called: list[str]
    """The same, of a file its last name alone."""
    vectors: np.ndarray
    """Raw codes, float32 (q, dim)."""
    preparation: Preparation | None
    """How the model sees a file; None where none is looked for."""


def run(
    images: Sequence[str | Path],
    ids: Sequence[str | int],
    k: int = 10,
    as_json: bool = False,
    montage: Path | None = None,
    where: str | None = None,
    percentiles: bool = False,
    root: Path = Path(),
) -> None:
    """Print the k nearest of every image file and every indexed id; says on standard error which artefacts answer.

    `where` is a condition that a neighbour must meet: see `aecore.search.filters`; `percentiles` compares each distance
    with those of random pairs of all images.
    Raises UserError for nothing to look for, k below 1, a condition that is none or that no image meets, an unknown id,
    a file that is no image, and a place where the montage cannot be written; WorkFailed for artefacts that do not
    belong together.
    """
    if not images and not ids:
        raise UserError("there is nothing to look for: give image files, or --id ID.")
    if k < 1:
        raise UserError(f"-k is {k}; expected 1 or more.")
    check_writable(montage)
    check_files(images, many=": `query {} --parquet OUT.parquet` looks for all images in it")
    wanted = [parse_id(item_id) for item_id in ids]
    source = Source.find(root)
    print(f"aecore query: asking {source}", file=sys.stderr)
    searcher, queries = _read(source, images, wanted)
    among = let_through(searcher, where)
    found = searcher.search(queries.vectors, k, among)
    collection, rows = searcher.collection, _told(searcher, found)
    spread = percentile.spread_of(searcher) if percentiles else None
    if spread is not None:
        print(f"aecore query: percentiles are of {counted(spread.pairs, 'random pair')} of images", file=sys.stderr)
        for row, shares in zip(rows, percentile.closer_than(spread, found.distance), strict=True):
            for neighbour, share in zip(row, shares, strict=True):
                neighbour["percentile"] = percentile.percent(share)
    if montage is not None:
        seen = collection.pixels(collection.positions(found.ids.ravel()))
        seen = seen.reshape(*found.ids.shape, *collection.shape)
        asked = _asked_pixels(searcher, queries, images, wanted)
        captions = [[[f"{neighbour['similarity']:.3f}", _label(neighbour)] for neighbour in row] for row in rows]
        named = [["query", name] for name in queries.called]
        save_picture(draw_montage(named, asked, captions, seen), montage)
        print(f"aecore query: drew {legible(montage)}", file=sys.stderr)
    if as_json:
        given = [(printable(str(path)), None) for path in images] + [(None, str(item_id)) for item_id in wanted]
        answer = {
            "source": searcher.told(),
            "metric": searcher.metric,
            "where": where,
            "k": found.ids.shape[1],
            "queries": [
                {"path": path, "id": item_id, "neighbours": row}
                for (path, item_id), row in zip(given, rows, strict=True)
            ],
        }
        if spread is not None:
            answer["random_pairs"] = {"count": spread.pairs, "most": percentile.percent(spread.most)}
        tell(answer)
    else:
        most = percentile.percent(spread.most) if spread is not None else 100
        print("\n\n".join(table(name, row, most) for name, row in zip(queries.names, rows, strict=True)))


def inspect(item_id: str | None = None, png: Path | None = None, as_json: bool = False, root: Path = Path()) -> None:
    """Print what is known of an indexed image, or of the index and its first ids; `png` receives the prepared image.

    As JSON, an image: {"source": as in `query`, **its columns}; the index: {"source": …, "images": how many, "dim",
    "metric", "index": its kind, "first": [{"id": …, "path": …}, …]}; ids are strings.

    Raises UserError for an unknown id, and for a `png` without an id or where it cannot be written.
    """
    if png is not None and item_id is None:
        raise UserError("--png needs --id: which image to write.")
    check_writable(png)
    source = Source.find(root)
    print(f"aecore inspect: asking {source}", file=sys.stderr)
    searcher = Searcher.open(source)
    if item_id is None:
        facts = searcher.manifest.facts
        if as_json:
            rows = searcher.collection.items(next(searcher.collection.blocks(10)), ["id", "path"])
            first = [{**row, "id": str(row["id"])} for row in rows]
            told = {"images": searcher.count, "dim": searcher.dim, "metric": facts["metric"], "index": facts["index"]}
            tell({"source": searcher.told(), **told, "first": first})
            return
        held = f"{counted(searcher.count, 'image')} in {counted(searcher.dim, 'dimension')}"
        print(f"{held}, {facts['metric']}, {facts['index']} search")
        if searcher.growth.manifest is not None:
            _tell_growth(searcher, root)
        for row in searcher.collection.items(next(searcher.collection.blocks(10)), ["id", "path"]):
            print(f"{row['id']:>19}  {legible(row['path'])}")
        return
    row = searcher.collection.item(parse_id(item_id))
    if png is not None:
        position = np.array([searcher.collection.position(row["id"])])
        save_picture(picture(searcher.collection.pixels(position)[0]), png)
    if as_json:
        tell({"source": searcher.told(), **row, "id": str(row["id"])})
        return
    width = 2 + max(columns(legible(key)) for key in row)
    for key, value in row.items():
        print(f"{ljust(legible(key), width)}{'' if value is None else legible(value)}".rstrip())


def _tell_growth(searcher: Searcher, root: Path) -> None:
    """Print how the published copy has changed and, where there is a project to rebuild it from, whether that pays."""
    from aecore.search import drift

    if not (root / config.PARAMS).is_file():
        added, removed = searcher.growth.counts
        print(f"since it was published {added:,} came and {removed:,} went")
        return
    section = config.section(IndexConfig, "index", root / config.PARAMS)
    found, (added, removed) = drift.measure(searcher, section), searcher.growth.counts
    print(f"since it was published {added:,} came (segments: {len(searcher.growth.segments)}) and {removed:,} went; "
          f"recall@10 {found.recall} (built: {found.recall_built}), imbalance of the lists {found.imbalance} (built: "
          f"{found.imbalance_built}), {found.work} times the comparisons of a fresh index")  # fmt: skip
    reasons = found.reasons(removed / searcher.base.size)
    print(f"a rebuild pays (`dvc repro`, `publish`): {'; '.join(reasons)}" if reasons else "no rebuild is needed")


def let_through(searcher: Searcher, where: str | None) -> np.ndarray | None:
    """What `Searcher.search` calls `among`: the positions that the condition lets through, and says how many.

    Raises UserError where there are none, and as `aecore.search.filters`.
    """
    if where is None:
        return None
    among = searcher.matching(where)
    print(f"aecore query: {len(among):,} of {counted(searcher.count, 'image')} meet {where!r}", file=sys.stderr)
    if not len(among):
        raise UserError(f"no image meets --where {where!r}.")
    return among


def table(name: str, neighbours: list[dict[str, Any]], most: float = 100) -> str:
    """One query's neighbours as aligned lines of text beneath its name; a percentile of `most` is marked by a `>`."""
    besides = ["percentile"] if any("percentile" in row for row in neighbours) else []
    lines = [["rank", "similarity", "distance", *besides, "id", "label", "path"]]
    for row in neighbours:
        scores = [f"{row['similarity']:.4f}", f"{row['distance']:.4f}"]
        scores += [f"{'>' if row[key] >= most else ''}{row[key]:.3f}" for key in besides]
        lines.append([str(row["rank"]), *scores, row["id"], _label(row), row["path"]])
    return "\n".join([legible(name), *aligned(lines, right=range(len(lines[0]) - 2))])


def _read(source: Source, files: Sequence[str | Path], ids: list[int]) -> tuple[Searcher, Queries]:
    """Open the chain and gather what is looked for; the model is loaded only where a file has to be encoded."""
    vectors, preparation = [], None
    if files:
        from aecore.embedding import Encoder

        encoder = Encoder.load(source.path("model"), "cpu")  # a few images: starting a GPU takes longer
        searcher = Searcher.open(source, encoder.manifest)
        vectors, preparation = [encoder.encode_files(files)], encoder.preparation
    else:
        searcher = Searcher.open(source)
    vectors += [searcher.collection.vector(item_id)[None] for item_id in ids]
    asked = [f"id {item_id}" for item_id in ids]
    names, called = [*map(str, files), *asked], [*(Path(path).name for path in files), *asked]
    return searcher, Queries(names, called, np.concatenate(vectors), preparation)


def _asked_pixels(searcher: Searcher, queries: Queries, files: Sequence[str | Path], ids: list[int]) -> np.ndarray:
    """What is looked for, as the model sees it: uint8 (q, C, H, W)."""
    decoded = [decode(Path(path).read_bytes(), cast(Preparation, queries.preparation)).pixels[None] for path in files]
    return np.concatenate(
        [*decoded, searcher.collection.pixels(searcher.collection.positions(np.array(ids, np.int64)))]
    )


def _told(searcher: Searcher, found: Neighbours) -> list[list[dict[str, Any]]]:
    """Of each query its neighbours, as `query --json` gives them."""
    positions = searcher.collection.positions(found.ids.ravel())
    items = iter(searcher.collection.items(positions, ["id", "path", "label", "label_name"]))
    return [
        [
            {
                "rank": rank,
                **(item := next(items)),
                "id": str(item["id"]),
                "similarity": round(float(similarity), 6),
                "distance": round(float(distance), 6),
            }
            for rank, (similarity, distance) in enumerate(zip(similarities, distances, strict=True), start=1)
        ]
        for similarities, distances in zip(found.similarity, found.distance, strict=True)
    ]


def _label(row: dict[str, Any]) -> str:
    return str(row["label_name"] if row["label_name"] is not None else "" if row["label"] is None else row["label"])
