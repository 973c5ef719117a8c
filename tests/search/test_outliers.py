from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import cdist

from aecore import cli, config
from aecore.embedding import Encoder
from aecore.models import autoencoder
from aecore.search import outliers
from aecore.search.outliers import scores
from aecore.search.searcher import Searcher, Source


def test_scores_are_those_of_all_distances_and_of_the_model(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outliers, "BLOCK", 37)
    searcher = Searcher.open(Source.find())
    found = scores(searcher, Encoder.load(device="cpu"))
    vectors = searcher.base.embeddings.load().astype(np.float64)
    center = vectors[searcher.base.images.positions("train")].mean(axis=0)
    distances = np.sort(cdist(vectors - center, vectors - center, "cosine"), axis=1)
    np.testing.assert_allclose(found.distance, distances[:, 1:11].mean(axis=1), atol=1e-5)
    model, _ = autoencoder.load(config.MODEL)
    x = torch.from_numpy(searcher.base.images.rows(np.arange(searcher.count))).float() / 255
    with torch.inference_mode():
        error = (model(x).reconstruction.clamp(0, 1) - x).square().mean(dim=(1, 2, 3)).numpy()
    np.testing.assert_allclose(found.error, error, rtol=1e-3, atol=1e-6)


def test_noise_among_shapes_stands_out(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (12, 12))
    Image.fromarray(noise).save("data/raw/shapes/disc/noise.png")
    for stage in ("prepare", "train", "embed", "index"):
        assert cli.main([stage]) == 0
    capsys.readouterr()
    assert cli.main(["outliers", "--json", "-n", "3", "--montage", "out.png"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["unlike_reconstruction"][0]["path"] == "disc/noise.png"
    assert answer["count"] == 151
    for key, rank in (("far", "distance_rank"), ("unlike_reconstruction", "error_rank")):
        assert [entry[rank] for entry in answer[key]] == [1, 2, 3]
    with Image.open("out.png") as picture:
        assert picture.height > 6 * 96

    assert cli.main(["outliers", "-n", "0"]) == 2
    assert "-n is 0" in capsys.readouterr().err
    assert cli.main(["outliers", "--montage", "nowhere/out.png"]) == 2
