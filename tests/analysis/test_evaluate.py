"""The floors and the evaluation, end to end on the tiny workspace, and their protocol on arrays."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aecore import artifact, cli, config
from aecore.analysis import baseline, protocol
from aecore.analysis.compare import compare, verdicts
from aecore.analysis.distort import distort
from aecore.analysis.protocol import Sample, flat
from aecore.analysis.space import Space
from aecore.data.images import Images
from aecore.models.pca import fit_images
from aecore.vectors import Embeddings

Set = Callable[..., None]
LABELLED = {"knn", "precision", "map", "svm", "forest", "acc", "nmi", "ari"}
ALWAYS = {"found_1", "found_10"}
REBUILT = {"mse", "psnr", "ssim"}


def write_images(folder: Path, labelled: bool, channels: int = 1, count: int = 120) -> Images:
    """Prepared images by hand: bars whose place is their label, in two shards."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    pixels = rng.integers(0, 60, (count, channels, 12, 12)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[:, :, 4 * label : 4 * label + 3] += 150
    ids = rng.choice(2**62, count, replace=False)
    split = np.where(np.arange(count) % 4 == 0, "test", np.where(np.arange(count) % 10 == 1, "validation", "train"))
    sizes = [count // 2, count - count // 2]
    facts = {"count": count, "channels": channels, "height": 12, "width": 12, "shards": sizes,
             "labels": ["left", "middle", "right"] if labelled else None}  # fmt: skip
    with artifact.writing(folder, "data", {}, facts) as directory:
        np.save(directory / "images-00000.npy", pixels[: sizes[0]])
        np.save(directory / "images-00001.npy", pixels[sizes[0] :])
        columns = {"id": ids, "split": split, "label": pa.array(labels if labelled else [None] * count, pa.int32())}
        pq.write_table(pa.table(columns), directory / "items.parquet")
    return Images.open(folder)


def raw(images: Images, chosen: Sample) -> Space:
    return Space.fit(lambda positions: flat(images.rows(positions)), chosen.train, "cosine")


def test_the_parts_are_the_splits_and_the_caps_take_the_smallest_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_images(tmp_path / "data", labelled=True)
    chosen = Sample.choose(images)
    assert np.array_equal(chosen.database, images.positions("train"))
    assert np.array_equal(chosen.queries, images.positions("test"))
    assert np.array_equal(chosen.gallery, np.arange(images.count))
    labels = images.labels()
    assert labels is not None
    for unshared in (np.arange(images.count, dtype=np.int32), np.full(images.count, -1, np.int32)):
        monkeypatch.setattr(Images, "labels", lambda self, unshared=unshared: unshared)
        assert len(Sample.choose(images).queries) == len(Sample.choose(images).database) == 0
    monkeypatch.setattr(Images, "labels", lambda self: labels)
    for name, value in (("QUERIES", 7), ("COPIES", 4), ("GALLERY", 9)):
        monkeypatch.setattr(protocol, name, value)
    capped, ids = Sample.choose(images), images.ids()
    assert sorted(ids[capped.queries]) == sorted(ids[images.positions("test")])[:7]
    assert (len(capped.originals), len(capped.gallery)) == (4, 9)
    assert np.isin(capped.originals, capped.gallery).all()


def test_an_undistorted_copy_finds_its_original_and_a_constant_code_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_images(tmp_path / "data", labelled=False, channels=3)
    chosen = Sample.choose(images)
    real = protocol.find_originals(raw(images, chosen), flat, images, chosen, 0)
    assert real["found_1"].mean() <= real["found_10"].mean()
    monkeypatch.setattr(protocol, "distort", lambda pixels, ids, seed: pixels)
    found = protocol.find_originals(raw(images, chosen), flat, images, chosen, 0)
    assert found["found_1"].tolist() == [1] * len(chosen.originals)
    constant = Space(lambda positions: np.ones((len(positions), 4), np.float32), np.zeros(4, np.float32), "cosine")
    lost = protocol.find_originals(constant, lambda x: np.ones((len(x), 4), np.float32), images, chosen, 0)
    assert lost["found_10"].sum() == 0


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 17)])
def test_a_copy_depends_on_seed_and_id_alone(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (5, *shape), dtype=np.uint8)
    ids = np.array([3, 2**62, 7, 1, 9])
    copies = distort(pixels, ids, 0)
    assert np.array_equal(copies[[3, 1]], distort(pixels[[3, 1]], ids[[3, 1]], 0))
    assert not np.array_equal(copies, distort(pixels, ids, 1))
    grey = distort(np.full((200, *shape), 128, np.uint8), np.arange(200), 0) / 255
    assert grey.std() == pytest.approx(0.05, rel=0.05)  # a flat image shows the noise alone


def test_ranking_figures_are_the_naive_ones(tmp_path: Path) -> None:
    images = write_images(tmp_path / "data", labelled=True)
    chosen, labels = Sample.choose(images), images.labels()
    assert labels is not None
    figures = protocol.rank(raw(images, chosen), chosen, labels, 5)
    vectors = flat(images.rows(np.arange(images.count))).astype(float)
    vectors -= vectors[chosen.train].mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, query in enumerate(chosen.queries):
        order = chosen.database[np.argsort(-(vectors[chosen.database] @ vectors[query]))]
        same = [labels[item] == labels[query] for item in order]
        near = [labels[item] for item in order[:5]]
        winner = max(near, key=lambda label: (near.count(label), -near.index(label)))
        assert figures["knn"][row] == (winner == labels[query])
        assert figures["precision"][row] == pytest.approx(sum(same[:5]) / 5)
        hits = [rank for rank, hit in enumerate(same, start=1) if hit]
        assert figures["map"][row] == pytest.approx(np.mean([i / rank for i, rank in enumerate(hits, start=1)]))


