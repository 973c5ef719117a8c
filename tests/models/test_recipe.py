"""The strict reader of recipes: every impossible combination is refused, naming both keys."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest

from aecore.config import UserError
from aecore.data.corrupt import CORRUPTIONS
from aecore.models.autoencoder import Autoencoder
from aecore.models.bodies import ARCHITECTURES
from aecore.models.bottlenecks import BOTTLENECKS
from aecore.models.layers import DOWN, UP
from aecore.models.losses import LOSSES
from aecore.models.penalties import PENALTIES
from aecore.models.recipe import AMOUNTS, BOTTLENECK_WEIGHTS, Recipe, read_recipe
from aecore.models.recipe import PENALTIES as KNOWN_PENALTIES

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("axis", "choices"),
    [("architecture", ARCHITECTURES), ("down", DOWN), ("up", UP), ("bottleneck", BOTTLENECKS), ("loss", LOSSES),
     ("corruption", CORRUPTIONS)],
)  # fmt: skip
def test_what_a_recipe_may_name_is_what_there_is(axis: str, choices: dict[str, object]) -> None:
    hint = typing.get_type_hints(Recipe)[axis]
    named = {value for part in (hint, *typing.get_args(hint)) for value in typing.get_args(part)} | {
        value for value in typing.get_args(hint) if isinstance(value, str)
    }
    assert {value for value in named if isinstance(value, str)} == set(choices)


def test_the_defaults_of_numbers_cover_every_choice_that_has_one() -> None:
    assert set(AMOUNTS) == set(CORRUPTIONS) - {"none", "grey"}
    assert set(BOTTLENECK_WEIGHTS) == set(BOTTLENECKS) - {"plain"}
    assert set(KNOWN_PENALTIES) == set(PENALTIES)


def test_every_choice_has_a_recipe_that_shows_it() -> None:
    recipes = [read_recipe(name, {}) for name in NAMES]
    shown = {(axis, getattr(recipe, axis)) for recipe in recipes for axis in
             ("architecture", "down", "up", "bottleneck", "corruption")}  # fmt: skip
    for axis, choices in (("architecture", ARCHITECTURES), ("down", DOWN), ("up", UP), ("bottleneck", BOTTLENECKS)):
        assert {(axis, choice) for choice in choices} <= shown
    assert {("corruption", kind) for kind in set(CORRUPTIONS) - {"affine"}} <= shown
    assert {c for recipe in recipes for c in recipe.weights} == {"tied", "orthogonal", "unit_norm"}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_why_in_its_first_line_and_is_short(name: str) -> None:
    lines = (ROOT / f"recipes/{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ")
    assert 2 <= len(lines) <= 12


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        (
            "conv_neares",
            {},
            ["train.recipe 'conv_neares'", "did you mean 'conv_nearest'", "linear, mlp, orthogonal, pca"],
        ),
        ("conv_nearest", {"up": None}, ["up is None", "architecture is 'conv'"]),
        ("mlp", {"down": "strided"}, ["down is 'strided'", "architecture is 'mlp'"]),
        ("mlp", {"widths": []}, ["widths is []", "architecture is 'mlp'"]),
        ("linear", {"widths": [3]}, ["widths is [3]", "architecture is 'linear'"]),
        ("pca", {"loss": "l1"}, ["loss is 'l1'", "architecture is 'pca'"]),
        ("pca", {"bottleneck": "variational"}, ["bottleneck is 'variational'", "architecture is 'pca'"]),
        ("pca", {"corruption": "gaussian"}, ["corruption is 'gaussian'", "architecture is 'pca'"]),
        ("pca", {"penalties": {"l1": 1}}, ["penalties is {'l1': 1}", "architecture is 'pca'"]),
        ("pca", {"weights": ["tied"]}, ["weights is ['tied']", "architecture is 'pca'"]),
        ("conv_nearest", {"weights": ["tied"]}, ["weights is ['tied']", "architecture is 'conv'"]),
        ("conv_nearest", {"up": "unpool"}, ["up is 'unpool'", "down is 'strided'", "maxpool"]),
        ("tied", {"bottleneck": "variational"}, ["weights is ['tied']", "bottleneck is 'variational'"]),
        ("conv_nearest", {"loss": "masked"}, ["loss is 'masked'", "corruption is 'none'"]),
        ("denoising_gaussian", {"loss": "masked"}, ["loss is 'masked'", "corruption is 'gaussian'"]),
        ("conv_nearest", {"corruption_amount": 0.5}, ["corruption_amount is 0.5", "corruption is 'none'"]),
        ("colourise", {"corruption_amount": 0.5}, ["corruption_amount is 0.5", "corruption is 'grey'"]),
        ("denoising_dropout", {"corruption_amount": 1.5}, ["corruption_amount is 1.5", "at most 1"]),
        ("conv_nearest", {"bottleneck_weight": 1}, ["bottleneck_weight is 1.0", "bottleneck is 'plain'"]),
        ("vae", {"bottleneck_weight": -1}, ["bottleneck_weight is -1.0", "more than 0"]),
        ("vae", {"bottleneck_weight": 0}, ["bottleneck_weight is 0.0", "more than 0"]),
        (
            "conv_nearest",
            {"penalties": {"decorelation": 1}},
            ["penalty 'decorelation'", "did you mean 'decorrelation'"],
        ),
        ("conv_nearest", {"penalties": {"l1": 0}}, ["penalties.l1 is 0", "above 0"]),
        ("conv_nearest", {"penalties": {"l1": "much"}}, ["penalties.l1 is 'much'", "a number above 0"]),
        ("tied", {"weights": ["tied", "tied"]}, ["weights is ['tied', 'tied']", "each name once"]),
        ("conv_nearest", {"widths": [0]}, ["widths is [0]", "1 or more"]),
        ("conv_nearest", {"upp": "nearest"}, ["upp is not a known key", "did you mean 'up'"]),
        ("conv_nearest", {"up": "nearst"}, ["up is 'nearst'", "did you mean 'nearest'"]),
    ],
)
def test_an_impossible_combination_names_both_keys(recipe: str, overrides: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        read_recipe(recipe, overrides)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("name", "shape", "dim", "words"),
    [
        ("conv_nearest", (1, 6, 6), 40, "latent_dim is 40, but an image has only 36 values"),
        ("vq", (1, 8, 8), 6, "latent_dim is 6 while the recipe's bottleneck is 'quantised'"),
        ("colourise", (1, 8, 8), 4, "corruption is 'grey' while prepare.channels is 1"),
    ],
)
def test_what_does_not_fit_the_images_is_refused(name: str, shape: tuple[int, int, int], dim: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Autoencoder(read_recipe(name, {}), shape, dim)
