"""What was removed stays removed, whatever is published, rolled back and trained since."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aecore import cli
from aecore.config import UserError, WorkFailed
from aecore.data.decode import content_hash, content_id
from aecore.data.images import Images
from aecore.data.removed import Removals
from aecore.search.growth import growth_folder
from aecore.search.searcher import Searcher, Source
from aecore.serve import forget, segments
from aecore.serve.grow import add, remove, withdraw
from aecore.serve.publish import publish, rollback
from tests.serve import test_grow
from tests.serve.test_grow import draw

published = test_grow.published
LIST = Path("data/removed.csv")
REBUILD = ("prepare", "train", "embed", "index")


def run(*stages: str) -> None:
    for stage in stages:
        assert cli.main([stage]) == 0, stage


def id_of(file: Path) -> int:
    return content_id(content_hash(file.read_bytes()))


def answering() -> set[int]:
    """Ids of all images that answer now."""
    collection = Searcher.open(Source.find()).collection
    return set(collection.ids(np.concatenate(list(collection.blocks(64)))).tolist())


def same_picture(file: Path, target: Path) -> Path:
    """Another file with the same pixels."""
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.open(file).save(target)
    return target


DISC = Path("data/raw/shapes/disc")


def test_a_removal_holds_over_publish_retraining_rebuild_rollback_and_add(
    published: Source, set_params: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    gone = [id_of(DISC / f"00{n}.png") for n in range(3)]
    remove(gone)
    before = answering()
    assert len(before) == 147
    publish()
    assert answering() == before
    set_params(run={"seed": 1})
    run("train", "embed", "index")  # the workspace has them still
    capsys.readouterr()
    publish()
    assert "3 removed images kept away" in capsys.readouterr().out
    assert answering() == before
    run(*REBUILD)
    assert Images.open().count == 147
    publish()
    assert answering() == before
    rollback()
    assert answering() == before
    add([DISC])
    assert answering() == before
    rollback()
    assert Source.find() == published
    assert answering() == before


@pytest.mark.parametrize("prepare", [{"size": 8}, {"fit": "pad", "size": [12, 10]}, {"channels": 3}])
def test_a_removal_holds_for_every_file_of_the_picture_and_at_any_size(
    prepare: dict[str, Any], published: Source, set_params: Callable[..., None]
) -> None:
    (added,) = draw(Path("more"), 1)
    aliases = [same_picture(DISC / "001.png", Path("more/same.bmp")), same_picture(added, Path("more/again.tif"))]
    add(["more"])
    item = id_of(DISC / "001.png")
    remove([item, id_of(added)])
    assert forget.listed(Path()).ids == {item, id_of(added), *map(id_of, aliases)}
    shutil.copytree("more", "data/raw/shapes/more")
    same_picture(DISC / "001.png", Path("data/raw/shapes/never_seen.tif"))
    (DISC / "001.png").unlink()
    set_params(prepare=prepare)
    run(*REBUILD)
    publish()
    shown = {row["path"] for row in Images.open().items.to_pylist()}
    assert not {path for path in shown if "more" in path or "never" in path}
    add(["more"])
    assert len(answering()) == 149


@pytest.mark.parametrize("whether", ["answers still", "is gone with its segment"])
def test_withdrawing_lets_it_be_found_again(
    whether: str, published: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    files = draw(Path("more"), 8)
    add(["more"])
    before, wanted = answering(), id_of(files[2])
    remove([wanted] if whether == "answers still" else [id_of(file) for file in files])
    with pytest.raises(UserError, match="id 5 was not removed: `python -m aecore inspect --removed`"):
        withdraw([wanted, 5])
    assert wanted not in answering()
    capsys.readouterr()
    withdraw([wanted], as_json=True)
    said = capsys.readouterr()
    assert json.loads(said.out)["back"] == (whether == "answers still")
    if whether != "answers still":
        assert "aecore add FILE" in said.err
        add([files[2]])
        assert answering() == before - {id_of(file) for file in files} | {wanted}
    else:
        assert answering() == before
    assert wanted not in forget.listed(Path()).ids
    publish()
    assert wanted in answering()


def test_withdrawing_reaches_the_copies_that_are_kept(published: Source, set_params: Callable[..., None]) -> None:
    gone = id_of(DISC / "001.png")
    remove([gone])
    set_params(run={"seed": 1})
    run("train", "embed", "index")
    publish()
    withdraw([gone])
    assert gone in answering()
    rollback()
    assert gone in answering()


def test_removed_images_are_listed(published: Source, capsys: pytest.CaptureFixture[str]) -> None:
    alias = same_picture(DISC / "001.png", Path("more/same.bmp"))
    add([alias])
    gone = id_of(DISC / "001.png")
    remove([gone])
    capsys.readouterr()
    assert cli.main(["inspect", "--removed"]) == 0
    assert f"{gone}  2 files, prepared as 1x12x12 crop" in capsys.readouterr().out
    assert cli.main(["inspect", "--removed", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["removed"]
    assert told["id"] == str(gone)
    assert set(told["ids"]) == {str(gone), str(id_of(alias))}
    assert not {"001", "disc", "same"} & set(LIST.read_text().replace("/", ",").replace(".", ",").split(","))


def test_removing_twice_is_no_fault(published: Source, capsys: pytest.CaptureFixture[str]) -> None:
    gone = id_of(DISC / "001.png")
    remove([gone])
    remove([gone, id_of(DISC / "002.png")])
    assert "removed 1 image; 148 answer now" in capsys.readouterr().out


@pytest.mark.parametrize("then", ["publish", "the same again", "add", "remove another", "rollback"])
def test_a_kill_after_the_list_was_written_forgets_all_the_same(
    then: str, version: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (0, 1):
        version(number)
        publish()
    gone, other = id_of(DISC / "001.png"), id_of(DISC / "002.png")
    with monkeypatch.context() as patch:
        patch.setattr(segments, "commit", _killed)
        with pytest.raises(KeyboardInterrupt):
            remove([gone])
    assert gone in answering()
    {"publish": publish, "the same again": lambda: remove([gone]), "add": lambda: add(draw(Path("more"), 1)),
     "remove another": lambda: remove([other]), "rollback": rollback}[then]()  # fmt: skip
    assert gone not in answering()


def _killed(*arguments: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def version(workspace: Path) -> Callable[[int], str]:
    from tests.serve import test_publish

    made: Callable[[int], str] = test_publish.version.__wrapped__(workspace)
    return made


def test_a_kill_while_it_is_withdrawn_is_mended_by_the_same_command(
    published: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = id_of(DISC / "001.png")
    remove([gone])
    with monkeypatch.context() as patch:
        patch.setattr(forget.Ledger, "drop", _killed)
        with pytest.raises(KeyboardInterrupt):
            withdraw([gone])
    withdraw([gone])
    assert gone in answering()
    publish()
    assert gone in answering()


@pytest.mark.parametrize("place", ["data/removed.csv", "serving/removed.csv"])
def test_a_list_that_cannot_be_read_stops_everything_that_could_bring_somebody_back(
    place: str, published: Source
) -> None:
    remove([id_of(DISC / "001.png")])
    Path(place).write_text("image,id,pixel_hash,preparation\n<<<<<<< HEAD\n")
    before = answering()
    for change in (publish, lambda: add([DISC]), lambda: remove([id_of(DISC / "002.png")])):
        with pytest.raises(UserError, match=rf"{place}, line 2"):
            change()
    assert answering() == before
    assert cli.main(["prepare"]) == (2 if place == "data/removed.csv" else 0)


def test_a_list_that_went_back_with_git_is_brought_back(published: Source, capsys: pytest.CaptureFixture[str]) -> None:
    """`git checkout` of an earlier commit takes data/removed.csv with it; what is served keeps to its own list."""
    remove([id_of(DISC / "002.png")])
    before = LIST.read_text()
    remove([gone := id_of(DISC / "001.png")])
    written = LIST.read_text()
    LIST.write_text(before)
    run("prepare", "train", "embed", "index")
    assert Images.open().count == 149
    capsys.readouterr()
    publish()
    assert "data/removed.csv lacked 1 line of what was removed" in capsys.readouterr().err
    assert gone not in answering()
    assert LIST.read_text() == written


def test_a_copy_that_stands_alone_has_the_list(published: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = id_of(DISC / "001.png")
    shutil.copytree("serving", "elsewhere/serving", symlinks=True)
    here = Path.cwd()
    monkeypatch.chdir("elsewhere")
    remove([gone])
    assert gone in Removals.read(Path("serving/removed.csv")).ids
    assert not Path("data").exists()
    withdraw([gone])
    remove([gone])
    monkeypatch.chdir(here)
    shutil.rmtree("serving")
    shutil.copytree("elsewhere/serving", "serving", symlinks=True)  # back in the project
    publish()
    assert gone in Removals.read(LIST).ids
    assert gone not in answering()


def test_what_was_removed_before_there_was_a_list_is_listed(published: Source, set_params: Callable[..., None]) -> None:
    gone = [id_of(DISC / f"00{n}.png") for n in range(2)]
    remove(gone)
    for path in (LIST, Path("serving/removed.csv")):
        path.unlink()
    set_params(run={"seed": 1})
    run("train", "embed", "index")
    publish()
    assert forget.listed(Path()).ids == set(gone)
    assert not answering() & set(gone)


def test_an_index_of_none_is_not_published(published: Source, set_params: Callable[..., None]) -> None:
    """Who was left is removed where the next workspace has nobody else."""
    draw(Path("more"), 2)
    add(["more"])
    remove([], "split <> 'added'")
    set_params(index={"metric": "l2"})
    run("index")
    shutil.rmtree(growth_folder(published.directory))
    with pytest.raises(WorkFailed, match=r"all images of serving/.* have been removed.*--withdraw"):
        publish()
    assert Source.find() == published


def test_a_publication_that_fails_unhides_nothing(published: Source, set_params: Callable[..., None]) -> None:
    """The copy that is served is not mended by one that is not switched to."""
    files = draw(Path("more"), 1)
    add(["more"])
    files[0].unlink()
    remove([gone := id_of(DISC / "001.png")])
    file = growth_folder(published.directory) / "current/base.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    set_params(prepare={"size": 8})
    run(*REBUILD)
    for _ in range(2):
        with pytest.raises(WorkFailed):
            publish()
    file.write_bytes(content)
    assert gone not in answering()
    publish(leave_behind=True)
    assert gone not in answering()


def test_mending_is_killed_before_the_list_is_enforced(published: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    remove([gone := id_of(DISC / "001.png")])
    (growth_folder(published.directory) / "current/base.npy").write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(forget.Ledger, "enforce", _killed)
        with pytest.raises(KeyboardInterrupt):
            publish()
    assert gone not in answering()


def test_the_list_only_grows_while_it_is_enforced(published: Source, set_params: Callable[..., None]) -> None:
    """An image that goes since another file of its picture is listed is listed itself, also by a later removal."""
    alias = same_picture(DISC / "001.png", Path("data/raw/shapes/disc/same.bmp"))
    run(*REBUILD)
    publish()
    both = {id_of(alias), id_of(DISC / "001.png")}
    item = (both & answering()).pop()
    (other,) = both - {item}
    LIST.write_text(f"image,id,pixel_hash,preparation\n{other},{other},,3x40x40 crop\n")
    remove([id_of(DISC / "002.png")])
    assert both <= forget.listed(Path()).ids
    assert item not in answering()


def test_the_workspace_keeps_to_the_list_too(published: Source, capsys: pytest.CaptureFixture[str]) -> None:
    remove([gone := id_of(DISC / "001.png")])
    shutil.rmtree("serving")
    assert len(answering()) == 149
    assert gone not in answering()
    capsys.readouterr()
    assert cli.main(["query", str(DISC / "001.png"), "-k", "149", "--json"]) == 0
    assert str(gone) not in capsys.readouterr().out


def test_another_file_of_the_picture_stays_away_from_a_copy_of_another_size(
    published: Source, set_params: Callable[..., None]
) -> None:
    """What is served at one size is removed; an earlier copy, of another, has the picture under another id."""
    earlier = id_of(DISC / "001.png")
    now = same_picture(DISC / "001.png", Path("data/raw/shapes/disc/tagged.bmp"))
    (DISC / "001.png").unlink()
    set_params(prepare={"size": 8})
    run(*REBUILD)
    publish()
    remove([id_of(now)])
    rollback()
    assert earlier not in answering()


def test_an_older_folder_lists_what_any_copy_has_removed_and_nobody_added_again(
    published: Source, set_params: Callable[..., None]
) -> None:
    """A program without a list brought the removed back with the next copy, and had no other way to take one back."""
    gone, again = id_of(DISC / "001.png"), id_of(DISC / "002.png")
    back = same_picture(DISC / "002.png", Path("more/same.bmp"))

    def without_a_list(step: Callable[[], None]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(forget, "_tombstones", lambda root: set())
            step()
        for path in (LIST, Path("serving/removed.csv")):
            path.unlink(missing_ok=True)

    without_a_list(lambda: remove([gone, again]))
    set_params(run={"seed": 1})
    run("train", "embed", "index")
    without_a_list(publish)
    without_a_list(lambda: remove([again]))
    without_a_list(lambda: add([back]))
    before = answering()
    assert {gone, id_of(back)} <= before
    (other,) = draw(Path("others"), 1)
    add([other])
    assert answering() == before - {gone} | {id_of(other)}
    rollback()
    assert gone not in answering()


def test_no_image_answers_twice_after_it_is_withdrawn(published: Source) -> None:
    remove([first := id_of(DISC / "001.png")])
    withdraw([first])
    remove([first])
    for path in (LIST, Path("serving/removed.csv")):
        path.write_text("image,id,pixel_hash,preparation\n")
    add([other := same_picture(DISC / "001.png", Path("more/same.bmp"))])
    remove([id_of(other)])
    LIST.write_text(LIST.read_text() + f"{first},{first},,1x12x12 crop\n")
    withdraw([id_of(other), first])
    assert len({first, id_of(other)} & answering()) == 1


def test_a_picture_whose_files_are_withdrawn_together_comes_back(
    published: Source, set_params: Callable[..., None]
) -> None:
    earlier = id_of(DISC / "001.png")
    now = same_picture(DISC / "001.png", Path("data/raw/shapes/disc/tagged.bmp"))
    (DISC / "001.png").unlink()
    run(*REBUILD)
    publish()
    remove([id_of(now)])
    rollback()
    assert earlier not in answering()
    withdraw([id_of(now)])
    assert not forget.listed(Path()).rows
    assert earlier in answering()


def test_a_withdrawal_completes_what_a_kill_left_of_another_s_removal(
    published: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = id_of(DISC / "001.png"), id_of(DISC / "002.png")
    remove([first])
    with monkeypatch.context() as patch:
        patch.setattr(segments, "commit", _killed)
        with pytest.raises(KeyboardInterrupt):
            remove([other])
    withdraw([first])
    assert first in answering()
    assert other not in answering()


def test_one_of_two_removed_files_of_a_picture_comes_back(published: Source) -> None:
    """A folder of a program without a list may hold the picture in the base and, added again, in a segment."""
    raw, bmp = DISC / "001.png", same_picture(DISC / "001.png", Path("more/x.bmp"))
    searcher = Searcher.open(published)
    segments.retire(published, searcher, searcher.collection.positions(np.array([id_of(raw)])))
    del searcher
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forget, "_tombstones", lambda root: set())
        add([bmp, *draw(Path("others"), 9, seed=9)])
    for path in (LIST, Path("serving/removed.csv")):
        path.unlink(missing_ok=True)
    add([raw])
    assert len({id_of(raw), id_of(bmp)} & answering()) == 1
    remove([id_of(bmp)])
    withdraw([id_of(bmp)])
    assert len({id_of(raw), id_of(bmp)} & answering()) == 1


def test_a_third_file_of_the_picture_stays_away_from_a_copy_of_another_size(
    published: Source, set_params: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The image's own file is gone when it is removed, and that of another one of its files is there."""
    set_params(prepare={"size": 8})
    run(*REBUILD)
    publish()
    (png,) = draw(Path("more"), 1)
    bmp, tif = same_picture(png, Path("more/a.bmp")), same_picture(png, Path("more/a.tiff"))
    add([tif])
    rollback()
    add([png])
    add([bmp])
    png.unlink()
    remove([id_of(bmp)])
    publish()
    assert id_of(tif) not in answering()
    capsys.readouterr()
    assert cli.main(["inspect", "--removed"]) == 0
    assert "1 removed image, " in capsys.readouterr().out
