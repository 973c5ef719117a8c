"""A cloud of codes to search in: a mixture of Gaussians or a workspace's own, as artefacts that this program indexed.

The artefacts are whole (`data`, a model that is empty, `embeddings`, `index`), the images a pixel each. The codes that
ask are never among those that are indexed.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ruamel.yaml import YAML

from aecore import artifact, config
from aecore.data.images import Images, shard_name
from aecore.data.items import SPLITS
from aecore.search.metric import BLOCK
from aecore.search.searcher import Searcher, Source
from aecore.vectors import Embeddings, vectors_name

PROJECT = Path(__file__).resolve().parent.parent
SHARES = (0.7, 0.1, 0.2)
"""Of the images in each split."""
SHARD = 250_000
"""Codes in memory at a time."""
CLUSTERS, SPREAD = 1_000, 0.5
"""Gaussians of the mixture at most, and their deviation a dimension; their centres have deviation 1."""
LEAST = 60
"""Codes of a Gaussian, or there are fewer of them: else some of the ten nearest are of others."""
JITTER = 0.5
"""How far a copy of a real code is moved, as a share of the distance to that code's nearest neighbour."""
QUERIES = 10_000
QUERIES_FILE = "queries.npy"


class Codes(NamedTuple):
    """What is to be indexed, and what will ask."""

    told: str
    """What they are, for people."""
    sizes: Sequence[int]
    """Of the shards."""
    shards: Iterable[np.ndarray]
    """float32 (n_k, dim), one at a time."""
    queries: np.ndarray
    """float32 (q, dim)."""


@dataclass(frozen=True)
class Cloud:
    """A workspace in which `index` has run over such codes."""

    folder: Path
    told: str
    count: int
    dim: int
    command_seconds: float = math.nan
    """Of the whole command `index`; not a number where it ran another time."""

    @classmethod
    def at(cls, folder: Path) -> Cloud | None:
        """What lies in a folder from an earlier run, if anything does."""
        if not (folder / config.INDEX).is_dir():
            return None
        embeddings = Embeddings.open(folder / config.EMBEDDINGS)
        return cls(folder, str(folder), embeddings.count, embeddings.dim)

    @property
    def seconds(self) -> float:
        """That the command `index` says it took for building, and for measuring its own recall."""
        return float(json.loads((self.folder / config.REPORTS / "index.json").read_text())["build_seconds"])

    @property
    def facts(self) -> dict[str, Any]:
        """What the index says of itself."""
        return artifact.read_manifest(self.folder / config.INDEX, "index").facts

    @property
    def index_bytes(self) -> int:
        """Size of the index artefact."""
        return sum(file.stat().st_size for file in (self.folder / config.INDEX).iterdir())

    def ids(self) -> np.ndarray:
        """Of the images, int64 (n,), ascending: their place is their position."""
        return Images.open(self.folder / config.PREPARED).ids()

    def queries(self) -> np.ndarray:
        """Codes that ask, raw, float32 (q, dim)."""
        queries: np.ndarray = np.load(self.folder / QUERIES_FILE)
        return queries

    def prepared(self, name: str) -> np.ndarray:
        """The `codes` or the `queries` centred and of length 1, as the index compares them, memory-mapped float32."""
        codes: np.ndarray = np.load(self.folder / f"prepared-{name}.npy", mmap_mode="r")
        return codes


def opened(folder: Path, device: str = "cpu") -> Searcher:
    """A workspace's index, as the commands open it."""
    return Searcher.open(Source("workspace", folder), device=device)


