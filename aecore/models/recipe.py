"""A recipe: one autoencoder of the grid, as choices on independent axes. `recipes/*.yaml` names the points."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from aecore import config
from aecore.config import refuse, require

Constraint = Literal["tied", "orthogonal", "unit_norm"]
Corruption = Literal["none", "dropout", "gaussian", "salt_pepper", "hole", "blocks", "grey", "affine"]

AMOUNTS = {"dropout": 0.5, "gaussian": 0.2, "salt_pepper": 0.2, "hole": 0.5, "blocks": 0.25, "affine": 1.0}
"""What `corruption_amount: null` means: see `aecore.data.corrupt`."""
HIDING = ("dropout", "hole", "blocks")
"""Corruptions after which some pixels are unknown."""
BOTTLENECK_WEIGHTS = {"variational": 0.05, "wasserstein": 1.0, "quantised": 1.0}
"""What `bottleneck_weight: null` means: see `aecore.models.bottlenecks`."""
PENALTIES = ("l1", "l2", "decorrelation", "decoder_l2", "decoder_gradient", "adversarial", "gradients")
"""The known keys of `penalties`: see `aecore.models.penalties`."""
SUBSPACE = 4
"""Numbers of a code that a quantised bottleneck replaces together."""
CELL = 4
"""Pixels of a side of the cells whose oriented gradients the penalty `gradients` asks for."""


@dataclass(frozen=True)
class Recipe:
    """The axes; one left out has no effect. A combination that cannot be is refused when read, naming both keys."""

    architecture: Literal["pca", "linear", "mlp", "conv", "resnet"]
    """What stands between image and code; `pca` is the linear one, solved instead of trained."""
    widths: tuple[int, ...] = ()
    """mlp: units of each hidden layer; conv, resnet: channels of each level, every level halving height and width."""
    weights: tuple[Constraint, ...] = ()
    """linear, mlp: what holds for every layer's weights. `tied`: the decoder's are the encoder's, transposed."""
    down: Literal["strided", "maxpool"] | None = None
    """conv, resnet: how a level is halved."""
    up: Literal["nearest", "bilinear", "transposed", "unpool", "padding", "shuffle"] | None = None
    """conv, resnet: how a level is doubled."""
    bottleneck: Literal["plain", "variational", "wasserstein", "quantised"] = "plain"
    """What the code is held to."""
    bottleneck_weight: float | None = None
    """Of the bottleneck's own term beside the squared error of an image; null: BOTTLENECK_WEIGHTS."""
    corruption: Corruption = "none"
    """What is done to the input while training; the clean image is asked for."""
    corruption_amount: float | None = None
    """How much of it: a rate, a standard deviation or a share; null: AMOUNTS."""
    penalties: dict[str, float] = field(default_factory=dict)
    """Terms beside the reconstruction loss, and the weight of each."""
    loss: Literal["mse", "l1", "bce", "masked"] = "mse"
    """The reconstruction loss; `masked` is the squared error of the hidden pixels alone."""
    whiten: float = 0.0
    """After training, an affine map makes the training codes uncorrelated, and each variance v becomes v^(1 - whiten):
    0 leaves the code alone, 1 makes all variances one."""

    def __post_init__(self) -> None:
        self._check_body()
        self._check_training()

    @property
    def amount(self) -> float:
        """`corruption_amount`, or what null means; 0 where it means nothing."""
        return AMOUNTS.get(self.corruption, 0.0) if self.corruption_amount is None else self.corruption_amount

    @property
    def beta(self) -> float:
        """`bottleneck_weight`, or what null means; 0 for a plain bottleneck."""
        default = BOTTLENECK_WEIGHTS.get(self.bottleneck, 0.0)
        return default if self.bottleneck_weight is None else self.bottleneck_weight

    def _check_body(self) -> None:
        convolutional = self.architecture in ("conv", "resnet")
        for key in ("down", "up"):
            value = getattr(self, key)
            if convolutional != (value is not None):
                rule = "needs a choice" if convolutional else "has none: set it to null"
                self._contradiction(key, "architecture", rule)
        if (self.architecture in ("pca", "linear")) != (not self.widths):
            rule = "needs at least one" if not self.widths else "has no hidden layers: set it to []"
            self._contradiction("widths", "architecture", rule)
        require(all(w >= 1 for w in self.widths), "widths", list(self.widths), "whole numbers of 1 or more")
        require(len(set(self.weights)) == len(self.weights), "weights", list(self.weights), "each name once")
        if self.weights and self.architecture not in ("linear", "mlp"):
            self._contradiction("weights", "architecture", "has no dense layers to constrain: set it to []")
        if "tied" in self.weights and self.bottleneck == "variational":
            self._contradiction("weights", "bottleneck", "needs an encoder that ends twice as wide: leave out tied")
        if self.up == "unpool" and self.down != "maxpool":
            self._contradiction("up", "down", "keeps no places of maxima to unpool to: set it to maxpool")

    def _check_training(self) -> None:
        positive = self.bottleneck_weight is None or self.bottleneck_weight > 0
        require(positive, "bottleneck_weight", self.bottleneck_weight, "more than 0")
        if self.bottleneck_weight is not None and self.bottleneck == "plain":
            self._contradiction("bottleneck_weight", "bottleneck", "has no term to weigh: set it to null")
        if self.corruption_amount is not None and self.corruption not in AMOUNTS:
            self._contradiction("corruption_amount", "corruption", "has no amount: set it to null")
        elif self.corruption_amount is not None:
            most = 1 if self.corruption in ("dropout", "salt_pepper", "hole", "blocks") else float("inf")
            require(0 < self.corruption_amount <= most, "corruption_amount", self.corruption_amount,
                    f"more than 0 and at most {most} for {self.corruption}")  # fmt: skip
        if self.loss == "masked" and self.corruption not in HIDING:
            self._contradiction("loss", "corruption", f"hides no pixel: choose one of {', '.join(HIDING)}")
        require(0 <= self.whiten <= 1, "whiten", self.whiten, "0 (not) to 1 (wholly)")
        for name, weight in self.penalties.items():
            if name not in PENALTIES:
                refuse(config.unknown(name, PENALTIES, "penalties: the penalty"))
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            require(number and weight > 0, f"penalties.{name}", weight, "a number above 0")
        if self.architecture == "pca":
            free = Recipe("linear", whiten=self.whiten)
            for key in ("loss", "bottleneck", "corruption", "penalties"):
                if getattr(self, key) != getattr(free, key):
                    self._contradiction(key, "architecture", "minimises the mse in closed form and takes no other")

    def _contradiction(self, key: str, other: str, rule: str) -> None:
        value = getattr(self, key)
        value = list(value) if isinstance(value, tuple) else value
        refuse(f"{key} is {value!r} while {other} is {getattr(self, other)!r}, which {rule}.")

    def check_fits(self, shape: tuple[int, int, int], latent_dim: int) -> None:
        """Refuse, naming the keys, what cannot be made of this recipe for images (C, H, W) and such a code."""
        channels, height, width = shape
        values = math.prod(shape)
        if not 1 <= latent_dim <= values:
            refuse(
                f"train.latent_dim is {latent_dim}, but an image has only {values} values "
                f"(prepare.channels {channels} x prepare.size {height} x {width}): choose a smaller latent_dim."
            )
        if self.bottleneck == "quantised" and latent_dim % SUBSPACE:
            refuse(
                f"train.latent_dim is {latent_dim} while the recipe's bottleneck is 'quantised', which takes "
                f"{SUBSPACE} numbers at a time: choose a multiple of {SUBSPACE}."
            )
        if self.corruption == "grey" and channels != 3:
            refuse(
                f"the recipe's corruption is 'grey' while prepare.channels is {channels}: colour can only be taken "
                "from images that have it; set prepare.channels to 3."
            )
        if "gradients" in self.penalties and min(height, width) < CELL:
            refuse(
                f"the recipe's penalties ask for gradients in cells of {CELL} x {CELL} pixels, but prepare.size is "
                f"{height} x {width}: make it larger."
            )


def read_recipe(name: str, overrides: dict[str, Any]) -> Recipe:
    """Read `recipes/<name>.yaml` with `overrides` (train.overrides) winning over it.

    Raises UserError for an unknown recipe (listing the known ones), an unknown key or a contradiction.
    """
    return config.build(Recipe, *recipe_values(name, overrides))


def recipe_values(name: str, overrides: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The keys and values of a recipe with its overrides, not read yet, and what an error calls the place of them.

    Raises UserError for an unknown recipe.
    """
    known = {path.stem: path for path in sorted(config.RECIPES.glob("*.yaml"))}
    path = config.pick(known, name, "train.recipe")
    where = f"{path} with train.overrides" if overrides else str(path)
    return {**config.load_yaml(path), **overrides}, f"{where}: recipe"
