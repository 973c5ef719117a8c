"""The judge and what it measures, on images made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from aecore import artifact
from aecore.analysis import generation, judge
from aecore.analysis.protocol import Sample
from aecore.data.images import Images
from aecore.models.pca import fit_images

RNG = np.random.default_rng(0)


def write_images(folder: Path, shape: tuple[int, int, int], labels: np.ndarray | None, count: int = 200) -> Images:
    """Images around middle grey, brighter in the upper half where the label is 1; every fourth a test image."""
    pixels = RNG.normal(110, 12, (count, *shape))
    if labels is not None:
        pixels[labels == 1, :, : shape[1] // 2] += 50
    facts = {"count": count, "channels": shape[0], "height": shape[1], "width": shape[2], "shards": [count],
             "labels": ["dark", "bright"] if labels is not None else None}  # fmt: skip
    split = np.where(np.arange(count) % 4 == 0, "test", "train")
    with artifact.writing(folder, "data", {}, facts) as directory:
        np.save(directory / "images-00000.npy", np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
        column = pa.array(labels if labels is not None else [None] * count, pa.int32())
        table = {"id": RNG.choice(2**62, count, replace=False), "split": split, "label": column}
        pq.write_table(pa.table(table), directory / "items.parquet")
    return Images.open(folder)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "FEWEST", 3_200)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5, 19), (3, 40, 36), (1, 4, 4)])
def test_it_learns_any_shape_and_is_the_same_twice_and_after_reading(
    shape: tuple[int, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "LARGEST", 18 if shape[1] == 40 else 64)
    images = write_images(tmp_path / "data", shape, np.arange(200) // 4 % 2)
    train, test = images.positions("train"), images.positions("test")
    trained = judge.train(images, train, 0)
    assert trained.accuracy(images, test) > 0.9
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)  # which changes nothing
    judge.save(judge.train(images, train, 0), tmp_path)
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)
    features = trained.look(images.rows(test))
    assert features.shape == (len(test), judge.FEATURES)
    np.testing.assert_array_equal(judge.load(tmp_path, images).look(images.rows(test)), features)
    as_floats = trained.look(images.rows(test).astype(np.float32) / 255)
    np.testing.assert_allclose(as_floats, features, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(trained.look(images.rows(test[:3])), features[:3], rtol=1e-4, atol=1e-5)


def test_images_are_near_themselves_and_noise_is_far(tmp_path: Path) -> None:
    images = write_images(tmp_path / "data", (1, 12, 12), np.arange(200) // 4 % 2)
    chosen = Sample.choose(images)
    yardstick = generation.make_yardstick(images, chosen, 0)
    assert yardstick is not None
    generation.save(yardstick, tmp_path)
    again = generation.load(tmp_path, images)
    assert again is not None
    train = images.rows(chosen.train)
    itself, dark = (generation.measure(x, images, 0.05, again) for x in (train, train // 4))
    assert itself["frechet"] == pytest.approx(0, abs=1e-4)
    assert itself["closest"] == 0  # learnt by heart
    assert dark["frechet"] > 10 * itself["frechet"] + 1
    floors = generation.floors(images, chosen, fit_images(images, 3, 0), yardstick, 0)
    assert floors["sets"]["test"]["closest"] == pytest.approx(1, abs=1e-4)
    assert floors["sets"]["test"]["frechet"] < floors["sets"]["pca"]["frechet"]
    assert floors["images"] == 50


@pytest.mark.parametrize("labels", [None, np.zeros(200, int), np.where(np.arange(200) % 4, 1, -1)])
def test_there_is_no_judge_where_nothing_is_to_be_told_apart(labels: np.ndarray | None, tmp_path: Path) -> None:
    images = write_images(tmp_path / "data", (1, 8, 8), labels)
    chosen = Sample.choose(images)
    assert generation.make_yardstick(images, chosen, 0) is None
    assert generation.load(tmp_path, images) is None
    floors = generation.floors(images, chosen, fit_images(images, 3, 0), None, 0)
    assert set(floors["sets"]["test"]) == {"closest"}
    assert "judge" not in floors


def test_raw_samples_have_the_mean_and_covariance_of_the_training_pixels(tmp_path: Path) -> None:
    images = write_images(tmp_path / "data", (1, 4, 3), np.arange(200) // 4 % 2)
    train = images.positions("train")
    pixels = images.rows(train).reshape(len(train), -1) / 255
    drawn = generation.raw_samples(images, train, 50_000, 0).reshape(50_000, -1)
    np.testing.assert_allclose(drawn.mean(axis=0), pixels.mean(axis=0), atol=2e-3)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(pixels.T, bias=True), atol=4e-4)
