"""The reader of embeddings: memory-mapped codes, row-aligned with the prepared images. Reading needs no model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from aecore import artifact, config
from aecore.artifact import Manifest


class Embeddings:
    """The reader of `artifacts/embeddings/`: codes float32, row-aligned with the prepared images' table."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory, self.manifest = directory, manifest
        self.dim: int = manifest.facts["dim"]
        self.count: int = manifest.facts["count"]
        self.shard_sizes: list[int] = manifest.facts["shards"]

    @classmethod
    def open(cls, directory: Path = config.EMBEDDINGS) -> Embeddings:
        """Check the manifest and open; raises as `artifact.read_manifest` does."""
        return cls(Path(directory), artifact.read_manifest(directory, "embeddings"))

    def shards(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (position of its first row, memory-mapped codes (n_k, dim)), one shard mapped at a time."""
        first = 0
        for number, size in enumerate(self.shard_sizes):
            yield first, np.load(self.directory / vectors_name(number), mmap_mode="r")
            first += size

    def load(self) -> np.ndarray:
        """Every code, float32 (count, dim), in memory."""
        return np.concatenate([np.asarray(shard) for _, shard in self.shards()])

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """The codes at `positions`, float32 (m, dim)."""
        positions = np.asarray(positions)
        result = np.empty((len(positions), self.dim), np.float32)
        for first, shard in self.shards():
            here = (positions >= first) & (positions < first + len(shard))
            result[here] = shard[positions[here] - first]
        return result


def vectors_name(shard: int) -> str:
    """File name of a shard's codes."""
    return f"vectors-{shard:05d}.npy"
