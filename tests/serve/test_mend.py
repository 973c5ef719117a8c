"""Mending: what is whole of a damaged copy and of what it grew by goes on, and what is lost is listed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from aecore import artifact, cli, config
from aecore.config import UserError, WorkFailed
from aecore.search import growth
from aecore.search.searcher import Searcher, Source
from aecore.serve.grow import add, remove
from aecore.serve.publish import publish, rollback
from tests.serve import test_grow
from tests.serve.test_grow import draw, generation

published = test_grow.published

HARMED = {
    "segment": "segments/FIRST/embeddings/vectors-00000.npy",
    "its index": "segments/FIRST/index/index.faiss",
    "its table": "segments/FIRST/data/items.parquet",
    "its manifest": "segments/FIRST/data/manifest.json",
    "generation": "current/manifest.json",
    "tombstones": "current/base.npy",
    "base": "",
}


@pytest.mark.parametrize("how", ["changed", "emptied", "gone"])
@pytest.mark.parametrize("harm", list(HARMED))
def test_publishing_again_mends_what_is_damaged(
    harm: str, how: str, published: Source, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(Path("more"), 3)
    add(["more"])
    (first,) = generation(published).segments
    add(draw(Path("others"), 2, seed=9))
    before = Searcher.open(published).count
    gone = Searcher.open(published).base.ids[:2].tolist()
    remove(gone)
    name = published.directory.name
    file = growth.growth_folder(published.directory) / HARMED[harm].replace("FIRST", first)
    if harm == "base":
        file = published.path("embeddings") / "vectors-00000.npy"
    content = file.read_bytes()
    file.unlink()  # it may be a hard link
    if how != "gone":
        file.write_bytes(content[:-4] + b"abcd" if how == "changed" else b"")
    with pytest.raises(UserError, match="`python -m aecore publish`"):
        Searcher.open(published)
    capsys.readouterr()
    monkeypatch.setattr(artifact, "SMALL", 0)  # as if every file were too large to be hashed when it is opened
    publish()
    said = capsys.readouterr()
    count = Searcher.open(published).count
    assert f"({count:,} images)" in said.out
    if harm == "base":
        assert count == before - 2
        assert said.err == ""
    elif harm == "tombstones":
        assert count == before - 2  # the list of what was removed says them
    elif harm == "generation":
        assert count == before - 5 - 2
        assert f"moved to serving/grown/{name}.damaged-1" in said.err
        add(["more", "others"])
    else:
        assert count == before - 2 - 3  # the other segment stays, and what was removed stays away
        assert f"images that had been added to serving/{name} are lost" in said.err
        lost = Path(f"serving/lost-{name}-000003.txt")
        assert lost.is_file() == (harm in ("segment", "its index"))
        if lost.is_file():
            assert sorted(lost.read_text().split()) == [f"more/00{i}.png" for i in range(3)]
        add(["more"])
    assert Searcher.open(published).count == before - 2
    publish()
    assert "nothing to do" in capsys.readouterr().out


def test_a_list_of_what_is_lost_that_cannot_be_written_loses_nothing(
    published: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(Path("more"), 3)
    add(["more"])
    (path,) = growth.growth_folder(published.directory).glob("segments/*/embeddings/vectors-00000.npy")
    path.write_bytes(b"")
    before = generation(published)

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        publish()
    assert generation(published) == before
    assert path.exists()


def test_what_stays_behind_is_mended_too(
    published: Source, set_params: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(Path("more"), 3)
    add(["more"])
    (path,) = growth.growth_folder(published.directory).glob("segments/*/embeddings/vectors-00000.npy")
    path.write_bytes(b"")
    set_params(index={"metric": "l2"})
    assert cli.main(["index"]) == 0
    with pytest.raises(WorkFailed, match=r"more/000\.png, more/001\.png, more/002\.png.*--leave-behind"):
        publish()
    assert Source.find() == published
    publish(leave_behind=True)
    assert "3 of their paths" in capsys.readouterr().err
    rollback()
    assert Source.find() == published
    assert Searcher.open(published).count == 150


def test_a_kill_while_a_copy_is_mended_loses_nothing(published: Source) -> None:
    draw(Path("more"), 3)
    add(["more"])
    count = Searcher.open(published).count
    published.directory.rename(published.directory.with_name(f".{published.directory.name}.99999.old"))
    publish()
    assert Searcher.open(published).count == count


def test_a_copy_published_once_more_begins_anew(published: Source, set_params: Any) -> None:
    draw(Path("more"), 3)
    add(["more"])
    before = Searcher.open(published).count
    shutil.copytree(config.INDEX, "index-before")
    set_params(index={"metric": "l2"})
    assert cli.main(["index"]) == 0
    publish()
    shutil.rmtree(published.directory)  # as a kill leaves it that comes while old copies are removed
    shutil.rmtree(config.INDEX)
    shutil.copytree("index-before", config.INDEX)
    publish()
    assert Source.find() == published
    assert Searcher.open(published).count == before
