"""A GPU takes part in building and searching. Where there is none the CPU plays it, and tells what it was asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from aecore.artifact import Manifest
from aecore.config import Runtime, UserError
from aecore.search import gpu
from aecore.search.index import build
from aecore.search.metric import IndexConfig
from aecore.search.searcher import Searcher
from aecore.vectors import Embeddings
from tests.search.test_searcher import COUNT, opened, random_vectors, write

MODEL = Manifest("model", "a" * 64)
HERE = faiss.get_num_gpus() > 0


def cloned(index: Any) -> Any:
    """A copy in memory, also of lists that are memory-mapped, which FAISS copies to a GPU but not within a CPU."""
    if not hasattr(index, "invlists") or not isinstance(
        faiss.downcast_InvertedLists(index.invlists), faiss.OnDiskInvertedLists
    ):
        return faiss.clone_index(index)
    copy = faiss.IndexIVFFlat(faiss.clone_index(index.quantizer), index.d, index.nlist, index.metric_type)
    index.copy_subset_to(copy, 0, 0, 2**63 - 1)
    copy.nprobe = index.nprobe
    return copy


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with a GPU, as far as can be told from outside; returns what it is asked for."""
    asked: list[str] = []

    class Resources:
        def setTempMemory(self, size: int) -> None:
            asked.append("memory")

    def moved(resources: Any, device: int, index: Any) -> Any:
        asked.append(type(index).__name__)
        return cloned(index)

    def knn(resources: Any, queries: np.ndarray, codes: np.ndarray, k: int, metric: int) -> Any:
        asked.append("knn")
        return faiss.knn(queries, codes, k, metric=metric)

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", Resources)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", moved)
    monkeypatch.setattr(faiss, "knn_gpu", knn)
    return asked


def built(
    folder: Path, device: Any, exact_below: int = 0, memory_mb: float | None = None, metric: Any = "cosine"
) -> Any:
    embeddings = Embeddings.open(folder / "embeddings")
    positions = {"train": np.arange(300), "validation": np.arange(300, 400), "test": np.arange(400, COUNT)}
    section = IndexConfig(metric, exact_below, memory_mb, 0.9)
    return build(embeddings, np.arange(COUNT) * 7, positions, section, Runtime(0, 1, device))


def test_auto_takes_a_gpu_where_it_pays(played: list[str]) -> None:
    assert gpu.wanted("cuda", 1)
    assert not gpu.wanted("cpu", 10**9)
    assert gpu.wanted("auto", gpu.LARGE)
    assert not gpu.wanted("auto", gpu.LARGE - 1)


@pytest.mark.skipif(HERE, reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_not_taken() -> None:
    assert not gpu.wanted("auto", 10**9)
    with pytest.raises(UserError, match=r"run\.device is 'cuda', but FAISS sees no GPU"):
        gpu.wanted("cuda", 1)


@pytest.mark.parametrize("memory_mb", [None, 0.01])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_an_index_that_a_gpu_helped_to_build_is_that_of_the_cpu(
    metric: Any, memory_mb: float | None, tmp_path: Path, played: list[str]
) -> None:
    write(tmp_path, random_vectors(), metric)
    with_gpu, without = (built(tmp_path, device, 0, memory_mb, metric) for device in ("cuda", "cpu"))
    assert {"IndexFlat", "knn"} <= set(played)
    assert with_gpu.facts == without.facts
    for one, other in ((with_gpu.index, without.index), (with_gpu.trained, without.trained)):
        np.testing.assert_array_equal(faiss.serialize_index(one), faiss.serialize_index(other))


@pytest.mark.parametrize("exact_below", [10**6, 0])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_copy_answers_where_all_images_may(
    metric: Any, exact_below: int, tmp_path: Path, played: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, random_vectors(), metric, exact_below)
    plain = opened(tmp_path)
    searcher = Searcher.open(plain.source, MODEL, "cuda")
    copy = searcher.base.on_gpu
    assert copy is not None
    asked = len(played)
    queries, few = random_vectors(3), np.arange(5, 400)
    for k in (1, 10, COUNT):
        for found, expected in zip(searcher.search(queries, k), plain.search(queries, k), strict=True):
            np.testing.assert_array_equal(found, expected)
    monkeypatch.setattr(gpu.Copy, "search", None)  # what comes is the CPU's
    monkeypatch.setattr("aecore.search.searcher.COMPARED", 0)
    np.testing.assert_array_equal(searcher.search(queries, 5, few).ids, plain.search(queries, 5, few).ids)
    assert len(played) == asked


def test_a_copy_that_answers_otherwise_is_not_believed(
    tmp_path: Path, played: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, random_vectors(), exact_below=0)
    plain = opened(tmp_path)

    def fails(*arguments: Any) -> Any:
        raise RuntimeError("Error in void cloning\nout of memory")

    def wrong(resources: Any, device: int, index: Any) -> Any:
        index = cloned(index)
        index.quantizer.reset()
        index.quantizer.add(np.zeros((index.nlist, index.d), np.float32))
        index.nprobe = 1
        return index

    for broken, why in ((fails, "out of memory"), (wrong, "its scores are off the CPU's")):
        monkeypatch.setattr(faiss, "index_cpu_to_gpu", broken)
        searcher = Searcher.open(plain.source, MODEL, "cuda")
        assert searcher.base.on_gpu is None
        assert f"the GPU does not search this index ({why}" in capsys.readouterr().err
        np.testing.assert_array_equal(searcher.search(random_vectors(3), 5).ids, plain.search(random_vectors(3), 5).ids)


@pytest.mark.gpu
@pytest.mark.skipif(not HERE, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("exact_below", [10**6, 0])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_on_a_gpu(metric: Any, exact_below: int, tmp_path: Path) -> None:
    write(tmp_path, random_vectors(), metric, exact_below)
    made = built(tmp_path, "cuda", exact_below, None, metric)
    assert made.facts["recall"]["10"] >= 0.9
    plain = opened(tmp_path)
    searcher = Searcher.open(plain.source, MODEL, "cuda")
    assert searcher.base.on_gpu is not None
    for found, expected in zip(
        searcher.search(random_vectors(3), 10), plain.search(random_vectors(3), 10), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert dataclasses.replace(searcher.base, on_gpu=None).count == COUNT
