"""The images of a contest: a pile of PNG files, and the same images prepared by the program itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from ruamel.yaml import YAML
from torch.utils.data import DataLoader, Dataset

from aecore.data.arrays import BUNDLED_FILES, read_images
from aecore.data.images import Images

PROJECT = Path(__file__).resolve().parent.parent
BUNDLED = PROJECT / "data/raw/fashion_mnist_10k" / BUNDLED_FILES[0]
SIDE, BORDER = 32, 4
PLACES = sorted(product(range(BORDER + 1), repeat=2), key=lambda at: (at[0] - 2) ** 2 + (at[1] - 2) ** 2)
"""Where a 28x28 image can lie on 32x32 pixels, the middle first."""


@dataclass(frozen=True)
class Pile:
    """A workspace in which `prepare` has run."""

    folder: Path

    def images(self) -> Images:
        """The prepared images."""
        return Images.open(self.folder / "data/prepared")

    def files(self, positions: np.ndarray | None = None) -> list[str]:
        """The files that the prepared images at `positions`, or all, were made from."""
        paths = self.images().items["path"].to_pylist()
        chosen = paths if positions is None else [paths[i] for i in positions]
        return [str(self.folder / "images" / path) for path in chosen]


class Files(Dataset[tuple[torch.Tensor]]):
    """Image files, opened by PIL one by one, as a tutorial does: float32 (1, 32, 32) in [0, 1]."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[torch.Tensor]:
        with Image.open(self.paths[i]) as image:
            return (torch.from_numpy(np.array(image.convert("L"))).unsqueeze(0).float().div(255),)


def loader(
    data: Dataset[tuple[torch.Tensor, ...]], batch: int, device: str, *, workers: int = 0, shuffle: bool = True
) -> DataLoader[tuple[torch.Tensor, ...]]:
    """A DataLoader as its documentation recommends: pinned for a GPU, workers that outlive an epoch."""
    return DataLoader(
        data, batch, shuffle=shuffle, num_workers=workers, persistent_workers=workers > 0, pin_memory=device == "cuda"
    )


def floats(images: Images, positions: np.ndarray) -> torch.Tensor:
    """Images at `positions` as a tutorial holds them: float32 (n, 1, 32, 32) in [0, 1]."""
    return torch.from_numpy(images.rows(positions)).float().div(255)


def make_pile(folder: Path, count: int, threads: int) -> Pile:
    """Write `count` files, different grey images of 32x32, and prepare them.

    The bundled images on a black border; beyond their number again, elsewhere on it, then mirrored.
    """
    variants = [(mirrored, at) for mirrored in (False, True) for at in PLACES]
    pile = folder / "images"
    pile.mkdir()
    originals = list(read_images(BUNDLED))
    if count > len(originals) * len(variants):
        sys.exit(f"--images is {count}; at most {len(originals) * len(variants)} can be made.")
    for i in range(count):
        round, number = divmod(i, len(originals))
        mirrored, (top, left) = variants[round]
        canvas = np.zeros((SIDE, SIDE), np.uint8)
        canvas[top : top + 28, left : left + 28] = originals[number][:, ::-1] if mirrored else originals[number]
        Image.fromarray(canvas).save(pile / f"{i:06d}.png")

    yaml = YAML(typ="safe", pure=True)
    parameters = yaml.load((PROJECT / "params.yaml").read_text())
    parameters["run"] |= {"threads": threads}
    parameters["data"] = {"source": "folder", "path": "images", "batches": False, "split_folders": "auto"}
    parameters["prepare"] |= {"size": SIDE, "channels": 1}
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(parameters, file)
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-m", "aecore", "prepare"], cwd=folder, env=environment,
                          capture_output=True, text=True)  # fmt: skip
    if done.returncode:
        sys.exit(f"prepare failed:\n{done.stderr[-2000:]}")
    return Pile(folder)
