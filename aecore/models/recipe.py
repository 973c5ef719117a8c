"""A recipe: one autoencoder of the grid, as choices on independent axes. `recipes/*.yaml` names the points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from aecore import config
from aecore.config import UserError


@dataclass(frozen=True)
class Recipe:
    """The axes. A combination that cannot be is refused when it is read, naming both keys."""

    architecture: Literal["pca", "linear", "mlp", "conv"]
    """What stands between image and code; `pca` is the linear one, solved instead of trained."""
    widths: tuple[int, ...]
    """mlp: units of each hidden layer; conv: channels of each level, every level halving height and width."""
    down: Literal["strided"] | None
    """conv: how a level is halved."""
    up: Literal["nearest"] | None
    """conv: how a level is doubled."""
    loss: Literal["mse", "l1"]
    """The reconstruction loss."""

    def __post_init__(self) -> None:
        convolutional = self.architecture == "conv"
        for key in ("down", "up"):
            if convolutional != (getattr(self, key) is not None):
                rule = "needs a choice" if convolutional else "has none: set it to null"
                value = getattr(self, key)
                raise UserError(f"{key} is {value!r} while architecture is {self.architecture!r}, which {rule}.")
        if (self.architecture in ("pca", "linear")) != (not self.widths):
            rule = "needs at least one" if not self.widths else "has no hidden layers: set it to []"
            raise UserError(f"widths is {list(self.widths)} while architecture is {self.architecture!r}, which {rule}.")
        if any(width < 1 for width in self.widths):
            raise UserError(f"widths is {list(self.widths)}; expected whole numbers of 1 or more.")
        if self.architecture == "pca" and self.loss != "mse":
            raise UserError(f"loss is {self.loss!r} while architecture is 'pca', which minimises 'mse' in closed form.")


def read_recipe(name: str, overrides: dict[str, Any]) -> Recipe:
    """Read `recipes/<name>.yaml` with `overrides` (train.overrides) winning over it.

    Raises UserError for an unknown recipe (listing the known ones), an unknown key or a contradiction.
    """
    known = {path.stem: path for path in sorted(config.RECIPES.glob("*.yaml"))}
    path = config.pick(known, name, "train.recipe")
    where = f"{path} with train.overrides" if overrides else str(path)
    return config.build(Recipe, {**config.load_yaml(path), **overrides}, f"{where}: recipe")
