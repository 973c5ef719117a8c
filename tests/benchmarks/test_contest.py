"""Contests: who takes part, what is said of those who do not, and the floors beside them."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aecore.models.recipe import read_recipe

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import contest  # noqa: E402
import embed  # noqa: E402
import floor  # noqa: E402
import pile  # noqa: E402
import train  # noqa: E402
import trainers  # noqa: E402

WAYS = """
import os, time

def good(task, clock):
    steps = 0
    clock.score = lambda: steps
    while True:
        time.sleep(task)
        steps += 1
        clock.step(10)

def failing(task, clock):
    clock.step(10)
    raise ValueError("no such\\n luck")

def dying(task, clock):
    for _ in range(4):
        time.sleep(task)
        clock.step(10)
    os._exit(3)

def stopping(task, clock):
    return
"""


def test_a_contest_measures_who_works_and_says_why_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ways_of_a_test.py").write_text(WAYS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import ways_of_a_test as ways  # type: ignore[import-not-found]

    contestants = [contest.Contestant("missing", ways.good, "no_such_package")]
    contestants += [contest.Contestant(way, getattr(ways, way)) for way in ("good", "failing", "dying", "stopping")]
    results = contest.compete(contestants, 0.01, warm=4, seconds=0.05, turns=2, device="cpu", threads=1)
    assert [result.name for result in results] == ["missing", "good", "failing", "dying", "stopping"]
    missing, good, failing, dying, stopping = results
    assert missing.failure == "no_such_package is not installed"
    assert failing.failure == "ValueError: no such luck"
    assert dying.failure == "died with exit status 3"
    assert stopping.failure == "RuntimeError: stopped before the contest was over"
    assert good.failure == ""
    assert good.score == 4  # judged after the warm-up, whatever the speed
    assert len(good.rates) == 2
    assert all(0 < rate <= 1000 for rate in good.rates)
    assert good.peak >= 0


def test_median_and_spread_are_of_the_turns() -> None:
    result = contest.Result("x", (90.0, 100.0, 120.0))
    assert result.rate == 100
    assert result.spread == pytest.approx(0.15)
    assert math.isnan(contest.Result("x").rate)


def test_a_table_fills_short_rows_and_json_has_no_nan(tmp_path: Path) -> None:
    table = contest.markdown(("a", "b", "c"), [("1", "2", "3"), ("x", "is not installed")])
    assert table == "| a | b | c |\n| --- | --- | --- |\n| 1 | 2 | 3 |\n| x | is not installed | – |\n"
    contest.write(tmp_path / "new", "name", table, {128: [math.nan, 1.5, (2, math.inf)], "why": ""})
    assert (tmp_path / "new/name.md").read_text() == table
    assert json.loads((tmp_path / "new/name.json").read_text()) == {"128": [None, 1.5, [2, None]], "why": ""}


@pytest.mark.parametrize("batch", [1, 3])
def test_the_work_of_a_small_network_has_a_closed_form(batch: int) -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.BatchNorm2d(2), nn.ReLU(),
        nn.ConvTranspose2d(2, 5, 2, stride=2), nn.Flatten(), nn.Linear(320, 3),
    )  # fmt: skip
    work = floor.training(network, torch.zeros(batch, 1, 8, 8))
    first, second, third = 2 * 4 * 4, 5 * 8 * 8, 3  # numbers in the outputs
    assert work.bytes == 5 * 2 * (first + second + third) + 8 * 8
    assert work.operations == 2 * (2 * 9 * first + 3 * (first * 5 * 4) + 3 * 320 * third)
    assert not any(layer._forward_hooks for layer in network)


def test_the_reference_network_is_the_recipe_made_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert read_recipe("conv_nearest", {"widths": [32, 64, 128]}) == trainers.REFERENCE
    model = trainers.reference()
    assert sum(p.numel() for p in model.parameters()) == 459_073
    assert floor.training(model, torch.zeros(1, 1, 32, 32)).operations == pytest.approx(131e6, rel=1e-3)
    assert all(map(torch.equal, model.parameters(), trainers.reference().parameters()))


def test_floors_are_images_a_second_of_the_better_measurement() -> None:
    able = floor.Machine("m", 1000.0, 6000.0, "measured")
    assert able.floors(floor.Work(10, 20)) == (100, 300)
    assert able.at_best(able._replace(bandwidth=2000.0, operations=1.0)).floors(floor.Work(10, 20)) == (200, 300)


RESULTS = [
    contest.Result(trainers.BASE, (100.0,), 0.02, 2**20),
    contest.Result("Lightning", failure="lightning is not installed"),
    contest.Result("tensors", (90.0,), 0.0201, 2**20),
    contest.Result("aecore", (300.0, 400.0), 0.03, 2**21),
]


def test_training_is_told_as_a_ratio_and_as_shares_of_the_floors() -> None:
    first, missing, _, last = train.rows(1024, RESULTS, 100.0, (1000.0, 500.0))
    assert first[:4] == ["1,024", trainers.BASE, "100 ± 0%", "1.00"]
    assert missing == ["1,024", "Lightning", "lightning is not installed"]
    assert last[2:] == ["350 ± 14%", "3.50", "35.0%", "70.0%", "2", "0.03000"]
    assert train.disagreeing(RESULTS) == ["aecore"]
    assert train.disagreeing([contest.Result("x", (1.0,), math.nan)]) == ["x"]


def test_one_is_the_same_batch_on_a_cpu_and_the_smallest_on_a_gpu() -> None:
    measured = {256: [contest.Result("x", (5.0,))], 1024: [contest.Result("x", (7.0,))]}
    assert train.base_rate(measured, 1024, "cpu") == 7
    assert train.base_rate(measured, 1024, "cuda") == 5
    assert math.isnan(train.base_rate({256: [contest.Result("x", failure="gone")]}, 256, "cpu"))
    assert train.rows(256, RESULTS, math.nan, (1.0, 1.0))[0][3] == "–"


def test_embedding_is_told_beside_decoding_and_reading_alone() -> None:
    results = [contest.Result(c.name, (speed,), score) for c, speed, score in zip(
        embed.CONTESTANTS, (10.0, 20.0, 30.0, 40.0, 300.0, 80.0), (0.0, 1e-6, 0.5, math.nan, math.nan, math.nan),
        strict=True)]  # fmt: skip
    lines = {line[0]: line for line in embed.rows(results)}
    assert lines["aecore, shards"][2:] == ["3.00", "10.0%", "0", "5.0e-01"]
    assert lines["aecore, files"][2:4] == ["4.00", "50.0%"]
    assert lines[embed.READING][3] == "100.0%"
    assert embed.disagreeing(results, 1.0) == ["aecore, shards", "aecore, files"]


def test_the_pile_is_the_same_pixels_as_files_and_prepared(tmp_path: Path) -> None:
    made = pile.make_pile(tmp_path, 40, 1)
    images = made.images()
    assert (images.count, images.shape) == (40, (1, 32, 32))
    everything = np.arange(40)
    files = pile.Files(made.files())
    opened = torch.cat([x for i in range(len(files)) for x in files[i]]).unsqueeze(1)
    assert torch.equal(opened, pile.floats(images, everything))
    assert made.files(everything[3:5]) == made.files()[3:5]
