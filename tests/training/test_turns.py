"""Turns: one holds it at a time, who is dead or stopped does not keep it, and who has cores to spare takes none."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from aecore.training import turns
from aecore.training.turns import Turns

ROOT = Path(__file__).parents[2]
STEPPING = """
import sys, time
from pathlib import Path
from aecore.training.turns import Turns
turns, log = Turns(Path(sys.argv[1])), open(sys.argv[2], "a", buffering=1)
for _ in range(int(sys.argv[3])):
    with turns:
        log.write(f"{sys.argv[4]} begins\\n")
        time.sleep(0.004)
        log.write(f"{sys.argv[4]} ends\\n")
"""
HOLDING = """
import sys, time
from pathlib import Path
from aecore.training.turns import Turns
with Turns(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def begin(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)


def test_steps_of_two_processes_never_overlap_and_both_have_their_share(tmp_path: Path) -> None:
    both = [begin(STEPPING, tmp_path / "turn", tmp_path / "log", 60, name) for name in "ab"]
    for process in both:
        process.communicate(timeout=120)
    assert [process.returncode for process in both] == [0, 0]
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 240
    for begins, ends in zip(lines[::2], lines[1::2], strict=True):
        assert begins.replace("begins", "ends") == ends
    order = "".join(line[0] for line in lines[::2])
    both_there = order.strip(order[0]).strip(order[-1])  # neither the first one alone nor the last one
    assert len(both_there) > 60
    assert both_there in "ab" * 120


def test_who_is_killed_gives_the_turn_back(tmp_path: Path) -> None:
    other = begin(HOLDING, tmp_path / "turn")
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    other.kill()
    other.wait()
    other.stdout.close()
    started = time.monotonic()
    with Turns(tmp_path / "turn"):
        pass
    assert time.monotonic() - started < turns.PATIENCE


def test_who_is_stopped_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.05)
    with Turns(tmp_path / "turn"), Turns(tmp_path / "turn") as _, Turns(tmp_path / "another"):
        pass
    waiting = Turns(tmp_path / "turn")
    with Turns(tmp_path / "turn"):
        with waiting:
            pass
        started = time.monotonic()
        for _ in range(20):
            with waiting:  # waited for once
                pass
        assert time.monotonic() - started < 20 * 0.05


def test_a_file_that_cannot_be_written_is_no_fault(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere/turn", tmp_path, None):
        with Turns(path), Turns(path):
            pass
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to("real")
    with Turns(tmp_path / "link"), Turns(tmp_path / "link"):  # somebody else may have put it there
        pass


@pytest.mark.parametrize(
    ("device", "processes", "threads", "cores", "shares"),
    [
        ("cpu", 1, 2, 2, True),
        ("cpu", 1, 4, 2, True),
        ("cpu", 1, 1, 2, False),
        ("cpu", 1, 2, 8, False),
        ("cpu", 2, 2, 2, False),
        ("cpu", 1, 1, 1, False),
        ("cuda", 1, 2, 2, False),
    ],
)
def test_only_who_wants_all_cores_takes_turns(
    device: str, processes: int, threads: int, cores: int, shares: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    Turns.of_all_cores(torch.device(device), processes)
    assert bool(list(tmp_path.iterdir())) == shares
