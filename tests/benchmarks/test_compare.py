"""The compare run's table and page, from results made up here."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from aecore import artifact
from tests.conftest import write_params

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import compare  # noqa: E402
import lecture  # noqa: E402
import once  # noqa: E402
import trials  # noqa: E402


def run(mse: float, knn: float) -> dict[str, object]:
    return {
        "model": {"mse": mse, "knn": knn, "nmi": 0.5},
        "pca": {"mse": 0.02, "knn": 0.7, "nmi": 0.4},
        "raw": {"knn": 0.75},
        "generation": {"frechet": {"mixture": 5.0, "pca": 15.0, "raw": 17.0}},
        "train": {"parameters": 1234, "images_per_second": 100.4},
        "claims": {"checkerboard": {"trained": 1.0, "verdict": "no more than <the> images"}},
    }


RESULTS = {"conv_nearest": [run(0.010, 0.80), run(0.012, 0.84)], "colourise": [run(0.015, 0.6)]}


def rows(text: str) -> dict[str, list[str]]:
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {line[0]: line[1:] for line in lines}


def test_the_table_has_mean_and_spread_beside_the_floors() -> None:
    table = rows(compare.markdown("full", RESULTS))
    column = {title: number for number, title in enumerate(table["recipe"])}
    assert table["`conv_nearest`"][column["test MSE"]] == "0.01100 ± 0.00141"  # deviation with n - 1
    assert table["`conv_nearest`"][column["parameters"]] == "1,234"
    assert table["`colourise`"][column["kNN@10"]] == "0.600"
    assert table["*raw pixels, fashion*"][column["test MSE"]] == "–"
    assert table["*PCA-32, fashion*"][column["kNN@10"]] == "0.700"
    assert table["*PCA-32, avatars*"][column["Fréchet, mixture"]] == "15.0"
    assert table["*raw pixels, fashion*"][column["Fréchet, mixture"]] == "17.0"
    assert table["*PCA-32, fashion*"][column["parameters"]] == "–"


def test_every_recipe_is_compared_and_told_of_once() -> None:
    there = {path.stem for path in (ROOT / "recipes").glob("*.yaml")} - {"best"}  # which is for searching, at 64-d
    told = [recipe for chapter in lecture.CHAPTERS for recipe in chapter.recipes]
    assert set(compare.budgets()["recipes"]) == there == set(told)
    assert len(told) == len(there)


def test_the_page_tells_what_is_there_and_escapes_it(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    compare.save(compare.figure(RESULTS), picture)
    page = lecture.lecture("full", RESULTS, picture)
    assert "no more than &lt;the&gt; images" in page
    assert "Denoising" not in page
    assert "0.01100 ± 0.00141" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_trial_is_made_with_every_knob_of_params_yaml_and_with_none_of_its_values() -> None:
    """A knob that is missing here ends every trial; a collection that params.yaml names is none of its business."""
    knobs = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    made = trials.parameters("avatars", "mlp", 3, 7)
    assert {section: set(keys) for section, keys in made.items()} == {
        section: set(keys) for section, keys in knobs.items()
    }
    assert (made["data"]["source"], made["prepare"]["channels"], made["run"]["seed"]) == ("avatars", 3, 3)
    assert (made["train"]["recipe"], made["train"]["epochs"]) == ("mlp", 7)


@pytest.fixture
def comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], dict[str, Any]]:
    """What a comparison of two recipes, in a folder of its own, asks to be done (nothing is trained); its settings."""
    done: list[str] = []

    def do(script: str, *arguments: str) -> None:
        """Stand in for a process: make what it would, and note that it is done."""
        done.append(" ".join(arguments))
        if script == "compare.py":
            command, *rest = arguments
            asked = (*rest[:-1], int(rest[-1])) if len(rest) > 1 else rest
            piece = {"prepare": trials.preparing, "train": trials.training, "measure": trials.measuring}[command](
                *asked
            )
            with once.doing(piece.made, piece.key):
                piece.made.mkdir(parents=True, exist_ok=True)
                (piece.made / artifact.MANIFEST).write_text(piece.key)

    settings = compare.budgets() | {"recipes": ["mlp", "colourise"]}
    for module in (compare, trials):
        monkeypatch.setattr(module, "budgets", lambda: copy.deepcopy(settings))
    monkeypatch.setattr(compare, "table", lambda budget: done.append("table"))
    monkeypatch.setattr(trials, "RUNS", tmp_path)
    monkeypatch.setattr(trials, "call", do)
    return done, settings


EVERYTHING = [
    "prepare fashion", "prepare avatars", "train quick mlp 0", "measure quick mlp 0", "train quick colourise 0",
    "measure quick colourise 0", "table", "quick",
]  # fmt: skip


def test_what_is_done_is_not_done_again_unless_what_it_was_made_from_changed(
    comparison: tuple[list[str], dict[str, Any]],
) -> None:
    called, settings = comparison

    def again() -> list[str]:
        called.clear()
        compare.run("quick")
        return called[:-2]

    compare.run("quick")
    assert called == EVERYTHING
    assert again() == []
    settings["params"]["evaluate"]["bootstrap"] += 1
    assert again() == ["measure quick mlp 0", "measure quick colourise 0"]
    settings["params"]["prepare"]["fit"] = "pad"
    assert again() == EVERYTHING[:-2]
    settings["params"]["embed"]["batch_size"] += 1  # decides nothing of the training
    (trials.folder("quick", "mlp", 0) / "result.key").unlink()  # it was killed
    shutil.rmtree(trials.folder("quick", "colourise", 0) / "models")
    assert again() == ["measure quick mlp 0", "train quick colourise 0", "measure quick colourise 0"]
    assert again() == []


@pytest.mark.slow
def test_a_clone_with_other_images_compares_and_carries_on_where_all_is_done(clone: Path) -> None:
    write_params(clone, {"data": {"source": "folder", "path": "data/raw/mine", "batches": True},
                         "prepare": {"size": 50, "channels": 3}})  # fmt: skip
    yaml = YAML()
    settings = yaml.load(clone / "benchmarks/compare.yaml")
    settings["recipes"], settings["quick"]["epochs"] = ["linear"], 2
    settings["params"]["evaluate"]["bootstrap"] = 50
    yaml.dump(settings, clone / "benchmarks/compare.yaml")

    def run() -> tuple[str, list[str]]:
        done = subprocess.run(
            [sys.executable, "benchmarks/compare.py", "run", "quick"], cwd=clone, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(clone)}, timeout=900, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout, [line for line in done.stderr.splitlines() if line.startswith("compare: ")]

    table, done = run()
    assert done == ["compare: prepare fashion", "compare: train quick linear 0", "compare: measure quick linear 0"]
    first = rows(table[table.index("| recipe") :])
    assert float(first["`linear`"][0]) < 0.05
    table, done = run()
    assert done == []
    assert rows(table) == first
    assert "linear" in (clone / "benchmarks/runs/lecture-quick.html").read_text()


def test_code_and_files_decide_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aecore").mkdir()
    for name, content in {"aecore/a.py": "1", "aecore/b.py": "1", "recipe.yaml": "1"}.items():
        (tmp_path / name).write_text(content)
    stages = {"one": {"deps": ["data", "aecore/a.py"], "params": ["run", "train.epochs"]}}
    YAML().dump({"stages": stages}, tmp_path / "dvc.yaml")
    monkeypatch.setattr(once, "PROJECT", tmp_path)

    def key(epochs: int = 1, rate: float = 0.1) -> str:
        values = {"run": {"seed": 0}, "train": {"epochs": epochs, "rate": rate}}
        return once.key(["one"], values, [tmp_path / "recipe.yaml"])

    first = key()
    assert key(rate=0.2) == first
    assert key(epochs=2) != first
    (tmp_path / "aecore/b.py").write_text("2")
    assert key() == first
    (tmp_path / "aecore/a.py").write_text("2")
    second = key()
    assert second != first
    (tmp_path / "recipe.yaml").write_text("2")
    assert key() not in (first, second)


def test_a_failure_ends_the_comparison_with_its_status() -> None:
    with pytest.raises(SystemExit) as caught:
        trials.call("compare.py", "train", "nosuch", "mlp", "0")
    assert caught.value.code == 2
