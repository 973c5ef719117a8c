"""`.aec` files: what is written is read, counted to the byte, and nothing else is."""

from __future__ import annotations

import dataclasses
import errno
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aecore.config import UserError, WorkFailed
from aecore.generate import container
from aecore.generate.container import Contents, from_bytes, to_bytes
from aecore.generate.quantise import Quantiser

MODEL = "0123456789abcdef" * 4
RNG = np.random.default_rng(0)
QUANTISER = Quantiser(6, RNG.normal(size=3).astype("<f4"), np.array([1, 2, 0.5], "<f4"), np.array([9, 3, 1], "<f2"))
SOUND = Contents(MODEL, QUANTISER, ["a", "b/a", "b/ü"], RNG.integers(-31, 32, (3, 3)).astype(np.int8))


def signed(body: bytes) -> bytes:
    """`body` as a file whose checksum is right."""
    return body + zlib.crc32(body).to_bytes(4, "little")


def test_what_is_written_is_read() -> None:
    data, _ = to_bytes(SOUND)
    back = from_bytes(data, "it")
    assert back.model == MODEL[:16]
    assert back.names == SOUND.names
    np.testing.assert_array_equal(back.integers, SOUND.integers)
    for field in dataclasses.fields(Quantiser):
        np.testing.assert_array_equal(getattr(back.quantiser, field.name), getattr(QUANTISER, field.name))
    assert to_bytes(back)[0] == data


name = st.binary(min_size=1, max_size=12).filter(lambda b: b not in (b".", b"..") and not set(b) & {0, 47})


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(name, min_size=1, max_size=3), unique_by=lambda parts: b"/".join(parts), max_size=9))
def test_any_name_of_a_file_comes_back(parts: list[list[bytes]]) -> None:
    names = [os.fsdecode(b"/".join(p)) for p in parts]
    contents = SOUND._replace(names=names, integers=np.zeros((len(names), 3), np.int8))
    assert from_bytes(to_bytes(contents)[0], "it").names == names


def test_the_parts_are_the_whole_file() -> None:
    data, parts = to_bytes(SOUND)
    assert sum(parts.values()) == len(data)
    assert parts["header"] == 36
    assert parts["table"] == 3 * 10
    assert len(zlib.compress("a\0b/a\0b/ü\0".encode(), 9)) == parts["names"]
    assert len(QUANTISER.pack(SOUND.integers)) == parts["codes"]


def test_every_flipped_byte_and_every_cut_is_refused() -> None:
    data, _ = to_bytes(SOUND)
    for place in range(len(data)):
        flipped = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
        with pytest.raises(UserError, match=r"^it is (no \.aec file|damaged or cut short)"):
            from_bytes(flipped, "it")
        with pytest.raises(UserError, match=r"^it is (no \.aec file|damaged or cut short)"):
            from_bytes(data[:place], "it")
    with pytest.raises(WorkFailed, match="damaged or cut short"):
        from_bytes(data + b"\0", "it")


def test_another_version_says_which() -> None:
    body = bytearray(to_bytes(SOUND)[0][:-4])
    body[4] = 2
    with pytest.raises(WorkFailed, match=r"it is an \.aec file of version 2, this program reads 1"):
        from_bytes(signed(bytes(body)), "it")


@pytest.mark.parametrize("name", ["../a", "/etc/a", "b/../../a", "", "."])
def test_names_that_lead_out_of_the_folder_are_refused(name: str) -> None:
    data, _ = to_bytes(SOUND._replace(names=["a", "b", name]))
    with pytest.raises(WorkFailed, match="outside any folder: do not trust this file"):
        from_bytes(data, "it")


@pytest.mark.parametrize(
    ("field", "value"), [("spread", [1, 0, 1]), ("step", [1, np.inf, 1]), ("offset", [np.nan, 0, 0]), ("bits", 99)]
)
def test_a_table_that_means_nothing_is_refused(field: str, value: object) -> None:
    body = bytearray(to_bytes(SOUND)[0][:-4])
    at = {"offset": 32, "step": 32 + 12, "spread": 32 + 24, "bits": 5}[field]
    new = bytes([99]) if field == "bits" else struct.pack("<3e" if field == "spread" else "<3f", *value)  # type: ignore[misc]
    body[at : at + len(new)] = new
    with pytest.raises(WorkFailed, match="damaged"):
        from_bytes(signed(bytes(body)), "it")


def test_arithmetic_that_decodes_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = to_bytes(SOUND)
    unpack = Quantiser.unpack
    other = dataclasses.replace(QUANTISER, spread=QUANTISER.spread * np.float16(1.5))
    monkeypatch.setattr(Quantiser, "unpack", lambda self, packed, count: unpack(other, packed, count))
    with pytest.raises(WorkFailed, match="it is whole, but its codes cannot be read here"):
        from_bytes(data, "it")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.aec"
    container.write(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        container.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
