from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aecore import artifact, cli, config
from aecore.config import UserError
from aecore.data.images import Images
from aecore.search import query

Set = Callable[..., None]


COMMANDS = (
    *cli.STAGES, "check", "fetch", "query", "duplicates", "outliers", "representatives", "inspect", "sample",
    "interpolate", "finetune", "publish", "rollback", "tour", "ui",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert f"aecore {command}" in capsys.readouterr().out


def test_help_is_quick_and_imports_no_heavy_library() -> None:
    code = (
        "import sys; from aecore import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'mlflow', 'faiss', 'sklearn', 'matplotlib', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    assert "0 done, 1 the work failed, 2 the request was wrong" in " ".join(done.stdout.split())


NEEDS = {
    "query": ["--id", "1"], "interpolate": ["1", "2"], "compress": ["a.png", "-o", "a.aec"],
    "decompress": ["a.aec", "-o", "new"], "add": ["a.png"], "remove": ["1"],
}  # fmt: skip


@pytest.mark.parametrize("command", sorted({*COMMANDS, *NEEDS}))
def test_outside_a_project_every_command_says_so_once_and_the_same(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    said = "params.yaml is not here: run this from the project's folder, the one that holds params.yaml"
    assert cli.main([command, *NEEDS.get(command, [])]) == 2
    assert capsys.readouterr() == ("", f"aecore {command}: {said}.\n")
    assert list(tmp_path.iterdir()) == []

    below = tmp_path / "project/data/raw"
    below.mkdir(parents=True)
    for file in ("params.yaml", "dvc.yaml"):
        (tmp_path / "project" / file).touch()
    monkeypatch.chdir(below)
    assert cli.main([command, *NEEDS.get(command, [])]) == 2
    assert capsys.readouterr() == ("", f"aecore {command}: {said} (such as {tmp_path / 'project'}).\n")


def test_a_published_copy_alone_answers(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["publish"]) == 0
    shutil.copytree("serving", tmp_path / "alone/serving", symlinks=True)
    known = str(Images.open().ids()[0])
    monkeypatch.chdir(tmp_path / "alone")
    for command in (["query", "--id", known], ["inspect"], ["duplicates"], ["tour"], ["remove", known]):
        assert cli.main(command) == 0, capsys.readouterr().err
    assert cli.main(["train"]) == 2
    assert "params.yaml is not here" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^nowhere/params\.yaml is not here"):
        query.inspect(root=Path("nowhere"))
    capsys.readouterr()
    query.inspect(root=Path("alone"))
    assert "since it was published 0 came and 1 went\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stage", "needs"), [("train", config.PREPARED), ("embed", config.MODEL), ("index", config.EMBEDDINGS)]
)
def test_a_missing_input_names_the_stage_to_run(
    stage: str, needs: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (needs / artifact.MANIFEST).unlink()
    assert cli.main([stage]) == 2
    assert f"at {needs}: run `python -m aecore" in capsys.readouterr().err


@pytest.fixture
def small_disk(workspace: Path, tmp_path: Path) -> Iterator[Path]:
    """The tiny workspace on a disk of its own with 4 KiB left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        shutil.copytree(workspace, disk / "workspace")
        with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        os.truncate(disk / "filler", (disk / "filler").stat().st_size - 4096)
        yield disk / "workspace"
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("stage", cli.STAGES)
def test_a_really_full_disk_ends_in_one_sentence_and_leaves_no_half(stage: str, small_disk: Path) -> None:
    def held() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in small_disk.rglob("manifest.json")}

    before = held()
    done = subprocess.run([sys.executable, "-m", "aecore", stage], cwd=small_disk, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith(f"aecore {stage}: ")
    assert "full" in error or "No space left on device" in error
    assert "Traceback" not in done.stderr
    assert held() == before
    assert not [path for path in small_disk.rglob(".*.tmp") if path.is_dir()]


@pytest.mark.parametrize("stage", ["prepare", "train", "embed", "index", "cluster", "map", "evaluate", "report"])
def test_a_full_disk_ends_in_one_sentence_and_keeps_what_was_there(
    stage: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def digests() -> dict[str, str]:
        found = workspace.rglob(artifact.MANIFEST)
        return {str(path.parent): json.loads(path.read_text())["digest"] for path in found}

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    before = digests()
    monkeypatch.setattr(artifact, "fsync", full)
    if stage in ("evaluate", "report"):
        monkeypatch.setattr(artifact, "write_text", lambda path, text: full(path))
    assert cli.main([stage]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"aecore {stage}: ")
    assert "full" in error or "No space left on device" in error
    assert digests() == before
    assert not list(workspace.rglob(".*.tmp"))


def test_a_reader_that_goes_away_is_no_error(workspace: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m aecore inspect | head -n 0"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, cwd=workspace)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
