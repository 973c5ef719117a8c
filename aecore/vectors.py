"""What the stage `embed` is asked for, and the reader of what it writes: memory-mapped codes, row-aligned with the
prepared images. Neither needs a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from aecore import artifact, config
from aecore.artifact import Manifest
from aecore.config import require


@dataclass(frozen=True)
class EmbedConfig:
    """Section `embed`."""

    batch_size: int
    """Images encoded at a time."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")


class Embeddings:
    """The reader of `artifacts/embeddings/`: codes float32, row-aligned with the prepared images' table."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory, self.manifest = directory, manifest
        self.dim: int = manifest.facts["dim"]
        self.count: int = manifest.facts["count"]
        self.shard_sizes: list[int] = manifest.facts["shards"]
        self._starts = np.concatenate([[0], np.cumsum(self.shard_sizes)]).astype(np.int64)

    @classmethod
    def open(cls, directory: Path = config.EMBEDDINGS) -> Embeddings:
        """Check the manifest and open; raises as `artifact.read_manifest` does."""
        return cls(Path(directory), artifact.read_manifest(directory, "embeddings"))

    def shards(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (position of its first row, memory-mapped codes (n_k, dim)) shard by shard."""
        yield from zip(self._starts[:-1].tolist(), self._mapped, strict=True)

    def load(self) -> np.ndarray:
        """Every code, float32 (count, dim), in memory."""
        return np.concatenate([np.asarray(shard) for _, shard in self.shards()])

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """The codes at `positions`, float32 (m, dim)."""
        positions = np.asarray(positions, dtype=np.int64)
        if len(self._mapped) == 1:
            return np.asarray(self._mapped[0][positions])
        shards = np.searchsorted(self._starts, positions, side="right") - 1
        result = np.empty((len(positions), self.dim), np.float32)
        for number in np.unique(shards).tolist():
            here = shards == number
            result[here] = self._mapped[number][positions[here] - self._starts[number]]
        return result

    @cached_property
    def _mapped(self) -> list[np.ndarray]:
        """Of every shard its codes, memory-mapped once: an address space costs nothing, opening a file does."""
        names = (self.directory / vectors_name(number) for number in range(len(self.shard_sizes)))
        return [np.asarray(np.load(name, mmap_mode="r")) for name in names]  # a np.memmap is slow to index


def vectors_name(shard: int) -> str:
    """File name of a shard's codes."""
    return f"vectors-{shard:05d}.npy"
