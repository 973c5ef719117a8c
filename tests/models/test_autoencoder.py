from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from aecore.config import UserError
from aecore.models import autoencoder
from aecore.models.autoencoder import Autoencoder
from aecore.models.bodies import ARCHITECTURES
from aecore.models.layers import UP, halved
from aecore.models.losses import LOSSES
from aecore.models.recipe import read_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_every_architecture_has_a_recipe() -> None:
    assert {read_recipe(name, {}).architecture for name in RECIPES} == set(ARCHITECTURES)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 24)])
def test_shapes_reload_and_batch_independence(name: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Autoencoder(read_recipe(name, {}), shape, 5)
    model.normalise_by(torch.full((shape[0],), 0.4), torch.full((shape[0],), 0.2))
    x = torch.rand(7, *shape)
    model.train()
    model(x)  # moves batch normalisation's averages away from where they begin
    model.eval()
    output = model(x)
    assert output.code.shape == (7, 5)
    assert output.reconstruction.shape == x.shape
    torch.testing.assert_close(model.encode(x[2:3]), output.code[2:3], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.decode(output.code), output.reconstruction)

    autoencoder.save(model, tmp_path, {"height": shape[1]}, {"seed": 0})
    loaded, configuration = autoencoder.load(tmp_path)
    assert configuration["preparation"] == {"height": shape[1]}
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    assert torch.equal(loaded.encode(x), output.code)
    first = (tmp_path / autoencoder.WEIGHTS).read_bytes()
    autoencoder.save(model, tmp_path, {"height": shape[1]}, {"seed": 0})
    assert (tmp_path / autoencoder.WEIGHTS).read_bytes() == first


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "pca"])
def test_every_parameter_learns(name: str) -> None:
    model = Autoencoder(read_recipe(name, {}), (1, 12, 12), 4)
    x = torch.rand(8, 1, 12, 12)
    LOSSES[model.recipe.loss](model(x).reconstruction, x).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_reference_network_has_the_stated_parameters() -> None:
    recipe = dataclasses.replace(read_recipe("conv", {}), widths=(32, 64, 128))
    model = Autoencoder(recipe, (1, 32, 32), 64)
    biases_before_normalisation = 32 + 64 + 128 + 64 + 32 + 32  # left out here: normalisation undoes them
    assert sum(p.numel() for p in model.parameters()) == 459_425 - biases_before_normalisation


def test_linear_is_affine() -> None:
    model = Autoencoder(read_recipe("linear", {}), (1, 6, 6), 3)
    x, y = torch.rand(2, 4, 1, 6, 6)
    middle = model.encode((x + y) / 2)
    torch.testing.assert_close(middle, (model.encode(x) + model.encode(y)) / 2)


def test_nearest_up_repeats_pixels_before_it_convolves() -> None:
    up = UP["nearest"](2, 3, (7, 6)).eval()
    x = torch.rand(1, 2, 4, 3)
    rows, columns = torch.arange(7) * 4 // 7, torch.arange(6) * 3 // 6
    repeated = x[:, :, rows][:, :, :, columns]
    expected = torch.relu(up.normalise(torch.nn.functional.conv2d(repeated, up.convolve.weight, padding=1)))
    torch.testing.assert_close(up(x), expected)
    assert halved((7, 28)) == (4, 14)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_their_definition(name: str) -> None:
    rng = np.random.default_rng(0)
    p, t = rng.uniform(0.01, 0.99, (2, 3, 1, 4, 4))
    expected = {
        "mse": np.mean((p - t) ** 2),
        "l1": np.mean(np.abs(p - t)),
    }[name]
    assert float(LOSSES[name](torch.from_numpy(p), torch.from_numpy(t))) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        ("con", {}, ["train.recipe 'con'", "did you mean 'conv'", "linear, mlp, pca"]),
        ("conv", {"up": None}, ["up is None", "architecture is 'conv'"]),
        ("mlp", {"down": "strided"}, ["down is 'strided'", "architecture is 'mlp'"]),
        ("mlp", {"widths": []}, ["widths is []", "architecture is 'mlp'"]),
        ("linear", {"widths": [3]}, ["widths is [3]", "architecture is 'linear'"]),
        ("pca", {"loss": "l1"}, ["loss is 'l1'", "architecture is 'pca'"]),
        ("conv", {"upp": "nearest"}, ["upp is not a known key", "did you mean 'up'"]),
        ("conv", {"up": "nearst"}, ["up is 'nearst'", "did you mean 'nearest'"]),
    ],
)
def test_an_impossible_combination_names_both_keys(recipe: str, overrides: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        read_recipe(recipe, overrides)
    assert all(word in str(caught.value) for word in words), caught.value


def test_latent_dim_larger_than_the_input() -> None:
    with pytest.raises(UserError, match="latent_dim is 40, but an image has only 36 values"):
        Autoencoder(read_recipe("conv", {}), (1, 6, 6), 40)
