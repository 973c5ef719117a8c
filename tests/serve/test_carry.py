"""What was added goes with the next copy, or is listed."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aecore import cli
from aecore.config import WorkFailed
from aecore.data.images import Images
from aecore.embedding import Encoder
from aecore.search.growth import growth_folder
from aecore.search.searcher import Searcher, Source
from aecore.serve import carry, forget, segments
from aecore.serve.grow import add, remove, withdraw
from aecore.serve.publish import publish, rollback
from tests.serve import test_grow
from tests.serve.test_forget import DISC, REBUILD, answering, id_of, run, same_picture
from tests.serve.test_grow import draw

published = test_grow.published


@pytest.mark.parametrize("packed", [False, True])
def test_additions_go_with_the_next_copy_by_the_pixels_that_are_kept(
    packed: bool, published: Source, set_params: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    files = draw(Path("more/oval"), 3) + draw(Path("more/disc"), 2, seed=8)
    if packed:
        with zipfile.ZipFile("more.zip", "w") as archive:
            for file in files:
                archive.write(file, str(file.relative_to("more")))
    add(["more.zip" if packed else "more"])
    before = answering()
    codes = Searcher.open(published).collection.vector(id_of(files[0]))
    ids = [id_of(file) for file in files]
    shutil.rmtree("more")
    Path("more.zip").unlink(missing_ok=True)
    set_params(run={"seed": 1})
    run("train", "embed", "index")
    capsys.readouterr()
    publish()
    assert "5 images added before and carried over" in capsys.readouterr().out
    assert answering() == before
    searcher = Searcher.open(Source.find())
    rows = searcher.collection.items(searcher.collection.positions(np.array(ids)))
    assert [row["label_name"] for row in rows] == [None if packed else "oval"] * 3 + ["disc"] * 2
    assert {row["split"] for row in rows} == {"added"}
    positions = searcher.collection.positions(np.array(ids))
    encoder = Encoder.load(Source.find().path("model"), "cpu")
    new = encoder.encode(searcher.collection.pixels(positions))
    np.testing.assert_allclose(searcher.collection.vectors(positions), new, rtol=1e-4, atol=1e-5)
    assert not np.allclose(searcher.collection.vector(ids[0]), codes, rtol=1e-3)
    publish()
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("packed", [False, True])
def test_additions_go_with_a_copy_of_another_size_by_their_files(
    packed: bool, published: Source, set_params: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carry, "BATCH", 2)
    files = draw(Path("more/in"), 5)
    if packed:
        with zipfile.ZipFile("more.zip", "w") as archive:
            for file in files:
                archive.write(file, str(file.relative_to("more")))
        Path("more").rename("elsewhere")
    add(["more.zip" if packed else "more"])
    before = answering()
    set_params(prepare={"size": 8})
    run(*REBUILD)
    publish()
    assert answering() == before
    searcher = Searcher.open(Source.find())
    assert searcher.collection.shape == (1, 8, 8)
    encoder = Encoder.load(Source.find().path("model"), "cpu")
    there = [Path("elsewhere/in" if packed else "more/in") / file.name for file in files]
    for file, code in zip(there, encoder.encode_files(there), strict=True):
        assert searcher.search(code[None], 1).ids[0, 0] == id_of(file)


def test_what_cannot_go_with_it_stops_the_publication_and_is_listed(
    published: Source, set_params: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    files = draw(Path("more"), 4)
    with zipfile.ZipFile("more.zip", "w") as archive:
        archive.writestr("a.png", draw(Path("b"), 1, seed=77)[0].read_bytes())
    add(["more", "more.zip"])
    before = answering()
    files[0].unlink()
    draw(Path("more/x"), 1, seed=3)[0].replace(files[1])  # another picture under its name
    files[2].write_text("damaged")
    Path("more.zip").write_bytes(Path("more.zip").read_bytes()[:40])
    set_params(prepare={"size": 8})
    run(*REBUILD)
    capsys.readouterr()
    assert cli.main(["publish"]) == 1
    said = capsys.readouterr().err
    assert "more.zip/a.png, more/000.png, more/001.png, more/002.png" in said
    assert "--leave-behind" in said
    assert Source.find() == published
    assert answering() == before
    assert cli.main(["publish", "--leave-behind"]) == 0
    assert "4 images" in capsys.readouterr().err
    assert len(answering()) == len(before) - 4
    assert id_of(files[3]) in answering()
    listed = Path(f"serving/behind-{published.directory.name}.txt").read_text().split()
    assert listed == ["more.zip/a.png", "more/000.png", "more/001.png", "more/002.png"]


def test_what_the_workspace_has_by_now_is_not_carried_over(
    published: Source, set_params: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    files = draw(Path("more"), 3)
    add(["more"])
    before = answering()
    shutil.copy(files[0], "data/raw/shapes/disc/new.png")
    same_picture(files[1], Path("data/raw/shapes/disc/same.bmp"))
    run(*REBUILD)
    capsys.readouterr()
    publish()
    assert "; 1 image added before and carried over" in capsys.readouterr().out
    assert answering() == before - {id_of(files[1])} | {id_of(Path("data/raw/shapes/disc/same.bmp"))}
    remove([id_of(Path("data/raw/shapes/disc/same.bmp"))])
    assert id_of(files[1]) in forget.listed(Path()).ids  # a file of that picture too


def test_a_file_that_was_added_as_another_s_copy_stays_when_that_one_goes(
    published: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = same_picture(DISC / "001.png", Path("more/same.bmp"))
    add([copy])
    (DISC / "001.png").unlink()
    run(*REBUILD)
    copy.unlink()
    capsys.readouterr()
    publish()
    assert "1 image added before and carried over" in capsys.readouterr().out
    assert id_of_pixels(published, "001.png") in shown_pixels()


def id_of_pixels(copy: Source, name: str) -> str:
    rows = Images.open(copy.path("data")).items.to_pylist()
    return str(next(row["pixel_hash"] for row in rows if row["path"] == f"disc/{name}"))


def shown_pixels() -> set[str]:
    collection = Searcher.open(Source.find()).collection
    positions = np.concatenate(list(collection.blocks(64)))
    return {row["pixel_hash"] for row in collection.items(positions, ["pixel_hash"])}


def test_one_file_of_a_picture_is_enough_to_carry_it_over(published: Source, set_params: Callable[..., None]) -> None:
    (first,) = draw(Path("more"), 1)
    other = same_picture(first, Path("more/same.bmp"))
    add(["more"])
    item = (answering() & {id_of(first), id_of(other)}).pop()
    (first if id_of(first) == item else other).unlink()
    set_params(prepare={"size": 8})
    run(*REBUILD)
    publish()
    assert len(answering()) == 151


def test_a_kill_while_additions_are_carried_over_loses_nothing(
    published: Source, set_params: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carry, "BATCH", 2)
    draw(Path("more"), 7)
    add(["more"])
    before = answering()
    set_params(run={"seed": 1})
    run("train", "embed", "index")
    steps, real = [], segments.commit

    def killed(*arguments: Any) -> None:
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(segments, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            publish()
    assert Source.find() == published
    publish()
    assert Source.find() != published
    assert answering() == before


@pytest.mark.parametrize("harm", ["index/manifest.json", "generation"])
def test_a_copy_whose_additions_cannot_be_told_is_not_left_in_silence(
    harm: str, published: Source, set_params: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    draw(Path("more"), 3)
    add(["more"])
    set_params(run={"seed": 1})
    run("train", "embed", "index")
    if harm == "generation":
        shutil.rmtree((growth_folder(published.directory) / "current").resolve())
        with pytest.raises(WorkFailed, match=r"cannot all be carried over.*--leave-behind"):
            publish()
        publish(leave_behind=True)  # its segments are set aside, and that is said
        assert "moved to" in capsys.readouterr().err
        return
    file = published.directory / harm
    file.unlink()
    file.write_text("{}")
    with pytest.raises(WorkFailed, match=r"cannot all be carried over.*--leave-behind"):
        publish()
    publish(leave_behind=True)
    assert "it stays behind" in capsys.readouterr().err


def test_rollback_says_what_was_added_since(
    published: Source, set_params: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(run={"seed": 1})
    run("train", "embed", "index")
    publish()
    add(draw(Path("more"), 2))
    capsys.readouterr()
    rollback()
    assert "2 images added to" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["publish", "rollback"])
def test_a_file_whose_image_has_left_is_not_taken_for_there(
    how: str, published: Source, set_params: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its image was withdrawn after its segment had been written anew: the file alone is known to the copy."""
    (png,) = draw(Path("more"), 1)
    bmp = same_picture(png, Path("more/a.bmp"))
    add([png])
    add([bmp])
    remove([id_of(png)])
    withdraw([id_of(png)])
    assert id_of(png) not in answering()
    shutil.copytree("artifacts", "before/artifacts")
    shutil.copytree("models", "before/models")
    set_params(run={"seed": 1})
    run("train", "embed", "index")
    publish()
    add([bmp])
    capsys.readouterr()
    if how == "rollback":
        rollback()
        assert "1 image added to" in capsys.readouterr().err
        return
    for place in ("artifacts", "models"):
        shutil.rmtree(place)
        shutil.copytree(f"before/{place}", place)
    publish()
    assert Source.find() == published
    assert id_of(bmp) in answering()
