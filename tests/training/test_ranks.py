"""Two processes on one machine (gloo, CPU) against one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from aecore import cli, config
from aecore.data.images import Images
from aecore.models import autoencoder
from aecore.models.autoencoder import Autoencoder
from aecore.models.recipe import Recipe
from aecore.training.engine import Engine
from aecore.training.feed import Feed
from aecore.training.fit import History, _record
from aecore.training.ranks import ALONE, Ranks, joined

Set = Callable[..., None]
CPU = torch.device("cpu")
RECIPES = {
    "mlp": Recipe("mlp", (32,)),
    "conv": Recipe("conv", (4, 8), down="strided", up="nearest"),
    "vq": Recipe("mlp", (32,), bottleneck="quantised"),
    "grown": Recipe("mlp", (32,), penalties={"l2": 0.01, "decoder_l2": 1e-4}),
}


def train(name: str, ranks: Ranks) -> tuple[dict[str, torch.Tensor], History]:
    """Two epochs in float64, in batches of 15; Adam divides by tiny numbers, so that float32 would hide a real bug."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = Images.open()
    model = Autoencoder(RECIPES[name], images.shape, 4).double()
    feed = Feed(images, "train", 15, 0, CPU, ranks=ranks)
    engine = Engine(model, CPU, "fp32", 1e-2, 1e-2, 0.1, 2, 2 * feed.steps, gather=feed.gather, ranks=ranks)
    history = History()
    for epoch in range(2):
        model.train()
        total, seen = torch.zeros((), dtype=torch.float64), 0
        for batch in feed.epoch(epoch):
            total += engine.step(batch)["loss"] * len(batch.keys)
            seen += len(batch.keys)
        ranks.agree(model)
        _record(history, engine, images, {"loss": total}, seen)
    return model.state_dict(), history


def as_rank(rank: int, port: int, folder: str) -> None:
    os.chdir(folder)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with joined(CPU) as (ranks, _):
        torch.save({name: (w, vars(h)) for name in RECIPES for w, h in [train(name, ranks)]}, f"rank{rank}.pt")


@pytest.fixture
def two(workspace: Path) -> list[dict[str, tuple[dict[str, torch.Tensor], dict[str, list[float]]]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    children = [spawn.Process(target=as_rank, args=(rank, port, str(workspace))) for rank in (0, 1)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    return [torch.load(f"rank{rank}.pt") for rank in (0, 1)]


def test_two_ranks_end_where_one_process_does(two) -> None:
    assert len(Images.open().positions("train")) % 15 not in (0, 2, 3)  # else the last batch would not be shared
    for name in RECIPES:
        for key, weight in two[0][name][0].items():
            assert torch.equal(weight, two[1][name][0][key]), (name, key)  # the ranks agree, to the bit
        if name in ("conv", "vq"):  # normalised share by share; codebooks begin with the first rank's images
            continue
        alone, history = train(name, ALONE)
        for key, weight in alone.items():
            torch.testing.assert_close(two[0][name][0][key], weight, rtol=0, atol=1e-12)
        for figure in ("train_loss", "validation_mse", "learning_rate"):
            assert two[1][name][1][figure] == pytest.approx(getattr(history, figure), rel=1e-12)

    alone, _ = train("conv", ALONE)  # its normalisation is not synchronised on CPUs
    apart = [float((two[0]["conv"][0][key] - w).abs().max()) for key, w in alone.items() if w.is_floating_point()]
    assert 1e-4 < max(apart) < 1


def test_alone_nothing_is_summed() -> None:
    model, value = nn.BatchNorm1d(3), torch.arange(3.0)
    ALONE.sum([value])
    ALONE.agree(model)
    assert torch.equal(value, torch.arange(3.0))
    assert torch.equal(model.running_var, torch.ones(3))


def weights() -> bytes:
    return (config.MODEL / autoencoder.WEIGHTS).read_bytes()


def ranks_marked(mark: str) -> dict[int, int]:
    """Process ids by rank of the ranks whose environment has MARK."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            lines = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        environment = dict(line.split("=", 1) for line in lines if "=" in line)
        if environment.get("MARK") == mark and "RANK" in environment:
            found[int(environment["RANK"])] = int(folder.name)
    return found


def begin(mark: str) -> subprocess.Popen[str]:
    """Start the stage and wait until its ranks have saved a checkpoint."""
    child = subprocess.Popen([sys.executable, "-m", "aecore", "train"], env=os.environ | {"MARK": mark}, text=True,
                             stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(Path(".aecore/checkpoints").glob("*/state.pt")):
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.05)
    return child


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_restarts_all_from_the_last_checkpoint(workspace: Path, set_params: Set, killed: int) -> None:
    set_params(train={"devices": 2, "epochs": 200})
    assert cli.main(["train"]) == 0
    expected = weights()
    (config.MODEL / autoencoder.WEIGHTS).unlink()
    child = begin(f"drill{killed}-{os.getpid()}")
    os.kill(ranks_marked(f"drill{killed}-{os.getpid()}")[killed], signal.SIGKILL)
    _, told = child.communicate(timeout=120)
    assert child.returncode == 0, told
    assert "carrying on after epoch" in told
    assert weights() == expected
    assert not ranks_marked(f"drill{killed}-{os.getpid()}")


@pytest.mark.slow
def test_told_to_stop_the_ranks_end_too(workspace: Path, set_params: Set) -> None:
    set_params(train={"devices": 2, "epochs": 2000})
    mark = f"stop-{os.getpid()}"
    child = begin(mark)
    assert len(ranks_marked(mark)) == 2
    child.terminate()
    child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGTERM
    assert not ranks_marked(mark)


@pytest.mark.slow
def test_an_error_that_all_ranks_meet_is_one_sentence_and_is_not_tried_again(workspace: Path, set_params: Set) -> None:
    set_params(train={"devices": 2, "recipe": "linear", "overrides": {}, "learning_rate": 1e30, "clip_norm": 1e30})
    done = subprocess.run([sys.executable, "-m", "aecore", "train"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.count("aecore train: ") == done.stderr.count("Lower train.learning_rate") == 1
    assert "Traceback" not in done.stderr
