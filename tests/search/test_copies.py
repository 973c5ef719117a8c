"""Changed copies of photographs are found and nothing else, whatever the metric and the size of the collection."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from skimage import data as shipped

from aecore import cli
from aecore.embedding import Encoder
from aecore.search import copies
from aecore.search.collection import Collection
from aecore.search.copies import CHANGES, LEAST, MOST, brightened, cropped, least_told_apart, measure
from aecore.search.searcher import Searcher, Source

SIDE = 96


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "again": lambda image: jpeg(image, 60),
    "half": lambda image: jpeg(image.resize((SIDE // 2, SIDE // 2))),
    "bright": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.1)),
    "dark": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(0.9)),
    "cropped": lambda image: jpeg(image.crop((1, 3, SIDE - 3, SIDE - 1))),
}


def photographs() -> Iterator[Image.Image]:
    for name in ("astronaut", "coffee", "rocket", "chelsea"):
        pixels = getattr(shipped, name)()
        for top in range(0, pixels.shape[0] - SIDE + 1, SIDE):
            for left in range(0, pixels.shape[1] - SIDE + 1, SIDE):
                image = Image.fromarray(pixels[top : top + SIDE, left : left + SIDE])
                if np.asarray(image.convert("L")).std() > 15:
                    yield image


@pytest.fixture
def photos(workspace: Path, set_params: Callable[..., None]) -> Path:
    """The workspace with crops of photographs, JPEGs all of them, and a copy of some of them."""
    folder = Path("data/raw/photos")
    folder.mkdir(parents=True)
    kinds = list(COPIES)
    for number, image in enumerate(photographs()):
        original = jpeg(image)
        (folder / f"{number:03d}.jpg").write_bytes(original)
        if number % 2 == 0:
            kind = kinds[number // 2 % len(kinds)]
            (folder / f"{number:03d}-{kind}.jpg").write_bytes(COPIES[kind](Image.open(io.BytesIO(original))))
    set_params(data={"path": "data/raw/photos"}, prepare={"size": 32, "channels": 3})
    for stage in ("prepare", "train", "embed", "index"):
        assert cli.main([stage]) == 0
    return folder


def test_changed_copies_of_photographs_are_found_and_nothing_else(
    photos: Path, set_params: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = {(path.name, path.name[:3] + ".jpg") for path in photos.glob("*-*.jpg")}
    assert len(expected) > 20
    capsys.readouterr()
    for metric in ("cosine", "l2"):
        set_params(index={"metric": metric})
        assert cli.main(["index"]) == 0
        capsys.readouterr()
        assert cli.main(["duplicates", "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        groups = [sorted(image["path"] for image in group["images"]) for group in answer["near"]]
        found = {pair for group in groups for pair in combinations(group, 2)}
        assert found <= expected, metric
        for kind in COPIES:
            wanted = {pair for pair in expected if kind in pair[0]}
            assert len(found & wanted) >= len(wanted) - 1, (metric, kind)
        links = [group["difference"] for group in answer["near"]]
        assert links == sorted(links)
        assert all(0 <= link <= answer["pixels"]["threshold"] + 1e-6 for link in links)
        assert all(0 <= group["distance"] <= answer["threshold"] + 1e-6 for group in answer["near"])
        assert set(answer["pixels"]["found"]) == set(CHANGES)
    assert cli.main(["duplicates"]) == 0
    out = capsys.readouterr().out
    assert f"{len(answer['near'])} groups of" in out
    assert "saved again, scaled, brightened or cropped a little, as" in out
    assert cli.main(["duplicates", "--json", "--distance", "0.01"]) == 0
    pure = json.loads(capsys.readouterr().out)
    assert pure["pixels"] is None
    assert all(group["difference"] is None for group in pure["near"])


@pytest.mark.parametrize("kept", [1, 2, 10])
def test_a_tiny_collection_has_a_rule_too(
    workspace: Path, set_params: Callable[..., None], capsys: pytest.CaptureFixture[str], kept: int
) -> None:
    searcher, encoder = Searcher.open(Source.find()), Encoder.load(Path("models/autoencoder"), "cpu")
    every = np.arange(searcher.count)
    few = Searcher(Collection([replace(searcher.base, removed=every[kept:])]), searcher.growth, searcher.source)
    rule = measure(few, encoder)
    assert few.count == kept
    assert LEAST <= rule.unlike <= MOST
    assert rule.copies == kept * len(CHANGES)
    assert rule.decoys == (0 if kept == 1 else kept)


def test_the_rule_is_always_the_same(workspace: Path) -> None:
    searcher, encoder = Searcher.open(Source.find()), Encoder.load(Path("models/autoencoder"), "cpu")
    rule = measure(searcher, encoder)
    assert rule == measure(searcher, encoder)
    assert 0 < rule.share <= 1
    assert rule.copies == len(CHANGES) * min(copies.ORIGINALS, searcher.count)


def test_the_share_of_mistaken_decoys_follows_the_power_law() -> None:
    rng = np.random.default_rng(0)
    for power in (2, 5):
        values = rng.random(4000) ** (1 / power)  # a share t ** power of them is below t
        assert least_told_apart(values) == pytest.approx(1e-3 ** (1 / power), rel=0.15)
        values[:40] = 1e-6  # some are symmetric, and do have a copy
        assert least_told_apart(values) == pytest.approx(1e-3 ** (1 / power), rel=0.4)
    assert least_told_apart(np.empty(0)) == np.inf
    mixed = np.concatenate([np.linspace(0.1, 0.13, 10), np.linspace(0.7, 1, 90)])  # two sorts of pictures
    assert least_told_apart(mixed) > 0.01
    assert 0 < least_told_apart(np.zeros(50)) < 1e-6
    assert least_told_apart(np.full(3, 0.2)) == pytest.approx(0.2)


@pytest.mark.parametrize("shape", [(4, 1, 12, 12), (4, 3, 20, 31), (2, 3, 1, 1)])
def test_changes_keep_shape_and_leave_the_original_alone(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    kept = pixels.copy()
    for change in CHANGES.values():
        copy = change(pixels, np.random.default_rng(2))
        assert (copy.shape, copy.dtype) == (pixels.shape, np.uint8)
    np.testing.assert_array_equal(pixels, kept)
    assert (brightened(pixels) >= pixels).all()
    flat = np.full(shape, 77, np.uint8)
    np.testing.assert_array_equal(cropped(flat), flat)
