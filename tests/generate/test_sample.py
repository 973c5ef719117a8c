"""The command `sample` on the tiny workspace, with a plain bottleneck and with one that has a prior."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aecore import cli, config
from aecore.data.images import Images
from aecore.embedding import Encoder
from aecore.generate.mixture import fit_mixture
from aecore.generate.sample import prior_codes
from aecore.vectors import Embeddings

Set = Callable[..., None]


def test_it_names_the_nearest_training_images(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sample", "-n", "5", "--seed", "3", "--json", "-o", "five.png"]) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert "asking the workspace's artefacts" in captured.err
    assert {key: answer[key] for key in ("from", "seed", "picture")} == {
        "from": "mixture", "seed": 3, "picture": "five.png"
    }  # fmt: skip
    images, embeddings = Images.open(), Embeddings.open()
    train = images.positions("train")
    mixture = fit_mixture(embeddings.rows(train), 3)
    assert answer["components"] == len(mixture.weights)
    drawn = mixture.draw(5, 3)
    pictures = Encoder.load(config.MODEL, "cpu").decode(drawn)
    known, center = embeddings.rows(train).astype(np.float64), embeddings.rows(train).mean(axis=0, dtype=np.float64)
    for row, found in enumerate(answer["samples"]):
        apart = np.sqrt(np.square(images.rows(train) / 255 - pictures[row]).mean(axis=(1, 2, 3)))
        assert found["by_pixels"]["id"] == str(images.ids()[train[apart.argmin()]])
        assert found["by_pixels"]["distance"] == pytest.approx(apart.min(), abs=2e-6)
        a, b = drawn[row] - center, known - center
        cosine = b @ a / np.linalg.norm(b, axis=1) / np.linalg.norm(a)
        assert found["by_code"]["id"] == str(images.ids()[train[cosine.argmax()]])
        assert found["by_code"]["distance"] == pytest.approx(1 - cosine.max(), abs=2e-5)


def test_the_picture_is_the_same_twice_and_another_with_another_seed(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sample", "-n", "6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert lines[0].startswith("sample  nearest by code")
    with Image.open("samples.png") as picture:
        assert min(picture.size) > 150
    for seed, same in (("0", True), ("1", False)):
        assert cli.main(["sample", "-n", "6", "--seed", seed, "-o", "again.png"]) == 0
        assert (Path("again.png").read_bytes() == Path("samples.png").read_bytes()) == same


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "prior"], "the bottleneck of the model at models/autoencoder is plain"),
        (["-n", "0"], "-n is 0; expected 1 to 2000"),
        (["-o", "data"], "data cannot be written"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], message: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sample", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(("recipe", "channels", "size"), [("vae", 1, 12), ("vq", 3, [12, 20])])
def test_a_prior_is_sampled_measured_and_drawn(
    recipe: str, channels: int, size: int | list[int], set_params: Set, capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(train={"recipe": recipe, "epochs": 1}, prepare={"channels": channels, "size": size})
    for stage in cli.STAGES if channels == 3 else ("train", "embed", "index", "cluster", "map", "evaluate"):
        assert cli.main([stage]) == 0, stage
    generated = json.loads((config.REPORTS / "metrics.json").read_text())["generation"]
    assert list(generated["frechet"]) == ["mixture", "pca", "prior", "raw", "reconstructions", "test"]
    assert generated["frechet"]["prior"] > generated["frechet"]["test"]
    assert "the bottleneck's prior" in (config.REPORTS / "comparison.md").read_text()
    capsys.readouterr()
    assert cli.main(["sample", "-n", "3", "--from", "prior", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["components"] is None
    assert len(answer["samples"]) == 3
    encoder = Encoder.load(config.MODEL, "cpu")
    drawn = prior_codes(encoder, 4_000, 0)
    assert drawn is not None
    assert drawn.shape == (4_000, encoder.dim)
    if recipe == "vae":
        np.testing.assert_allclose(np.cov(drawn.T), np.eye(encoder.dim), atol=0.1)
