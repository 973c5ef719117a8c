"""Compression by the autoencoder: bits a pixel against PSNR, beside PCA, JPEG and WebP on the same test images.

    python benchmarks/compression.py                          the bundled set at 32 and 64 dimensions, trained for this
    python benchmarks/compression.py --dims 32 --epochs 12
    python benchmarks/compression.py --workspace DIR          what is trained and embedded there already

A Markdown table and what it means go to standard output, a picture to --figure. Everything is measured on the test
split; quantisers are fitted to the training split. PSNR is that of the mean squared error of all test images' 8-bit
pixels. Codes, the autoencoder's and PCA's, are counted as one .aec file of all test images less their names, and as the
codes alone. JPEG and WebP are counted as a file an image, smallest they can be; as the same without what every file
repeats (all of a JPEG but its scan, coded with the standard tables; the first 30 bytes of a WebP: container, frame
header, size); and as one picture of all test images side by side, which shares its header and adapts to all of them.
"""

from __future__ import annotations

import argparse
import io
import lzma
import math
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from ruamel.yaml import YAML

from aecore.data.images import Images
from aecore.embedding import Encoder
from aecore.generate import container, sheet
from aecore.generate.compress import mse, training_codes
from aecore.generate.container import Contents
from aecore.generate.quantise import Quantiser, fit
from aecore.models.pca import fit_images
from aecore.search.searcher import Source

PROJECT = Path(__file__).resolve().parent.parent
BITS = (8, 6, 5, 4, 3, 2)
QUALITIES = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 25, 35, 45, 55, 65, 75, 85, 92)
WEBP_FIXED = 30
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
CODES = ("#4e79a7", "#e15759", "#59a14f", "#b07aa1", "#76b7b2", "#9c755f")
FILES = {"JPEG files": ("#f28e2b", "--"), "JPEG sheet": ("#f28e2b", ":"),
         "WEBP files": ("#222222", "--"), "WEBP sheet": ("#222222", ":")}  # fmt: skip

Map = Callable[[np.ndarray], np.ndarray]


class Point(NamedTuple):
    """One setting of one method."""

    setting: str
    psnr: float
    """dB."""
    rate: float
    """Bits a pixel, all in."""
    bare: float
    """Bits a pixel of codes alone, or of files without their headers; NaN where that has no meaning."""


class Curve(NamedTuple):
    """A method at all its settings, the best picture last."""

    name: str
    points: list[Point]
    decoder: int = 0
    """Bytes that the reader must have beforehand, float32."""
    ceiling: float = math.inf
    """PSNR of codes that are not quantised."""
    turned: float = math.nan
    """PSNR of int8 codes of the test images turned by 90 degrees: the same pixels, another kind of image."""
    coders: str = ""
    """What other entropy coders make of the same integers."""


def codes_curve(name: str, encode: Map, decode: Map, train: np.ndarray, test: np.ndarray, decoder: int) -> Curve:
    """Quantised codes: `train` float32 (n, d) of the training images, `test` uint8 (m, C, H, W)."""
    pixels = len(test) * test.shape[2] * test.shape[3]

    def psnr(codes: np.ndarray, images: np.ndarray) -> float:
        return decibel(images, np.rint(decode(codes).reshape(images.shape) * 255).astype(np.uint8))

    codes, turned, points = encode(test), np.rot90(test, axes=(2, 3)).copy(), []
    for bits in BITS:
        quantiser = fit(train, decode, bits)
        integers = quantiser.quantise(codes)
        _, parts = container.to_bytes(Contents("00" * 8, quantiser, [""] * len(test), integers))
        rate, bare = 8 * (sum(parts.values()) - parts["names"]) / pixels, 8 * parts["codes"] / pixels
        points.append(Point(f"int{bits}", psnr(quantiser.restore(integers), test), rate, bare))
    quantiser = fit(train, decode, 8)
    foreign = psnr(quantiser.restore(quantiser.quantise(encode(turned))), turned)
    others = "; ".join(coders(fit(train, decode, bits), train, codes) for bits in (8, 4))
    return Curve(name, points[::-1], decoder, psnr(codes, test), foreign, others)


def coders(quantiser: Quantiser, train: np.ndarray, codes: np.ndarray) -> str:
    """Bytes that the integers of `codes` take by several coders, in words."""
    expected, integers = quantiser.quantise(train), quantiser.quantise(codes)
    columns = np.ascontiguousarray(integers.T).tobytes()
    bits = 0.0
    for known, column in zip(expected.T.astype(int) + 128, integers.T.astype(int) + 128, strict=True):
        counts = np.bincount(known, minlength=256) + 0.5
        bits -= float(np.log2(counts[column] / counts.sum()).sum())
    return (
        f"int{quantiser.bits}: range coder {len(quantiser.pack(integers)):,} bytes, lzma "
        f"{len(lzma.compress(columns, preset=9)):,}, zlib {len(zlib.compress(columns, 9)):,}, with the training codes' "
        f"histogram, were it known, {bits / 8:,.0f}"
    )


