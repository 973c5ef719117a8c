"""Every command, with every option, on collections whose labels are unlike most: none, one, one an image.

A new command, or a new option of one, fails here until it is called in CALLS.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from aecore import cli
from aecore.data.images import Images
from tests.conftest import ROOT, SMALL, write_params

COUNT = 40
RAW = Path("data/raw/photographs")
COLLECTIONS: dict[str, Callable[[int], str]] = {
    "none": lambda number: "",
    "an image": lambda number: f"label {number}",
    "one": lambda number: "only",
    "some": lambda number: "" if number % 2 else f"kind {number % 3}",
    "a lone one": lambda number: "lone" if number == 5 else "common",
    "a batch": lambda number: "monday" if number % 3 else "tuesday",
}
"""What the labels are -> the folder of an image."""

CALLS: dict[str, list[str]] = {
    **{stage: [""] for stage in cli.STAGES},
    "fetch": [""],
    "check": ["", "--json"],
    "inspect": ["", "--json", "--id {a}", "--id {a} --png i.png --json", "--removed", "--removed --json"],
    "query": [
        "{file}", "{file} {other} -k 200", "--id {a} --id {b} -k 3 --json", "{file} --id {a} --montage m.png",
        "{file} --percentile", "--id {a} --percentile --json", "--id {a} --where split='train'",
        "--id {a} --where label_name='only'", "--id {a} --where label>=0 --json", "--parquet n.parquet --all",
        "--parquet n.parquet {folder} -k 2 --json", "--parquet n.parquet --ids n.parquet --id {a}",
    ],
    "duplicates": ["", "--json", "--distance 0", "--distance 3 --montage m.png", "--percentile 90 -n 1"],
    "outliers": ["", "-n 2 --json", "-n 900 --montage m.png"],
    "representatives": [
        "", "-n 1", "-n 3 --by coverage --json", "-n 2 --where split='test'", "-n 30 --montage m.png",
        "-n 1 --where label>=0",
    ],
    "sample": ["", "-n 2 --json --seed 1", "-n 3 --from prior -o s.png", "-n 3 --from mixture --output s.png"],
    "interpolate": ["{a} {b}", "{file} {b} --steps 2 -o w.png", "{file} {other} --output w.png", "{a} {a}"],
    "compress": ["{file} {other} -o c.aec", "{file} --bits 2 --output c.aec --json"],
    "decompress": ["c.aec -o came-back", "c.aec --output came-back-too --json"],
    "finetune": ["--labels 1 2 --seeds 1 --epochs 1", "--labels 1 --seeds 2 --epochs 1 --json"],
    "publish": ["", "", "--leave-behind"],
    "tour": [""],
    "ui": ["--port 5003"],
    "add": ["{new}", "{new} --json", "{single}"],
    "remove": ["{a}", "--where path={added} --json", "--withdraw {a}", "{a} --json"],
    "rollback": [""],
}  # fmt: skip
"""Of each command what follows it."""
BEFORE = ("inspect", "query", "duplicates", "outliers", "representatives", "sample", "interpolate", "compress",
          "decompress", "tour")  # fmt: skip
"""Are asked of the workspace, and of the published copy that has grown and lost."""
REFUSED = {
    "finetune": "have no labels|has a label that a training image has|cannot be had, for|split has a label",
    "query": "no image meets --where",
    "representatives": "no image meets --where",
    "sample": "which has no prior",
    "rollback": "there is nothing further to go back to",
}
"""What a command may refuse with, where there is nothing to answer."""
NONSENSE = re.compile(r"\b(None|nan|NaN|inf)\b|\(\)|\[\]")
"""Of a sentence or a table."""


def photographs() -> list[Image.Image]:
    """COUNT crops of the photographs that scikit-learn ships."""
    from sklearn.datasets import load_sample_image

    large = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    places = [(14 * number, 9 * number, 14 * number + 90, 9 * number + 90) for number in range(COUNT // 2)]
    return [picture.crop(place).resize((24, 24)) for place in places for picture in large]


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose collection has such labels; it is the current directory, and no stage has run."""
    folder = tmp_path_factory.mktemp("every")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    write_params(folder, SMALL)
    write_params(folder, {"data": {"path": str(RAW), "batches": request.param == "a batch"},
                          "prepare": {"channels": 3}})  # fmt: skip
    for number, picture in enumerate(photographs()):
        inside = folder / RAW / COLLECTIONS[request.param](number)
        inside.mkdir(parents=True, exist_ok=True)
        picture.save(inside / (f"{number}.png" if number % 2 else f"{number}.jpg"))
        if number < 3:
            (folder / "new/here").mkdir(parents=True, exist_ok=True)
            picture.rotate(90).save(folder / ("new/here/a.png", "new/b.png", "single.png")[number])
    here = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(here)


