"""One tiny workspace, made once by the program itself, copied for each test that needs one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from aecore import cli, tracking

if (alias := tracking._alias()) is not None:  # the tests ask MLflow too, wherever they run
    sys.path.insert(0, str(alias))

ROOT = Path(__file__).parents[1]
SIDE = 12
SMALL = {
    "run": {"seed": 0, "threads": 1, "device": "cpu"},
    "data": {"source": "folder", "path": "data/raw/shapes"},
    "prepare": {"size": SIDE},
    "train": {"latent_dim": 4, "epochs": 2, "batch_size": 16, "warmup_epochs": 0.5, "precision": "fp32",
              "overrides": {"widths": [4, 8]}},
    "cluster": {"clusters": 3, "iterations": 5},
    "evaluate": {"bootstrap": 50},
    "tracking": {"mlflow": False},
}  # fmt: skip


def draw_shapes(folder: Path, each: int = 50) -> None:
    """Write grey pictures of squares, discs and stripes, `each` of one kind into its own sub-folder."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    for kind in ("disc", "square", "stripes"):
        (folder / kind).mkdir(parents=True)
        for number in range(each):
            cx, cy, r = rng.uniform(4, 8), rng.uniform(4, 8), rng.uniform(2, 4)
            inside = {
                "disc": (x - cx) ** 2 + (y - cy) ** 2 < r**2,
                "square": (abs(x - cx) < r) & (abs(y - cy) < r),
                "stripes": (x + y + int(cx * 3)) % 6 < 3,
            }[kind]
            picture = np.clip(inside * 180 + rng.normal(40, 10, inside.shape), 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / kind / f"{number:03d}.png")


def write_params(folder: Path, changes: dict[str, dict[str, Any]]) -> None:
    """Write the shipped params.yaml into `folder`, with `changes` by section and key."""
    yaml = YAML()
    path = folder / "params.yaml"
    values = yaml.load(path if path.exists() else ROOT / "params.yaml")
    for section, keys in changes.items():
        values[section].update(keys)
    yaml.dump(values, path)


def tracked(root: Path = ROOT) -> list[str]:
    """The files of the project that git follows or would follow, in a checkout as in an unpacked archive."""
    with tempfile.TemporaryDirectory() as folder:
        if not any((above / ".git").exists() for above in (root, *root.parents)):
            subprocess.run(["git", "init", "--quiet", "--bare", folder], check=True)
            where = [f"--git-dir={folder}", f"--work-tree={root}"]
        else:
            where = []
        command = ["git", *where, "ls-files", "-coz", "--exclude-standard"]
        listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (root / name).is_file()]  # links to nowhere are not


def copy_project(folder: Path) -> None:
    """Copy what git follows into `folder`, but for data, reports and pictures."""
    for name in tracked():
        if not name.startswith(("data/raw", "reports/", "docs/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    write_params(folder, SMALL)
    draw_shapes(folder / "data/raw/shapes")
    here = Path.cwd()
    os.chdir(folder)
    try:
        for stage in cli.STAGES:
            assert cli.main([stage]) == 0, stage
    finally:
        os.chdir(here)
    return folder


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of this repository as it stands here, changes that are not committed included; to be cloned, not used."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "as it stands"]):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def clone(checkout: Path, tmp_path: Path) -> Path:
    """A fresh clone of this repository, as somebody gets it who has run nothing yet."""
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(checkout), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture
def workspace(_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny workspace with every stage done; it is the current directory."""
    folder = tmp_path / "workspace"
    shutil.copytree(_made, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def set_params(workspace: Path) -> Callable[..., None]:
    """Change params.yaml of the workspace: `set_params(train={"epochs": 3})`."""
    return lambda **changes: write_params(workspace, changes)
