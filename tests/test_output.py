"""Standard output of a command asked for JSON holds the JSON alone, whatever libraries print meanwhile."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aecore import cli, output
from aecore.data.images import Images

ROOT = Path(__file__).parents[1]
PICTURE = "data/raw/shapes/disc/000.png"
NOISY = """
import atexit, contextlib, ctypes, os, subprocess, sys

def noise():
    print("printed")
    with contextlib.suppress(OSError):  # standard output is closed
        os.write(1, b"written\\n")
    ctypes.CDLL(None).puts(b"put")
    subprocess.run(["echo", "echoed"])

kept = sys.stdout
def run(options):
    noise()
    output.tell({"ä": "ö"})
    noise()
    print("held back", file=kept)

from aecore import cli, output
cli._run = run
atexit.register(noise)
"""
"""A program whose command is surrounded by libraries that print in every way there is."""


def noise() -> None:
    print("printed")
    os.write(1, b"written\n")
    ctypes.CDLL(None).puts(b"put")


def commands() -> dict[str, list[str]]:
    """A call of each command that answers in JSON, on the tiny workspace."""
    ids = [str(item_id) for item_id in Images.open().ids()[:2]]
    return {
        "query": ["--id", ids[0]],
        "query --all": ["--all", "--parquet", "near.parquet"],
        "duplicates": [],
        "outliers": ["-n", "2"],
        "representatives": ["-n", "2"],
        "sample": ["-n", "2"],
        "compress": [PICTURE, "-o", "out.aec"],
        "decompress": ["out.aec", "-o", "out"],
        "finetune": ["--labels", "2", "--seeds", "1", "--epochs", "1"],
        "publish": [],
        "inspect": [],
        "check": [],
        "add": [PICTURE],
        "remove": [ids[1]],
    }


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every command of the command line."""
    (found,) = (action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def test_every_json_command_answers_in_json_alone(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    loads, asked = json.loads, set()

    def noisy(*arguments: Any, **options: Any) -> Any:  # every command reads a manifest
        noise()
        return loads(*arguments, **options)

    calls = commands()
    monkeypatch.setattr(json, "loads", noisy)
    for name, arguments in calls.items():
        command = name.split()[0]
        json_or_not = ["--json"] if "--json" in parsers()[command].format_help() else []
        asked |= {command} if json_or_not else set()
        capfd.readouterr()
        assert cli.main([command, *json_or_not, *arguments]) == 0, capfd.readouterr().err
        told = capfd.readouterr()
        if json_or_not:
            assert isinstance(loads(told.out), dict), name
            assert {"printed", "written", "put"} <= set(told.err.splitlines()), name
    assert asked == {name for name, parser in parsers().items() if "--json" in parser.format_help()}


def test_nothing_prints_json_but_tell() -> None:
    """A plain `print` of a command asked for JSON goes to standard error."""
    printing = re.compile(r"print\(\s*json\.|sys\.stdout\.write|json\.dump\(")
    files = [path for path in (ROOT / "aecore").rglob("*.py") if path.name != "output.py"]
    assert [str(path) for path in files if printing.search(path.read_text())] == []


def program(text: str, *arguments: str, shell: str = "", cwd: Path) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    (cwd / "params.yaml").touch()  # it is a project
    ending = f"\nimport runpy, sys\nsys.argv[1:] = {list(arguments)}\nrunpy.run_module('aecore', run_name='__main__')\n"
    command = ["bash", "-o", "pipefail", "-c", f'"$0" "$@" {shell}', sys.executable, "-c", text + ending]
    return subprocess.run(command, capture_output=True, env=environment, cwd=cwd, check=False)


def test_a_pipe_gets_the_result_alone_to_the_very_end(tmp_path: Path) -> None:
    done = program(NOISY, "duplicates", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b'{\n  "\\u00e4": "\\u00f6"\n}\n'
    said = done.stderr.decode().split()
    assert [said.count(word) for word in ("printed", "written", "put", "echoed")] == [3, 3, 3, 3]
    assert {"held", "back"} <= set(said)


@pytest.mark.parametrize(
    ("shell", "status"),
    [("2>&-", 0), (">&-", 0), ("| head -c 0", 0), (">/dev/full", 1)],
)
def test_closed_full_and_broken_outputs(shell: str, status: int, tmp_path: Path) -> None:
    done = program(NOISY, "duplicates", "--json", shell=shell, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert json.loads(done.stdout or '{"ä": "ö"}') == {"ä": "ö"}
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert (b"No space left on device" in done.stderr) == (status == 1)


def test_a_failure_gives_standard_output_back(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="nan"), output.reserved():
        output.tell(float("nan"))
    with output.reserved():
        print("meanwhile")
    output.tell([1])
    print("after")
    os.write(1, b"and C\n")
    told = capfd.readouterr()
    assert (told.out.split(), told.err) == (["[", "1", "]", "after", "and", "C"], "meanwhile\n")
