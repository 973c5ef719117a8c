"""Few labels: the pieces on arrays, and the command on the tiny workspace against scikit-learn."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from aecore import artifact, cli, config, tracking
from aecore.analysis import finetune, head, learners
from aecore.analysis.head import Classifier, Measured, Part, draw, fresh, shuffled
from aecore.analysis.protocol import flat
from aecore.data.images import Images
from aecore.embedding import Encoder
from aecore.models.autoencoder import Autoencoder
from aecore.models.recipe import Recipe

Set = Callable[..., None]
CPU = torch.device("cpu")


def conv(**changes: Any) -> Autoencoder:
    torch.manual_seed(1)
    axes: dict[str, Any] = {"architecture": "conv", "widths": (4, 8), "down": "strided", "up": "nearest"}
    return Autoencoder(Recipe(**(axes | changes)), (1, 8, 8), 4).eval()


def part(count: int, seed: int = 0) -> Part:
    """Noise whose brighter half is the label."""
    labels = np.arange(count) % 2
    pixels = np.random.default_rng(seed).integers(0, 120, (count, 1, 8, 8)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 80
    return Part(pixels, labels.astype(np.int64))


def test_a_drawing_takes_as_many_of_each_and_more_include_the_fewer() -> None:
    positions, labels = np.arange(100, 160), np.repeat([3, 5, 9], 20)
    few, many, other = draw(positions, labels, 4, 0), draw(positions, labels, 10, 0), draw(positions, labels, 4, 1)
    assert np.bincount(labels[few - 100])[[3, 5, 9]].tolist() == [4, 4, 4]
    assert np.isin(few, many).all()
    assert len(many) == 30
    assert not np.array_equal(few, other)


@pytest.mark.parametrize(("count", "batch"), [(10, 10), (10, 4), (7, 3), (3, 3)])
def test_batches_are_full_and_all_images_come_equally_often(count: int, batch: int) -> None:
    batches = list(shuffled(count, batch, 3 * count, 0))
    assert {len(rows) for rows in batches} == {batch}
    assert np.bincount(np.concatenate(batches)).tolist() == [3 * batch] * count


def test_a_fresh_network_keeps_only_how_images_are_normalised() -> None:
    model = conv()
    model.normalise_by(torch.tensor([0.3]), torch.tensor([0.2]))
    other = fresh(model, 0)
    assert float(other.mean) == pytest.approx(0.3)
    assert float(other.scale) == pytest.approx(0.2)
    weights = [torch.nn.utils.parameters_to_vector(m.encoder.parameters()) for m in (model, other, fresh(model, 0))]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])


def test_a_classifier_begins_as_the_regression_on_its_codes() -> None:
    model, images = conv(), part(30)
    codes = head.apply(model.encode, images.pixels, CPU)
    linear = learners.logistic(codes, images.labels, lambda candidate: 0.0)
    scores = head.apply(Classifier(model, linear).eval(), images.pixels, CPU)
    np.testing.assert_allclose(
        scores, ((codes - linear.mean) / linear.scale) @ linear.weight.T + linear.bias, atol=1e-5
    )


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short epochs, and two learning rates to choose from."""
    monkeypatch.setattr(head, "STEPS", 10)
    for module in (head, finetune):
        monkeypatch.setattr(module, "RATES", (3e-3, 1e-2))


@pytest.mark.usefixtures("short")
def test_training_learns_leaves_the_model_alone_and_repeats() -> None:
    model, before = conv(), conv().state_dict()
    ticks: list[int] = []

    def once() -> Measured:
        parts = part(20, 1), part(40, 2), part(60, 3)
        return head.by_training(model, *parts, 3, 0, CPU, lambda: ticks.append(1))

    first, second = once(), once()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    np.testing.assert_array_equal(first.correct, second.correct)
    assert first.chosen == second.chosen
    assert len(ticks) == 2 * 3 * 2
    assert first.correct.mean() > 0.8


