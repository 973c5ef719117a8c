"""The commands `add` and `remove`, on a copy that was published by the program itself."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aecore import artifact, cli, config
from aecore.config import UserError, WorkFailed
from aecore.embedding import Encoder
from aecore.search import growth
from aecore.search.searcher import Searcher, Source
from aecore.serve import forget, grow, growing, lock
from aecore.serve.grow import add, remove, withdraw
from aecore.serve.publish import publish, rollback

SIDE = 12


def draw(folder: Path, count: int, seed: int = 5) -> list[Path]:
    """Write noisy pictures, each its own."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths = np.random.default_rng(seed), []
    for number in range(count):
        paths.append(folder / f"{number:03d}.png")
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), np.uint8)).save(paths[-1])
    return paths


@pytest.fixture
def published(workspace: Path, capsys: pytest.CaptureFixture[str]) -> Source:
    publish()
    capsys.readouterr()
    return Source.find()


def generation(source: Source) -> Any:
    return source.growth(artifact.read_manifest(source.path("index"), "index"))


def test_what_was_added_finds_itself_and_is_told_apart(published: Source, capsys: pytest.CaptureFixture[str]) -> None:
    paths = draw(Path("more/disc"), 3) + draw(Path("more/oval"), 2, seed=6)
    before = Searcher.open(published).count
    add(["more"], as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert {key: answer[key] for key in ("added", "known", "duplicates", "rejected", "images")} == {
        "added": 5, "known": 0, "duplicates": 0, "rejected": [], "images": before + 5
    }  # fmt: skip
    assert answer["source"]["growth"]["added"] == 5
    searcher = Searcher.open(published)
    codes = Encoder.load(published.path("model"), "cpu").encode_files(paths)
    found = searcher.search(codes, 1)
    assert (found.distance < 1e-6).all()
    items = searcher.collection.items(searcher.collection.positions(found.ids[:, 0]))
    assert [item["path"] for item in items] == [str(path) for path in paths]
    assert [item["label_name"] for item in items] == ["disc"] * 3 + ["oval"] * 2
    assert [item["label"] for item in items] == [0] * 3 + [None] * 2
    assert {item["split"] for item in items} == {"added"}
    assert cli.main(["query", str(paths[0]), "--where", "split = 'added'", "-k", "9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["k"] == 5
    for command in ("outliers", "duplicates", "inspect", "tour"):
        assert cli.main([command]) == 0, command


def test_the_label_of_a_tree_that_comes_in_splits_lies_below_them(published: Source) -> None:
    def labels(folder: str) -> dict[str, str | None]:
        add([folder])
        collection = Searcher.open(published).collection
        items = collection.items(np.concatenate(list(collection.blocks(999))))
        return {i["path"].rpartition("/")[0]: i["label_name"] for i in items if i["path"].startswith(f"{folder}/")}

    for number, name in enumerate(("train/disc", "Test/oval", "val", "validation/oval/disc")):
        draw(Path("more") / name, 2, seed=20 + number)
    assert labels("more") == {
        "more/train/disc": "disc", "more/Test/oval": "oval", "more/val": None, "more/validation/oval/disc": "disc"
    }  # fmt: skip
    draw(Path("test_only/test/oval"), 2, seed=30)
    assert labels("test_only") == {"test_only/test/oval": "oval"}
    with zipfile.ZipFile("more.zip", "w") as packed:
        for name in ("train/disc", "test/oval"):
            for path in draw(Path("packed") / name, 2, seed=len(name) + 50):
                packed.write(path, path)
    assert labels("more.zip") == {"more.zip/packed/train/disc": "disc", "more.zip/packed/test/oval": None}
    for number, name in enumerate(("train/oval", "lorry/red")):  # a train is a vehicle, too
        draw(Path("others") / name, 2, seed=40 + number)
    assert labels("others") == {"others/train/oval": "train", "others/lorry/red": "lorry"}


def test_folders_of_splits_are_labels_to_add_where_they_are_in_what_is_published(
    workspace: Path, set_params: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data/raw/shapes/disc").rename("data/raw/shapes/train")
    Path("data/raw/shapes/square").rename("data/raw/shapes/test")
    shutil.rmtree("data/raw/shapes/stripes")
    set_params(data={"split_folders": "never"})
    for stage in ("prepare", "train", "embed", "index"):
        assert cli.main([stage]) == 0
    assert "named after splits, and taken for labels" in capsys.readouterr().err
    publish()
    draw(Path("more/train/round"), 2)
    add(["more"])
    searcher = Searcher.open(Source.find())
    items = searcher.collection.items(searcher.matching("split = 'added'"))
    assert [item["label_name"] for item in items] == ["train", "train"]


def test_what_is_there_is_passed_over(published: Source, capsys: pytest.CaptureFixture[str]) -> None:
    draw(Path("more"), 4)
    shutil.copy("data/raw/shapes/disc/000.png", "more/known.png")
    Image.open("data/raw/shapes/disc/001.png").save("more/same_pixels.bmp")
    shutil.copy("more/000.png", "more/twice.png")
    (Path("more") / "broken.png").write_text("no image")
    add(["more"])
    said = capsys.readouterr()
    assert "added 4 images (1 there already, 2 with the pixels of another, 1 rejected)" in said.out
    assert "passed over more/broken.png: not an image" in said.err
    before = generation(published)
    add(["more/000.png", "more"], as_json=True)
    answer = json.loads(capsys.readouterr().out)
    assert (answer["added"], answer["known"], answer["duplicates"]) == (0, 7, 1)
    assert generation(published) == before  # nothing was written for nothing


def test_archives_and_single_files_in_several_steps(published: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grow, "BATCH", 4)
    with zipfile.ZipFile("more.zip", "w") as packed:
        for path in draw(Path("packed"), 9):
            packed.write(path, f"square/{path.name}")
    single = draw(Path("single"), 3, seed=8)
    before = Searcher.open(published).count
    add(["more.zip", *single])
    searcher = Searcher.open(published)
    assert searcher.count == before + 12
    items = searcher.collection.items(np.concatenate(list(searcher.collection.blocks(99)))[-12:])
    assert {i["label_name"] for i in items if i["path"].startswith("more.zip/square/")} == {"square"}
    assert {i["label_name"] for i in items if i["path"].startswith("single/")} == {None}


def test_removed_images_are_not_found_and_may_come_back(published: Source, capsys: pytest.CaptureFixture[str]) -> None:
    paths = draw(Path("more"), 8)
    add(["more"])
    searcher = Searcher.open(published)
    base = searcher.base.ids[:3].tolist()
    before = searcher.count
    remove([str(i) for i in base])
    remove([], "split = 'added' and path like '%/00%' and path not like '%/007%'", as_json=True)
    assert '"removed": 7' in capsys.readouterr().out
    searcher = Searcher.open(published)
    assert searcher.count == before - 3 - 7
    codes = Encoder.load(published.path("model"), "cpu").encode_files(paths)
    assert set(searcher.search(codes, searcher.count).ids.ravel().tolist()).isdisjoint(base)
    with pytest.raises(UserError, match=f"id {base[0]} is not among the {before - 10} indexed images"):
        searcher.collection.item(base[0])
    capsys.readouterr()
    add(["more", "data/raw/shapes"])
    assert "(148 there already, 10 removed before); 148 answer now" in capsys.readouterr().out
    withdraw([str(i) for i in base])
    assert "withdrew 3 removals; 3 found again" in capsys.readouterr().out
    withdraw([row.id for row in forget.listed(Path()).rows])
    add(["more", "data/raw/shapes"])
    assert Searcher.open(published).count == before


def test_an_unknown_id_removes_nothing(published: Source) -> None:
    known = str(Searcher.open(published).base.ids[0])
    for ids, where, message in (
        ([known, "5"], None, "id 5 is not among"),
        ([known, "x"], None, "'x' is not a number"),
        ([], None, "nothing to remove"),
        ([known], "label = 99", "no image meets"),
        ([known], "nonsense = 1", "Columns: id"),
        ([], "true", "all the images there are"),
    ):
        with pytest.raises(UserError, match=message):
            remove(ids, where)
    assert generation(published).number == 0


def test_impossible_additions_are_refused(published: Source) -> None:
    Path("empty").mkdir()
    for name in ("text.txt", "bad.zip"):
        Path(name).write_text("no image")
    Path("good").mkdir()
    draw(Path("good"), 2)
    for paths, message in (
        (["good", "nowhere"], "nowhere is not there"),
        (["good", "empty"], "^empty is an empty folder"),
        (["good", "bad.zip"], r"^bad\.zip is not a zip or tar archive"),
        (["text.txt"], r"no file of text\.txt .*text\.txt: "),
    ):
        with pytest.raises(UserError, match=message):
            add(paths)
    assert generation(published).number == 0


def test_a_named_file_that_is_no_image_is_told(published: Source, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.txt").write_text("no image")
    add([*draw(Path("more"), 1), "text.txt"])
    assert "passed over text.txt: " in capsys.readouterr().err


@pytest.mark.parametrize("where", ["append", "tidied"])
def test_what_interrupts_it_is_told_with_what_was_added(
    where: str, published: Source, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(grow, "BATCH", 4)
    steps, step = [], getattr(growing, where)

    def full(*arguments: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            raise OSError(28, "No space left on device")
        return step(*arguments)

    monkeypatch.setattr(growing, where, full)
    draw(Path("more"), 12)
    before = Searcher.open(published).count
    with pytest.raises(OSError, match="No space"):
        add(["more"])
    added = 8 if where == "append" else 12  # it is full when segments are merged: the images are in
    assert f"{added} images added before this, for good" in capsys.readouterr().err
    assert Searcher.open(published).count == before + added


def test_an_attribute_of_another_type_is_refused_before_anything_is_written(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [path.relative_to("data/raw/shapes") for path in sorted(Path("data/raw/shapes").rglob("*.png"))]
    table = ["path,round", *(f"{name},{'true' if 'disc' in str(name) else 'false'}" for name in names)]
    Path("data/raw/shapes/attributes.csv").write_text("\n".join(table) + "\n")
    for stage in ("prepare", "train", "embed", "index"):
        assert cli.main([stage]) == 0
    publish()
    published = Source.find()
    draw(Path("more"), 2)
    Path("more/attributes.csv").write_text("path,round,new\n000.png,very,x\n001.png,true,y\n")
    with pytest.raises(UserError, match=r"more/attributes\.csv: round is an attribute .*'very'"):
        add(["more"])
    assert generation(published).number == 0
    Path("more/attributes.csv").write_text("path,round,new\n000.png,false,x\n001.png,true,y\n")
    capsys.readouterr()
    add(["more"])
    assert "no attribute new: left out" in capsys.readouterr().err
    searcher = Searcher.open(published)
    assert len(searcher.matching("split = 'added' and \"attribute.round\"")) == 1


def test_an_attribute_of_another_case_is_the_published_one(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [path.relative_to("data/raw/shapes") for path in sorted(Path("data/raw/shapes").rglob("*.png"))]
    table = ["path,Größe,round", *(f"{name},klein,{str('disc' in str(name)).lower()}" for name in names)]
    Path("data/raw/shapes/attributes.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    for stage in ("prepare", "train", "embed", "index"):
        assert cli.main([stage]) == 0
    publish()
    draw(Path("more"), 2)
    named = "path,ROUND,gro\u0308ße\n000.png,false,groß\n./001.png,true,klein\n"
    Path("more/Attributes.CSV").write_text(named, encoding="utf-8")
    capsys.readouterr()
    add(["more"])
    assert "left out" not in capsys.readouterr().err
    searcher = Searcher.open(Source.find())
    assert len(searcher.matching("split = 'added' and \"attribute.round\" and \"attribute.Größe\" = 'klein'")) == 1
    assert len(searcher.matching("split = 'added' and not \"attribute.round\" and \"attribute.Größe\" = 'groß'")) == 1
    Path("more/Attributes.CSV").write_text("path,ROUND,Round\n000.png,false,true\n001.png,true,true\n")
    with pytest.raises(UserError, match=r"Attributes\.CSV has columns 'ROUND' and 'Round', which are one to SQL"):
        add(["more"])


def test_a_workspace_does_not_grow(workspace: Path) -> None:
    draw(Path("more"), 1)
    for change in (lambda: add(["more"]), lambda: remove(["5"])):
        with pytest.raises(UserError, match=r"nothing is published.*aecore publish"):
            change()


def test_one_changes_at_a_time(published: Source) -> None:
    draw(Path("more"), 1)
    with lock.locked(Path("serving")), pytest.raises(WorkFailed, match=f"process {os.getpid()} is changing serving"):
        add(["more"])


def test_a_model_trained_again_is_refused_naming_both_sides(published: Source, set_params: Any) -> None:
    draw(Path("more"), 1)
    set_params(run={"seed": 1})
    cli.main(["train"])
    old, new = (artifact.read_manifest(path, "model") for path in (published.path("model"), config.MODEL))
    shutil.rmtree(published.path("model"))
    shutil.copytree(config.MODEL, published.path("model"))
    for change in (lambda: add(["more"]), lambda: remove(["5"]), lambda: Searcher.open(published)):
        with pytest.raises(WorkFailed, match=rf"(?=.*{old.digest[:12]})(?=.*{new.digest[:12]}).*aecore publish"):
            change()
    assert generation(published).number == 0


def test_growth_belongs_to_its_copy(published: Source, set_params: Any, capsys: pytest.CaptureFixture[str]) -> None:
    draw(Path("more"), 3)
    add(["more"])
    grown = Searcher.open(published).count
    set_params(run={"seed": 1})
    for stage in ("train", "embed", "index"):
        assert cli.main([stage]) == 0
    capsys.readouterr()
    publish()
    assert "3 images added before and carried over" in capsys.readouterr().out
    assert Searcher.open(Source.find()).count == grown
    rollback()
    assert Searcher.open(Source.find()).count == grown
    (path,) = growth.growth_folder(published.directory).glob("segments/*/embeddings/vectors-00000.npy")
    publish()
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    with pytest.raises(WorkFailed, match=r"vectors-00000\.npy differs"):
        rollback()


MORE = 96
KILLED = "from aecore.serve import grow; grow.BATCH = 6; grow.add(['more'])"


@pytest.mark.slow
def test_add_killed_at_twenty_random_moments_loses_and_corrupts_nothing(published: Source) -> None:
    draw(Path("more"), MORE)
    rng, base = random.Random(0), Searcher.open(published).count
    command = [sys.executable, "-c", KILLED]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.monotonic() - started
    expected = Searcher.open(published)
    queries = expected.collection.vectors(np.arange(0, expected.count, 3))
    answers = expected.search(queries, 10)
    shutil.rmtree(growth.growth_folder(published.directory))
    kills, before, numbers = 0, base, set()
    while kills < 20:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        folder = growth.growth_folder(published.directory)
        wanted = growth._current(folder) + rng.randrange(6)
        while process.poll() is None and growth._current(folder) < wanted:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, whole / 8))  # some moment of a step, however fast this machine is just now
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        searcher = Searcher.open(published)
        growth.verify(published.directory, searcher.manifest)
        assert before <= searcher.count <= base + MORE
        found = searcher.search(searcher.collection.vectors(np.arange(0, base, 7)), 1)
        assert (found.distance == 0).all()
        before = searcher.count
        numbers.add(before)
        if before == base + MORE:  # done: from the start again
            shutil.rmtree(growth.growth_folder(published.directory))
            before = base
    del searcher  # it holds its generation
    assert len(numbers) > 3  # kills fell between steps, not only before the first or after the last
    subprocess.run(command, check=True, capture_output=True)
    again = Searcher.open(published)
    assert again.count == base + MORE
    np.testing.assert_array_equal(again.search(queries, 10).ids, answers.ids)
    np.testing.assert_array_equal(again.search(queries, 10).distance, answers.distance)
    left = {path.name for path in growth.growth_folder(published.directory).iterdir()}
    assert len(left) <= 4, left
