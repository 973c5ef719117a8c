"""From encoded bytes, or an array, to the prepared pixels: the one preprocessing that corpus and query share.

Every picture becomes 8-bit grey or RGB, upright (EXIF), with transparency over white; of animations the first frame.
It is then brought to one size by Lanczos resampling: `crop` takes the largest centred part of the right shape, `pad`
keeps the whole picture on black, `stretch` ignores its shape.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

Fit = Literal["crop", "pad", "stretch"]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "TIFF": (".tif", ".tiff"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TGA": (".tga",),
    "PCX": (".pcx",),
    "SGI": (".sgi", ".rgb", ".bw"),
    "ICO": (".ico",),
}
"""What is read. Formats that run a program or load a second size (EPS, ICNS, …) are left out on purpose."""

SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = (5, 6, 7, 8)
"""Orientations that exchange width and height."""

logging.getLogger("PIL").addHandler(logging.NullHandler())


class Undecodable(ValueError):
    """These bytes are no image that can be used; the message is the reason."""


@dataclass(frozen=True)
class Preparation:
    """All that determines prepared pixels from a picture."""

    height: int
    width: int
    channels: int
    """1 (grey) or 3 (RGB)."""
    fit: Fit
    max_pixels: int
    """Larger pictures are refused from their header, before anything is decoded."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the prepared pixels."""
        return self.channels, self.height, self.width


@dataclass(frozen=True, slots=True)
class Decoded:
    """One prepared picture."""

    pixels: np.ndarray
    """uint8 (C, H, W)."""
    width: int
    """Of the original, upright."""
    height: int


def most_bytes(max_pixels: int) -> int:
    """Bytes of the largest file that a picture of so many pixels needs: 16-bit RGBA, uncompressed, and its header."""
    return 8 * max_pixels + 2**20


def content_hash(content: bytes | np.ndarray) -> bytes:
    """sha256 (32 bytes) of an encoded file, or of an array's dtype, shape and bytes."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).digest()
    head = f"{content.dtype.str} {'x'.join(map(str, content.shape))}\n".encode()
    return hashlib.sha256(head + np.ascontiguousarray(content).tobytes()).digest()


def content_id(sha256: bytes) -> int:
    """Return the id of what has this `content_hash`: its first 63 bits."""
    return int.from_bytes(sha256[:8], "big") >> 1


def decode(data: bytes, preparation: Preparation) -> Decoded:
    """Decode an encoded picture and prepare it. Raises Undecodable."""
    if not data:
        raise Undecodable("the file is empty")
    with _quiet():
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                width, height = image.size
                box: Box = (0, 0, width, height)
                if width * height > preparation.max_pixels:
                    raise Undecodable(f"{width} x {height} pixels, above prepare.max_pixels {preparation.max_pixels}")
                if image.format in ("JPEG", "MPO"):  # at 1/2, 1/4 or 1/8, where that still holds twice the size wanted
                    side = 2 * max(preparation.height, preparation.width)
                    drafted = image.draft("L" if preparation.channels == 1 else "RGB", (side, side))
                    box = drafted[1] if drafted else box
                image.load()
                orientation = _orientation(image)
                picture = _eight_bit(image, preparation.channels)
        except UnidentifiedImageError:
            raise Undecodable("not an image in a format that is read") from None
        except (Undecodable, MemoryError):
            raise
        except Exception as error:  # damaged files make the decoders raise nearly anything
            raise Undecodable(f"damaged: {_message(error)}") from error
    pixels = _pixels(picture, box, orientation, preparation)
    return Decoded(pixels, *((height, width) if orientation in _TURNED else (width, height)))


def prepare_array(array: np.ndarray, preparation: Preparation) -> Decoded:
    """Prepare a picture that is already an array, uint8 (h, w) or (h, w, 3). Raises Undecodable.

    A picture of the right size and channels comes back unchanged.
    """
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise Undecodable(f"an array {array.dtype} {array.shape}; expected uint8 (h, w) or (h, w, 3)")
    height, width = array.shape[:2]
    if height == 0 or width == 0:
        raise Undecodable(f"an array {array.shape} without pixels")
    if width * height > preparation.max_pixels:
        raise Undecodable(f"{width} x {height} pixels, above prepare.max_pixels {preparation.max_pixels}")
    picture = _eight_bit(Image.fromarray(np.ascontiguousarray(array)), preparation.channels)
    return Decoded(_pixels(picture, (0, 0, width, height), 1, preparation), width, height)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this build of PIL has (AVIF is not in every one)."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _eight_bit(image: Image.Image, channels: int) -> Image.Image:
    """Bring any mode to `L` or `RGB`."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.dtype != np.uint16 and (values.min() < 0 or values.max() > 65535):
            raise Undecodable("32-bit pixels, whose range the file does not say: save it with 8 or 16 bits")
        image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise Undecodable("floating-point pixels, whose range the file does not say: save it with 8 or 16 bits")
    elif image.has_transparency_data:
        picture = image.convert("RGBA")
        image = Image.new("RGB", picture.size, "white")
        image.paste(picture, mask=picture.getchannel("A"))
    elif image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _pixels(picture: Image.Image, box: Box, orientation: int, preparation: Preparation) -> np.ndarray:
    """Bring the `box` of an `L` or `RGB` picture, not upright yet, to its size: uint8 (C, H, W).

    A JPEG decoded at a reduced scale ends in a fraction of a pixel, so the sides of the box need not be whole.
    """
    width, height = box[2], box[3]
    target = preparation.width, preparation.height
    w, h = target[::-1] if orientation in _TURNED else target
    if preparation.fit == "crop":
        part_width, part_height = min(width, height * w / h), min(height, width * h / w)
        left, top = (width - part_width) / 2, (height - part_height) / 2
        box = (left, top, min(width, left + part_width), min(height, top + part_height))
    elif preparation.fit == "pad":
        scale = min(w / width, h / height)
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
    picture = picture.resize((w, h), Image.Resampling.LANCZOS, box)
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
    if picture.size != target:
        inner, picture = picture, Image.new(picture.mode, target)
        picture.paste(inner, ((target[0] - inner.width) // 2, (target[1] - inner.height) // 2))
    pixels = np.asarray(picture)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where there is none or the EXIF data are damaged."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # the picture itself is sound
        return 1
    return value if isinstance(value, int) else 1


def _message(error: Exception) -> str:
    text = re.sub(r"<[^>]* at 0x[0-9a-f]+>", "it", " ".join(str(error).split()))
    return text or type(error).__name__


class _Quiet:
    """Keep PIL's warnings from the user while any thread decodes, and leave size limits to `max_pixels`.

    `warnings.catch_warnings` is not safe where threads enter and leave it out of order, hence the count.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._restore = contextlib.ExitStack()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._restore.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\.")
                self._restore.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
                Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._restore.close()


_quiet = _Quiet()
