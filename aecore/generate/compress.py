"""The `compress` and `decompress` commands: images as quantised codes in one `.aec` file, and back to PNG.

What is kept is the image as the model sees it (its size, its channels), not the picture it was made from; the decoder
needs the same model's directory. `compress --json` prints one object, stable for other programs:

    {"file": path, "model": hex, "bits": 2…8, "images": how many, "shape": [C, H, W] of each,
     "bytes": of the whole file, "parts": {"header": …, "table": …, "names": …, "codes": bytes of each},
     "bits_per_pixel": of the whole file, "bits_per_pixel_codes": of its codes alone,
     "psnr": dB of all images together, "psnr_unquantised": what the model alone reaches, "beyond": share of the codes'
     numbers beyond the quantiser's range,
     "each": [{"path": given, "name": in the file, "width": …, "height": of the given picture, "psnr": dB}, …]}

`decompress --json` prints {"file", "model", "bits", "images", "shape", "bytes", "bits_per_pixel", "folder", "each":
[path of each PNG, …]}. A pixel counts once, whatever its channels. PSNR is 10 log10(1 / MSE) with pixels in [0, 1],
against the prepared image; null where nothing is lost at all.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from aecore import artifact
from aecore.config import UserError, WorkFailed
from aecore.counted import counted
from aecore.data.decode import Decoded, Undecodable, decode
from aecore.data.entry import printable
from aecore.data.given import check_files
from aecore.data.images import Images
from aecore.embedding import Encoder
from aecore.generate import container
from aecore.generate.container import Contents
from aecore.generate.quantise import Quantiser, fit
from aecore.names import legible
from aecore.output import tell
from aecore.search.montage import check_writable
from aecore.search.searcher import Source
from aecore.vectors import Embeddings

SUFFIX = ".aec"
SAMPLE = 2**16
"""Training codes that the quantiser is fitted to, at most: evenly spaced."""


def compress(paths: Sequence[str], out: Path, bits: int = 8, as_json: bool = False, root: Path = Path()) -> None:
    """Write the images at `paths` to `out` and print what that took and what it cost.

    Raises UserError for bits outside 2…8, an `out` that is no place for an .aec file, two images of one name, and a
    file that is no image; WorkFailed for artefacts that do not belong together.
    """
    check_writable(out, (SUFFIX,))
    check_files(paths, many=": name the files in it, as in FOLDER/*.jpg")
    names = stored_names(paths)
    source = Source.find(root)
    print(f"aecore compress: by the model of {source}", file=sys.stderr)
    encoder = Encoder.load(source.path("model"))
    quantiser = fit(training_codes(source, encoder), encoder.decode, bits)

    integers = np.empty((len(paths), encoder.dim), np.int8)
    given, errors, floor, beyond = [], [], 0.0, 0
    for start in tqdm(range(0, len(paths), encoder.batch_size), desc="compress", disable=None):
        block = [_read(path, encoder) for path in paths[start : start + encoder.batch_size]]
        pixels = np.stack([decoded.pixels for decoded in block])
        codes = encoder.encode(pixels)
        integers[start : start + len(block)] = quantiser.quantise(codes)
        beyond += quantiser.beyond(codes)
        errors.append(mse(pixels, rebuild(encoder, quantiser, quantiser.quantise(codes))))
        floor += float(mse(pixels, _eight_bit(encoder.decode(codes))).sum())
        given += [(decoded.width, decoded.height) for decoded in block]
    each = np.concatenate(errors)

    contents = Contents(encoder.manifest.digest, quantiser, names, integers)
    data, parts = container.to_bytes(contents)
    container.write(out, data)
    summary = _summary(out, encoder, contents, len(data)) | {
        "parts": parts,
        "bits_per_pixel_codes": round(_rate(parts["codes"], encoder, len(paths)), 6),
        "psnr": psnr(float(each.mean())),
        "psnr_unquantised": psnr(floor / len(paths)),
        "beyond": round(beyond / integers.size, 6),
        "each": [
            {"path": printable(path), "name": printable(name), "width": w, "height": h, "psnr": psnr(float(error))}
            for path, name, (w, h), error in zip(paths, names, given, each, strict=True)
        ],
    }
    if as_json:
        tell(summary)
        return
    _print_table(summary)
    worst = int(each.argmax())
    print(f"{'PSNR':<16}{_decibel(summary['psnr'])} dB; unquantised {_decibel(summary['psnr_unquantised'])} dB; worst "
          f"{_decibel(psnr(float(each[worst])))} dB, {legible(paths[worst])}")  # fmt: skip
    height, width = encoder.shape[1:]
    if reduced := sum(size != (width, height) for size in given):
        print(f"Brought to the model's {width} x {height} first, and kept at that size: {counted(reduced, 'picture')}.")


def decompress(file: Path, folder: Path, as_json: bool = False, root: Path = Path()) -> None:
    """Write the images of an `.aec` file as PNG below `folder`, which is new or empty; all of them or none.

    Raises UserError for a file that is not there or no .aec file and a folder that holds something; WorkFailed for a
    damaged file and one made by a model that is not here.
    """
    if folder.name in ("", "..") or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise UserError(f"{folder} is there already and not an empty folder: give -o a new one.")
    if file.exists() and not file.is_file():
        raise UserError(f"{file} is no file: give an {SUFFIX} file that `python -m aecore compress` wrote.")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be opened: {error.strerror}.") from error
    contents = container.from_bytes(data, str(file))
    encoder = Encoder.load(_model_of(contents, file, root))
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        for start in tqdm(range(0, len(contents.names), encoder.batch_size), desc="decompress", disable=None):
            images = rebuild(encoder, contents.quantiser, contents.integers[start : start + encoder.batch_size])
            for name, image in zip(contents.names[start : start + len(images)], images, strict=True):
                path = temporary / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)).save(path, format="PNG")
        artifact.replace_directory(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    summary = _summary(file, encoder, contents, len(data)) | {
        "folder": printable(str(folder)),
        "each": [printable(str(folder / f"{name}.png")) for name in contents.names],
    }
    if as_json:
        tell(summary)
        return
    _print_table(summary)
    print(f"{'folder':<16}{legible(folder)}")


def stored_names(paths: Sequence[str]) -> list[str]:
    """What each image is called in the file: its path below the folder they have in common, without suffix.

    Raises UserError where two would have one name.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]
    common = os.path.commonpath([path.parent for path in absolute])
    names: dict[str, str] = {}
    for path, given in zip(absolute, paths, strict=True):
        name = path.relative_to(common).with_suffix("").as_posix()
        if name in names:
            raise UserError(f"{names[name]} and {given} would both come back as {name}.png: compress them apart.")
        names[name] = given
    return list(names)


