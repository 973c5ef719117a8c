from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aecore import cli, config
from aecore.config import UserError
from aecore.data.images import Images
from aecore.embedding import Encoder
from aecore.models import autoencoder
from aecore.vectors import Embeddings

Set = Callable[..., None]


def test_codes_are_the_models_row_by_row(workspace: Path) -> None:
    images, embeddings = Images.open(), Embeddings.open()
    model, _ = autoencoder.load(config.MODEL)
    with torch.inference_mode():
        expected = model.encode(torch.from_numpy(images.rows(np.arange(images.count))).float() / 255).numpy()
    np.testing.assert_allclose(embeddings.load(), expected, rtol=1e-4, atol=1e-5)
    chosen = np.array([7, 0, images.count - 1])
    assert np.array_equal(embeddings.rows(chosen), embeddings.load()[chosen])
    assert (embeddings.count, embeddings.dim) == (images.count, 4)


def test_an_image_has_the_same_code_alone_and_in_company(workspace: Path) -> None:
    images, encoder = Images.open(), Encoder.load(device="cpu", batch_size=32)
    pixels = images.rows(np.arange(40))
    together = encoder.encode(pixels)
    alone = np.concatenate([encoder.encode(pixels[i : i + 1]) for i in range(40)])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)
    assert np.array_equal(encoder.encode(pixels), together)


def test_a_file_is_embedded_as_the_corpus_was(workspace: Path) -> None:
    images, encoder, embeddings = Images.open(), Encoder.load(device="cpu"), Embeddings.open()
    paths = [Path("data/raw/shapes") / path for path in images.items["path"].to_pylist()[:5]]
    np.testing.assert_allclose(encoder.encode_files(paths), embeddings.rows(np.arange(5)), rtol=1e-4, atol=1e-5)
    encoder.batch_size = 2  # several blocks, the last one smaller
    np.testing.assert_allclose(encoder.encode_files(paths), embeddings.rows(np.arange(5)), rtol=1e-4, atol=1e-5)
    assert encoder.encode_files([]).shape == (0, 4)


def test_decode_and_reconstruct_agree(workspace: Path) -> None:
    pixels, encoder = Images.open().rows(np.arange(3)), Encoder.load(device="cpu")
    reconstructed = encoder.reconstruct(pixels)
    assert reconstructed.shape == (3, 1, 12, 12)
    assert 0 <= reconstructed.min() <= reconstructed.max() <= 1
    np.testing.assert_allclose(encoder.decode(encoder.encode(pixels)), reconstructed, atol=1e-5)


def test_a_query_file_that_is_no_image(workspace: Path) -> None:
    Path("note.png").write_text("not an image")
    encoder = Encoder.load(device="cpu")
    with pytest.raises(UserError, match=r"note\.png cannot be read as an image"):
        encoder.encode_files(["note.png"])
    with pytest.raises(UserError, match=r"none\.png cannot be opened"):
        encoder.encode_files(["none.png"])
    with pytest.raises(UserError, match="cannot be opened"):
        encoder.encode_files(["data"])


def test_embedding_twice_gives_the_same_bytes(workspace: Path) -> None:
    before = Embeddings.open().manifest
    assert cli.main(["embed"]) == 0
    assert Embeddings.open().manifest == before


def test_a_model_of_other_data_is_refused(workspace: Path, set_params: Set, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (12, 12), 7).save("data/raw/shapes/disc/new.png")
    old = Images.open().manifest.digest
    assert cli.main(["prepare"]) == 0
    capsys.readouterr()
    assert cli.main(["embed"]) == 1
    message = capsys.readouterr().err
    assert old[:12] in message
    assert Images.open().manifest.digest[:12] in message
    assert "dvc repro" in message
