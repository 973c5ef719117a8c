"""The quantiser and its range coder, against closed forms and brute force."""

from __future__ import annotations

import lzma
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from aecore.config import UserError
from aecore.generate import quantise
from aecore.generate.quantise import Quantiser, fit, gains

RNG = np.random.default_rng(0)
SCALES = np.array([4, 1, 0.25, 0.02])
CODES = (RNG.normal(size=(3000, 4)) * SCALES + [0, 5, -3, 100]).astype(np.float32)
BASIS = np.linalg.qr(RNG.normal(size=(9, 4)))[0].T  # orthonormal rows: an error of a code is an error of the image


def orthonormal(codes: np.ndarray) -> np.ndarray:
    return codes @ BASIS


@pytest.mark.parametrize("bits", range(2, 9))
def test_inside_the_range_a_code_is_off_by_half_a_step_at_most(bits: int) -> None:
    quantiser = fit(CODES, orthonormal, bits)
    fresh = (RNG.normal(size=(2000, 4)) * 2 * SCALES + [0, 5, -3, 100]).astype(np.float32)
    integers = quantiser.quantise(fresh)
    assert integers.dtype == np.int8
    assert np.abs(integers).max() <= 2 ** (bits - 1) - 1
    error = np.abs(fresh.astype(np.float64) - quantiser.restore(integers))
    half, rounding = quantiser.step / 2, np.spacing(np.abs(fresh))
    inside = np.abs(fresh - quantiser.offset) <= quantiser.largest * quantiser.step
    assert inside.mean() > 0.5
    assert (error <= half + rounding)[inside].all()
    ends = quantiser.offset + np.sign(fresh - quantiser.offset) * quantiser.largest * quantiser.step
    np.testing.assert_allclose(quantiser.restore(integers)[~inside], ends[~inside], rtol=1e-6)
    beyond = np.abs(fresh - quantiser.offset) > (quantiser.largest + 0.5) * quantiser.step.astype(np.float64)
    assert quantiser.beyond(fresh) == beyond.sum()


def test_where_the_decoder_keeps_lengths_every_step_is_the_same() -> None:
    np.testing.assert_allclose(gains(CODES, orthonormal, CODES.std(axis=0)), 1, rtol=2e-3)
    step = fit(CODES, orthonormal, 8).step
    np.testing.assert_allclose(step, step[0], rtol=2e-3)


@pytest.mark.parametrize("bits", [3, 8])
def test_units_of_a_code_do_not_matter(bits: int) -> None:
    units = np.array([1, 0.25, 8, 64], np.float32)  # powers of two: no rounding
    plain = fit(CODES, orthonormal, bits)
    scaled = fit(CODES * units, lambda z: orthonormal(z / units), bits)
    np.testing.assert_array_equal(plain.quantise(CODES), scaled.quantise(CODES * units))


def test_the_cut_tails_make_the_training_error_least() -> None:
    codes = RNG.normal(size=(20000, 1)).astype(np.float32)
    for bits in (2, 3, 4):
        quantiser = fit(codes, lambda z: z, bits)
        found = np.square(codes - quantiser.restore(quantiser.quantise(codes))).mean()
        tried = [
            np.square(codes - s * np.clip(np.rint(codes / s), -quantiser.largest, quantiser.largest)).mean()
            for s in np.geomspace(0.05, 4, 200)
        ]
        assert found <= 1.03 * min(tried)


def test_dimensions_that_do_nothing_cost_nothing() -> None:
    still = CODES.copy()
    still[:, 1] = 7
    quantiser = fit(still, lambda z: orthonormal(z * np.array([1, 1, 1, 0])), 8)
    integers = quantiser.quantise(still)
    assert not integers[:, [1, 3]].any()
    np.testing.assert_array_equal(quantiser.restore(integers)[:, 1], 7)
    used = Quantiser(8, *(values[[0, 2]] for values in (quantiser.offset, quantiser.step, quantiser.spread)))
    assert len(quantiser.pack(integers)) <= len(used.pack(integers[:, [0, 2]])) + 8


@pytest.mark.parametrize("decode", [lambda z: 0 * z, lambda z: z])
def test_codes_that_never_change_and_decoders_that_never_answer_are_quantised(decode: quantise.Decode) -> None:
    for codes in (np.full((5, 3), 2, np.float32), CODES[:, :3]):
        quantiser = fit(codes, decode, 4)
        integers = quantiser.quantise(codes)
        assert (quantiser.step > 0).all()
        assert np.isfinite(quantiser.restore(integers)).all()
        np.testing.assert_array_equal(quantiser.unpack(quantiser.pack(integers), len(codes)), integers)


@settings(max_examples=40, deadline=None)
@given(bits=st.integers(2, 8), count=st.integers(0, 60), dim=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_any_integers_come_back_whatever_was_expected(bits: int, count: int, dim: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.uniform(-3, 5, dim)).astype(np.float16)
    quantiser = Quantiser(bits, np.zeros(dim, np.float32), np.ones(dim, np.float32), spread)
    integers = rng.integers(-quantiser.largest, quantiser.largest + 1, (count, dim)).astype(np.int8)
    np.testing.assert_array_equal(quantiser.unpack(quantiser.pack(integers), count), integers)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    quantiser = fit(CODES, orthonormal, 6)
    integers = quantiser.quantise(CODES)
    whole = quantiser.pack(integers)
    monkeypatch.setattr(quantise, "BLOCK", 7)
    assert quantiser.pack(integers) == whole
    np.testing.assert_array_equal(quantiser.unpack(whole, len(CODES)), integers)


@pytest.mark.parametrize("bits", [3, 5, 8])
def test_the_coder_takes_what_shannon_says_and_less_than_zlib_and_lzma(bits: int) -> None:
    quantiser = fit(CODES, orthonormal, bits)
    integers = quantiser.quantise(CODES)
    edges = np.arange(-quantiser.largest, quantiser.largest + 2) - 0.5
    expected = 0.0
    for column, spread in zip(integers.T, quantiser.spread.astype(np.float64), strict=True):
        mass = np.diff(norm.cdf(edges, scale=spread))
        expected -= np.log2(mass[column.astype(int) + quantiser.largest] / mass.sum()).sum()
    took = 8 * len(quantiser.pack(integers))
    assert expected <= took <= 1.002 * expected + 96  # the checksum, and up to two words to end with
    as_columns = integers.T.tobytes()
    assert took < 8 * min(len(zlib.compress(as_columns, 9)), len(lzma.compress(as_columns, preset=9)))


def test_damage_is_noticed() -> None:
    quantiser = fit(CODES, orthonormal, 8)
    packed = bytearray(quantiser.pack(quantiser.quantise(CODES)))
    for place in (0, 4, len(packed) // 2):
        packed[place] ^= 1
        with pytest.raises(ValueError, match=r"."):
            quantiser.unpack(bytes(packed), len(CODES))
        packed[place] ^= 1


@pytest.mark.parametrize("bits", [1, 9, 0])
def test_other_numbers_of_bits_are_refused(bits: int) -> None:
    with pytest.raises(UserError, match=f"bits is {bits}; expected 2 to 8"):
        fit(CODES, orthonormal, bits)
