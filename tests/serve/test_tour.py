from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from aecore import cli
from aecore.data.images import Images


def test_it_shows_figures_neighbours_and_what_to_try(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tour"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("| figure | autoencoder | PCA-4 | raw pixels |")
    assert all(f"{name} " in shown for name in ("disc", "square", "stripes"))
    assert "from the workspace's artefacts" in shown
    assert "To look at: reports/report.html (in a browser" in shown
    example = shown.split("--id ")[1].split()[0]
    test = Images.open().positions("test")
    assert int(example) in Images.open().ids()[test]
    assert cli.main(["query", "--id", example]) == 0


def test_without_reports_it_still_shows_neighbours(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("reports")
    assert cli.main(["tour"]) == 0
    shown = capsys.readouterr().out
    assert "|" not in shown
    assert shown.count("->") == 3
