"""Ways between codes against closed forms, and the command on the tiny workspace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aecore import cli, config
from aecore.data.images import Images
from aecore.embedding import Encoder
from aecore.generate.interpolate import between, linear, spherical

RNG = np.random.default_rng(0)
SHARES = np.linspace(0, 1, 7)


def test_the_great_circle_turns_evenly_and_keeps_the_length() -> None:
    a, b = np.array([3.0, 0, 0]), np.array([0, 3.0, 0])
    quarter = SHARES * np.pi / 2
    expected = 3 * np.stack([np.cos(quarter), np.sin(quarter), 0 * quarter], axis=1)
    np.testing.assert_allclose(spherical(a, b, SHARES), expected, atol=1e-6)
    a, b = RNG.normal(size=(2, 40))
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    points = spherical(a, b, SHARES).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), np.linalg.norm(a), rtol=1e-5)
    np.testing.assert_allclose(points[[0, -1]], [a, b], rtol=1e-5)
    steps = np.arccos((points[1:] * points[:-1]).sum(axis=1) / (a @ a))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
    assert np.linalg.norm(linear(a, b, SHARES)[3]) < 0.9 * np.linalg.norm(a)  # what the straight line does to it


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0])
def test_codes_in_line_are_joined_by_the_straight_line(factor: float) -> None:
    a = RNG.normal(size=5)
    expected = a + SHARES[:, None] * (factor * a - a)
    np.testing.assert_allclose(spherical(a, factor * a, SHARES), expected, rtol=1e-5, atol=1e-6)


def test_a_way_begins_and_ends_with_the_reconstructions_and_the_images(workspace: Path) -> None:
    images, encoder = Images.open(), Encoder.load(config.MODEL, "cpu")
    ends = images.rows(np.array([0, 1]))
    way = between(ends, ["a", "b"], encoder, 5)
    np.testing.assert_allclose(way.decoded[[0, -1]], encoder.reconstruct(ends), atol=1e-5)
    np.testing.assert_allclose(way.faded[[0, -1]], ends / 255, atol=1e-6)
    np.testing.assert_allclose(way.faded[2], ends.mean(axis=0) / 255, atol=1e-6)
    middle = encoder.decode(encoder.encode(ends).mean(axis=0, keepdims=True))[0]
    np.testing.assert_allclose(way.decoded[2], middle, atol=1e-5)


def test_the_command_takes_files_and_ids(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, identity = next((workspace / "data/raw/shapes/disc").iterdir()), str(Images.open().ids()[3])
    assert cli.main(["interpolate", str(photo), identity, "--steps", "4"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "interpolation.png\n"
    assert "asking the workspace's artefacts" in captured.err
    with Image.open("interpolation.png") as picture:
        assert min(picture.size) > 100
    before = Path("interpolation.png").read_bytes()
    assert cli.main(["interpolate", str(photo), identity, "--steps", "4", "-o", "again.png"]) == 0
    assert Path("again.png").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png", "{id}"], "nowhere.png cannot be opened"),
        (["{id}", "12"], "id 12 is not among the"),
        (["params.yaml", "{id}"], "params.yaml cannot be read as an image"),
        (["{id}", "{id}", "--steps", "1"], "--steps is 1; expected 2 to 600"),
        (["{id}", "{id}", "-o", "nowhere/out.png"], "nowhere/out.png cannot be written"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], message: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = str(Images.open().ids()[0])
    assert cli.main(["interpolate", *(argument.format(id=identity) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
