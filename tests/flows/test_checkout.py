"""What DVC is told where there is no git, and that it is taken back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows import checkout


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `.dvc` that is no git checkout."""
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (folder / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (folder / "dvc.yaml").write_text("stages: {one: {cmd: touch out, outs: [out]}}\n")
    monkeypatch.chdir(folder)
    return folder


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


def dvc(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False)


def test_without_git_dvc_runs_and_with_git_it_has_experiments(project: Path) -> None:
    assert "is not a git repository" in dvc("status").stderr
    assert "There is no git here" in checkout.settle()
    assert checkout.settle() == ""  # it is said once
    assert dvc("status").returncode == 0
    git("init", "-q")
    assert "config.local" not in git("status", "--porcelain", "--untracked-files=all")
    assert "Only supported for Git repositories" in dvc("exp", "show").stderr
    assert "There is git here now" in checkout.settle()
    assert checkout.settle() == ""
    assert "Git repositories" not in dvc("exp", "show").stderr
    assert not checkout.OURS.exists()


def test_what_the_user_keeps_in_the_same_file_stays(project: Path) -> None:
    checkout.LOCAL.write_text("[core]\n    remote = store\n['remote \"store\"']\n    url = /srv/store\n")
    checkout.settle()
    assert {"no_scm = true", "remote = store", "url = /srv/store"} <= lines()
    git("init", "-q")
    checkout.settle()
    assert lines() == {"[core]", "remote = store", "['remote \"store\"']", "url = /srv/store"}


def lines() -> set[str]:
    return {line.strip() for line in checkout.LOCAL.read_text().splitlines()} - {""}


def test_a_users_own_setting_is_left_alone(project: Path) -> None:
    git("init", "-q")
    checkout.LOCAL.write_text("[core]\n    no_scm = true\n")
    assert checkout.settle() == ""
    assert checkout.LOCAL.read_text() == "[core]\n    no_scm = true\n"


@pytest.mark.parametrize(("ignored", "expected"), [("", True), ("/project\n", False)])
def test_inside_another_repository(project: Path, ignored: str, expected: bool) -> None:
    """A folder unpacked inside somebody's repository: DVC takes that one, unless it ignores the folder."""
    git("-C", "..", "init", "-q")
    Path("../.gitignore").write_text(ignored)
    assert checkout.followed(project) is expected
    checkout.settle()
    assert checkout.OURS.exists() is not expected
    assert dvc("status").returncode == 0


def test_a_worktree_is_a_checkout(project: Path) -> None:
    git("init", "-q")
    git("add", "-A")
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "one")
    git("worktree", "add", "-q", "../other")
    assert checkout.followed(project.parent / "other")


def test_elsewhere_it_says_where_to_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert checkout.main() == 2
    assert "holds .dvc" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
