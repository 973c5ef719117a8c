"""Filling in parts: what FAISS prints stays off standard output, and a full disk is an error, not the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aecore.search import filling

FILL = """
import json, sys
from pathlib import Path
import numpy as np
from aecore.search import filling
from aecore.search.kinds import Kind, untrained
filling.PART_BYTES = 4_000
codes = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
kind = Kind.of("ivf4", 8)
index = untrained(kind, 8, "l2", 0)
index.train(codes)
filling.fill(index, kind, iter([(0, codes)]), np.arange(500), Path(sys.argv[1]))
print(json.dumps(index.ntotal))
"""


def test_standard_output_is_left_to_the_program(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(filling.__file__).parents[2])}
    command = [sys.executable, "-c", FILL, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "500\n"
    assert "lists.ivfdata" in done.stderr  # else FAISS prints nothing any more, and nothing need be kept off


def test_a_full_disk_is_told_before_faiss_meets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device: .*lists") as raised:
        filling._require_room(tmp_path / "lists", 100)
    assert raised.value.filename == str(tmp_path / "lists")
    assert not (tmp_path / "lists").exists()