@pytest.mark.parametrize("labelled", [True, False])
def test_floors_measure_what_the_labels_allow(labelled: bool, tmp_path: Path) -> None:
    images = write_images(tmp_path / "data", labelled)
    measured = baseline.floors(images, fit_images(images, 3, 0), "l2", 5, 0)
    expected = ALWAYS | ({"knn", "precision", "map", "svm", "forest", "cluster"} if labelled else set())
    assert set(measured["raw"]) == expected
    assert set(measured["pca"]) == expected | REBUILT


def test_a_verdict_needs_an_interval_without_zero_and_a_visible_gap() -> None:
    rng = np.random.default_rng(2)
    errors = rng.uniform(0.01, 0.02, 300)
    model = {"mse": errors, "found_1": (rng.random(300) < 0.5).astype(float), "ssim": np.full(300, 0.5)}
    pca = {"mse": errors - 0.001, "found_1": np.zeros(300), "ssim": np.full(300, 0.5 + 1e-7)}
    comparison = compare({"model": model, "pca": pca}, None, 200, 0)
    gap, low, high = comparison.differences["pca"]["mse"]
    assert gap == pytest.approx(0.001)
    assert low == pytest.approx(0.001)
    assert high == pytest.approx(0.001)
    lines = verdicts(comparison, {"model": "model", "pca": "PCA-2"}, 10)
    assert lines[0].startswith("**The model loses to PCA-2** in reconstruction MSE (+0.00100")
    assert "beats PCA-2 in original found first" in lines[1]
    assert lines[2] == "The model and PCA-2 cannot be told apart in reconstruction SSIM."


def test_the_stage_writes_every_report(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = json.loads((config.REPORTS / "metrics.json").read_text())
    assert set(metrics["model"]) == LABELLED | ALWAYS | REBUILT == set(metrics["pca"])
    assert set(metrics["raw"]) == LABELLED | ALWAYS
    for name, value in metrics["raw"].items():
        floor = artifact.read_manifest(config.BASELINE, "baseline").facts["means"]["raw"].get(name, value)
        assert value == pytest.approx(floor, abs=2e-6)
    generated, floors = metrics["generation"], {"test", "pca", "raw"}
    assert set(generated["frechet"]) == set(generated["closest"]) == floors | {"reconstructions", "mixture"}
    assert generated["frechet"]["test"] < generated["frechet"]["raw"]
    assert generated["closest"]["test"] == pytest.approx(1, abs=1e-4)
    assert generated["images"] == len(Images.open().positions("test"))
    intervals = json.loads((config.REPORTS / "intervals.json").read_text())
    for space, figures in intervals["intervals"].items():
        for name, (low, high) in figures.items():
            assert low <= high
            assert name in ("nmi", "ari") or low - 1e-6 <= metrics[space][name] <= high + 1e-6
    assert {path.stem for path in config.FIGURES.glob("*.png")} == {
        "reconstructions", "neighbours", "map", "map_clusters", "clusters", "samples", "interpolations", "training"
    }  # fmt: skip
    written = {path: path.read_bytes() for path in config.REPORTS.rglob("*") if path.is_file()}
    assert cli.main(["evaluate"]) == 0
    assert {path: path.read_bytes() for path in written} == written
    out = capsys.readouterr().out
    assert (config.REPORTS / "comparison.md").read_text() in out
    assert "reports/figures/map.png" in out
    assert "| kNN@10 accuracy |" in out


def test_the_floors_have_the_same_bytes_twice(workspace: Path) -> None:
    before = artifact.read_manifest(config.BASELINE, "baseline")
    assert cli.main(["baseline"]) == 0
    assert artifact.read_manifest(config.BASELINE, "baseline").digest == before.digest
    _, measured, pca = baseline.read(config.BASELINE)
    assert pca.components.shape == (Embeddings.open().dim, 144)
    assert len(measured["pca"]["mse"]) == len(Images.open().positions("test"))


def test_floors_of_other_settings_are_refused(set_params: Set, capsys: pytest.CaptureFixture[str]) -> None:
    set_params(evaluate={"neighbours": 3})
    assert cli.main(["evaluate"]) == 1
    assert "the baseline was measured with neighbours 10, the model with 3: run `dvc repro`" in capsys.readouterr().err


def test_without_labels_all_but_the_label_figures_stands(set_params: Set, workspace: Path) -> None:
    flat_folder = workspace / "data/raw/flat"
    flat_folder.mkdir()
    for path in sorted((workspace / "data/raw/shapes").rglob("*.png")):
        path.rename(flat_folder / f"{path.parent.name}-{path.name}")
    set_params(data={"path": "data/raw/flat"})
    for stage in cli.STAGES:
        assert cli.main([stage]) == 0, stage
    assert Images.open().labels() is None
    metrics = json.loads((config.REPORTS / "metrics.json").read_text())
    assert set(metrics["model"]) == ALWAYS | REBUILT
    assert set(metrics["raw"]) == ALWAYS
    assert "purity" not in artifact.read_manifest(config.CLUSTERS, "clusters").facts
    assert (config.FIGURES / "neighbours.png").is_file()
    assert not (config.FIGURES / "map_clusters.png").exists()
    words = re.sub(r"base64,[^\"']*", "", (config.REPORTS / "report.html").read_text())  # pictures may spell anything
    assert "kNN" not in words
    comparison = (config.REPORTS / "comparison.md").read_text()
    assert "kNN" not in comparison
    assert set(metrics["generation"]) == {"closest", "images", "unseen"}
    assert "Without labels there is no classifier" in comparison
    assert (config.FIGURES / "samples.png").is_file()
    assert (config.FIGURES / "interpolations.png").is_file()
