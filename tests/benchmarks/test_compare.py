"""The compare run's table and page, from results made up here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import compare  # noqa: E402
import lecture  # noqa: E402


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


@pytest.mark.parametrize("budget", ["quick", "full"])
def test_the_matrix_runs_what_the_budget_says(budget: str) -> None:
    stages = YAML(typ="safe").load(ROOT / "benchmarks/dvc.yaml")["stages"]
    for kind in ("train", "measure"):
        assert stages[f"{budget}-{kind}"]["matrix"] == {"recipe": "${recipes}", "seed": f"${{{budget}.seeds}}"}
        assert f"compare.py {kind} {budget} ${{item.recipe}} ${{item.seed}}" in stages[f"{budget}-{kind}"]["cmd"]
