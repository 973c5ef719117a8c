"""The README's annotated tree, its commands and what is there, held together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aecore.cli import STAGES
from tests.conftest import tracked

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCK = next(block for block in README.split("```") if "  config.py" in block).strip("\n")
TREE: dict[str, str] = {}
for line in BLOCK.splitlines():
    indent, name, text = re.fullmatch(r"( *)(\S+)\s+(.*)", line).groups()  # type: ignore[union-attr]
    TREE[("aecore/" if indent else "") + name] = text


@pytest.mark.parametrize("path", TREE)
def test_what_the_tree_names_is_there(path: str) -> None:
    assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file()


def test_the_tree_names_everything_at_the_top_and_every_room() -> None:
    files = tracked()
    top = {path.split("/")[0] + ("/" if "/" in path else "") for path in files if not path.startswith(".")}
    made_by_running = {"dvc.lock", "reports/"}
    rooms = {
        "/".join(path.split("/")[:2]) + ("/" if path.count("/") > 1 else "") for path in files if path[:7] == "aecore/"
    }
    named = {path for path in TREE if path.count("/") - path.endswith("/") == 0}
    assert top - made_by_running == named
    assert rooms - {"aecore/__init__.py", "aecore/__main__.py"} == set(TREE) - named


ROOMS = [path for path in TREE if path not in ("aecore/", "tests/") and list((ROOT / path).glob("*.py"))]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_names_its_files(room: str) -> None:
    there = {path.stem for path in (ROOT / room).glob("*.py")} - {"__init__"}
    assert set(re.split(r" · ", TREE[room].split(":")[0])) == there, f"{room}: {sorted(there)}"


def test_every_stage_is_named_and_every_make_target_exists() -> None:
    assert all(stage in README for stage in STAGES)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`?make ([a-z-]+)", README)) <= targets
