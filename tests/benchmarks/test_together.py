"""Two trainings at once: the table, what the processes are told, and a run of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import together  # noqa: E402
from together import Turn  # noqa: E402

from aecore.environment import WAITING  # noqa: E402


def test_the_table_sets_two_beside_one() -> None:
    measured = {
        "before": {1: [Turn([1000.0], 0.0)] * 3, 2: [Turn([50.0, 70.0], 0.1)] * 3},
        "after": {1: [Turn([900.0], 0.0), Turn([990.0], 0.0), Turn([1000.0], 0.0)], 2: [Turn([480.0, 510.0], 0.0)] * 3},
    }
    before, after = together.rows(measured)
    assert before == ["before", "1,000 ± 0%", "100%", "60 ± 17%", "12%", "5%"]
    assert after == ["after", "990 ± 5%", "99%", "495 ± 3%", "100%", "0%"]


def test_a_training_is_told_these_variables_and_no_others_that_say_how_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    with together.changed({}):
        assert not {"OMP_WAIT_POLICY", *WAITING} & os.environ.keys()
    with together.changed(WAITING):
        assert WAITING.items() <= os.environ.items()
        assert "OMP_WAIT_POLICY" not in os.environ
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.slow
def test_it_runs(tmp_path: Path) -> None:
    command = [
        sys.executable,
        ROOT / "benchmarks/together.py",
        "--turns",
        "1",
        "--seconds",
        "0.2",
        "--output",
        tmp_path,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert "Load before" in done.stdout
    assert (tmp_path / "together.json").exists()