def workspace_curves(workspace: Path) -> Iterator[Curve]:
    """The workspace's autoencoder, and PCA of as many dimensions and of as large a decoder."""
    source = Source("workspace", workspace)
    images, encoder = Images.open(source.path("data")), Encoder.load(source.path("model"))
    test, train = images.rows(images.positions("test")), images.rows(images.positions("train"))
    weights = encoder.model.state_dict().items()
    size = sum(4 * value.numel() for name, value in weights if not name.startswith("encoder"))
    name, codes = f"{encoder.model.recipe.architecture}-{encoder.dim}", training_codes(source, encoder)
    yield codes_curve(name, encoder.encode, encoder.decode, codes, test, size)
    features = test[0].size
    for dim in sorted({encoder.dim, min(features, size // (4 * features) - 1)}):
        pca = fit_images(images, dim, 0)

        def encode(pixels: np.ndarray) -> np.ndarray:
            return pca.encode(pixels.reshape(len(pixels), -1) / np.float32(255))  # noqa: B023

        def decode(codes: np.ndarray) -> np.ndarray:
            return np.asarray(np.clip(pca.decode(codes), 0, 1))  # noqa: B023

        yield codes_curve(f"PCA-{dim}", encode, decode, encode(train), test, 4 * (dim + 1) * features)


def file_curves(kind: str, images: np.ndarray) -> list[Curve]:
    """JPEG or WEBP of uint8 (n, C, H, W): a file an image, and one sheet of them all."""
    count, channels, height, width = images.shape
    side = math.ceil(math.sqrt(count))
    tiles = np.zeros((side * side, *images.shape[1:]), np.uint8)
    tiles[:count] = images
    tiles = tiles.reshape(side, side, channels, height, width).transpose(2, 0, 3, 1, 4)
    tiles = tiles.reshape(channels, side * height, side * width)
    files, sheets, bits = [], [], 8 / (count * height * width)
    for quality in QUALITIES:
        written = [encoded(image, kind, quality) for image in images]
        if kind == "JPEG":
            bare = sum(scan_bytes(encoded(image, kind, quality, optimize=False)) for image in images)
        else:
            bare = sum(len(file) - WEBP_FIXED for file in written)
        seen = np.stack([decoded(file, channels) for file in written])
        files.append(Point(f"q{quality}", decibel(images, seen), bits * sum(map(len, written)), bits * bare))
        one = encoded(tiles, kind, quality)
        seen = decoded(one, channels).reshape(channels, side, height, side, width).transpose(1, 3, 0, 2, 4)
        seen = seen.reshape(side * side, channels, height, width)[:count]
        sheets.append(Point(f"q{quality}", decibel(images, seen), bits * len(one), math.nan))
    return [Curve(f"{kind} files", files), Curve(f"{kind} sheet", sheets)]


def encoded(image: np.ndarray, kind: str, quality: int, optimize: bool = True) -> bytes:
    """uint8 (C, H, W) as a file; `optimize` gives a JPEG Huffman tables of its own."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"optimize": optimize} if kind == "JPEG" else {"method": 6}
    picture = Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1))
    picture.save(buffer, kind, quality=quality, **options)
    return buffer.getvalue()


def decoded(file: bytes, channels: int) -> np.ndarray:
    """The pixels of a file, uint8 (C, H, W)."""
    pixels = np.asarray(Image.open(io.BytesIO(file)).convert("L" if channels == 1 else "RGB"))
    return pixels[None] if channels == 1 else np.moveaxis(pixels, -1, 0)


def scan_bytes(jpeg: bytes) -> int:
    """Bytes of a baseline JPEG's entropy-coded data: what follows the header of its scan, less the end marker."""
    at = 2
    while jpeg[at + 1] != 0xDA:  # start of scan
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return len(jpeg) - (at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")) - 2


def decibel(original: np.ndarray, images: np.ndarray) -> float:
    """PSNR in dB of all images together, uint8 (n, C, H, W)."""
    return -10 * math.log10(float(mse(original, images).mean()))


def rate_at(curve: Curve, psnr: float, bare: bool = False) -> float:
    """Bits a pixel for a PSNR, between two settings in proportion; infinite above the best picture.

    Below the worst picture that a format can be asked for, what that one takes.
    """
    levels: dict[float, float] = {}
    for point in curve.points:
        rate = point.bare if bare else point.rate
        levels[point.psnr] = min(rate, levels.get(point.psnr, math.inf))
    known = sorted(levels)
    return float(np.interp(psnr, known, [levels[level] for level in known], right=math.inf))


def table(curves: list[Curve], files: list[Curve]) -> str:
    """Markdown: every setting of the codes, and what each format takes for a picture as good."""
    rows = [["codes", "setting", "PSNR, dB", "bits/pixel (codes alone)"]]
    rows[0] += [f"{c.name} (without headers)" if c.name.endswith("files") else c.name for c in files]
    rows.append(["---"] * len(rows[0]))
    for curve in curves:
        for point in reversed(curve.points):
            row = [curve.name, point.setting, f"{point.psnr:.2f}", f"{point.rate:.3f} ({point.bare:.3f})"]
            for other in files:
                cell = f"{rate_at(other, point.psnr):.3f}"
                if not math.isnan(other.points[0].bare):
                    cell += f" ({rate_at(other, point.psnr, bare=True):.3f})"
                row.append(cell + (" *" if point.psnr < min(p.psnr for p in other.points) else ""))
            rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def remarks(curves: list[Curve], files: list[Curve], images: np.ndarray) -> str:
    """What the table does not say: ceilings, decoders, foreign images."""
    worst = ", ".join(f"{c.name} {c.points[0].rate:.3f} at {c.points[0].psnr:.2f} dB" for c in files)
    best = ", ".join(f"{c.name} {c.points[-1].psnr:.1f} dB at {c.points[-1].rate:.2f}" for c in files)
    lines = [f"\\*: below what the format can be asked for; its least: {worst}. They go on: {best}."]
    area = images.shape[2] * images.shape[3]
    for curve in curves:
        point = next(p for p in curve.points if p.setting == "int6")
        pays = []
        for other in files:
            saved = (rate_at(other, point.psnr) - point.bare) * area / 8
            pays.append(f"{other.name} {f'{curve.decoder / saved:,.0f} images' if saved > 0 else 'never'}")
        lines.append(
            f"{curve.name}: at most {curve.ceiling:.2f} dB; of test images turned by 90 degrees (int8) "
            f"{curve.turned:.2f} dB. Its decoder's {curve.decoder:,} bytes are paid for by what int6 saves against "
            f"{', '.join(pays)}. {curve.coders}."
        )
    return "\n".join(f"- {line}" for line in lines)


def draw(curves: list[Curve], files: list[Curve]) -> Figure:
    """PSNR against bits a pixel: all in, and without headers."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    titles = {
        "rate": "All in: one .aec of all test images; files; one sheet",
        "bare": "Codes alone; files without their headers",
    }
    for axes, (field, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        for colour, curve in zip(CODES, curves, strict=False):
            xs = [getattr(point, field) for point in curve.points]
            axes.plot(xs, [p.psnr for p in curve.points], "o-", color=colour, label=curve.name, markersize=4)
            axes.axhline(curve.ceiling, color=colour, linewidth=0.6, alpha=0.5)
        for curve in files:
            colour, style = FILES[curve.name]
            xs = [getattr(point, field) for point in curve.points]
            if not np.isnan(xs).all():
                axes.plot(xs, [p.psnr for p in curve.points], style, color=colour, label=curve.name)
        axes.set(xscale="log", xlim=(0.015, 8), ylim=(12, 36), xlabel="bits per pixel")
        axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
        axes.set_xticks([], minor=True)
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    figure.axes[0].set_ylabel("PSNR of the test images, dB")
    return figure


def trained(options: argparse.Namespace, folder: Path) -> Iterator[Path]:
    """A workspace in `folder`, trained and embedded anew for each of the dimensions asked for."""
    yaml = YAML(typ="safe", pure=True)
    parameters = yaml.load((PROJECT / "params.yaml").read_text())
    parameters["tracking"]["mlflow"] = False
    parameters["data"]["path"] = str((PROJECT / parameters["data"]["path"]).resolve())
    parameters["train"] |= {"recipe": options.recipe} | ({"epochs": options.epochs} if options.epochs else {})
    parameters["run"] |= {"threads": options.threads} if options.threads else {}
    shutil.copytree(PROJECT / "recipes", folder / "recipes")
    for number, dim in enumerate(options.dims):
        parameters["train"]["latent_dim"] = dim
        with (folder / "params.yaml").open("w") as file:
            yaml.dump(parameters, file)
        for stage in (*(() if number else ("prepare",)), "train", "embed"):
            done = subprocess.run([sys.executable, "-m", "aecore", stage], cwd=folder, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{stage} failed:\n{done.stderr[-2000:]}")
        yield folder


def main() -> None:
    """Train or open, measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, help="measure what is there instead of training")
    parser.add_argument("--recipe", default="conv_nearest")
    parser.add_argument("--dims", nargs="+", type=int, default=[32, 64])
    parser.add_argument("--epochs", type=int, help="train.epochs (default: as params.yaml says)")
    parser.add_argument("--threads", type=int, help="run.threads")
    parser.add_argument("--figure", type=Path, metavar="OUT.png", help="draw the curves there")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        workspaces = iter([options.workspace]) if options.workspace else trained(options, Path(name))
        curves: list[Curve] = []
        for workspace in workspaces:
            curves += workspace_curves(workspace)
            images = Images.open(Source("workspace", workspace).path("data"))
        pixels = images.rows(images.positions("test"))
    files = [curve for kind in ("JPEG", "WEBP") for curve in file_curves(kind, pixels)]
    print(f"{len(pixels):,} test images of {pixels.shape[3]} x {pixels.shape[2]}\n")
    print(table(curves, files), remarks(curves, files, pixels), sep="\n\n")
    if options.figure:
        sheet.save(draw(curves, files), options.figure)


if __name__ == "__main__":
    main()
