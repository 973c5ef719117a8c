"""`Searcher`: exact scores and ids of the nearest images; `Source`: which artefacts answer, published or workspace."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from aecore import artifact, config
from aecore.artifact import Manifest
from aecore.config import UserError, WorkFailed
from aecore.data.removed import Removals
from aecore.search.clusters import Clusters
from aecore.search.collection import Collection
from aecore.search.gpu import ASKED, Gpu, wanted
from aecore.search.growth import BASE, Growth, segment_path
from aecore.search.metric import codes, distances
from aecore.search.segment import Segment
from aecore.search.storage import measure_of
from aecore.search.vector_index import NONE, Candidates, rescored

if TYPE_CHECKING:
    import pyarrow as pa

PARTS = {"data": config.PREPARED, "model": config.MODEL, "embeddings": config.EMBEDDINGS, "index": config.INDEX}
"""The artefacts a search needs, and where the workspace has them; a published copy holds each under its kind."""
EXTRAS = {"clusters": config.CLUSTERS}
"""Artefacts that a search can use where they are there."""

Propose = Callable[[np.ndarray, int], Candidates]

COMPARED = 100_000
"""Images that a filter lets through are compared one by one up to this many, which is exact; searched for above."""
BATCH = 16_384
"""Queries in memory at a time."""
NEAR = 1e-4
"""Distance 1 - cosine below which FAISS's float32 sums are not trusted: a code is at distance 0 from itself."""
ROUNDING = 1.5e-7
"""Of such a sum, times the root of the dimension: neighbours that are nearer to each other are told apart exactly."""
MARGIN = 256
"""Images as near as the k-th, to rounding, that are looked for beyond k, to take those of the smallest ids."""