def commands() -> dict[str, argparse.ArgumentParser]:
    (subparsers,) = [a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(subparsers.choices)


@pytest.mark.parametrize("command", commands())
def test_every_command_and_option_is_called(command: str) -> None:
    assert command in CALLS, f"say in CALLS how `{command}` is called"
    called = {word for call in CALLS[command] for word in call.split()}
    for action in commands()[command]._actions:
        if action.option_strings and "--help" not in action.option_strings:
            assert called & set(action.option_strings), f"CALLS has no `{command} {action.option_strings[-1]}`"


class Caller:
    """Calls commands in the current directory and looks at what they say."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.values: dict[str, str] = {}

    def fill(self) -> None:
        images = Images.open()
        files = sorted(str(path) for path in RAW.rglob("*.*"))
        ids = [str(number) for number in images.ids()[[0, 7]]]
        self.values = {"a": ids[0], "b": ids[1], "file": files[0], "other": files[1], "folder": str(RAW),
                       "new": "new", "single": "single.png", "added": "'new/b.png'"}  # fmt: skip

    def __call__(self, command: str) -> None:
        for call in CALLS[command]:
            arguments = [word.format(**self.values) for word in call.split()]
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                status = cli.main([command, *arguments])
            out, err = self.capsys.readouterr()
            said = f"aecore {command} {' '.join(arguments)}: {status}\n{out}\n{err}"
            if status:
                assert re.search(REFUSED.get(command, "$ never"), err), said
                assert (status, out) == (2, ""), said
            elif "--json" in arguments:
                json.loads(out)
            else:
                assert not NONSENSE.search(out), said
            assert "Warning" not in err, said


@pytest.mark.parametrize(
    "made",
    ["none", *(pytest.param(name, marks=pytest.mark.slow) for name in list(COLLECTIONS)[1:])],
    indirect=True,
)
def test_every_command_on_such_labels(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execv", lambda path, arguments: print(*arguments))  # `ui` becomes another program
    call = Caller(capsys)
    call("fetch")
    for stage in cli.STAGES:
        call(stage)
    call.fill()
    for command in (*BEFORE, "check", "finetune", "ui", "publish", "add"):
        clear()
        call(command)
    called = {*cli.STAGES, *BEFORE, "fetch", "check", "finetune", "ui", "publish", "add", "remove", "rollback"}
    assert called == set(CALLS)
    call("remove")
    gone, call.values["a"] = call.values["a"], call.values["b"]
    for command in (*BEFORE, "publish", "rollback"):
        clear()
        call(command)
    assert cli.main(["inspect", "--id", gone]) == 2


def clear() -> None:
    """What commands left that would be in their own way."""
    for path in ("came-back", "came-back-too"):
        shutil.rmtree(path, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml")))
def test_every_recipe_without_labels(
    recipe: str, unlabelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(unlabelled, folder)
    monkeypatch.chdir(folder)
    write_params(folder, {"train": {"recipe": recipe, "overrides": {}, "epochs": 1}})
    call = Caller(capsys)
    for stage in list(cli.STAGES)[2:]:
        call(stage)
    call.fill()
    for command in ("sample", "interpolate", "tour"):
        call(command)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of photographs without labels, prepared, and its floors measured."""
    folder = tmp_path_factory.mktemp("unlabelled")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    write_params(folder, SMALL)
    write_params(folder, {"data": {"path": str(RAW)}, "prepare": {"channels": 3, "size": 16}})
    (folder / RAW).mkdir(parents=True)
    for number, picture in enumerate(photographs()):
        picture.save(folder / RAW / f"{number}.png")
    here = Path.cwd()
    os.chdir(folder)
    try:
        for stage in list(cli.STAGES)[:2]:
            assert cli.main([stage]) == 0, stage
    finally:
        os.chdir(here)
    return folder
