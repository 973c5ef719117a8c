"""What is set before libraries are loaded: how threads wait, and where caches go without a home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from aecore import environment
from flows import home

Homeless = Callable[[Mapping[str, str], Path], dict[str, str]]
BOTH = pytest.mark.parametrize("homeless", [environment.homeless, home.homeless], ids=["aecore", "flows"])
ROOT = Path(__file__).parents[1]


@pytest.fixture
def shut(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Take rights away from folders, for root too: `shut(folder, "w")`."""
    taken: dict[Path, str] = {}
    real = os.access

    def access(path: str | Path, mode: int) -> bool:
        letters = {"r": os.R_OK, "w": os.W_OK, "x": os.X_OK}
        return real(path, mode) and not any(mode & letters[letter] for letter in taken.get(Path(path), ""))

    monkeypatch.setattr(os, "access", access)
    return lambda folder, rights: taken.update({folder: rights})


@BOTH
def test_a_home_that_can_be_written_is_left_alone(homeless: Homeless, tmp_path: Path) -> None:
    assert homeless({"HOME": str(tmp_path), "USER": "a"}, tmp_path / "instead") == {}
    assert homeless({"HOME": str(tmp_path / "yet/to/be/made"), "USER": "a"}, tmp_path / "instead") == {}


@BOTH
def test_a_home_that_can_only_be_read_goes_on_being_read(
    homeless: Homeless, tmp_path: Path, shut: Callable[..., None]
) -> None:
    shut(tmp_path, "w")
    moved = homeless({"HOME": str(tmp_path), "USER": "a"}, Path("/project/.aecore/home"))
    assert "HOME" not in moved
    assert "/project/.aecore/home" in " ".join(moved.values())


@BOTH
def test_a_home_that_cannot_be_read_is_replaced(homeless: Homeless, tmp_path: Path, shut: Callable[..., None]) -> None:
    shut(tmp_path, "rwx")
    assert homeless({"HOME": str(tmp_path), "USER": "a"}, Path("/here"))["HOME"] == "/here"
    assert homeless({"HOME": "/dev/null/none", "USER": "a"}, Path("/here"))["HOME"] == "/here"


@BOTH
def test_who_has_no_name_gets_their_number(homeless: Homeless, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 987654)
    there = {"HOME": str(tmp_path)}
    assert homeless(there, tmp_path) == {"USER": "987654"}
    assert homeless(there | {"LOGNAME": "a"}, tmp_path) == {}
    assert homeless({}, Path("/here"))["HOME"] == "/here"


@BOTH
def test_what_the_user_set_wins(homeless: Homeless, tmp_path: Path, shut: Callable[..., None]) -> None:
    shut(tmp_path, "w")
    theirs = {"HOME": str(tmp_path), "USER": "a", "XDG_CACHE_HOME": "/c", "MPLCONFIGDIR": "/m", "TRITON_HOME": "/t",
              "PREFECT_HOME": "/p"}  # fmt: skip
    assert homeless(theirs, tmp_path) == {}


def test_prefects_profiles_go_on_being_read(tmp_path: Path, shut: Callable[..., None]) -> None:
    profiles = tmp_path / ".prefect/profiles.toml"
    profiles.parent.mkdir()
    profiles.touch()
    shut(tmp_path, "w")
    moved = home.homeless({"HOME": str(tmp_path), "USER": "a"}, Path("/a b?c"))
    assert moved == {
        "PREFECT_HOME": "/a b?c/.prefect",
        "PREFECT_PROFILES_PATH": str(profiles),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:///file:/a%20b%3Fc/.prefect/prefect.db?uri=true",
    }


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ({}, environment.WAITING),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_how_threads_wait_is_the_users_to_say(theirs: dict[str, str], expected: dict[str, str]) -> None:
    settled = {"HOME": os.environ["HOME"], "USER": "a", **theirs}
    environment.settle(settled)
    assert {name: value for name, value in settled.items() if name not in ("HOME", "USER")} == expected


def test_it_is_set_before_torch_is_loaded(tmp_path: Path) -> None:
    """The command line as people start it: nothing of torch, numpy or FAISS is loaded before the environment is."""
    code = (
        "import os, sys\nfrom aecore import cli, environment\n"
        "settle, late = environment.settle, {'torch', 'numpy', 'faiss', 'sklearn', 'mlflow'}\n"
        "def spy():\n    print(sorted(late & set(sys.modules)))\n    settle()\n"
        "environment.settle = spy\n"
        "cli.main(['inspect'])\nprint(os.environ['GOMP_SPINCOUNT'], 'OMP_NUM_THREADS' in os.environ)\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=clean | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.splitlines() == ["[]", f"{environment.WAITING['GOMP_SPINCOUNT']} False"]


@pytest.mark.slow
def test_how_threads_wait_changes_no_weight(workspace: Path, set_params: Callable[..., None]) -> None:
    set_params(run={"threads": 2}, train={"epochs": 3})
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    digests = set()
    for waiting in ({}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "PASSIVE"}, {"GOMP_SPINCOUNT": "0"}):
        command, told = [sys.executable, "-m", "aecore", "train"], bare | waiting | {"PYTHONPATH": str(ROOT)}
        subprocess.run(command, env=told, check=True, capture_output=True)
        digests.add(json.loads((workspace / "models/autoencoder/manifest.json").read_text())["digest"])
    assert len(digests) == 1
