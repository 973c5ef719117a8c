from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

from aecore.data.decode import FORMATS, Preparation, Undecodable, content_hash, content_id, decode, prepare_array

GREY = Preparation(8, 8, 1, "crop", 10_000)
COLOUR = Preparation(8, 8, 3, "crop", 10_000)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(height: int = 8, width: int = 8) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def png_header(width: int, height: int) -> bytes:
    """A small file that claims to be a PNG of that size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def test_same_size_is_unchanged() -> None:
    image = picture()
    decoded = decode(encoded(image), COLOUR)
    assert decoded.pixels.dtype == np.uint8
    assert (decoded.width, decoded.height) == (8, 8)
    np.testing.assert_array_equal(decoded.pixels, np.asarray(image).transpose(2, 0, 1))


def test_grey_is_luma_of_colour_and_colour_repeats_grey() -> None:
    image = picture()
    grey = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(decode(encoded(image), GREY).pixels[0], grey)
    np.testing.assert_array_equal(decode(encoded(image.convert("L")), COLOUR).pixels, np.stack([grey] * 3))


def test_palette() -> None:
    image = picture().quantize(16)
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode(encoded(image), COLOUR).pixels, expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_goes_over_white(mode: str) -> None:
    image = picture().convert(mode)
    alpha = Image.new("L", (8, 8), 0)
    alpha.paste(255, (0, 0, 4, 8))
    alpha.paste(128, (4, 0, 5, 8))
    image.putalpha(alpha)
    pixels = decode(encoded(image), COLOUR).pixels.astype(int)
    opaque = np.asarray(image.convert("RGB")).transpose(2, 0, 1).astype(int)
    np.testing.assert_array_equal(pixels[:, :, :4], opaque[:, :, :4])
    assert np.abs(pixels[:, :, 4] - (opaque[:, :, 4] * 128 + 255 * 127) / 255).max() <= 1
    assert (pixels[:, :, 5:] == 255).all()


def test_transparent_colour_of_a_palette_is_white_without_a_warning() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(1, (0, 0, 4, 8))
    data = encoded(image, transparency=b"\x00\xff")  # what makes PIL warn
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode(data, COLOUR).pixels
    assert (pixels[:, :, 4:] == 255).all()
    assert pixels[:, 0, 0].tolist() == [40, 50, 60]


def test_cmyk_and_one_bit() -> None:
    cmyk = picture().convert("CMYK")
    pixels = decode(encoded(cmyk, "TIFF"), COLOUR).pixels
    np.testing.assert_array_equal(pixels, np.asarray(cmyk.convert("RGB")).transpose(2, 0, 1))
    bits = picture().convert("1")
    np.testing.assert_array_equal(decode(encoded(bits), GREY).pixels[0], np.asarray(bits) * np.uint8(255))


def test_cmyk_jpeg_is_near_its_colours() -> None:
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    pixels = decode(encoded(image, "JPEG", quality=95), COLOUR).pixels
    assert np.abs(pixels[:, 4, 4].astype(int) - [0, 255, 255]).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled(kind: str) -> None:
    values = (np.arange(64, dtype=np.uint32) * 1040).astype(np.uint16).reshape(8, 8)
    pixels = decode(encoded(Image.fromarray(values), kind), GREY).pixels[0]
    np.testing.assert_array_equal(pixels, np.rint(values / 257).astype(np.uint8))


@pytest.mark.parametrize("values", [np.full((8, 8), 0.5, np.float32), np.full((8, 8), 70_000, np.int32)])
def test_pixels_of_unknown_range_are_refused(values: np.ndarray) -> None:
    with pytest.raises(Undecodable, match="range the file does not say"):
        decode(encoded(Image.fromarray(values), "TIFF"), GREY)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation: int, kind: str) -> None:
    image = Image.fromarray(np.zeros((16, 32), np.uint8))
    image.paste(255, (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif)
    decoded = decode(data, Preparation(32, 32, 1, "pad", 10_000))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert (decoded.width, decoded.height) == ((16, 32) if orientation >= 5 else (32, 16))
    expected = np.asarray(ImageOps.pad(upright, (32, 32), color=0))
    assert np.abs(decoded.pixels[0].astype(int) - expected).max() < 20


def test_animation_shows_its_first_frame() -> None:
    frames = [Image.new("L", (8, 8), value) for value in (10, 200)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(data, GREY).pixels == 10).all()


def test_fit() -> None:
    image = Image.new("RGB", (24, 8), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 8, 8))
    data = encoded(image)
    crop = decode(data, COLOUR).pixels
    assert (crop[2] == 255).all()
    assert (crop[0] == 0).all()
    stretch = decode(data, Preparation(8, 8, 3, "stretch", 10_000)).pixels
    assert stretch[0, 0, 0] > 250
    assert stretch[2, 0, 7] > 250
    pad = decode(data, Preparation(24, 24, 3, "pad", 10_000)).pixels
    np.testing.assert_array_equal(pad[:, 8:16], np.asarray(image).transpose(2, 0, 1))
    assert pad[:, :8].max() == pad[:, 16:].max() == 0


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (7, 13)])
def test_any_shape_becomes_the_one_shape(fit: str, size: tuple[int, int]) -> None:
    decoded = decode(encoded(Image.new("L", size, 77)), Preparation(6, 4, 3, fit, 10_000))  # type: ignore[arg-type]
    assert decoded.pixels.shape == (3, 6, 4)
    assert (decoded.width, decoded.height) == size


def test_a_large_jpeg_decoded_at_reduced_scale_is_close_to_the_whole() -> None:
    image = picture(6, 6).resize((400, 300), Image.Resampling.BICUBIC)
    data = encoded(image, "JPEG", quality=95)
    decoded = decode(data, Preparation(16, 16, 3, "crop", 10**6))
    assert (decoded.width, decoded.height) == (400, 300)
    whole = np.asarray(ImageOps.fit(Image.open(io.BytesIO(data)), (16, 16), Image.Resampling.LANCZOS))
    assert np.abs(decoded.pixels.astype(int) - whole.transpose(2, 0, 1)).max() <= 6


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "not an image"),
        (encoded(picture(64, 64), "JPEG")[:-900], "truncated"),
        (encoded(picture(64, 64), "PNG")[:900], "damaged"),
        (encoded(picture(), "PNG")[:20], "not an image|damaged"),
        (png_header(40_000, 40_000), "40000 x 40000 pixels, above prepare.max_pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "not an image"),
    ],
)
def test_undecodable(data: bytes, reason: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Undecodable, match=reason) as caught:
            decode(data, GREY)
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "TGA"])
def test_a_file_cut_anywhere_is_decoded_or_refused(kind: str) -> None:
    data = encoded(picture(24, 24), kind)
    for end in range(0, len(data), max(1, len(data) // 60)):
        with contextlib.suppress(Undecodable):
            assert decode(data[:end], GREY).pixels.shape == (1, 8, 8)


def test_every_format_is_known_to_pil() -> None:
    Image.init()
    assert set(FORMATS) - {"AVIF"} <= set(Image.OPEN)


def test_threads_leave_no_trace_in_the_process() -> None:
    before, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    data = encoded(picture(64, 64), "JPEG")
    with ThreadPoolExecutor(4) as pool:
        decoded = list(pool.map(lambda _: decode(data, GREY).pixels, range(64)))
    assert all((pixels == decoded[0]).all() for pixels in decoded)
    assert warnings.filters == before
    assert limit == Image.MAX_IMAGE_PIXELS


def test_arrays() -> None:
    array = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(prepare_array(array, GREY).pixels, array[None])
    np.testing.assert_array_equal(prepare_array(array, COLOUR).pixels, np.stack([array] * 3))
    colour = np.asarray(picture(20, 30))
    np.testing.assert_array_equal(prepare_array(colour, COLOUR).pixels, decode(encoded(picture(20, 30)), COLOUR).pixels)
    for wrong in (array.astype(np.float32), array[0], np.zeros((8, 8, 4), np.uint8), np.zeros((0, 8), np.uint8)):
        with pytest.raises(Undecodable):
            prepare_array(wrong, GREY)


def test_content_hash_and_id() -> None:
    array = np.zeros((2, 8), np.uint8)
    different = [b"", bytes(16), array, array.reshape(8, 2), array.view(np.int8), np.asfortranarray(array) + 1]
    assert len({content_hash(content) for content in different}) == len(different)
    assert content_hash(np.asfortranarray(array)) == content_hash(array)
    assert content_id(b"\xff" * 32) == 2**63 - 1
    assert content_id(b"\0" * 7 + b"\x03" + b"\xff" * 24) == 1
