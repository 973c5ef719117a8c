"""`.aec` files: the compressed images of one model, whole or refused.

    head      4s magic, version, bits, dimensions, images, bytes of names, bytes of codes, first 8 bytes of the model's
              digest (32 bytes, little-endian)
    table     offset and step float32, spread float16, each (dimensions,): the quantiser (10 bytes a dimension)
    names     the images' names without suffix, each ended by a zero byte, deflated
    codes     the integers' checksum, and what the range coder made of them
    checksum  CRC-32 of all that stands before it

Whatever else decoding needs is in the model's directory.
"""

from __future__ import annotations

import itertools
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from aecore.config import UserError, WorkFailed
from aecore.generate.quantise import Quantiser

MAGIC = b"\x89AEC"
VERSION = 1
HEAD = struct.Struct("<4sBBHIIQ8s")
CHECKSUM = 4
FIELDS = ("<f4", "<f4", "<f2")
"""Of the table: offset, step, spread."""


class Contents(NamedTuple):
    """What an `.aec` file holds."""

    model: str
    """Digest of the model that made the codes; read back from a file its first 16 hex digits."""
    quantiser: Quantiser
    names: Sequence[str]
    """Of the images, without suffix, `/` between folders."""
    integers: np.ndarray
    """int8 (n, d)."""


def to_bytes(contents: Contents) -> tuple[bytes, dict[str, int]]:
    """The file, and how many of its bytes go to the header (with the checksum), the table, the names and the codes."""
    quantiser = contents.quantiser
    table = b"".join(
        values.astype(kind).tobytes()
        for values, kind in zip((quantiser.offset, quantiser.step, quantiser.spread), FIELDS, strict=True)
    )
    names = zlib.compress(b"".join(os.fsencode(name) + b"\0" for name in contents.names), 9)
    codes = quantiser.pack(contents.integers)
    count, dim = contents.integers.shape
    model = bytes.fromhex(contents.model)[:8]
    head = HEAD.pack(MAGIC, VERSION, quantiser.bits, dim, count, len(names), len(codes), model)
    body = head + table + names + codes
    parts = {"header": HEAD.size + CHECKSUM, "table": len(table), "names": len(names), "codes": len(codes)}
    return body + _checksum(body), parts


def from_bytes(data: bytes, where: str) -> Contents:
    """Read what `to_bytes` made; `where` names it in errors.

    Raises UserError for something else than such a file, WorkFailed for a damaged one, one of another version, and one
    whose names lead out of a folder.
    """
    if not data.startswith(MAGIC):
        raise UserError(f"{where} is no .aec file: give one that `python -m aecore compress` wrote.")
    damaged = WorkFailed(f"{where} is damaged or cut short: fetch a whole copy, or compress the images again.")
    body = data[:-CHECKSUM]
    if len(body) < HEAD.size or _checksum(body) != data[-CHECKSUM:]:
        raise damaged
    _, version, bits, dim, count, names_size, codes_size, model = HEAD.unpack_from(body)
    if version != VERSION:
        raise WorkFailed(
            f"{where} is an .aec file of version {version}, this program reads {VERSION}: "
            "decompress it with the program that wrote it, or compress the images again."
        )
    sizes = [*(np.dtype(kind).itemsize * dim for kind in FIELDS), names_size, codes_size]
    if HEAD.size + sum(sizes) != len(body):
        raise damaged
    ends = np.cumsum([HEAD.size, *sizes])
    *table, names, codes = (body[start:end] for start, end in itertools.pairwise(ends))
    fields = (np.frombuffer(part, kind) for part, kind in zip(table, FIELDS, strict=True))
    quantiser = Quantiser(bits, *fields)
    listed = [os.fsdecode(name) for name in zlib.decompress(names).split(b"\0")[:-1]]
    usable = 2 <= bits <= 8 and (quantiser.spread > 0).all() and np.isfinite([quantiser.offset, quantiser.step]).all()
    if len(listed) != count or not usable:
        raise damaged
    for name in listed:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise WorkFailed(f"{where} names an image {name!r}, outside any folder: do not trust this file.")
    try:
        integers = quantiser.unpack(codes, count)
    except ValueError as error:
        raise WorkFailed(
            f"{where} is whole, but its codes cannot be read here ({error}): decompress it on the kind of machine "
            "that wrote it."
        ) from error
    return Contents(model.hex(), quantiser, listed, integers)


def write(path: Path, data: bytes) -> None:
    """Write `data` through a temporary sibling: whole or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _checksum(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(CHECKSUM, "little")
