"""The query and inspect commands, on the tiny workspace."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aecore import artifact, cli, config
from aecore.config import UserError, WorkFailed
from aecore.data.images import Images
from aecore.search.montage import CAPTION, CELL, LINE, PAD, draw_montage
from aecore.search.query import inspect, run

FILE = Path("data/raw/shapes/disc/003.png")


def asked(capsys: pytest.CaptureFixture[str], *arguments: Any, **named: Any) -> dict[str, Any]:
    run(*arguments, as_json=True, **named)
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_json_holds_what_the_docstring_says(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = Images.open()
    known = str(images.ids()[5])
    answer = asked(capsys, [str(FILE)], [known], 7)
    assert set(answer) == {"source", "metric", "where", "k", "queries"}
    index = artifact.read_manifest(config.INDEX, "index")
    digests = {**index.sources, "index": index.digest}
    assert answer["source"] == {"kind": "workspace", "path": ".", "digests": digests, "growth": None}
    assert (answer["metric"], answer["k"]) == ("cosine", 7)
    assert [(q["path"], q["id"]) for q in answer["queries"]] == [(str(FILE), None), (None, known)]
    for one in answer["queries"]:
        assert [n["rank"] for n in one["neighbours"]] == [1, 2, 3, 4, 5, 6, 7]
        for neighbour in one["neighbours"]:
            assert set(neighbour) == {"rank", "id", "path", "label", "label_name", "similarity", "distance"}
            assert isinstance(neighbour["id"], str)
            assert neighbour["similarity"] == pytest.approx(1 - neighbour["distance"], abs=2e-6)
            assert images.label_names[neighbour["label"]] == neighbour["label_name"] == neighbour["path"].split("/")[0]  # type: ignore[index]
        distances = [n["distance"] for n in one["neighbours"]]
        assert distances == sorted(distances)


def test_an_indexed_image_finds_itself_by_file_and_by_id(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_file = asked(capsys, [FILE], [], 3)["queries"][0]["neighbours"]
    assert by_file[0]["path"] == "disc/003.png"
    assert by_file[0]["distance"] < 1e-6
    by_id = asked(capsys, [], [by_file[0]["id"]], 3)["queries"][0]["neighbours"]
    assert by_id[0]["distance"] == 0
    assert [n["id"] for n in by_id] == [n["id"] for n in by_file]


def test_k_beyond_the_count_gives_every_image(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = asked(capsys, [FILE], [], 10_000)
    count = Images.open().count
    assert answer["k"] == count
    assert len({n["id"] for n in answer["queries"][0]["neighbours"]}) == count


def test_the_table_is_aligned_and_says_who_answers(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run([FILE, "data/raw/shapes/square/001.png"], [], 4)
    out, err = capsys.readouterr()
    assert "the workspace's artefacts" in err
    first, second = out.rstrip("\n").split("\n\n")
    assert first.splitlines()[0] == str(FILE)
    assert second.splitlines()[0] == "data/raw/shapes/square/001.png"
    head, *rows = first.splitlines()[1:]
    assert head.split() == ["rank", "similarity", "distance", "id", "label", "path"]
    assert len(rows) == 4
    assert len({row.index(row.split()[-1]) for row in rows} | {head.index("path")}) == 1


def test_a_file_name_that_is_not_utf8_is_printed(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copy(FILE, name)
    for as_json in (False, True):
        out = io.TextIOWrapper(io.BytesIO(), "utf-8", "strict")
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            run([name], [], 1, as_json=as_json, montage=Path("montage.png"))
        out.seek(0)
        told = out.read()
        shown = json.loads(told)["queries"][0]["path"] if as_json else told.splitlines()[0]
        assert shown == "caf\\xe9.png"
    assert Path("montage.png").is_file()


def test_the_montage_has_its_size_and_shows_the_images(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    item_id = str(Images.open().ids()[9])
    answer = asked(capsys, [FILE], [item_id], 5, montage=Path("out.png"))
    picture = Image.open("out.png")
    assert picture.format == "PNG"
    caption = CAPTION + LINE  # an id needs two lines
    assert picture.size == (
        2 * PAD + 6 * (CELL + PAD),
        PAD + 2 * (CELL + caption + PAD),
    )  # 12 pixels, eight times as large
    pixels = np.asarray(picture.convert("L"))
    expected = np.asarray(Image.open(FILE))
    np.testing.assert_array_equal(pixels[PAD : PAD + CELL : 8, PAD : PAD + CELL : 8], expected)
    x, y = 2 * PAD + CELL + PAD, PAD + CELL + caption + PAD
    row = Images.open().rows(np.array([9]))[0, 0]
    np.testing.assert_array_equal(pixels[y : y + CELL : 8, x : x + CELL : 8], row)
    assert answer["queries"][1]["neighbours"][0]["id"] == item_id
    captions = pixels[PAD + CELL : PAD + CELL + CAPTION, x : x + CELL]
    assert (captions < 128).sum() > 20


@pytest.mark.parametrize(
    ("shape", "cell", "height", "more"),
    [((3, 64, 32), 96, 128, 2), ((1, 200, 100), 100, 200, 2), ((3, 8, 300), 300, 8, 0)],
)
def test_montages_of_other_shapes(shape: tuple[int, ...], cell: int, height: int, more: int) -> None:
    lines = ["0.500", "a name that is much too long for one small cell"]
    picture = draw_montage([["query", "q.png"]], np.zeros((1, *shape), np.uint8), [[lines] * 2],
                                 np.zeros((1, 2, *shape), np.uint8))  # fmt: skip
    assert picture.size == (2 * PAD + 3 * (cell + PAD), PAD + height + CAPTION + more * LINE + PAD)


@pytest.mark.parametrize(("arguments", "message"), [
    (([], []), "nothing to look for"),
    (([FILE], [], 0), "-k is 0"),
    (([], ["12"]), "id 12 is not among .*aecore inspect"),
    (([], ["twelve"]), "'twelve' is not a number"),
    ((["nowhere.png"], []), "nowhere.png"),
    ((["params.yaml"], []), "params.yaml cannot be read as an image"),
    (([FILE], [], 3, False, Path("no/folder/out.png")), "no/folder/out.png cannot be written"),
])  # fmt: skip
def test_wrong_requests_name_what_is_wrong(arguments: tuple[Any, ...], message: str, workspace: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(*arguments)
    assert caught.value.exit_status == 2


def test_another_model_is_refused_naming_both_digests(workspace: Path, set_params: Callable[..., None]) -> None:
    old = artifact.read_manifest(config.MODEL, "model").digest[:12]
    set_params(train={"epochs": 1})
    assert cli.main(["train"]) == 0
    new = artifact.read_manifest(config.MODEL, "model").digest[:12]
    item_id = str(Images.open().ids()[0])
    for arguments in (([FILE], []), ([], [item_id])):
        with pytest.raises(WorkFailed, match=f"(?=.*{old})(?=.*{new})"):
            run(*arguments)


def test_a_missing_index_names_its_stage(workspace: Path) -> None:
    shutil.rmtree(config.INDEX)
    with pytest.raises(UserError, match="python -m aecore index"):
        run([FILE], [])


def test_inspect_lists_shows_and_saves(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = Images.open()
    inspect()
    out = capsys.readouterr().out
    assert out.startswith(f"{images.count} images in 4 dimensions, cosine, exact search")
    listed = re.findall(r"^ *(\d+)  \S", out, re.MULTILINE)
    assert listed == [str(i) for i in images.ids()[:10]]
    inspect(listed[3], Path("one.png"))
    out = capsys.readouterr().out
    assert re.search(rf"^id +{listed[3]}$", out, re.MULTILINE)
    np.testing.assert_array_equal(np.asarray(Image.open("one.png")), images.rows(np.array([3]))[0, 0])
    with pytest.raises(UserError, match="--id"):
        inspect(None, Path("one.png"))
    with pytest.raises(UserError, match="is not among"):
        inspect("7")


def test_index_stage_reports_speed_outside_the_artefact(workspace: Path) -> None:
    report = json.loads(Path("reports/index.json").read_text())
    assert set(report) == {"build_seconds", "bytes_per_vector", "latency_ms", "recall"}
    assert set(report["latency_ms"]) == {f"{way}_p{p}" for way in ("single", "batch_of_256") for p in (50, 95)}
    before = artifact.read_manifest(config.INDEX, "index")
    assert report["recall"] == before.facts["recall"]
    assert set(before.files) == {"index.faiss", "center.npy", "ids.npy"}
    assert cli.main(["index"]) == 0
    assert artifact.read_manifest(config.INDEX, "index") == before
