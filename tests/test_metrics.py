"""What is declared as metrics in dvc.yaml holds numbers: prose would make `dvc metrics diff` as wide as a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from aecore import cli

ROOT = Path(__file__).parents[1]
STAGES: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
METRICS = [name for stage in STAGES.values() for entry in stage.get("metrics", ()) for name in entry]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}")
    else:
        yield path, value


def check(folder: Path) -> None:
    for name in METRICS:
        for path, value in leaves(json.loads((folder / name).read_text())):
            short = isinstance(value, str) and len(value) <= 20 and " " not in value
            assert short or isinstance(value, bool | int | float), f"{name}: {path} is {value!r}"


def test_there_are_metrics() -> None:
    assert METRICS == ["reports/train.json", "reports/index.json", "reports/metrics.json"]


@pytest.mark.parametrize("recipe", ["conv_nearest", "vae"])
def test_every_value_is_a_number_or_a_word(recipe: str, workspace: Path, set_params: Callable[..., None]) -> None:
    if recipe != "conv_nearest":
        set_params(train={"recipe": recipe})
        for stage in ("train", "embed", "index", "cluster", "map", "evaluate"):
            assert cli.main([stage]) == 0
    check(workspace)
    claimed = json.loads(Path("reports/metrics.json").read_text())["claims"]
    told = json.loads(Path("reports/claims.json").read_text())
    assert set(told) == set(claimed) != set()
    assert all(len(sentence.split()) > 3 for sentence in told.values())


def test_what_evaluate_writes_is_declared() -> None:
    evaluate = STAGES["evaluate"]
    assert "reports/claims.json" in evaluate["outs"]
    assert "reports/claims.json" in STAGES["report"]["deps"]
