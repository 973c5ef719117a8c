from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from aecore import artifact, cli, config
from aecore.config import WorkFailed
from aecore.data.images import Images
from aecore.models import autoencoder
from aecore.models.pca import fit_pca
from aecore.training.checkpoint import Checkpoint, checkpoint
from aecore.training.engine import warmup_and_cosine
from aecore.training.feed import Feed
from aecore.training.fit import History, diverged, grown

Set = Callable[..., None]


def weights() -> bytes:
    return (config.MODEL / autoencoder.WEIGHTS).read_bytes()


def test_the_schedule_warms_up_then_falls_as_a_cosine() -> None:
    factors = [warmup_and_cosine(step, 4, 20) for step in range(21)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1
    assert factors[12] == pytest.approx(0.5)
    assert factors[20] == pytest.approx(0)


def test_every_epoch_feeds_each_training_image_once(workspace: Path) -> None:
    images = Images.open()
    feed = Feed(images, "train", 16, 0, torch.device("cpu"))
    first, again, second = (torch.cat([feed.gather(batch.keys) for batch in feed.epoch(e)]) for e in (0, 0, 1))
    expected = images.rows(images.positions("train")).reshape(len(feed.positions), -1)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    for fed in (first, second):
        rows = fed.numpy().reshape(len(fed), -1)
        left_out = len(expected) - len(rows)
        assert left_out == (len(expected) % 16 == 1)
        if not left_out:
            assert np.array_equal(np.unique(rows, axis=0), np.unique(expected, axis=0))


def test_training_twice_gives_the_same_bytes_and_another_seed_others(workspace: Path, set_params: Set) -> None:
    first = weights()
    assert cli.main(["train"]) == 0
    assert weights() == first
    set_params(run={"seed": 1})
    assert cli.main(["train"]) == 0
    assert weights() != first


def test_the_curves_and_the_summary_are_written(workspace: Path) -> None:
    rows = list(csv.DictReader((workspace / "reports/training.csv").read_text().splitlines()))
    summary = json.loads((workspace / "reports/train.json").read_text())
    assert [row["epoch"] for row in rows] == ["1", "2"]
    errors = [float(row["validation_mse"]) for row in rows]
    assert summary["validation_mse"] == min(errors)
    assert summary["best_epoch"] == errors.index(min(errors)) + 1
    assert not any("second" in key for key in artifact.read_manifest(config.MODEL, "model").facts)


@pytest.mark.parametrize(
    ("recipe", "overrides", "columns"),
    [
        ("well_posed", {}, ["reconstruction", "decorrelation", "orthogonality", "unit_norm", "correlation"]),
        ("tied", {"widths": [8]}, ["orthogonality", "unit_norm", "correlation"]),
        ("vae", {"widths": [4, 8]}, ["reconstruction", "kl"]),
        ("conv_nearest", {"widths": [4, 8]}, []),
    ],
)
def test_parts_and_constraints_are_logged_each_epoch(
    workspace: Path, set_params: Set, recipe: str, overrides: dict[str, object], columns: list[str]
) -> None:
    set_params(train={"recipe": recipe, "overrides": overrides})
    assert cli.main(["train"]) == 0
    rows = list(csv.DictReader((workspace / "reports/training.csv").read_text().splitlines()))
    assert list(rows[0]) == ["epoch", "train_loss", "validation_mse", "learning_rate", *columns]
    if recipe == "well_posed":
        assert max(float(row[key]) for row in rows for key in ("orthogonality", "unit_norm")) < 1e-5
        last = rows[-1]
        assert float(last["train_loss"]) == pytest.approx(
            float(last["reconstruction"]) + 0.1 * float(last["decorrelation"]), rel=1e-5
        )


def test_a_whitened_code_is_white_on_the_training_images(workspace: Path, set_params: Set) -> None:
    set_params(train={"overrides": {"widths": [4, 8], "whiten": 1.0}})
    assert cli.main(["train"]) == 0
    model, _ = autoencoder.load(config.MODEL)
    images = Images.open()
    x = torch.from_numpy(images.rows(images.positions("train"))).float() / 255
    with torch.inference_mode():
        codes, output = model.encode(x).double().numpy(), model(x)
        torch.testing.assert_close(model.decode(output.code), output.reconstruction, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.cov(codes.T, bias=True), np.eye(4), atol=1e-3)


def test_the_best_epoch_is_kept(workspace: Path, set_params: Set) -> None:
    set_params(train={"epochs": 6, "learning_rate": 0.3, "clip_norm": 1e9})  # far too fast: the curve goes up and down
    assert cli.main(["train"]) == 0
    model, _ = autoencoder.load(config.MODEL)
    images = Images.open()
    x = torch.from_numpy(images.rows(images.positions("validation"))).float() / 255
    with torch.inference_mode():
        error = float((model(x).reconstruction.clamp(0, 1) - x).square().mean())
    assert error == pytest.approx(json.loads(Path("reports/train.json").read_text())["validation_mse"], rel=1e-4)


RANDOM = {"bottleneck": "variational", "corruption": "blocks", "loss": "masked", "penalties": {"adversarial": 0.01},
          "whiten": 1.0}  # fmt: skip
"""All that draws at random while training, and a network beside the model."""


@pytest.mark.parametrize(("after", "overrides"), [(1, {}), (3, RANDOM)])
def test_killed_and_run_again_it_ends_with_the_same_weights(
    workspace: Path, set_params: Set, after: int, overrides: dict[str, object]
) -> None:
    set_params(train={"epochs": 5, "overrides": {"widths": [4, 8], **overrides}})
    assert cli.main(["train"]) == 0
    expected, curves = weights(), Path("reports/training.csv").read_bytes()

    script = (
        "import os, signal, sys\n"
        "from aecore import cli\n"
        "from aecore.training.checkpoint import Checkpoint\n"
        "save, left = Checkpoint.save, [int(sys.argv[1])]\n"
        "def killing(self, state):\n"
        "    save(self, state)\n"
        "    left[0] -= 1\n"
        "    if not left[0]:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "Checkpoint.save = killing\n"
        "cli.main(['train'])\n"
    )
    (config.MODEL / autoencoder.WEIGHTS).unlink()
    killed = subprocess.run([sys.executable, "-c", script, str(after)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = subprocess.run([sys.executable, "-m", "aecore", "train"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f"carrying on after epoch {after} of 5" in again.stderr
    assert weights() == expected
    assert Path("reports/training.csv").read_bytes() == curves
    assert not list(Path(".aecore/checkpoints").glob("*/state.pt"))


def test_a_checkpoint_of_other_code_is_not_carried_on(
    workspace: Path, set_params: Set, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "discard", killed)
        assert cli.main(["train"]) == 130
    assert list(Path(".aecore/checkpoints").glob("*/state.pt"))
    assert cli.main(["train"]) == 0
    assert "carrying on" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "discard", killed)
        assert cli.main(["train"]) == 130
    monkeypatch.setattr("aecore.training.train._code", lambda: {"aecore.training.fit": "edited"})
    assert cli.main(["train"]) == 0
    assert "carrying on" not in capsys.readouterr().err


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_with_the_same_weights(workspace: Path, set_params: Set) -> None:
    set_params(train={"epochs": 300})
    assert cli.main(["train"]) == 0
    expected = weights()
    (config.MODEL / autoencoder.WEIGHTS).unlink()
    rng = np.random.default_rng(0)
    left = 0
    for _ in range(10):
        child = subprocess.Popen([sys.executable, "-m", "aecore", "train"], stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(2, 8))
        child.kill()
        child.wait()
        left += any(Path(".aecore/checkpoints").glob("*/state.pt"))
    assert left >= 5  # else the kills fell before the first epoch or after the last
    assert subprocess.run([sys.executable, "-m", "aecore", "train"], stderr=subprocess.DEVNULL).returncode == 0
    assert weights() == expected


def test_a_loss_that_is_not_finite_stops_with_a_sentence(workspace: Path, set_params: Set, capsys) -> None:
    before = weights()
    set_params(
        train={"learning_rate": 1e30, "clip_norm": 1e30, "warmup_epochs": 0, "recipe": "linear", "overrides": {}}
    )
    assert cli.main(["train"]) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(r"training diverged in epoch \d of 2: the (training loss|validation MSE) is (nan|inf)", message)
    assert "Lower train.learning_rate (it is 1e+30) or train.clip_norm (1e+30)." in message
    assert weights() == before


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("losses", "errors", "told"),
    [
        ([0.5, 0.25], [0.1, 0.1], ""),
        ([0.0586], [NAN], "the validation MSE is nan; the training loss was 0.0586 in this epoch"),
        ([INF], [NAN], "the training loss is inf and the validation MSE is nan"),
        ([0.5, 0.25, NAN], [0.1, 0.1, NAN], "the training loss is nan and the validation MSE is nan; the training loss "
         "was 0.25 in epoch 2"),
        ([0.5, 9e9, 7e30], [0.1, 0.2, NAN], "the validation MSE is nan; the training loss was 0.5 in epoch 1, 9e+09 in "
         "epoch 2, 7e+30 in this epoch"),
    ],
)  # fmt: skip
def test_a_divergence_is_told_by_what_broke_and_how_it_grew(
    losses: list[float], errors: list[float], told: str
) -> None:
    assert diverged(History(losses, errors, [0.1] * len(losses))) == told


def test_a_constraint_that_is_no_number_is_told_by_its_name() -> None:
    assert diverged(History([0.5], [0.1], [0.1], {"correlation": [NAN]})).startswith("the correlation is nan; ")


def test_a_loss_that_grew_is_told(workspace: Path, set_params: Set, capsys: pytest.CaptureFixture[str]) -> None:
    assert grown(History([0.5, 0.05, 0.4], [0.1, 0.01, 0.1])) == ""
    assert grown(History([0.5, 0.0, 0.4], [0.1, 0.01, 0.1])) == ""
    assert grown(History([-0.5, 0.9], [0.1, 0.1])) == ""
    assert grown(History([0.5, 0.05, 0.6], [0.1, 0.01, 0.1])) == (
        "the training loss grew from 0.05 in epoch 2 to 0.6 in epoch 3, and the model kept is that of epoch 2"
    )
    assert grown(History([9e4, 3e3], [0.1, 0.2])) == (
        "the training loss ended at 3000 in epoch 2, where plain grey images would cost less than 1, and the model "
        "kept is that of epoch 1"
    )
    assert grown(History([9.0, 8.5], [0.1, 0.1], parts={"reconstruction": [0.2, 0.1], "kl": [30.0, 31.0]})) == ""
    assert cli.main(["train"]) == 0
    assert "training loss" not in capsys.readouterr().err
    set_params(train={"learning_rate": 30.0, "clip_norm": 1e9, "warmup_epochs": 0, "epochs": 3})
    assert cli.main(["train"]) == 0
    told = r"the training loss ended at .* in epoch 3, .* is that of epoch \d: lower train.learning_rate \(it is 30\)\."
    assert re.search(told, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"latent_dim": 145}, "train.latent_dim is 145, but an image has only 144 values"),
        ({"latent_dm": 3}, "did you mean 'latent_dim'?"),
        ({"recipe": "mlpp"}, "did you mean 'mlp'?"),
        ({"warmup_epochs": 2}, "train.warmup_epochs is 2.0, but epochs is 2"),
        ({"batch_size": 1}, "train.batch_size is 1; expected 2 or more"),
        ({"overrides": {"down": None}}, "down is None while architecture is 'conv'"),
    ],
)
def test_a_wrong_parameter_is_refused(workspace: Path, set_params: Set, change, words: str, capsys) -> None:
    set_params(train=change)
    assert cli.main(["train"]) == 2
    assert words in capsys.readouterr().err


