"""What our commands, and those we recommend, leave in the folder is no concern of git's."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from aecore.serve import tour

ROOT = Path(__file__).parents[1]
LEFT = [
    "dvc_plots/index.html", "mlruns/0/meta.yaml", "mlartifacts/0/a", "lightning_logs/version_0/hparams.yaml",
    ".pytest_cache/README.md", ".hypothesis/a", ".aecore/mlflow/mlflow.db", "serving/current", "near.rejected.parquet",
    "near/2026-11-28.parquet", "near/2026-11-28.rejected.parquet", "queries/2026-11-28.parquet", "samples.png",
    "interpolation.png", "reports/claims.json", ".dvc/tmp/exps/run", ".dvc/cache/files/md5/00/11",
    "data/raw/mine/a.jpg",
]  # fmt: skip
HIDDEN_FROM_DVC = ["dvc_plots", "mlruns", "mlartifacts", "lightning_logs", "serving", ".aecore"]


def ignored(path: str) -> bool:
    return subprocess.run(["git", "check-ignore", "-q", "--no-index", path], cwd=ROOT).returncode == 0


def named() -> set[str]:
    """The files that the examples of the README and the tour write."""
    text = (ROOT / "README.md").read_text() + Path(tour.__file__).read_text()
    given = re.findall(r"(?:--montage|--parquet|--png|--output|-o) ([a-z][\w./%-]*)", text)
    return {name.replace("%Y-%m-%d", "2026-11-28") for name in given}


@pytest.mark.parametrize("path", LEFT)
def test_what_commands_leave_is_ignored(path: str) -> None:
    assert ignored(path)


def test_what_the_examples_write_is_ignored() -> None:
    assert {"out.png", "near.parquet"} <= named()
    assert [name for name in sorted(named()) if not ignored(name)] == []


def test_what_is_versioned_is_not() -> None:
    assert not any(map(ignored, ("dvc.lock", "reports/metrics.json", "reports/train.json", "params.yaml")))


def test_dvc_does_not_look_there_either() -> None:
    lines = (ROOT / ".dvcignore").read_text().splitlines()
    assert [name for name in HIDDEN_FROM_DVC if f"/{name}" not in lines] == []