@pytest.mark.parametrize("bottleneck", ["plain", "variational", "wasserstein", "quantised"])
def test_two_images_are_enough_and_every_bottleneck_lets_the_encoder_learn(bottleneck: str) -> None:
    model, taught = conv(bottleneck=bottleneck), part(2)
    linear = learners.logistic(head.apply(model.encode, taught.pixels, CPU), taught.labels, lambda candidate: 0.0)
    classifier = Classifier(model, linear)
    before = torch.nn.utils.parameters_to_vector(model.encoder.parameters()).clone()
    assert len(list(head.train(classifier, taught, 2, 1e-3, 0, CPU))) == 2
    after = torch.nn.utils.parameters_to_vector(model.encoder.parameters())
    assert torch.isfinite(after).all()
    assert float((after - before).detach().abs().max()) > 1e-3


def test_a_verdict_needs_the_interval_and_every_seed() -> None:
    q = 400
    better, worse = np.arange(q) < 300, np.arange(q) < 200

    def found(finetuned: np.ndarray, scratch: np.ndarray) -> Mapping[str, Measured]:
        right = dict.fromkeys(finetune.WAYS, worse) | {"finetuned": finetuned, "scratch": scratch}
        return {way: Measured(values, {}) for way, values in right.items()}

    agreed = finetune.summarise(10, 20, [found(better, worse), found(better, worse)], 100, 0)
    assert agreed["accuracy"]["finetuned"] == {"mean": 0.75, "spread": 0.0, "seeds": [0.75, 0.75]}
    assert agreed["differences"]["scratch"]["verdict"] == 1
    assert agreed["differences"]["scratch"]["mean"] == 0.25
    split = finetune.summarise(10, 20, [found(better, worse)] * 3 + [found(worse, better)], 100, 0)
    assert split["differences"]["scratch"]["interval"][0] > 0
    assert split["differences"]["scratch"]["verdict"] == 0
    lost = finetune.summarise(10, 20, [found(worse, better)], 100, 0)
    assert lost["differences"]["scratch"]["verdict"] == -1
    assert lost["accuracy"]["scratch"]["spread"] is None
    said = [finetune.verdicts({"dim": 8, "rows": [row]})[0] for row in (agreed, split, lost)]
    assert said[0].startswith("Pretraining helps at 10 labels a class: fine-tuned, it beats frozen")
    assert said[1].startswith("**Pretraining makes no difference that can be told** at 10")
    assert said[2].startswith("**Pretraining harms** at 10 labels a class")
    assert "**loses to** from scratch (-0.250 [" in said[2]


class Record(tracking.Run):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int | None, Mapping[str, float]]] = []
        self.figures: list[str] = []

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.logged.append((step, metrics))

    def figure(self, figure: Any, name: str, step: int | None = None) -> None:
        self.figures.append(name)


