"""`Searcher`: exact scores and ids of the nearest images; `Source`: which artefacts answer, published or workspace."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from aecore import artifact, config
from aecore.artifact import Manifest
from aecore.config import UserError, WorkFailed
from aecore.data.images import Images
from aecore.search.index import CENTER_FILE, INDEX_FILE
from aecore.search.metric import codes
from aecore.vectors import Embeddings, vectors_name

PARTS = {"data": config.PREPARED, "model": config.MODEL, "embeddings": config.EMBEDDINGS, "index": config.INDEX}
"""The artefacts a search needs, and where the workspace has them; a published copy holds each under its kind."""

Propose = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]

MARGIN = 16
"""Candidates taken from FAISS beyond k: its float32 sums may swap neighbours that are all but equally near."""
COMPARED = 100_000
"""Images that a filter lets through are compared one by one up to this many, which is exact; searched for above."""
GATHERED = 2**21
"""Numbers of candidates' codes in memory at a time, about."""


@dataclass(frozen=True)
class Source:
    """The artefacts that answer a query."""

    kind: Literal["published", "workspace"]
    directory: Path
    """Of the published copy, or the project's folder."""

    @classmethod
    def find(cls, root: Path = Path()) -> Source:
        """The published copy where there is one, else the workspace. Raises WorkFailed where `current` dangles."""
        current = root / config.SERVING / "current"
        if current.is_dir():
            return cls("published", root / config.SERVING / current.resolve().name)
        if current.is_symlink():
            raise WorkFailed(
                f"{current} leads to {current.readlink()}, which is not there: run `python -m aecore publish`."
            )
        return cls("workspace", root)

    def path(self, kind: str) -> Path:
        """Directory of the artefact of this `kind` (a key of PARTS)."""
        return self.directory / (kind if self.kind == "published" else PARTS[kind])

    def told(self, index: Manifest) -> dict[str, Any]:
        """What answers, for JSON: its kind, its path, and by kind the digests of the `index` and all it rests on."""
        digests = {**{kind: index.sources[kind] for kind in PARTS if kind != "index"}, "index": index.digest}
        return {"kind": self.kind, "path": str(self.directory), "digests": digests}

    def __str__(self) -> str:
        return f"the published copy {self.directory}" if self.kind == "published" else "the workspace's artefacts"


class Neighbours(NamedTuple):
    """Of each query the k nearest images, nearest first, equally near ones by ascending id."""

    ids: np.ndarray
    """int64 (q, k)."""
    similarity: np.ndarray
    """float32 (q, k): the cosine of centred codes, or minus the Euclidean distance."""
    distance: np.ndarray
    """float32 (q, k), 0 or more: 1 - cosine, or the Euclidean distance."""


