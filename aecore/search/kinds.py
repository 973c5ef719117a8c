"""The kinds of index there are, from the one that keeps most of a code to the one that keeps least.

`exact` compares every code. `ivf1024` looks into some of 1,024 lists of codes, kept as they are; `ivf1024,sq8` keeps a
byte of each number, `ivf1024,pq32` 32 bytes of the whole (Jégou et al. 2011, "Product quantization for nearest neighbor
search"). Compressed codes only propose candidates: the stored embeddings decide.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from aecore.config import WorkFailed
from aecore.counted import counted
from aecore.search.metric import IndexConfig, Metric
from aecore.search.storage import exact_index, measure_of
from aecore.search.vector_index import EXACT

POINTS_PER_LIST = 39
"""FAISS's own minimum of training points for a list of an inverted file, and for a word of a code book."""
WORDS = 256
"""Of each code book of product quantisation: a byte."""


class Kind(NamedTuple):
    """One way to keep codes."""

    name: str
    lists: int
    """Of the inverted file; 0: none, every code is compared."""
    code: str
    """What is kept of a code: "" all of it, `sq8` or `pqM`."""
    bytes: int
    """A vector: what is kept of its code, and its id."""

    @classmethod
    def of(cls, name: str, dim: int) -> Kind:
        """The kind of this name, for codes of `dim` numbers."""
        inverted, _, code = name.partition(",")
        each = {"": 4 * dim, "sq8": dim}.get(code) or int(code.removeprefix("pq"))
        return cls(name, 0 if name == EXACT else int(inverted.removeprefix("ivf")), code, each + 8)

    @property
    def is_compressed(self) -> bool:
        """Whether distances have to be computed anew from the stored embeddings."""
        return bool(self.code)


def possible(count: int, dim: int, training: int, section: IndexConfig) -> list[Kind]:
    """Kinds for `count` codes of which `training` may train, that fit into the asked memory; the first keeps most.

    Raises WorkFailed where none fits.
    """
    lists = lists_for(count, training)
    names = [EXACT] if count <= section.exact_below else []
    names += [f"ivf{lists}", f"ivf{lists},sq8"]
    if training >= POINTS_PER_LIST * WORDS:
        names += [f"ivf{lists},pq{dim // each}" for each in (2, 4, 8) if dim % each == 0]  # numbers that share a byte
    kinds = [Kind.of(name, dim) for name in names]
    most = math.inf if section.memory_mb is None else section.memory_mb * 2**20
    fitting = [kind for kind in kinds if kind.bytes * count <= most]
    if not fitting:
        least = min(kind.bytes for kind in kinds) * count / 2**20
        raise WorkFailed(
            f"{counted(count, 'code')} of {counted(dim, 'number')} cannot take less than {least:.1f} MB, "
            f"index.memory_mb allows {section.memory_mb}: raise it, or lower train.latent_dim."
        )
    return fitting


def lists_for(count: int, training: int) -> int:
    """How many lists an inverted file of `count` vectors gets: sqrt(count) as a power of two, all trainable."""
    lists: int = 2 ** round(math.log2(math.sqrt(max(1, count))))
    while lists > 1 and POINTS_PER_LIST * lists > training:
        lists //= 2
    return lists


def untrained(kind: Kind, dim: int, metric: Metric, seed: int) -> Any:
    """An empty faiss.Index of this kind; two that are trained on the same codes are the same."""
    import faiss

    if not kind.lists:
        return exact_index(dim, metric)
    measure = measure_of(metric)
    quantizer = faiss.IndexFlat(dim, measure)
    index: Any
    if kind.code == "sq8":
        index = faiss.IndexIVFScalarQuantizer(quantizer, dim, kind.lists, faiss.ScalarQuantizer.QT_8bit, measure)
    elif kind.code:
        index = faiss.IndexIVFPQ(quantizer, dim, kind.lists, int(kind.code[2:]), 8, measure)
        index.pq.cp.seed = seed
    else:
        index = faiss.IndexIVFFlat(quantizer, dim, kind.lists, measure)
    index.cp.seed = seed
    index.cp.min_points_per_centroid = 1
    return index