@pytest.mark.usefixtures("short")
def test_the_command_end_to_end(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record, asked = Record(), ["finetune", "--labels", "1000", "9", "3", "--seeds", "2", "--epochs", "1"]

    @contextlib.contextmanager
    def run(stage: str, parameters: Any, tags: Any, config: Any) -> Iterator[tracking.Run]:
        assert stage == "finetune"
        assert parameters["labels"] == [3, 9]
        yield record

    monkeypatch.setattr(tracking, "run", run)
    before = {path: path.read_bytes() for path in workspace.rglob("*") if path.is_file()}
    assert cli.main(asked) == 0
    out = capsys.readouterr().out
    written = {path.relative_to(workspace).as_posix() for path in workspace.rglob("*") if path.is_file()}
    assert written - {path.relative_to(workspace).as_posix() for path in before} == {
        "reports/finetune.json", "reports/finetune.png"
    }  # fmt: skip
    assert all(path.read_bytes() == content for path, content in before.items())
    first = (config.REPORTS / "finetune.json").read_bytes()
    assert cli.main([*asked, "--json"]) == 0
    assert (config.REPORTS / "finetune.json").read_bytes() == first
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads(first)

    images = Images.open()
    labels = images.labels()
    assert labels is not None
    split = {name: images.positions(name) for name in ("train", "validation", "test")}
    assert result["model"] == artifact.read_manifest(config.MODEL, "model").digest
    assert result["images"] == {name: len(split[name]) for name in ("validation", "test")}
    assert [(row["labels"], row["images"]) for row in result["rows"]] == [(3, 9), (9, 27)]
    few = min(np.bincount(labels[split["train"]]))
    assert [row["labels"] for row in result["left_out"]] == [1000]
    left = rf"1,000 labels a class: left out, for only {few} labelled training images show '\w+'"
    assert re.search(left, out)
    assert f"on {len(split['validation'])} labelled validation images beyond the labels counted here" in out
    assert "| 9 | 27 |" in out
    assert [step for step, _ in record.logged[:2]] == [3, 9]
    assert record.logged[1][1]["accuracy.raw"] == result["rows"][1]["accuracy"]["raw"]["mean"]
    assert record.figures[0] == "finetune"

    row = result["rows"][1]
    encoder = Encoder.load(device="cpu")
    for way, encode in (("frozen", encoder.encode), ("raw", flat)):
        for number, seed in enumerate(result["seeds"]):
            taught = draw(split["train"], labels[split["train"]], 9, seed)
            z, test = (encode(images.rows(positions)).astype(float) for positions in (taught, split["test"]))
            scale = np.sqrt(z.var(axis=0).mean())
            regression = LogisticRegression(C=row["chosen"][way][number]["C"], tol=1e-6, max_iter=10_000)
            regression.fit((z - z.mean(axis=0)) / scale, labels[taught])
            right = regression.predict((test - z.mean(axis=0)) / scale) == labels[split["test"]]
            assert row["accuracy"][way]["seeds"][number] == pytest.approx(right.mean(), abs=1.5 / len(right))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "10", "0"], "--labels is 0; expected 1 or more."),
        (["--seeds", "0"], "--seeds is 0; expected 1 to 100."),
        (["--epochs", "-1"], "--epochs is -1; expected 1 to 10000."),
        (["--labels", "1000"], "1,000 labels a class cannot be had, for only 31 labelled training images show "),
    ],
)
def test_what_cannot_be_asked_is_refused(
    arguments: list[str], message: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["finetune", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (config.REPORTS / "finetune.json").exists()


def test_images_that_would_not_fit_are_left_out(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(finetune, "HELD", 3 * 144 * 5)
    assert cli.main(["finetune", "--labels", "6"]) == 2
    assert "6 labels a class cannot be had, for its pixels would take more than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels, split: None, "have no labels, and finetune measures with them"),
        (lambda labels, split: np.zeros_like(labels), "all labelled training images show the same"),
        (lambda labels, split: np.where(split == "validation", -1, labels), "no image of the validation split has a "),
        (lambda labels, split: np.arange(len(labels)), "no image of the validation split has a label that a training"),
    ],
)
def test_labels_that_do_not_suffice_are_named(
    change: Callable[[np.ndarray, np.ndarray], np.ndarray | None], message: str, workspace: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    images = Images.open()
    labels, split = images.labels(), images.items["split"].to_numpy(zero_copy_only=False)
    assert labels is not None
    changed = change(labels, split)
    monkeypatch.setattr(Images, "labels", lambda self: changed)
    assert cli.main(["finetune"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("short")
def test_any_recipe_can_be_fine_tuned(set_params: Set, capsys: pytest.CaptureFixture[str]) -> None:
    set_params(train={"recipe": "pca", "overrides": {}})
    assert cli.main(["train"]) == 0
    capsys.readouterr()
    assert cli.main(["finetune", "--labels", "5", "--seeds", "1", "--epochs", "1", "--json"]) == 0
    accuracy = json.loads(capsys.readouterr().out)["rows"][0]["accuracy"]
    assert accuracy["frozen"]["mean"] == accuracy["pca"]["mean"]  # the same codes but for rounding
