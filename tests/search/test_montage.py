"""How pictures are written: in the format that their name says, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aecore import cli
from aecore.config import UserError
from aecore.data.images import Images
from aecore.generate.sheet import Sheet
from aecore.search.montage import FORMATS, check_writable, save_picture


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.webp", "WEBP"), ("a.Png", "PNG")]
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_format_is_what_the_name_says(name: str, kind: str, mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)).convert(mode)
    check_writable(tmp_path / name)
    save_picture(picture, tmp_path / name)
    assert list(tmp_path.iterdir()) == [tmp_path / name]
    with Image.open(tmp_path / name) as written:
        assert (written.format, written.size) == (kind, (7, 9))
        if kind != "JPEG":  # lossless
            np.testing.assert_array_equal(np.asarray(written.convert("RGB")), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.gif", r"a\.gif cannot be written: its name must end in \.png or \.jpg or \.jpeg or \.webp\."),
        ("a", r"a cannot be written: its name must end in \.png or"),
        ("folder.png", r"folder\.png cannot be written: it is a folder; name a file in it\."),
        ("none/a.png", r"none/a\.png cannot be written: none is not there; make that folder first\."),
        ("file/a.png", r"file/a\.png cannot be written: file is no folder\."),
    ],
)
def test_a_place_for_no_picture_is_refused(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    Path("file").touch()
    with pytest.raises(UserError, match=f"^{message}"):
        check_writable(Path(name))


def test_what_a_format_cannot_hold_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    tall = Image.new("L", (1, 16_384))
    with pytest.raises(UserError, match=r"1 x 16,384 pixels, and a \.webp at most 16,383 a side; .* name a \.png"):
        save_picture(tall, tmp_path / "a.webp")
    assert list(tmp_path.iterdir()) == []
    save_picture(tall, tmp_path / "a.jpg")
    assert FORMATS[".jpg"][2] == 65_535


COMMANDS = [
    ["query", "--id", "ID", "-k", "2", "--montage"], ["outliers", "-n", "1", "--montage"],
    ["representatives", "-n", "2", "--montage"], ["duplicates", "--distance", "0.5", "-n", "1", "--montage"],
    ["inspect", "--id", "ID", "--png"], ["sample", "-n", "1", "-o"], ["interpolate", "ID", "ID", "--steps", "2", "-o"],
]  # fmt: skip


def test_every_command_writes_what_the_name_says_or_refuses_before_the_work(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = str(Images.open().ids()[0])
    for command in COMMANDS:
        arguments = [known if word == "ID" else word for word in command]
        assert cli.main([*arguments, "out.jpg"]) == 0
        with Image.open("out.jpg") as written:
            assert written.format == "JPEG"
        Path("out.jpg").unlink()
    capsys.readouterr()
    monkeypatch.setattr("aecore.search.searcher.Source.find", lambda root: pytest.fail("it looked for artefacts"))
    for command in COMMANDS:
        arguments = [known if word == "ID" else word for word in command]
        for place in ("out.gif", "none/out.png", "data"):
            assert cli.main([*arguments, place]) == 2
            out, error = capsys.readouterr()
            assert (out, error.count("\n")) == ("", 1)
            assert f"{place} cannot be written: " in error
    assert cli.main(["query", "--all", "--parquet", "out.csv"]) == 2
    assert "out.csv cannot be written: its name must end in .parquet or .pq." in capsys.readouterr().err


def test_a_picture_too_long_to_draw_is_refused_before_it_is_drawn() -> None:
    tall, square = np.zeros((12, 1, 40, 10), np.uint8), np.zeros((12, 1, 10, 10), np.uint8)
    with pytest.raises(UserError, match=r"the picture would be \d{3},\d{3} pixels long, and 65,535 are the most"):
        Sheet(500, tall, "title", 0.8, 0.2)
    Sheet(500, square, "as many samples as may be asked for, four a row", 0.8, 0.2)
