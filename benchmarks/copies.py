"""Near-duplicates: which changed copies `duplicates` finds, and which pairs it finds that are none, by rule.

    python benchmarks/copies.py                                      crops of what scikit-learn and scikit-image ship
    python benchmarks/copies.py FOLDER ARCHIVE.zip --output montages

Of each collection some images are copied as people copy them: the file is opened, changed and saved again, then
prepared like any other. An original has one copy, of one kind. Beside the rule of `duplicates` stand what it was before
(the distance that half of the images have when they are saved again), one distance of codes, and what needs no model:
a difference hash and the pixels' own distance. `--output` draws the pairs of different originals that `duplicates` says
are one: whether they show the same scene is for eyes to tell.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance
from ruamel.yaml import YAML

from aecore.data.decode import SUFFIXES
from aecore.data.images import Images
from aecore.embedding import Encoder
from aecore.search.copies import saved
from aecore.search.montage import draw_montage
from aecore.search.searcher import Searcher, Source

PROJECT = Path(__file__).resolve().parent.parent
Pairs = set[tuple[str, str]]
"""Of paths, the smaller first."""

SHIPPED = {
    "sklearn.datasets": ("images/china.jpg", "images/flower.jpg"),
    "skimage.data": ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg", "ihc.png",
                     "motorcycle_left.png", "retina.jpg"),
}  # fmt: skip
SIDE = 120
"""Of the crops that are made of them."""
FLAT = 8.0
"""Grey levels, the standard deviation below which a crop is sky or black, and left out."""


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """The file that saving it makes."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def half(image: Image.Image) -> Image.Image:
    """Half as large."""
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def light(image: Image.Image, by: float) -> Image.Image:
    """Brighter or darker."""
    return ImageEnhance.Brightness(image).enhance(by)


def crop(image: Image.Image, x: float, y: float) -> Image.Image:
    """Less four per cent of each side; `x` and `y` say how much of that at the left and at the top."""
    width, height = round(0.96 * image.width), round(0.96 * image.height)
    left, top = round(x * (image.width - width)), round(y * (image.height - height))
    return image.crop((left, top, left + width, top + height))


CHANGES: dict[str, Callable[[Image.Image, float, float], bytes]] = {
    "JPEG 90": lambda image, x, y: jpeg(image, 90),
    "JPEG 75": lambda image, x, y: jpeg(image, 75),
    "JPEG 50": lambda image, x, y: jpeg(image, 50),
    "half size and back": lambda image, x, y: jpeg(half(image).resize(image.size, Image.Resampling.BICUBIC)),
    "10 % brighter": lambda image, x, y: jpeg(light(image, 1.1)),
    "10 % darker": lambda image, x, y: jpeg(light(image, 0.9)),
    "cropped by 4 %": lambda image, x, y: jpeg(crop(image, x, y)),
    "all at once": lambda image, x, y: jpeg(light(crop(half(image), x, y), 1.1), 75),
}
"""What is done to an original; x and y say where."""


