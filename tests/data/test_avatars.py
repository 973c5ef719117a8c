from __future__ import annotations

from importlib import metadata
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from aecore.config import Runtime, UserError, build
from aecore.data import avatars
from aecore.data.avatars import CHOICES, SIDE, SWITCHES, Face, change, describe, draw, draw_folder, faces, pair
from aecore.data.fetch import fetch
from aecore.data.images import Images
from aecore.data.prepare import PrepareConfig, prepare
from aecore.data.sources import SourceConfig

PLAIN: Face = {
    "hair": "crop", "hair_color": "brown", "skin": "light", "background": "sky", "eyes": "round",
    "eyebrows": "arched", "nose": "small", "frames": "none", "mouth": "flat", "facing": "right", "tilt": "upright",
    "size": "medium", "across": "middle", "down": "middle",
}  # fmt: skip
MOUTH = (slice(42, 52), slice(28, 54))
"""Rows and columns of the mouth of PLAIN."""
EYES = (slice(22, 40), slice(16, 60))


def installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


drawn = pytest.mark.skipif(not all(map(installed, avatars.PACKAGES)), reason="the extra `avatars` is not installed")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_faces_are_different_independent_and_the_first_of_more() -> None:
    many = list(faces(4000, seed=3))
    assert list(islice(faces(4001, seed=3), 50)) == list(faces(50, seed=3)) == many[:50]
    assert many[:50] != list(faces(50, seed=4))
    assert len({tuple(face.values()) for face in many}) == 4000
    known = [describe(face) for face in many]
    for name in SWITCHES:
        assert np.mean([face[name] for face in known]) == pytest.approx(0.5, abs=0.03)
    smiling, glasses = (np.array([face[name] for face in known], float) for name in ("smiling", "glasses"))
    assert abs(np.corrcoef(smiling, glasses)[0, 1]) < 0.05
    for attribute, choices in CHOICES.items():
        shares = {name: np.mean([face[attribute] == name for face in many]) for name in choices}
        expected = {name: 1 / len(choices) for name in choices}
        if attribute == "frames":
            expected = {name: 0.5 if name == "none" else 0.5 / (len(choices) - 1) for name in choices}
        assert shares == pytest.approx(expected, abs=0.035)


def test_what_a_face_has_follows_from_its_choices() -> None:
    assert describe(PLAIN) == PLAIN | {"smiling": False, "glasses": False}
    assert describe(PLAIN | {"mouth": "grin", "frames": "sun"})["smiling"] is True
    assert describe(PLAIN | {"mouth": "grin", "frames": "sun"})["glasses"] is True
    for attribute, yes, no in SWITCHES.values():
        assert sorted([*yes, *no]) == sorted(CHOICES[attribute])


def test_change() -> None:
    assert change(PLAIN, "smiling", True) == PLAIN | {"mouth": "smile"}
    assert change(PLAIN, "glasses", True) == PLAIN | {"frames": "round"}
    assert change(PLAIN | {"frames": "sun"}, "glasses", True) == PLAIN | {"frames": "sun"}
    assert change(PLAIN | {"frames": "sun"}, "glasses", False) == PLAIN
    assert change(PLAIN, "smiling", False) == PLAIN
    assert change(PLAIN, "hair", "long") == PLAIN | {"hair": "long"}
    for face, attribute, value, message in [
        (PLAIN, "smile", True, "attribute 'smile' is not known.*did you mean 'smiling'"),
        (PLAIN, "smiling", "yes", "smiling is 'yes'; expected True or False"),
        (PLAIN, "skin", "green", "skin 'green' is not known; known: light, tan, brown, dark"),
        (PLAIN | {"hair": "none"}, "skin", "tan", "hair 'none' is not known"),
        ({"hair": "crop"}, "skin", "tan", "expected a choice for each of hair, hair_color"),
    ]:
        with pytest.raises(UserError, match=message):
            change(face, attribute, value)


