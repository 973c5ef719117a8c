"""Where images come from: section `data` of `params.yaml`, and which reader each kind of source has.

Every source resolves to one path, which DVC watches. A source yields entries batch by batch in sorted order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aecore.config import pick, require
from aecore.data import arrays, trees
from aecore.data.entry import Source, SplitFolders

TORCHVISION = "torchvision:"

READERS: dict[str, Callable[[SourceConfig, int], Source]] = {
    "fashion_mnist_10k": lambda config, limit: arrays.fashion_mnist_10k(Path(config.path)),
    "fashion_mnist": lambda config, limit: arrays.fashion_mnist(Path(config.path)),
    "folder": lambda config, limit: trees.folder(
        Path(config.path), limit, batches=config.batches, split_folders=config.split_folders
    ),
    "archive": lambda config, limit: trees.archive(
        Path(config.path), limit, batches=config.batches, split_folders=config.split_folders
    ),
    "avatars": lambda config, limit: trees.folder(Path(config.path), limit, batches=False, split_folders="never"),
    "torchvision:NAME": lambda config, limit: arrays.torchvision_set(config.torchvision, Path(config.path)),
}


@dataclass(frozen=True)
class SourceConfig:
    """Section `data`."""

    source: str
    """`fashion_mnist_10k` (bundled), `fashion_mnist`, `folder`, `archive`, `avatars` (drawn), or `torchvision:NAME`."""
    path: str
    """The one file or folder that holds it all."""
    batches: bool
    """`folder`: each first-level sub-folder is a batch; `archive`: `path` is a folder of archives, each a batch."""
    split_folders: SplitFolders
    """Whether folders named train, test and the like are the split that is kept, and the labels lie below: `auto` where
    all top folders (of all batches) are named so and one is for training; `always`, or it is an error; `never`."""

    def __post_init__(self) -> None:
        require(bool(self.path), "path", self.path, "a file or folder")
        kind = "torchvision:NAME" if self.torchvision else self.source
        pick(READERS, kind, "source")
        require(kind != "torchvision:NAME" or self.torchvision.isidentifier(), "source", self.source,
                "torchvision:NAME with the name of a data set, such as torchvision:CIFAR10")  # fmt: skip
        require(not self.batches or kind in ("folder", "archive"), "batches", self.batches,
                f"false with source: {self.source}, which is one batch")  # fmt: skip
        require(self.split_folders != "always" or kind in ("folder", "archive"), "split_folders", self.split_folders,
                f"auto or never with source: {self.source}, which has no folders of the user's")  # fmt: skip

    @property
    def torchvision(self) -> str:
        """NAME of `torchvision:NAME`, else empty."""
        return self.source.removeprefix(TORCHVISION) if self.source.startswith(TORCHVISION) else ""


def open_source(config: SourceConfig, limit: int) -> Source:
    """Open the source; files of more than `limit` bytes are refused unread. Raises UserError."""
    kind = "torchvision:NAME" if config.torchvision else config.source
    return READERS[kind](config, limit)