def main() -> None:
    """Measure every collection and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", nargs="*", type=Path, metavar="COLLECTION", help="folders or archives of images")
    parser.add_argument("--copies", type=int, default=40, help="of each kind, at most (default: 40)")
    parser.add_argument("--size", type=int, default=64, help="prepare.size (default: 64)")
    parser.add_argument("--epochs", type=int, default=8, help="train.epochs (default: 8)")
    parser.add_argument("--threads", type=int, default=2, help="run.threads (default: 2)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="draw the pairs of different originals there")
    options = parser.parse_args()
    for collection in options.collections or [None]:
        with tempfile.TemporaryDirectory() as folder:
            workspace = Path(folder)
            originals = gather(collection, workspace / "images")
            copied = plant(workspace / "images", originals, options.copies)
            name = "shipped" if collection is None else collection.stem
            print(
                f"{name}: {len(originals):,} images and {len(copied) // len(CHANGES)} copies of each kind\n", flush=True
            )
            run_stages(workspace, options)
            rules = measure(workspace)
            print("\n".join(table(rules, copied)) + "\n", flush=True)
            if options.output is not None:
                options.output.mkdir(parents=True, exist_ok=True)
                draw(workspace, mistaken(rules["**aecore**"], copied), options.output / f"{name}.png")


def gather(collection: Path | None, into: Path) -> list[str]:
    """Put the images of a folder, an archive or, by default, the shipped crops under `into`; their paths in it."""
    if collection is None:
        into.mkdir()
        for number, image in enumerate(shipped()):
            image.save(into / f"{number:04d}.jpg", quality=90)
    elif collection.is_dir():
        shutil.copytree(collection, into)
    else:
        shutil.unpack_archive(collection, into)
    return sorted(str(path.relative_to(into)) for path in into.rglob("*") if path.suffix.lower() in SUFFIXES)


def shipped() -> Iterator[Image.Image]:
    """Crops that do not overlap of the photographs that scikit-learn and scikit-image ship."""
    for module, names in SHIPPED.items():
        folder = Path(str(__import__(module, fromlist=[""]).__file__)).parent
        for name in names:
            with Image.open(folder / name) as opened:
                image = opened.convert("RGB")
            for top in range(0, image.height - SIDE + 1, SIDE):
                for left in range(0, image.width - SIDE + 1, SIDE):
                    cut = image.crop((left, top, left + SIDE, top + SIDE))
                    if np.asarray(cut.convert("L")).std() > FLAT:
                        yield cut


def plant(folder: Path, originals: list[str], most: int) -> dict[str, tuple[str, str]]:
    """Write `most` copies of each kind, or as many as there are originals for: path -> (kind, path of the original)."""
    generator = np.random.default_rng(0)
    each = min(most, len(originals) // len(CHANGES))
    chosen = iter(generator.permutation(len(originals))[: each * len(CHANGES)].tolist())
    (folder / "planted").mkdir()
    planted: dict[str, tuple[str, str]] = {}
    for kind, change in CHANGES.items():
        for _ in range(each):
            original = originals[next(chosen)]
            copy = f"planted/{len(planted):05d}.jpg"
            with Image.open(folder / original) as image:
                (folder / copy).write_bytes(change(image.convert("RGB"), *generator.random(2)))
            planted[copy] = kind, original
    return planted


def run_stages(workspace: Path, options: argparse.Namespace) -> None:
    """The pipeline up to the index."""
    yaml = YAML(typ="safe", pure=True)
    parameters = yaml.load((PROJECT / "params.yaml").read_text())
    parameters["run"] |= {"threads": options.threads}
    parameters["data"] = {**parameters["data"], "source": "folder", "path": "images", "batches": False}
    parameters["prepare"] |= {"size": options.size, "channels": 3}
    parameters["train"]["epochs"] = options.epochs
    parameters["tracking"]["mlflow"] = False
    with (workspace / "params.yaml").open("w") as file:
        yaml.dump(parameters, file)
    shutil.copytree(PROJECT / "recipes", workspace / "recipes")
    for stage in ("prepare", "train", "embed", "index"):
        aecore(workspace, stage)


def aecore(workspace: Path, *arguments: str) -> str:
    """What the command prints; its chatter is kept for failures only."""
    done = subprocess.run(
        [sys.executable, "-m", "aecore", *arguments], cwd=workspace, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{arguments[0]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def measure(workspace: Path) -> dict[str, Pairs]:
    """The pairs that each rule says are near-duplicates."""
    searcher = Searcher.open(Source("workspace", workspace))
    images: Images = searcher.base.images
    paths, pixels = images.items["path"].to_pylist(), images.rows(np.arange(searcher.count))
    some = np.unique(np.linspace(0, searcher.count - 1, 256).astype(int))
    encoder = Encoder.load(workspace / "models/autoencoder", "cpu")
    codes = encoder.encode(saved(pixels[some]))
    alone = [searcher.search(codes[i : i + 1], 1, some[i : i + 1]).distance[0, 0] for i in range(len(some))]
    before = float(np.median(alone))

    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    norms = np.square(flat).sum(axis=1)
    apart = np.sqrt(np.maximum(norms[:, None] + norms - 2 * flat @ flat.T, 0) / flat.shape[1])
    bits = np.stack([difference_hash(image) for image in pixels]).astype(np.float32) * 2 - 1
    differing = (bits.shape[1] - bits @ bits.T) / 2
    exact = grouped(json.loads(aecore(workspace, "duplicates", "--json", "--distance", "0")))
    return {
        f"before: distance {before:.6f}": told(workspace, "--distance", str(before)),
        "codes, 0.04 apart": told(workspace, "--distance", "0.04"),
        "pixels, 5 levels apart": exact | matrix_pairs(apart <= 5, paths),
        "pixels, 10 levels apart": exact | matrix_pairs(apart <= 10, paths),
        "difference hash, 4 of 64 bits": exact | matrix_pairs(differing <= 4, paths),
        "difference hash, 10 of 64 bits": exact | matrix_pairs(differing <= 10, paths),
        "**aecore**": told(workspace),
    }


def difference_hash(pixels: np.ndarray) -> np.ndarray:
    """Whether each of 8 x 8 grey pixels is brighter than the one to its left: bool (64,), of uint8 (C, H, W)."""
    image = Image.fromarray(pixels.mean(axis=0).astype(np.uint8)).resize((9, 8), Image.Resampling.LANCZOS)
    grey = np.asarray(image).astype(int)
    return np.asarray(grey[:, 1:] > grey[:, :-1]).ravel()


def told(workspace: Path, *arguments: str) -> Pairs:
    """What `duplicates` answers."""
    return grouped(json.loads(aecore(workspace, "duplicates", "--json", *arguments)))


def grouped(answer: dict[str, Any]) -> Pairs:
    """All pairs of each group."""
    groups = [[image["path"] for image in group["images"]] for group in answer["near"]]
    groups += [[entry["path"], *entry["copies"]] for entry in answer["exact"]]
    return {(a, b) for group in groups for a, b in combinations(sorted(group), 2)}


def matrix_pairs(near: np.ndarray, paths: list[str]) -> Pairs:
    """The pairs that a matrix marks."""
    rows, columns = np.nonzero(np.triu(near, 1))
    return {(min(paths[i], paths[j]), max(paths[i], paths[j])) for i, j in zip(rows, columns, strict=True)}


def mistaken(pairs: Pairs, copied: dict[str, tuple[str, str]]) -> Pairs:
    """The pairs of different originals that are said to be one, in themselves or in their copies."""
    origins = [sorted(copied[path][1] if path in copied else path for path in pair) for pair in pairs]
    return {(one, other) for one, other in origins if one != other}


def table(rules: dict[str, Pairs], copied: dict[str, tuple[str, str]]) -> list[str]:
    """Markdown lines: a row a rule, the share of each kind that it finds, and how many different originals it pairs."""
    heads = ["rule", *CHANGES, "all", "pairs of different originals"]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for rule, pairs in rules.items():
        hits: dict[str, list[bool]] = {kind: [] for kind in [*CHANGES, "all"]}
        for copy, (kind, original) in copied.items():
            for row in (kind, "all"):
                hits[row].append((min(copy, original), max(copy, original)) in pairs)
        shares = [f"{100 * np.mean(found):.0f} %" for found in hits.values()]
        lines.append(f"| {rule} | {' | '.join(shares)} | {len(mistaken(pairs, copied)):,} |")
    return lines


def draw(workspace: Path, pairs: Pairs, path: Path) -> None:
    """The pairs, one a line."""
    if not pairs:
        return
    images = Images.open(workspace / "data/prepared")
    row = {name: number for number, name in enumerate(images.items["path"].to_pylist())}
    shown = sorted(pair for pair in pairs if pair[0] in row and pair[1] in row)[:60]
    left, right = (images.rows(np.array([row[pair[side]] for pair in shown])) for side in (0, 1))
    captions = [[Path(pair[0]).name] for pair in shown], [[[Path(pair[1]).name]] for pair in shown]
    draw_montage(captions[0], left, captions[1], right[:, None]).save(path, format="PNG")
    print(f"drew {path}\n", flush=True)


if __name__ == "__main__":
    main()