def training_codes(source: Source, encoder: Encoder) -> np.ndarray:
    """Up to SAMPLE codes of the training split, float32 (n, d). Raises where the artefacts are not of one chain."""
    images, embeddings = Images.open(source.path("data")), Embeddings.open(source.path("embeddings"))
    artifact.check_chain(images.manifest, encoder.manifest, embeddings.manifest)
    positions = images.positions("train")
    return embeddings.rows(positions[np.linspace(0, len(positions) - 1, min(SAMPLE, len(positions))).astype(int)])


def rebuild(encoder: Encoder, quantiser: Quantiser, integers: np.ndarray) -> np.ndarray:
    """Integer codes (n, d) -> images uint8 (n, C, H, W)."""
    return _eight_bit(encoder.decode(quantiser.restore(integers)))


def mse(original: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Mean squared error of each of uint8 (n, …), float64 (n,), of pixels in [0, 1]."""
    difference = (original.astype(np.float64) - image) / 255
    return np.asarray(np.square(difference).reshape(len(original), -1).mean(axis=1))


def psnr(error: float) -> float | None:
    """Peak signal-to-noise ratio in dB of a mean squared error of pixels in [0, 1]; None of none."""
    return round(-10 * math.log10(error), 4) if error > 0 else None


def _eight_bit(images: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(images * 255), np.uint8)


def _read(path: str, encoder: Encoder) -> Decoded:
    try:
        return decode(Path(path).read_bytes(), encoder.preparation)
    except Undecodable as error:
        raise UserError(f"{path} cannot be read as an image: {error}.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}.") from error


def _model_of(contents: Contents, file: Path, root: Path) -> Path:
    """Directory of the model that made the codes: the published copy's or the workspace's."""
    places = [source.path("model") for source in (Source.find(root), Source("workspace", root))]
    there = [path for path in dict.fromkeys(places) if (path / artifact.MANIFEST).is_file()] or places[:1]
    digests = {path: artifact.read_manifest(path, "model").digest for path in there}
    for path, digest in digests.items():
        if digest.startswith(contents.model):
            return path
    here = " and ".join(f"{digest[:12]} ({path})" for path, digest in digests.items())
    raise WorkFailed(
        f"{file} was compressed by model {contents.model[:12]}, but the model here is {here}: bring that model back "
        "(`dvc checkout` in the commit that had it), or compress the images again."
    )


def _summary(file: Path, encoder: Encoder, contents: Contents, size: int) -> dict[str, Any]:
    return {
        "file": printable(str(file)),
        "model": encoder.manifest.digest,
        "bits": contents.quantiser.bits,
        "images": len(contents.names),
        "shape": list(encoder.shape),
        "bytes": size,
        "bits_per_pixel": round(_rate(size, encoder, len(contents.names)), 6),
    }


def _rate(size: int, encoder: Encoder, count: int) -> float:
    """Bits per pixel."""
    return 8 * size / (count * encoder.shape[1] * encoder.shape[2])


def _print_table(summary: dict[str, Any]) -> None:
    channels, height, width = summary["shape"]
    parts = summary.get("parts", {})
    shares = f" ({', '.join(f'{name} {size:,}' for name, size in parts.items())})" if parts else ""
    alone = f" (codes alone {summary['bits_per_pixel_codes']:.4f})" if parts else ""
    print(f"{'file':<16}{legible(summary['file'])}")
    print(f"{'model':<16}{summary['model'][:12]}, int{summary['bits']} codes")
    print(f"{'images':<16}{summary['images']:,} of {width} x {height}, {'grey' if channels == 1 else 'colour'}")
    print(f"{'bytes':<16}{summary['bytes']:,}{shares}")
    print(f"{'bits per pixel':<16}{summary['bits_per_pixel']:.4f}{alone}")


def _decibel(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.2f}"
