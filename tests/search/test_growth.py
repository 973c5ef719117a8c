"""Generations: who reads one keeps it, nothing else stays, and damage is told."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aecore import artifact
from aecore.config import WorkFailed
from aecore.search import growth
from aecore.search.searcher import Searcher, Source
from aecore.serve import segments
from aecore.serve.segments import tidied
from tests.search.test_searcher import COUNT, random_vectors
from tests.serve import test_segments
from tests.serve.test_segments import FEW, MODEL, append, blocks, pictures, quickly, retire, table

bases, quick = test_segments.bases, test_segments.quick


def test_what_nobody_reads_is_swept_and_what_is_read_stays(bases: dict[tuple[str, bool], Path]) -> None:
    copy = bases["cosine", True]
    shutil.rmtree(growth.growth_folder(copy), ignore_errors=True)
    source, folder = Source("published", copy), growth.growth_folder(copy)
    searcher = append(source, Searcher.open(source, MODEL), table(np.arange(1, 9)), blocks(np.arange(1, 9), FEW[:8]))
    reader = Searcher.open(source, MODEL)  # it has read no image and no row of the table yet
    held = reader.growth.number
    for number in range(12):
        ids = np.arange(1000 * number + 1000, 1000 * number + 1004)
        searcher = append(source, searcher, table(ids), blocks(ids, random_vectors(number)[:4]))
    searcher = retire(source, searcher, searcher.collection.positions(np.arange(1, 9)))
    found = reader.search(FEW[:8], 1)
    reader = reader.collection  # the images alone
    positions = np.arange(COUNT, COUNT + 8)
    np.testing.assert_array_equal(reader.pixels(positions), pictures(np.arange(1, 9)))
    assert [item["path"] for item in reader.items(positions)] == [f"new/{i}.png" for i in range(1, 9)]
    np.testing.assert_array_equal(found.ids[:, 0], np.arange(1, 9))
    assert (folder / f"{held:06d}").is_dir()

    del reader
    (folder / ".000099.1.tmp").mkdir()
    (folder / "segments/.000099.1.tmp").mkdir()
    growth.sweep(copy)
    current = searcher.growth
    assert {path.name for path in folder.iterdir()} == {"current", "segments", f"{current.number:06d}"}
    assert {path.name for path in (folder / "segments").iterdir()} == set(current.segments)


@pytest.mark.parametrize("moment", ["before it is opened", "before it is locked"])
def test_a_reader_that_meets_a_switch_reads_the_new_generation(
    moment: str, bases: dict[tuple[str, bool], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = bases["cosine", True]
    shutil.rmtree(growth.growth_folder(copy), ignore_errors=True)
    source = Source("published", copy)
    grown = append(source, Searcher.open(source, MODEL), table(np.arange(1, 5)), blocks(np.arange(1, 5), FEW[:4]))
    count = grown.count
    del grown
    seen = []

    def switch(generation: Path) -> None:
        seen.append(generation)
        monkeypatch.undo()
        quickly(monkeypatch)
        ids = np.arange(11, 14)
        append(source, Searcher.open(source, MODEL), table(ids), blocks(ids, FEW[8:11]))
        growth.sweep(copy)
        assert not generation.exists()

    if moment == "before it is opened":
        taken = growth.Hold.on.__func__  # type: ignore[attr-defined]

        def late(cls: type, generation: Path) -> Any:
            switch(generation)
            return taken(cls, generation)

        monkeypatch.setattr(growth.Hold, "on", classmethod(late))
    else:
        lock = fcntl.flock

        def waited(file: Any, how: int) -> None:
            switch(growth.growth_folder(copy) / "000001")
            lock(file, how)

        monkeypatch.setattr(fcntl, "flock", waited)
    assert Searcher.open(source, MODEL).count == count + 3
    assert len(seen) == 1


def test_a_name_is_never_given_twice(bases: dict[tuple[str, bool], Path]) -> None:
    copy = bases["cosine", True]
    shutil.rmtree(growth.growth_folder(copy), ignore_errors=True)
    source, given = Source("published", copy), []
    searcher = Searcher.open(source, MODEL)
    for number in range(10):
        ids = np.arange(100 * number + 1, 100 * number + 4)
        searcher = append(source, searcher, table(ids), blocks(ids, FEW[:3]))
        given += searcher.growth.segments
        searcher = retire(source, searcher, searcher.collection.positions(ids))  # the segment is gone again
        assert not searcher.growth.segments
        searcher = retire(source, searcher, np.array([number]))
    assert len(set(given)) == len(given)


@pytest.mark.parametrize("harm", ["segment", "generation", "tombstones", "other base", "other segment"])
def test_a_damaged_growth_is_refused(harm: str, bases: dict[tuple[str, bool], Path]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "0123456789ab"
        shutil.copytree(bases["cosine", True], copy)
        source = Source("published", copy)
        searcher, ids = Searcher.open(source, MODEL), np.arange(1, 40)
        searcher = append(source, searcher, table(ids), blocks(ids, random_vectors(3)[:39]))
        searcher = retire(source, searcher, np.array([0, 1]))
        grown, generation, (name,) = growth.growth_folder(copy), growth.generation(copy), searcher.growth.segments
        if harm == "segment":
            path = grown / f"segments/{name}/index/index.faiss"
            path.write_bytes(path.read_bytes()[:-1] + b"x")
        elif harm == "generation":
            (generation / "manifest.json").write_text("{")
        elif harm == "tombstones":
            np.save(generation / "base.npy", np.array([4, 5]))
        elif harm == "other base":
            shutil.rmtree(copy)
            shutil.copytree(bases["l2", True], copy)
        else:
            ids = np.arange(50, 70)
            segments.write_segment(
                grown / "segments" / name, searcher.base, 20, [table(ids)], blocks(ids, random_vectors(4)[:20])
            )
        with pytest.raises(WorkFailed):
            growth.verify(copy, artifact.read_manifest(copy / "index", "index"))
        with pytest.raises(WorkFailed):
            Searcher.open(source, MODEL)


def test_nothing_stays_of_what_was_removed(bases: dict[tuple[str, bool], Path]) -> None:
    copy = bases["cosine", True]
    shutil.rmtree(growth.growth_folder(copy), ignore_errors=True)
    source, ids = Source("published", copy), np.arange(1, 9)
    segments.append(source, Searcher.open(source, MODEL), table(ids), blocks(ids, FEW[:8]))
    searcher = tidied(source)
    segments.retire(source, searcher, searcher.collection.positions(ids))
    del searcher
    tidied(source)
    assert not list((growth.growth_folder(copy) / "segments").iterdir())


def test_a_generation_that_is_not_current_may_be_damaged(bases: dict[tuple[str, bool], Path]) -> None:
    copy = bases["cosine", True]
    shutil.rmtree(growth.growth_folder(copy), ignore_errors=True)
    source, ids = Source("published", copy), np.arange(1, 9)
    searcher = append(source, Searcher.open(source, MODEL), table(ids), blocks(ids, FEW[:8]))
    (searcher.growth.manifest.path / "manifest.json").unlink()  # type: ignore[union-attr, operator]
    segments.retire(source, searcher, np.array([2]))
    assert tidied(source).count == COUNT + 7


def test_a_generation_that_is_read_may_be_damaged(bases: dict[tuple[str, bool], Path]) -> None:
    copy = bases["cosine", True]
    shutil.rmtree(growth.growth_folder(copy), ignore_errors=True)
    source, ids = Source("published", copy), np.arange(1, 9)
    searcher = append(source, Searcher.open(source, MODEL), table(ids), blocks(ids, FEW[:8]))
    reader = retire(source, searcher, np.array([2]))
    (growth.generation(copy) / "base.npy").unlink()
    (growth.generation(copy) / "base.npy").write_bytes(b"")
    segments.retire(source, reader, np.array([3]))
    assert tidied(source).count == COUNT + 6


@pytest.mark.parametrize("harm", ["no link", "elsewhere", "a folder"])
def test_a_spoilt_link_is_told(harm: str, bases: dict[tuple[str, bool], Path]) -> None:
    copy = bases["cosine", True]
    shutil.rmtree(growth.growth_folder(copy), ignore_errors=True)
    source, ids = Source("published", copy), np.arange(1, 5)
    append(source, Searcher.open(source, MODEL), table(ids), blocks(ids, FEW[:4]))
    current = growth.growth_folder(copy) / "current"
    current.unlink()
    if harm == "elsewhere":
        current.symlink_to("nowhere")
    elif harm == "a folder":
        current.mkdir()
    with pytest.raises(WorkFailed, match=r"current does not lead to a generation: .*publish"):
        Searcher.open(source, MODEL)