def test_the_pca_recipe_is_pca(workspace: Path, set_params: Set) -> None:
    set_params(train={"recipe": "pca", "overrides": {}})
    assert cli.main(["train"]) == 0
    images = Images.open()
    flat = images.rows(images.positions("train")).reshape(-1, 144).astype(np.float32) / 255
    expected = fit_pca(lambda: [flat], len(flat), 4, 0)
    model, _ = autoencoder.load(config.MODEL)
    x = torch.from_numpy(flat[:5].reshape(5, 1, 12, 12))
    with torch.inference_mode():
        np.testing.assert_allclose(model.encode(x).numpy(), expected.encode(flat[:5]), atol=1e-5)
        decoded = model(x).reconstruction.numpy().reshape(5, -1)
    np.testing.assert_allclose(decoded, expected.decode(expected.encode(flat[:5])), atol=1e-5)


def hold(folder: str, ready, done) -> None:
    os.chdir(folder)
    with checkpoint({"a": 1}):
        ready.set()
        done.wait(30)


def test_a_living_owner_is_named(workspace: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    ready, done = spawn.Event(), spawn.Event()
    child = spawn.Process(target=hold, args=(str(workspace), ready, done))
    child.start()
    assert ready.wait(30)
    with pytest.raises(WorkFailed, match=f"process {child.pid}"), checkpoint({"a": 1}):
        pass
    done.set()
    child.join()
    with checkpoint({"a": 1}) as free:
        assert free.load() is None
