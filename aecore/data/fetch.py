"""The command `fetch`: brings package, torchvision or drawn data to `data.path`, where DVC watches it.

`python -m aecore.data.fetch bundle` made the bundled images: the rule that chose them is `choose_bundle`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from aecore.artifact import sha256_file
from aecore.config import UserError, WorkFailed, section
from aecore.counted import counted
from aecore.data import avatars
from aecore.data.arrays import BUNDLED_FILES, FASHION_FILES, read_images, read_labels, torchvision_parts, write_idx
from aecore.data.decode import content_hash, content_id
from aecore.data.sources import SourceConfig, open_source
from aecore.names import legible

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts the four files."""
BUNDLE = Path("data/raw/fashion_mnist_10k")
PER_CLASS = 1000


def main() -> None:
    """Bring the data that section `data` names, and print one line."""
    print(legible(fetch(section(SourceConfig, "data"))))


def fetch(config: SourceConfig, package: Path = DEBIAN) -> str:
    """Bring what can be brought to `config.path`; of the rest, see that it is there. Raises UserError."""
    path = Path(config.path)
    if config.torchvision:
        path.mkdir(parents=True, exist_ok=True)
        parts = torchvision_parts(config.torchvision, path, download=True)
        return f"{config.torchvision}: {counted(sum(len(part) for _, part in parts), 'image')} in {path}"
    if config.source == "fashion_mnist":
        return _fetch_fashion(path, package)
    if config.source == "avatars":
        return _fetch_avatars(path)
    open_source(config, limit=0)
    return f"nothing to fetch: {config.source} is at {path}"


def _fetch_fashion(path: Path, package: Path) -> str:
    names = [name for pair in FASHION_FILES.values() for name in pair]
    missing = [name for name in names if not (path / name).is_file()]
    if not missing:
        return f"nothing to fetch: fashion_mnist is at {path}"
    path.mkdir(parents=True, exist_ok=True)
    if all((package / name).is_file() for name in names):
        _copy(package, path, missing)
        return f"fashion_mnist: copied {counted(len(missing), 'file')} from {package} to {path}"
    with tempfile.TemporaryDirectory(dir=path, prefix=".download.") as temporary:
        try:
            torchvision_parts("FashionMNIST", Path(temporary), download=True)
        except UserError as error:
            raise WorkFailed(f"{error}; or `apt install dataset-fashion-mnist` and run this again.") from error
        _copy(Path(temporary) / "FashionMNIST" / "raw", path, missing)
    return f"fashion_mnist: downloaded {counted(len(missing), 'file')} to {path}"


def _fetch_avatars(path: Path) -> str:
    if (path / avatars.TABLE).is_file():
        return f"nothing to fetch: avatars is at {path}"
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"data.path {path} holds something else than avatars: name a folder that is not there yet.")
    avatars.draw_folder(path, avatars.COUNT)
    return f"avatars: drew {counted(avatars.COUNT, 'image')} into {path}"


def _copy(source: Path, target: Path, names: list[str]) -> None:
    for name in names:
        temporary = target / f".{name}.{os.getpid()}.tmp"
        try:
            shutil.copyfile(source / name, temporary)
            os.replace(temporary, target / name)
        finally:
            temporary.unlink(missing_ok=True)


def choose_bundle(labels: np.ndarray, ids: np.ndarray, per_class: int) -> np.ndarray:
    """Return the places (ascending) of the `per_class` smallest ids of each class; labels and ids are (n,)."""
    chosen = [places[np.argsort(ids[places], kind="stable")[:per_class]]
              for places in (np.flatnonzero(labels == label) for label in np.unique(labels))]  # fmt: skip
    return np.sort(np.concatenate(chosen))


def make_bundle(source: Path = DEBIAN, target: Path = BUNDLE, per_class: int = PER_CLASS) -> None:
    """Write the bundled images and labels to `target`, from the training images in `source`, in their order there."""
    images_file, labels_file = FASHION_FILES["train"]
    labels = read_labels(source / labels_file)
    ids = np.array([content_id(content_hash(image)) for image in read_images(source / images_file)], dtype=np.int64)
    places = choose_bundle(labels, ids, per_class)
    wanted = set(places.tolist())
    images = [image for i, image in enumerate(read_images(source / images_file)) if i in wanted]
    target.mkdir(parents=True, exist_ok=True)
    write_idx(target / BUNDLED_FILES[0], np.stack(images))
    write_idx(target / BUNDLED_FILES[1], labels[places])


if __name__ == "__main__":
    if sys.argv[1:] != ["bundle"]:
        raise SystemExit("usage: python -m aecore.data.fetch bundle")
    make_bundle()
    for made in BUNDLED_FILES:
        print(f"{sha256_file(BUNDLE / made)}  {BUNDLE / made}")
