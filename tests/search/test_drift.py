"""Drift against numbers that can be worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aecore.search import drift
from aecore.search.drift import Drift
from aecore.search.metric import IndexConfig
from aecore.search.searcher import Searcher, Source
from aecore.serve import segments
from tests.search.test_searcher import COUNT, DIM, random_vectors, write
from tests.serve.test_segments import MODEL, append, blocks, quick, retire, table  # noqa: F401 (an autouse fixture)

SECTION = IndexConfig("cosine", 600, None, 0.9)


def test_nothing_has_drifted_in_what_was_just_published(tmp_path: Path) -> None:
    for name, exact_below in (("exact", 10**6), ("ivf", 0)):
        write(tmp_path / name, random_vectors(), exact_below=exact_below)
        searcher = Searcher.open(Source("published", tmp_path / name), MODEL)
        found = drift.measure(searcher, SECTION)
        assert found.imbalance == found.imbalance_built >= 1
        assert found.recall == pytest.approx(found.recall_built, abs=0.02)
        assert found.reasons(0) == []


def test_an_exact_index_that_outgrew_its_limit_and_a_lopsided_one_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "FLAT_BELOW", 12)
    for name, exact_below in (("exact", 10**6), ("ivf", 0)):
        source = Source("published", tmp_path / name)
        write(source.directory, random_vectors(), exact_below=exact_below)
        searcher, ids = Searcher.open(source, MODEL), np.arange(1, 1501)
        alike = np.tile(random_vectors()[:1], (1500, 1)) + np.random.default_rng(0).normal(size=(1500, DIM)) * 0.01
        searcher = append(source, searcher, table(ids), blocks(ids, alike.astype(np.float32)))
        found = drift.measure(searcher, SECTION)
        assert found.recall is not None
        if exact_below:
            assert found.recall == found.work == 1
            assert found.reasons(0) == ["it compares every image, and holds more than index.exact_below"]
        else:
            sizes = drift._list_sizes(searcher.base.index) + drift._list_sizes(searcher.collection.segments[1].index)
            assert sizes.sum() == COUNT + 1500
            assert found.imbalance == pytest.approx(len(sizes) * (sizes**2).sum() / sizes.sum() ** 2, abs=0.01)
            assert found.imbalance > 2 * found.imbalance_built
            assert any("times the codes of a fresh index" in reason for reason in found.reasons(0))
        searcher = retire(source, searcher, np.arange(200))
        share = len(searcher.base.removed) / searcher.base.size
        assert any("40% of the published images were removed" in reason for reason in found.reasons(share))


def test_a_recall_that_fell_is_told() -> None:
    assert Drift(1, 1, 1, 0.99, 0.97, False).reasons(0) == ["recall@10 fell from 0.99 to 0.97"]
    assert Drift(1, 1, 1, 0.99, 0.985, False).reasons(0) == Drift(1, 1, 1, 0.99, None, False).reasons(0) == []
