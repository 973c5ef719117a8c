"""Sources of arrays: IDX files (the MNIST family's format) and torchvision's data sets.

An IDX file is read image by image, so that a whole set is never in memory.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aecore.config import UserError
from aecore.counted import counted
from aecore.data.entry import Entry, Source, SplitName, rejected
from aecore.data.listing import size_of

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
BUNDLED_FILES = ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz")
FASHION_FILES: dict[SplitName, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_IMAGES, _LABELS = 0x803, 0x801


def fashion_mnist_10k(path: Path) -> Source:
    """Open the bundled 10,000 images; they have no official split, all come from the training set."""
    return _idx_source(path, {None: BUNDLED_FILES}, "it is part of the project: `git checkout` brings it back")


def fashion_mnist(path: Path) -> Source:
    """Open the four files of Fashion-MNIST, 60,000 training and 10,000 test images, with that split."""
    return _idx_source(
        path, FASHION_FILES,
        "run `python -m aecore fetch` (it copies them from Debian's package: `apt install dataset-fashion-mnist`; "
        "or, without the package, lets torchvision download them)",
    )  # fmt: skip


def _idx_source(path: Path, files: Any, remedy: str) -> Source:
    listed = [(name, size_of(path / name)) for pair in files.values() for name in pair]
    missing = [name for name, _ in listed if not (path / name).is_file()]
    if missing:
        raise UserError(f"data.path {path} lacks {', '.join(missing)}: {remedy}.")
    labels = {split: read_labels(path / pair[1]) for split, pair in files.items()}

    def entries() -> Iterator[Entry]:
        for split, (images, label_file) in files.items():
            found = 0
            for found, image in enumerate(read_images(path / images), 1):
                if found > len(labels[split]):
                    break
                name = f"{images}#{found - 1}"
                yield Entry(name, "", partial(_given, image), label=int(labels[split][found - 1]), split=split,
                            held=image.nbytes)  # fmt: skip
            if found != len(labels[split]):
                raise UserError(f"{path / images} and {label_file} hold different numbers of images and labels.")

    return Source(entries(), sum(map(len, labels.values())), FASHION, files=listed)


def _given(array: np.ndarray) -> np.ndarray:
    return array


def read_images(path: Path) -> Iterator[np.ndarray]:
    """Yield the images of a gzipped IDX file, uint8 (h, w), one at a time. Raises UserError."""
    try:
        with gzip.open(path) as file:
            magic, count, height, width = struct.unpack(">IIII", file.read(16))
            if magic != _IMAGES:
                raise UserError(f"{path} is not an IDX file of images.")
            for _ in range(count):
                row = file.read(height * width)
                if len(row) != height * width:
                    raise EOFError("it ends early")
                yield np.frombuffer(row, dtype=np.uint8).reshape(height, width)
    except (EOFError, zlib.error, gzip.BadGzipFile, struct.error) as error:
        raise _damaged(path, error) from error


def read_labels(path: Path) -> np.ndarray:
    """Return the labels of a gzipped IDX file, uint8 (n,). Raises UserError."""
    try:
        with gzip.open(path) as file:
            magic, count = struct.unpack(">II", file.read(8))
            if magic != _LABELS:
                raise UserError(f"{path} is not an IDX file of labels.")
            labels = np.frombuffer(file.read(), dtype=np.uint8)
    except (EOFError, zlib.error, gzip.BadGzipFile, struct.error) as error:
        raise _damaged(path, error) from error
    if len(labels) != count:
        raise _damaged(path, f"{counted(len(labels), 'label')} where it says {count}")
    if count and labels.max() >= len(FASHION):
        raise _damaged(path, f"label {labels.max()}, where there are {len(FASHION)}")
    return labels


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write uint8 (n,) labels or (n, h, w) images as a gzipped IDX file; equal arrays give equal bytes."""
    head = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(head + np.ascontiguousarray(array, dtype=np.uint8).tobytes())


def _damaged(path: Path, error: object) -> UserError:
    return UserError(f"{path} is damaged ({error}): bring it again (`python -m aecore fetch`, or `git checkout`).")


def torchvision_class(name: str) -> type:
    """Torchvision's data set `name`. Raises UserError where there is none, or none that can be downloaded."""
    import inspect

    from torchvision import datasets

    cls = getattr(datasets, name, None)
    if name.startswith("_") or not isinstance(cls, type):
        raise UserError(f"data.source: torchvision has no data set {name!r}; its names are listed at "
                        "https://docs.pytorch.org/vision/stable/datasets.html (CIFAR10, not cifar10).")  # fmt: skip
    known = inspect.signature(cls).parameters
    if "root" not in known or "download" not in known:
        raise UserError(f"data.source: torchvision's {name} cannot be downloaded: unpack it and use source: folder.")
    return cls


def torchvision_parts(name: str, path: Path, *, download: bool) -> list[tuple[SplitName | None, Any]]:
    """Open (or download) every split of torchvision's data set `name` below `path`. Raises UserError."""
    import inspect

    cls = torchvision_class(name)
    known = inspect.signature(cls).parameters
    ways: list[tuple[SplitName | None, dict[str, Any]]]
    if "train" in known:
        ways = [("train", {"train": True}), ("test", {"train": False})]
    elif "split" in known:
        ways = [("train", {"split": "train"}), ("validation", {"split": "val"}),
                ("validation", {"split": "valid"}), ("test", {"split": "test"})]  # fmt: skip
    else:
        ways = [(None, {})]
    parts: list[tuple[SplitName | None, Any]] = []
    for split, way in ways:
        try:
            parts.append((split, cls(root=str(path), download=download, **way)))
        except ValueError as error:  # how torchvision says that a set has no such split
            unknown = error
        except (RuntimeError, OSError) as error:
            if download:
                raise UserError(f"torchvision cannot bring {name} to {path}: {error}") from error
            raise UserError(f"{path} does not hold torchvision's {name}: run `python -m aecore fetch`.") from error
    if not parts:
        raise UserError(f"torchvision's {name} has no splits train, val, valid or test: {unknown}")
    names = {split for split, _ in parts}
    if "test" not in names and "validation" in names:  # ImageNet's custom: what is called validation is the test
        return [("test" if split == "validation" else split, part) for split, part in parts]
    return parts if {"train", "test"} <= names else [(None, part) for _, part in parts]


def torchvision_set(name: str, path: Path) -> Source:
    """Open torchvision's data set `name`, already below `path`, with its official splits."""
    parts = torchvision_parts(name, path, download=False)

    def entries() -> Iterator[Entry]:
        for split, dataset in parts:
            for i in range(len(dataset)):
                entry_name = f"{name}/{split}#{i}" if split else f"{name}#{i}"
                try:
                    picture, label = dataset[i]
                    pixels = np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"))
                except (OSError, SyntaxError, ValueError) as error:
                    yield rejected(entry_name, "", f"damaged: {error}")
                    continue
                number = int(label) if isinstance(label, int | np.integer) else None  # else attributes, boxes, text
                yield Entry(entry_name, "", partial(_given, pixels), label=number, split=split, held=pixels.nbytes)

    classes = getattr(parts[0][1], "classes", None)
    labels = tuple(map(str, classes)) if classes else None
    return Source(entries(), sum(len(dataset) for _, dataset in parts), labels)
