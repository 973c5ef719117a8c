"""Every recipe as a whole: shapes, learning, reloading, and codes that do not depend on the batch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from aecore.config import WorkFailed
from aecore.models import autoencoder
from aecore.models.autoencoder import Autoencoder
from aecore.models.layers import folded
from aecore.models.recipe import Recipe, read_recipe
from aecore.training.engine import Engine
from aecore.training.feed import Batch
from tests.models.test_recipe import NAMES

ROOT = Path(__file__).parents[2]
SHAPES = [(1, 28, 28), (3, 17, 24)]
CASES = [(name, shape) for name in NAMES for shape in SHAPES if name != "colourise" or shape[0] == 3]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def as_batch(x: torch.Tensor) -> Batch:
    return Batch((x * 255).round().to(torch.uint8), 1.0)


def trained(name: str, shape: tuple[int, int, int], x: torch.Tensor, steps: int = 2) -> Autoencoder:
    """A model of the recipe after a few steps of the real engine; its batch normalisations have moved."""
    torch.manual_seed(0)
    model = Autoencoder(read_recipe(name, {}), shape, 8)
    model.normalise_by(torch.full((shape[0],), 0.4), torch.full((shape[0],), 0.2))
    engine = Engine(model, torch.device("cpu"), "fp32", 1e-3, 1e-4, 1.0, 1, 10)
    model.train()
    for _ in range(steps):
        assert torch.isfinite(engine.step(as_batch(x))["loss"])
    return model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_shapes_reload_and_batch_independence(name: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    x = torch.rand(7, *shape, generator=torch.Generator().manual_seed(1))
    model = trained(name, shape, x)
    with torch.no_grad():
        output = model(x)
        assert output.code.shape == (7, 8)
        assert output.reconstruction.shape == x.shape
        assert torch.equal(model.encode(x), output.code)
        torch.testing.assert_close(model.encode(x[2:3]), output.code[2:3], rtol=1e-5, atol=1e-6)
        if model.recipe.up != "unpool":  # which alone is told more than the code
            torch.testing.assert_close(model.decode(output.code), output.reconstruction, rtol=1e-5, atol=1e-5)

    autoencoder.save(model, tmp_path, {"height": shape[1]}, {"seed": 0})
    loaded, configuration = autoencoder.load(tmp_path)
    assert configuration["preparation"] == {"height": shape[1]}
    assert loaded.recipe == model.recipe
    here, there = model.state_dict(), loaded.state_dict()
    assert list(here) == list(there)
    assert all(torch.equal(here[key], there[key]) for key in here)
    with torch.no_grad():
        assert torch.equal(loaded.encode(x), output.code)
        assert torch.equal(loaded(x).reconstruction, output.reconstruction)
    first = (tmp_path / autoencoder.WEIGHTS).read_bytes()
    autoencoder.save(model, tmp_path, {"height": shape[1]}, {"seed": 0})
    assert (tmp_path / autoencoder.WEIGHTS).read_bytes() == first


@pytest.mark.parametrize("name", [name for name in NAMES if name != "pca"])
def test_every_parameter_learns(name: str) -> None:
    shape = (3, 12, 12) if name == "colourise" else (1, 12, 12)
    torch.manual_seed(0)
    model = Autoencoder(read_recipe(name, {}), shape, 4)
    engine = Engine(model, torch.device("cpu"), "fp32", 1e-3, 0, 1.0, 0, 10)
    before = {key: p.detach().clone() for key, p in [*model.named_parameters(), *engine.helpers.named_parameters()]}
    model.train()
    for _ in range(2):
        engine.step(as_batch(torch.rand(8, *shape)))
    after = dict([*model.named_parameters(), *engine.helpers.named_parameters()])
    assert [key for key, p in before.items() if torch.equal(p, after[key])] == []


@pytest.mark.parametrize("name", ["vae", "wae", "vq", "denoising_gaussian", "context_encoder_adversarial"])
def test_steps_are_determined_by_the_seed(name: str) -> None:
    x = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    first, second = (trained(name, (1, 12, 12), x, steps=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_reference_network_has_the_stated_parameters() -> None:
    recipe = dataclasses.replace(read_recipe("conv_nearest", {}), widths=(32, 64, 128))
    model = Autoencoder(recipe, (1, 32, 32), 64)
    biases_before_normalisation = 32 + 64 + 128 + 64 + 32 + 32  # left out here: normalisation undoes them
    assert sum(p.numel() for p in model.parameters()) == 459_425 - biases_before_normalisation


def test_linear_is_affine() -> None:
    model = Autoencoder(read_recipe("linear", {}), (1, 6, 6), 3)
    x, y = torch.rand(2, 4, 1, 6, 6)
    middle = model.encode((x + y) / 2)
    torch.testing.assert_close(middle, (model.encode(x) + model.encode(y)) / 2)


def test_with_cross_entropy_every_reconstruction_is_a_probability() -> None:
    model = Autoencoder(read_recipe("mlp", {"loss": "bce"}), (1, 6, 6), 3)
    output = model(torch.rand(4, 1, 6, 6))
    assert 0 < float(output.reconstruction.detach().min()) < float(output.reconstruction.detach().max()) < 1
    torch.testing.assert_close(output.reconstruction, output.raw.sigmoid())


def test_the_colouriser_never_sees_colour() -> None:
    model = Autoencoder(read_recipe("colourise", {}), (3, 12, 12), 4).eval()
    x = torch.rand(3, 3, 12, 12)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    grey = (x * weights).sum(dim=1, keepdim=True).repeat(1, 3, 1, 1)
    torch.testing.assert_close(model.encode(x), model.encode(grey))


def test_a_prior_is_drawn_by_its_generator() -> None:
    for name in ("vae", "wae", "vq"):
        model = Autoencoder(read_recipe(name, {}), (1, 12, 12), 8)
        first, again, other = (model.prior(50, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
        assert first is not None
        assert again is not None
        assert other is not None
        assert first.shape == (50, 8)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    assert Autoencoder(read_recipe("conv_nearest", {}), (1, 12, 12), 8).prior(5, torch.Generator()) is None


def test_weights_of_another_version_are_refused(tmp_path: Path) -> None:
    model = Autoencoder(read_recipe("linear", {}), (1, 6, 6), 3)
    autoencoder.save(model, tmp_path, {}, {})
    model.recipe = Recipe("mlp", widths=(4,))
    (tmp_path / "other").mkdir()
    autoencoder.save(model, tmp_path / "other", {}, {})
    with pytest.raises(WorkFailed, match=r"another version: run `dvc repro`"):
        autoencoder.load(tmp_path / "other")


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_folded_it_computes_the_same(name: str, shape: tuple[int, int, int]) -> None:
    x = torch.rand(8, *shape)
    model = trained(name, shape, x) if name != "pca" else Autoencoder(read_recipe(name, {}), shape, 8).eval()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    quick = folded(model)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    assert left == (len(model.recipe.widths) if model.recipe.up == "shuffle" else 0)  # pixels move between the two
    with torch.inference_mode():
        torch.testing.assert_close(quick.encode(x), model.encode(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(quick(x).reconstruction, model(x).reconstruction, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in weights.items())
