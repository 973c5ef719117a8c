"""What a person names as an image file and is none: refused at once, above all what would be waited for without end."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from aecore import cli
from aecore.config import UserError
from aecore.data.given import check_files
from aecore.data.images import Images
from aecore.data.sources import SourceConfig, open_source


@pytest.fixture
def odd(workspace: Path) -> str:
    """The tiny workspace with a pipe and an archive; the id of an image."""
    os.mkfifo("pipe")
    os.mkfifo("pipe.zip")
    os.mkfifo("pipe.aec")
    with zipfile.ZipFile("some.zip", "w") as archive:
        archive.write("data/raw/shapes/disc/000.png", "a.png")
    return str(Images.open().ids()[0])


BATCH = "`query {} --parquet OUT.parquet` looks for all images in it."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["query", "data/raw/shapes"], "data/raw/shapes is a folder, where an image file is expected: "
         + BATCH.format("data/raw/shapes")),
        (["query", "some.zip"], "some.zip is an archive, where an image file is expected: " + BATCH.format("some.zip")),
        (["query", "pipe"], "pipe is a pipe, where an image file is expected: save it as a file first."),
        (["query", "/dev/zero"], "/dev/zero is a device, where an image file is expected"),
        (["query", "gone.png"], "gone.png cannot be opened: No such file or directory."),
        (["query", "pipe", "--parquet", "o.parquet"], "pipe is a pipe, where a file, folder or archive is expected."),
        (["query", "pipe.zip", "--parquet", "o.parquet"], "pipe.zip is a pipe, where a file, folder or archive is"),
        (["interpolate", "pipe", "ID"], "pipe is a pipe, where an image file is expected"),
        (["interpolate", "ID", "data"], "data is a folder, where an image file is expected."),
        (["compress", "pipe", "-o", "a.aec"], "pipe is a pipe, where an image file is expected"),
        (["compress", "data", "-o", "a.aec"], "data is a folder, where an image file is expected: name the files"),
        (["decompress", "pipe.aec", "-o", "new"], "pipe.aec is no file: give an .aec file"),
    ],
)  # fmt: skip
@pytest.mark.timeout(60)
def test_it_is_refused_at_once(
    arguments: list[str], message: str, odd: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([odd if word == "ID" else word for word in arguments]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert message in error


@pytest.mark.timeout(60)
def test_a_pipe_is_no_archive_to_prepare(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(UserError, match="is neither a file nor a folder; source: archive expects a zip or tar file"):
        open_source(SourceConfig("archive", str(tmp_path / "pipe.zip"), False, "auto"), 1)


def test_files_and_links_to_them_are_let_through(tmp_path: Path) -> None:
    (tmp_path / "a{}.png").touch()
    (tmp_path / "link").symlink_to("a{}.png")
    check_files([tmp_path / "a{}.png", str(tmp_path / "link")])
    (tmp_path / "{}").mkdir()
    with pytest.raises(UserError, match=r"\{\} is a folder.*: `/.*\{\} --parquet`\."):
        check_files([tmp_path / "{}"], ": `{} --parquet`")