def clustered(count: int, dim: int, seed: int = 0) -> Codes:
    """A mixture of Gaussians, each as likely; the queries are drawn from it too."""
    clusters = max(1, min(CLUSTERS, count // LEAST))
    centres = np.random.default_rng(seed).standard_normal((clusters, dim), np.float32)

    def drawn(size: int, number: int) -> np.ndarray:
        random = np.random.default_rng([seed, number])
        noise = random.standard_normal((size, dim), np.float32)
        return centres[random.integers(clusters, size=size)] + np.float32(SPREAD) * noise

    sizes = _sizes(count)
    told = f"{count:,} clustered codes of {dim} numbers ({clusters:,} Gaussians, deviation {SPREAD}, centres' 1)"
    return Codes(told, sizes, (drawn(size, 1 + i) for i, size in enumerate(sizes)), drawn(QUERIES, 0))


def real(workspace: Path, count: int | None = None, seed: int = 0) -> Codes:
    """The codes of a workspace; its test images ask, all others are indexed.

    More than there are (`count`) is made by copies, each moved in a random direction: a denser cloud of the same shape,
    but not one of real images.
    """
    images = Images.open(workspace / config.PREPARED)
    embeddings = Embeddings.open(workspace / config.EMBEDDINGS)
    artifact.check_chain(images.manifest, embeddings.manifest)
    test = images.positions("test")
    if not len(test):
        sys.exit(f"{workspace} has no test images that could ask.")
    codes = embeddings.rows(np.setdiff1d(np.arange(images.count), test))
    queries = embeddings.rows(np.random.default_rng(seed).permutation(test)[:QUERIES])
    count = count or len(codes)
    told = f"{count:,} real codes of {codes.shape[1]} numbers ({workspace})"
    if count > len(codes):
        told = f"{count:,} codes of {codes.shape[1]} numbers, {len(codes):,} of them real ({workspace}), the others "
        told += f"copies of those, moved by {JITTER} of the distance to the nearest"
    sizes = _sizes(count)
    return Codes(told, sizes, _copies(codes, sizes, seed), queries)


def embedded(workspace: Path, dim: int, threads: int) -> Path:
    """Make a workspace of the bundled images and their principal components."""
    change: dict[str, dict[str, Any]] = {
        "run": {"threads": threads, "device": "cpu"},
        "train": {"recipe": "pca", "latent_dim": dim},
        "tracking": {"mlflow": False},
        "data": {"path": str(PROJECT / "data/raw/fashion_mnist_10k")},
    }
    _write_parameters(workspace, change)
    (workspace / "recipes").symlink_to(PROJECT / "recipes")
    for stage in ("prepare", "train", "embed"):
        run(workspace, stage)
    return workspace


def make(folder: Path, codes: Codes, threads: int, index: dict[str, Any]) -> Cloud:
    """Write the artefacts of `codes`, and have the program's own command index them, not exactly.

    `index` are keys of that section of `params.yaml`: `min_recall`, `memory_mb`.
    """
    _write(folder, codes)
    np.save(folder / QUERIES_FILE, codes.queries)
    return _indexed(folder, codes.told, threads, {"exact_below": 0, **index})


def exactly(cloud: Cloud, folder: Path, threads: int) -> Cloud:
    """The same artefacts under an exact index, in a workspace of its own."""
    for part in (config.PREPARED, config.MODEL, config.EMBEDDINGS):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).symlink_to(cloud.folder / part)
    exact = _indexed(folder, cloud.told, threads, {"exact_below": cloud.count})
    for file in cloud.folder.glob("*.npy"):
        (folder / file.name).symlink_to(file)
    return exact


def prepare(cloud: Cloud) -> None:
    """Write codes and queries as the index compares them, for those who are not this program."""
    searcher = opened(cloud.folder)
    into = np.lib.format.open_memmap(
        cloud.folder / "prepared-codes.npy", "w+", np.dtype(np.float32), (cloud.count, cloud.dim)
    )
    for first, shard in Embeddings.open(cloud.folder / config.EMBEDDINGS).shards():
        for start in range(0, len(shard), BLOCK):
            block = searcher.comparable(shard[start : start + BLOCK])
            into[first + start : first + start + len(block)] = block
    into.flush()
    np.save(cloud.folder / "prepared-queries.npy", searcher.comparable(cloud.queries()))


def run(workspace: Path, *command: str) -> str:
    """What `python -m aecore COMMAND` prints there; its failure is the end."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-m", "aecore", *command], cwd=workspace, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def _sizes(count: int) -> list[int]:
    return [min(SHARD, count - start) for start in range(0, count, SHARD)]


def _copies(codes: np.ndarray, sizes: Sequence[int], seed: int) -> Iterator[np.ndarray]:
    """Shards of the codes as they are, then of moved copies of them."""
    import faiss

    nearest: np.ndarray | None = None
    first = 0
    for number, size in enumerate(sizes):
        row = first + np.arange(size)
        shard, copied = codes[row % len(codes)], row >= len(codes)
        if copied.any():
            if nearest is None:
                nearest = np.sqrt(faiss.knn(codes, codes, 2)[0][:, 1])
            way = np.random.default_rng([seed, number]).standard_normal((int(copied.sum()), codes.shape[1]), np.float32)
            way *= JITTER * nearest[row[copied] % len(codes), None] / np.linalg.norm(way, axis=1, keepdims=True)
            shard[copied] += way
        yield shard
        first += size


def _write(folder: Path, codes: Codes) -> None:
    """The artefacts up to the embeddings, shard by shard."""
    sizes, random = list(codes.sizes), np.random.default_rng(0)
    count = sum(sizes)
    ids = np.unique(random.integers(2**63, size=count))
    assert len(ids) == count, "two equal ids by chance"
    facts = {"count": count, "channels": 1, "height": 1, "width": 1, "fit": "crop", "labels": None, "shards": sizes,
             "splits": {}, "aliases": 0, "rejected": 0, "max_pixels": 100_000_000}  # fmt: skip
    with artifact.writing(folder / config.PREPARED, "data", facts=facts) as directory:
        for number, size in enumerate(sizes):
            np.save(directory / shard_name(number), random.integers(0, 256, (size, 1, 1, 1), np.uint8))
        split = random.choice(len(SPLITS), count, p=SHARES)
        facts["splits"] = dict(zip(SPLITS, np.bincount(split, minlength=len(SPLITS)).tolist(), strict=True))
        _write_tables(directory, ids, split, sizes)
    data = artifact.read_manifest(folder / config.PREPARED, "data")
    with artifact.writing(folder / config.MODEL, "model", {"data": data}):
        pass
    sources = {"data": data, "model": artifact.read_manifest(folder / config.MODEL, "model")}
    facts = {"count": count, "dim": codes.queries.shape[1], "shards": sizes}
    with artifact.writing(folder / config.EMBEDDINGS, "embeddings", sources, facts) as directory:
        for number, shard in enumerate(codes.shards):
            np.save(directory / vectors_name(number), shard)


def _write_tables(directory: Path, ids: np.ndarray, split: np.ndarray, sizes: Sequence[int]) -> None:
    """The tables as `prepare` writes them; an id is the first 63 bits of its file's hash, the other bits are 0."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, number = pa.string(), pa.int32()
    words = {"id": pa.int64(), "path": text, "batch": text, "sha256": text}
    columns = {**words, "pixel_hash": text, "label": number, "label_name": text, "split": text,
               "width": number, "height": number, "shard": number, "row": number}  # fmt: skip
    first = 0
    with pq.ParquetWriter(directory / "items.parquet", pa.schema(columns), compression="zstd") as writer:
        for shard, size in enumerate(sizes):
            here = slice(first, first + size)
            hashes = np.zeros((size, 4), ">u8")
            hashes[:, 0] = ids[here].astype(np.uint64) << np.uint64(1)
            joined = hashes.tobytes().hex()
            digests = [joined[i : i + 64] for i in range(0, len(joined), 64)]
            paths = [f"{i:08d}.png" for i in range(first, first + size)]
            one, rows, none = np.ones(size, np.int32), np.arange(size, dtype=np.int32), [None] * size
            values = [ids[here], paths, [""] * size, digests, digests, none, none, np.array(SPLITS)[split[here]],
                      one, one, one * shard, rows]  # fmt: skip
            arrays = [pa.array(column, kind) for column, kind in zip(values, columns.values(), strict=True)]
            writer.write_table(pa.table(arrays, pa.schema(columns)), row_group_size=2**16)
            first += size
    pq.write_table(pa.schema({**words, "item": pa.int64()}).empty_table(), directory / "aliases.parquet")
    pq.write_table(
        pa.schema({"path": text, "batch": text, "reason": text}).empty_table(), directory / "rejected.parquet"
    )


def _indexed(folder: Path, told: str, threads: int, index: dict[str, Any]) -> Cloud:
    """Run the stage `index` over what lies in `folder`."""
    embeddings = Embeddings.open(folder / config.EMBEDDINGS)
    change: dict[str, dict[str, Any]] = {
        "run": {"threads": threads, "device": "cpu"},
        "index": {"metric": "cosine", **index},
        "tracking": {"mlflow": False},
    }
    _write_parameters(folder, change)
    started = time.perf_counter()
    run(folder, "index")
    return Cloud(folder, told, embeddings.count, embeddings.dim, time.perf_counter() - started)


def _write_parameters(folder: Path, change: dict[str, dict[str, Any]]) -> None:
    """The project's parameters with some changed."""
    yaml = YAML(typ="safe", pure=True)
    parameters = yaml.load((PROJECT / "params.yaml").read_text())
    for section, keys in change.items():
        parameters[section] |= keys
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(parameters, file)