@drawn
def test_a_drawing_is_colour_and_the_same_each_time() -> None:
    picture = draw(PLAIN)
    assert (picture.shape, picture.dtype) == ((SIDE, SIDE, 3), np.uint8)
    np.testing.assert_array_equal(draw(dict(reversed(PLAIN.items()))), picture)
    assert draw(PLAIN, 32).shape == (32, 32, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    with pytest.raises(UserError, match="hair 'afro' is not known"):
        draw(PLAIN | {"hair": "afro"})


@drawn
@pytest.mark.parametrize(
    ("attribute", "value", "where"),
    [("smiling", True, MOUTH), ("mouth", "gasp", MOUTH), ("glasses", True, EYES), ("frames", "sun", EYES),
     ("eyes", "closed", EYES)],
)  # fmt: skip
def test_only_the_attribute_differs(attribute: str, value: str | bool, where: tuple[slice, slice]) -> None:
    before, after = (image.astype(int) for image in pair(PLAIN, attribute, value))
    differs = np.abs(after - before).max(axis=2) > 0
    inside = np.zeros_like(differs)
    inside[where] = True
    assert not (differs & ~inside).any()
    assert (np.abs(after - before).max(axis=2) > 60).sum() >= 12  # and it can be seen


@drawn
@pytest.mark.parametrize(("attribute", "visible"), [("skin", 0.15), ("hair_color", 0.05), ("background", 0.3)])
def test_a_colour_is_the_one_that_is_named(attribute: str, visible: float) -> None:
    for name, code in CHOICES[attribute].items():
        colour = np.array(list(bytes.fromhex(str(code))))
        assert (draw(PLAIN | {attribute: name}) == colour).all(axis=2).mean() > visible, name


@drawn
@pytest.mark.parametrize("attribute", CHOICES)
def test_every_choice_looks_different(attribute: str) -> None:
    pictures = {draw(PLAIN | {attribute: name}).tobytes() for name in CHOICES[attribute]}
    assert len(pictures) == len(CHOICES[attribute])


@drawn
def test_left_is_right_in_the_mirror() -> None:
    right, left = pair(PLAIN, "facing", "left")
    assert np.abs(right.astype(int) - left[:, ::-1]).mean() < 1


@drawn
def test_the_set_is_the_same_twice_and_is_prepared_with_its_attributes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw_folder(tmp_path / name, 60, seed=1)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    readme = (tmp_path / "one/README.md").read_text()
    assert "Lisa Wischofsky" in readme
    assert "[CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/)" in readme

    values = {"size": SIDE, "channels": 3, "fit": "crop", "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
              "max_rejected": 0.0, "max_pixels": 10_000}  # fmt: skip
    source = SourceConfig("avatars", str(tmp_path / "one"), False, "auto")
    prepare(source, build(PrepareConfig, values, "prepare"), Runtime(0, 1, "cpu"), tmp_path / "out")
    images = Images.open(tmp_path / "out")
    assert (images.count, images.shape, images.manifest.facts["rejected"]) == (60, (3, SIDE, SIDE), 0)
    by_number = [describe(face) for face in faces(60, seed=1)]
    attributes = images.attributes()
    assert list(attributes) == list(by_number[0])
    for position, path in enumerate(images.items["path"].to_pylist()):
        face = by_number[int(Path(path).stem)]
        assert {name: values[position] for name, values in attributes.items()} == face
        assert images.items["label_name"][position].as_py() == face["hair"]
        choices = {name: str(face[name]) for name in CHOICES}
        np.testing.assert_array_equal(images.rows(np.array([position]))[0], draw(choices).transpose(2, 0, 1))


@drawn
def test_fetch_draws_once_and_never_over_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avatars, "COUNT", 8)
    path = tmp_path / "raw" / "avatars"
    config = SourceConfig("avatars", str(path), False, "auto")
    assert fetch(config) == f"avatars: drew 8 images into {path}"
    assert len(list(path.glob("*/*.png"))) == 8
    before = tree(path)
    assert "nothing to fetch" in fetch(config)
    assert tree(path) == before

    (path / "attributes.csv").unlink()
    with pytest.raises(UserError, match="holds something else than avatars"):
        fetch(config)
    assert len(list(path.glob("*/*.png"))) == 8


@drawn
def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(face: Face) -> np.ndarray:
        raise KeyboardInterrupt

    monkeypatch.setattr(avatars, "draw", interrupt)
    with pytest.raises(KeyboardInterrupt):
        draw_folder(tmp_path / "x", 5)
    assert list(tmp_path.iterdir()) == []


def test_without_the_packages_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avatars, "PACKAGES", ("not-a-package",))
    avatars._style.cache_clear()
    for call in (lambda: draw(PLAIN), lambda: draw_folder(tmp_path / "x", 5)):
        with pytest.raises(UserError, match=r"not-a-package is not installed: .*aecore\[avatars\]"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_avatars_are_one_batch() -> None:
    with pytest.raises(UserError, match="batches is True; expected false with source: avatars"):
        SourceConfig("avatars", "x", True, "auto")