class Searcher:
    """An index opened beside the embeddings and images it was made from. Threads may share one.

    FAISS proposes candidates; their scores are computed anew, in float64, from differences of codes. An image that is
    its own query therefore lies at distance 0 exactly (1 - cos = |a - b|² / 2 for codes of length 1), however FAISS
    rounds.
    """

    def __init__(
        self, index: Any, center: np.ndarray, manifest: Manifest, embeddings: Embeddings, images: Images
    ) -> None:
        self.manifest, self.embeddings, self.images = manifest, embeddings, images
        self.count: int = manifest.facts["count"]
        self.dim: int = manifest.facts["dim"]
        self.metric: Literal["cosine", "l2"] = manifest.facts["metric"]
        self._index, self._center = index, center
        ids = images.ids()
        self._order = np.argsort(ids, kind="stable")
        self._sorted, self._ids = ids[self._order], ids

    @classmethod
    def open(
        cls,
        index_dir: Path = config.INDEX,
        embeddings_dir: Path = config.EMBEDDINGS,
        data_dir: Path = config.PREPARED,
        model: Manifest | None = None,
    ) -> Searcher:
        """Open and check the chain of digests; `model` is that of the encoder whose codes will be looked for.

        An inverted file is memory-mapped. Raises as `artifact.read_manifest` does, and WorkFailed naming both digests
        where one artefact was not made from the others.
        """
        import faiss

        images, embeddings = Images.open(data_dir), Embeddings.open(embeddings_dir)
        manifest = artifact.read_manifest(index_dir, "index")
        model = model or Manifest("model", embeddings.manifest.sources["model"])
        artifact.check_chain(images.manifest, model, embeddings.manifest, manifest)
        mapped = manifest.facts["index"] != "exact"
        flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if mapped else 0
        index = faiss.read_index(str(Path(index_dir) / INDEX_FILE), flags)
        return cls(index, np.load(Path(index_dir) / CENTER_FILE), manifest, embeddings, images)

    def search(self, vectors: np.ndarray, k: int, among: np.ndarray | None = None) -> Neighbours:
        """The k nearest images (at most `count`) of raw codes (q, dim), as an Encoder or `vector` gives them.

        `among` are the positions, ascending, that may answer (see `aecore.search.filters`); None lets all. Up to
        COMPARED of them are compared one by one; with more, an inverted file is probed the more widely the fewer they
        are. Raises UserError for k below 1, codes of another dimension, and values that are not finite.
        """
        vectors = np.asarray(vectors, dtype=np.float32)
        if k < 1:
            raise UserError(f"k is {k}; expected 1 or more.")
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise UserError(f"the codes have shape {vectors.shape}, the index holds codes of shape (n, {self.dim}).")
        if not np.isfinite(vectors).all():
            raise UserError("the codes hold values that are not finite.")
        k = min(k, self.count if among is None else len(among))
        queries = codes(vectors, self._center, self.metric)
        propose = self._proposing(among)
        step = max(1, GATHERED // ((k + MARGIN) * self.dim))
        parts = [self._nearest(queries[i : i + step], k, propose) for i in range(0, len(queries) if k else 0, step)]
        if not parts:
            none = (len(queries), k)  # one of the two is 0
            return Neighbours(np.empty(none, np.int64), np.empty(none, np.float32), np.empty(none, np.float32))
        return Neighbours(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def position(self, item_id: int) -> int:
        """Position of an image among the prepared ones. Raises UserError where the index has no such id."""
        place = int(np.searchsorted(self._sorted, item_id)) if 0 <= item_id < 2**63 else self.count
        if place == self.count or self._sorted[place] != item_id:
            raise UserError(
                f"id {item_id} is not among the {self.count:,} indexed images: "
                "`python -m aecore inspect` lists some, `python -m aecore query IMAGE` finds those like a file."
            )
        return int(self._order[place])

    def positions(self, ids: np.ndarray) -> np.ndarray:
        """Positions of indexed images by their ids, int64 of any shape."""
        return self._order[np.searchsorted(self._sorted, ids)]

    def vector(self, item_id: int) -> np.ndarray:
        """The stored raw code of an image, float32 (dim,)."""
        position = self.position(item_id)
        starts = np.cumsum([0, *self.embeddings.shard_sizes])
        shard = int(np.searchsorted(starts, position, side="right")) - 1
        rows = np.load(self.embeddings.directory / vectors_name(shard), mmap_mode="r")
        return np.array(rows[position - starts[shard]])

    def item(self, item_id: int) -> dict[str, Any]:
        """Its row of the images' table: id, path, label, label_name, split, width, height, …"""
        row: dict[str, Any] = self.images.items.slice(self.position(item_id), 1).to_pylist()[0]
        return row

    def _proposing(self, among: np.ndarray | None) -> Propose:
        """What gives, of queries (q, dim), ids and codes of somewhat more than the k nearest that may answer."""
        import faiss

        index: Any = self._index
        inverted = self.manifest.facts["index"] != "exact"
        options: dict[str, Any] = {}
        if among is not None:
            chosen = self._ids[among]
            if len(among) <= COMPARED:
                compared = codes(self.embeddings.rows(among), self._center, self.metric)
                measure = faiss.METRIC_INNER_PRODUCT if self.metric == "cosine" else faiss.METRIC_L2

                def compare(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
                    _, rows = faiss.knn(queries, compared, min(k + MARGIN, len(chosen)), metric=measure)
                    return chosen[rows], compared[rows]

                return compare
            options["sel"] = faiss.IDSelectorBatch(chosen)

        def probe(queries: np.ndarray, k: int, lists: int) -> tuple[np.ndarray, np.ndarray]:
            asked: Any = faiss.SearchParametersIVF if inverted else faiss.SearchParameters
            parameters = asked(**options, nprobe=lists) if inverted else asked(**options)
            wide = min(k + MARGIN, self.count)
            if among is None:
                return index.search_and_reconstruct(queries, wide, params=parameters)[1:]  # type: ignore[no-any-return]
            ids = index.search(queries, wide, params=parameters)[1]  # FAISS cannot both select and reconstruct
            rows, places = np.unique(np.searchsorted(self._sorted, ids.ravel()), return_inverse=True)
            stored = codes(self.embeddings.rows(self._order[rows]), self._center, self.metric)
            return ids, stored[places].reshape(*ids.shape, self.dim)

        def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            if not inverted:
                return probe(queries, k, 0)
            share = 1.0 if among is None else len(among) / self.count
            ids, found = probe(queries, k, min(index.nlist, math.ceil(index.nprobe / share)))
            short = np.flatnonzero(ids[:, k - 1] < 0)  # the probed lists held fewer than k: probe them all
            if len(short):
                ids[short], found[short] = probe(queries[short], k, index.nlist)
            return ids, found

        return search

    def _nearest(self, queries: np.ndarray, k: int, propose: Propose) -> Neighbours:
        """Candidates, scored exactly and sorted."""
        ids, found = propose(queries, k)
        squared: np.ndarray = np.square(queries[:, None].astype(np.float64) - found).sum(axis=2)
        if self.metric == "cosine":
            lengths = (queries != 0).any(axis=1)[:, None] + (found != 0).any(axis=2).astype(
                np.float64
            )  # 1, or 0 for zero
            similarity = (lengths - squared) / 2
            distance = np.maximum(1 - similarity, 0)
        else:
            distance = np.sqrt(squared)
            similarity = -distance
        distance[ids < 0] = np.inf
        order = np.lexsort((ids, distance), axis=1)[:, :k]
        ids, similarity, distance = (np.take_along_axis(a, order, 1) for a in (ids, similarity, distance))
        return Neighbours(ids, similarity.astype(np.float32), distance.astype(np.float32))