@dataclass(frozen=True)
class Source:
    """The artefacts that answer a query."""

    kind: Literal["published", "workspace"]
    directory: Path
    """Of the published copy, or the project's folder."""
    removals: Removals = field(default_factory=Removals, repr=False)
    """What the workspace should not answer with, though it was made before that was removed; a copy knows itself."""

    @classmethod
    def find(cls, root: Path = Path()) -> Source:
        """The published copy where there is one, else the workspace.

        Raises UserError where `root` is no project, WorkFailed where `current` dangles.
        """
        current = root / config.SERVING / "current"
        if current.is_dir():
            return cls("published", root / config.SERVING / current.resolve().name)
        if current.is_symlink():
            raise WorkFailed(
                f"{current} leads to {current.readlink()}, which is not there: run `python -m aecore publish`."
            )
        config.check_project(root)
        return cls("workspace", root, Removals.read(root / config.REMOVED))

    def path(self, kind: str) -> Path:
        """Directory of the artefact of this `kind` (a key of PARTS or EXTRAS)."""
        return self.directory / (kind if self.kind == "published" else (PARTS | EXTRAS)[kind])

    def growth(self, index: Manifest) -> Growth:
        """What the copy has gained and lost since it was published; the workspace grows by `dvc repro` alone."""
        return Growth.read(self.directory, index) if self.kind == "published" else Growth()

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
    """The segments of an index, opened with the codes and images they were made from. Threads may share one.

    FAISS finds the candidates. Where its float32 sums could put two of them in the wrong order, or an image off
    itself, their distances are computed anew, in float64, from differences of the stored codes.
    """

    def __init__(self, collection: Collection, growth: Growth, source: Source) -> None:
        self.collection, self.growth, self.source = collection, growth, source
        self.base = collection.segments[0]
        self.manifest = self.base.manifest
        """Of the base's index."""
        self.count = collection.count
        self.dim: int = self.manifest.facts["dim"]
        self.metric: Literal["cosine", "l2"] = self.manifest.facts["metric"]

    @classmethod
    def open(cls, source: Source, model: Manifest | None = None, device: str = "cpu") -> Searcher:
        """Open and check the chain of digests; `model` is that of the encoder whose codes will be looked for.

        `device` as in `run.device`: a GPU pays for many queries (see `aecore.search.gpu`). Raises as
        `artifact.read_manifest` does, and WorkFailed naming both digests where one artefact was not made from the
        others.
        """
        model = model or artifact.read_manifest(source.path("model"), "model")
        growth = source.growth(artifact.read_manifest(source.path("index"), "index"))
        base = Segment.open(source.path, model)
        hidden = source.removals.among(base.images, base.images.aliases()) if source.removals.rows else NONE
        segments = [dataclasses.replace(base, removed=growth.removed.get(BASE, hidden))]
        used = Manifest("model", model.digest)  # trained on the base's data, not on what was added
        for name in growth.segments:
            path = segment_path(source.directory, name)
            segments.append(Segment.open(path.joinpath, used, growth.removed.get(name, NONE), growth.hold))
            growth.check(name, segments[-1].manifest)
        if wanted(device, sum(segment.size for segment in segments)):
            gpu = Gpu()
            segments = [segment if len(segment.removed) else _on(gpu, segment) for segment in segments]
        return cls(Collection(segments), growth, source)

    def told(self) -> dict[str, Any]:
        """What answers, for JSON: kind and path of the source, the digests of its artefacts, and how it has grown."""
        sources = self.manifest.sources
        digests = {**{kind: sources[kind] for kind in PARTS if kind != "index"}, "index": self.manifest.digest}
        grown = None
        if self.growth.manifest is not None:
            added, removed = self.growth.counts
            grown = {"digest": self.growth.manifest.digest, "added": added, "removed": removed}
        return {"kind": self.source.kind, "path": str(self.source.directory), "digests": digests, "growth": grown}

    def aliases(self) -> pa.Table:
        """Files with the pixels of an image: the `id` and `path` of each, and the id of that `item`."""
        import pyarrow as pa

        added = self.growth.aliases().select(["id", "path", "item"])
        return pa.concat_tables([self.base.images.aliases(), added])

    def holds(self, ids: np.ndarray) -> np.ndarray:
        """Which of these ids, int64 (n,), are those of an image that answers, or of a file with its pixels; bool."""
        aliases = self.aliases()
        answers = self.collection.positions(aliases["item"].to_numpy()) >= 0  # its image may have left
        return np.asarray((self.collection.positions(ids) >= 0) | np.isin(ids, aliases["id"].to_numpy()[answers]))

    def comparable(self, vectors: np.ndarray) -> np.ndarray:
        """Raw codes (n, dim) as the index compares them, float32."""
        return codes(vectors, self.base.center, self.metric)

    def matching(self, where: str) -> np.ndarray:
        """Positions, ascending, of the images that meet a condition (see `aecore.search.filters`).

        Where clusters were made of these embeddings, it may name the column `cluster`; an image that was added since
        has that which `Clusters.assign` gives it. Raises UserError for a condition that is none.
        """
        clustered = (self.source.path("clusters") / artifact.MANIFEST).is_file()
        named = clustered and re.search(r"\bcluster\b", where, re.IGNORECASE)  # SQL's names ignore case
        return self.collection.matching(where, self.clusters() if named else None, ["cluster"] if clustered else [])

    def clusters(self) -> np.ndarray:
        """The cluster of every image by position, int32. Raises as `Clusters.open`, and where others were clustered."""
        import pyarrow.parquet as pq

        clusters = Clusters.open(self.source.path("clusters"))
        assert clusters.manifest is not None
        artifact.check_chain(self.base.embeddings.manifest, clusters.manifest)
        assigned = pq.read_table(self.source.path("clusters") / "assignments.parquet", columns=["cluster"])["cluster"]
        parts = [assigned.to_numpy()]
        for segment in self.collection.segments[1:]:
            parts += [clusters.assign(np.asarray(shard))[0] for _, shard in segment.embeddings.shards()]
        return np.concatenate(parts).astype(np.int32)

    def search(self, vectors: np.ndarray, k: int, among: np.ndarray | None = None) -> Neighbours:
        """The k nearest images (at most `count`) of raw codes (q, dim), as an Encoder or `vector` gives them.

        `among` are the positions, ascending, that may answer (see `Collection.matching`); None lets all. Up to COMPARED
        of them are compared one by one; with more, an inverted file is probed the more widely the fewer they are.
        Raises UserError for k below 1, codes of another dimension, and values that are not finite.
        """
        vectors = np.asarray(vectors, dtype=np.float32)
        if k < 1:
            raise UserError(f"k is {k}; expected 1 or more.")
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise UserError(f"the codes have shape {vectors.shape}, the index holds codes of shape (n, {self.dim}).")
        if not np.isfinite(vectors).all():
            raise UserError("the codes hold values that are not finite.")
        most = self.count if among is None else len(among)
        k = min(k, most)
        if not (k and len(vectors)):
            none = (len(vectors), k)
            return Neighbours(np.empty(none, np.int64), np.empty(none, np.float32), np.empty(none, np.float32))
        propose = self._proposing(among)
        parts = [
            self._nearest(self.comparable(vectors[i : i + BATCH]), k, most, propose)
            for i in range(0, len(vectors), BATCH)
        ]
        found = parts[0] if len(parts) == 1 else Candidates(*map(np.concatenate, zip(*parts, strict=True)))
        distance = found.distance.astype(np.float32)
        return Neighbours(
            np.ascontiguousarray(found.ids), 1 - distance if self.metric == "cosine" else -distance, distance
        )

    def _proposing(self, among: np.ndarray | None) -> Propose:
        """What gives, of codes (q, dim) as they are compared, at least the k nearest that may answer."""
        if among is not None and len(among) <= COMPARED:
            return self._comparing(among)
        segments = self.collection.segments
        if among is None:
            parts = [(segment, segment.living) for segment in segments if segment.count]
        else:
            chosen = ((segments[place], rows) for place, _, rows in self.collection.split(among))
            parts = [(segment, segment.allowing(rows)) for segment, rows in chosen if len(rows)]

        def search(queries: np.ndarray, k: int) -> Candidates:
            found = [segment.nearest(queries, k, allowed) for segment, allowed in parts]
            if len(found) == 1:
                return found[0]
            distance, ids = (np.concatenate(arrays, axis=1) for arrays in zip(*found, strict=True))
            order = np.lexsort((ids, distance), axis=1)[:, :k]
            return Candidates(np.take_along_axis(distance, order, 1), np.take_along_axis(ids, order, 1))

        return search

    def _comparing(self, among: np.ndarray) -> Propose:
        """The same of few images, one by one."""
        import faiss

        compared, ids = self.collection.codes(among), self.collection.ids(among)
        measure = measure_of(self.metric)

        def compare(queries: np.ndarray, k: int) -> Candidates:
            scores, rows = faiss.knn(queries, compared, min(k, len(ids)), metric=measure)
            if self.metric == "cosine":
                return Candidates(1 - scores.astype(np.float64), ids[rows])
            return rescored(queries, ids[rows], compared[rows.ravel()], self.metric)

        return compare

    def _nearest(self, queries: np.ndarray, k: int, most: int, propose: Propose) -> Candidates:
        """The k nearest of `most` images, nearest first, equally near ones by id."""
        if self.metric == "l2":  # FAISS's sums of squares are further off: take more, all of them are rescored
            found = propose(queries, min(k + 16, most))
            return Candidates(found.distance[:, :k], found.ids[:, :k])
        wide, limit = min(k + 1, most), min(k + MARGIN, most)
        found = self._told_apart(queries, propose(queries, wide))
        nearest, tied = Candidates(found.distance[:, :k], found.ids[:, :k]), np.arange(len(queries))
        while wide < limit:  # where the last that was found is as near as the k-th, to rounding, there may be more
            still = found.distance[:, wide - 1] - found.distance[:, k - 1] < self._rounding
            if not still.any():
                break
            tied, wide = tied[still], min(4 * wide, limit)
            found = self._told_apart(queries[tied], propose(queries[tied], wide))
            nearest.distance[tied], nearest.ids[tied] = found.distance[:, :k], found.ids[:, :k]
        return nearest

    @property
    def _rounding(self) -> float:
        return ROUNDING * math.sqrt(self.dim)

    def _told_apart(self, queries: np.ndarray, found: Candidates) -> Candidates:
        """Candidates in exact order, where the cosines that FAISS summed leave a doubt."""
        distance, ids = found
        rows = np.flatnonzero((distance[:, 0] < NEAR) | self._close(distance).any(axis=1))
        if not len(rows):
            return found
        queries, some, names = queries[rows], distance[rows], ids[rows]
        doubtful, close = some < NEAR, self._close(some)
        doubtful[:, 1:] |= close
        doubtful[:, :-1] |= close
        row, column = np.nonzero(doubtful & (names >= 0))
        others = self.collection.codes(self.collection.positions(names[row, column]))
        some[row, column] = distances(queries[row], others, "cosine")
        order = np.lexsort((names, some), axis=1)
        distance[rows], ids[rows] = np.take_along_axis(some, order, 1), np.take_along_axis(names, order, 1)
        return found

    def _close(self, distance: np.ndarray) -> np.ndarray:
        """Of distances in ascending order (q, w), which are as far as the next, to rounding; bool (q, w - 1)."""
        return np.asarray(distance[:, 1:] - distance[:, :-1] < self._rounding)


def _on(gpu: Gpu, segment: Segment) -> Segment:
    """The segment with a copy of its index on the GPU."""
    some = segment.codes(np.arange(min(ASKED, segment.size)))
    return dataclasses.replace(segment, on_gpu=gpu.copy(segment.index, some, segment.ids))
