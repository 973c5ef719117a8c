from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aecore import artifact
from aecore.config import UserError, WorkFailed


def make(path: Path, text: str = "content", sources: dict[str, artifact.Manifest] | None = None, kind: str = "data"):
    with artifact.writing(path, kind, sources, {"count": 1}) as directory:
        (directory / "file.txt").write_text(text)
    return artifact.read_manifest(path, kind)


def test_equal_content_has_an_equal_digest_and_other_content_another(tmp_path: Path) -> None:
    one, two, other = make(tmp_path / "a"), make(tmp_path / "b"), make(tmp_path / "c", "other")
    assert one == two
    assert one.digest != other.digest
    assert (tmp_path / "a" / artifact.MANIFEST).read_bytes() == (tmp_path / "b" / artifact.MANIFEST).read_bytes()


def test_an_error_leaves_the_old_artefact_and_nothing_else(tmp_path: Path) -> None:
    before = make(tmp_path / "a")

    def fail() -> None:
        with artifact.writing(tmp_path / "a", "data") as directory:
            (directory / "file.txt").write_text("half")
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert artifact.read_manifest(tmp_path / "a", "data") == before
    assert os.listdir(tmp_path) == ["a"]


def test_a_kill_in_the_middle_leaves_the_old_artefact_and_the_next_writer_cleans_up(tmp_path: Path) -> None:
    before = make(tmp_path / "a")
    code = (
        "import sys, time, pathlib; from aecore import artifact\n"
        "with artifact.writing(pathlib.Path(sys.argv[1]), 'data') as d:\n"
        "    (d / 'file.txt').write_text('half'); print('writing', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "writing\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert artifact.read_manifest(tmp_path / "a", "data") == before
    assert len(os.listdir(tmp_path)) == 2
    make(tmp_path / "a", "new")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("damage", ["cut", "gone", "flip", "facts", "json"])
def test_damage_is_noticed_and_the_command_named(tmp_path: Path, damage: str) -> None:
    make(tmp_path / "a")
    file, manifest = tmp_path / "a" / "file.txt", tmp_path / "a" / artifact.MANIFEST
    if damage == "cut":
        file.write_text("cont")
    elif damage == "gone":
        file.unlink()
    elif damage == "flip":
        file.write_text("cONTENT")
    elif damage == "facts":
        manifest.write_text(manifest.read_text().replace('"count": 1', '"count": 2'))
    else:
        manifest.write_text("{")
    with pytest.raises(WorkFailed, match="aecore prepare"):
        artifact.read_manifest(tmp_path / "a", "data")


def test_large_files_are_hashed_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make(tmp_path / "a")
    monkeypatch.setattr(artifact, "SMALL", 3)
    (tmp_path / "a" / "file.txt").write_text("cONTENT")
    artifact.verify(tmp_path / "a", manifest, deep=False)
    with pytest.raises(WorkFailed, match="differs"):
        artifact.verify(tmp_path / "a", manifest, deep=True)


def test_missing_wrong_kind_and_wrong_schema(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no model at .*aecore train"):
        artifact.read_manifest(tmp_path / "none", "model")
    make(tmp_path / "a")
    with pytest.raises(UserError, match="holds data, where model was expected"):
        artifact.read_manifest(tmp_path / "a", "model")
    path = tmp_path / "a" / artifact.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(WorkFailed, match="schema 99"):
        artifact.read_manifest(tmp_path / "a", "data")


def test_the_chain_names_both_sides(tmp_path: Path) -> None:
    data, other = make(tmp_path / "d"), make(tmp_path / "o", "other")
    model = make(tmp_path / "m", "weights", {"data": data}, "model")
    artifact.check_chain(data, model)
    with pytest.raises(WorkFailed) as caught:
        artifact.check_chain(other, model)
    assert data.digest[:12] in str(caught.value)
    assert other.digest[:12] in str(caught.value)
    assert "dvc repro" in str(caught.value)


def test_an_artefact_set_aside_by_a_killed_writer_comes_back(tmp_path: Path) -> None:
    before = make(tmp_path / "a")
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    (tmp_path / "a").rename(tmp_path / f".a.{dead.pid}.old")

    def fail() -> None:
        with artifact.writing(tmp_path / "a", "data"):
            raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        fail()
    assert artifact.read_manifest(tmp_path / "a", "data") == before
    assert os.listdir(tmp_path) == ["a"]


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    living = tmp_path / f".a.{os.getppid()}.tmp"
    living.mkdir()
    make(tmp_path / "a")
    assert living.is_dir()
    assert time.time() - (tmp_path / "a").stat().st_mtime < 60
