from __future__ import annotations

import shutil
from collections.abc import Callable
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


def tried(capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.main(["tour"]) == 0
    return capsys.readouterr().out.split("Try next:\n")[1]


def test_it_recommends_what_fits_and_not_what_has_been_done(
    workspace: Path, set_params: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    first = tried(capsys)  # a folder of one's own, with labels, nothing published, no git, no MLflow
    assert "data.source" not in first
    assert "make ui" not in first
    assert "dvc exp" not in first
    assert "aecore add" not in first
    assert "train.recipe: mlp, then `dvc repro`" in first
    assert "python -m aecore publish" in first
    assert "python -m aecore finetune" in first

    assert cli.main(["publish"]) == 0
    Path("reports/finetune.json").write_text("{}")
    Path(".git").mkdir()
    set_params(tracking={"mlflow": True})
    second = tried(capsys)
    assert "publish" not in second
    assert "finetune" not in second
    assert "python -m aecore add PATH" in second
    assert "dvc exp run -S train.recipe=mlp && dvc metrics diff" in second
    assert "make ui" in second

    set_params(data={"source": "fashion_mnist"}, train={"recipe": "mlp"}, index={"metric": "l2"})
    assert cli.main(["index"]) == 0  # another than is served
    third = tried(capsys)
    assert "data.source: folder" in third
    assert "aecore add" not in third
    assert "train.recipe=conv_nearest" in third
    assert "python -m aecore publish" in third


def test_of_a_published_copy_alone_only_what_it_can_do(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["publish"]) == 0
    shutil.copytree("serving", tmp_path / "alone/serving", symlinks=True)
    monkeypatch.chdir(tmp_path / "alone")
    assert [line.split()[3] for line in tried(capsys).splitlines()] == ["query", "query"]
