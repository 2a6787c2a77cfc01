"""Differences between models: the same bits by another path, golden vectors, bounds, and refusal of bad bytes."""

from __future__ import annotations

import hashlib
import itertools
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedsus.encoding.downlink import difference, flushed, moved
from fedsus.errors import ProtocolViolation
from fedsus.settings.downlink import Downlink
from fedsus.types import Vector

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
MODERATE = st.floats(-(2.0**100), 2.0**100, width=32)
ASKED = st.builds(Downlink, bits=st.sampled_from([2, 4, 8]), block=st.sampled_from([16, 17, 64]))


def asking(bits: int, block: int = 2048) -> Downlink:
    return Downlink.model_validate({"bits": bits, "block": block})


def pairs(values: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[Vector, Vector]]:
    sizes = st.integers(1, 150)
    return sizes.flatmap(lambda n: st.tuples(*[arrays(np.float32, n, elements=values)] * 2))


def units(pattern: int) -> int:
    """A finite float32 in units of 2**-149, by its bits alone; what is not normal counts as zero."""
    exponent, fraction = pattern >> 23 & 255, pattern & (1 << 23) - 1
    size = 0 if exponent == 0 else (fraction | 1 << 23) << exponent - 1
    return -size if pattern >> 31 else size


def rounded(value: int) -> int | None:
    """Bits of the float32 nearest to so many units of 2**-149, ties to even; None where it overflows."""
    sign, size = int(value < 0) << 31, abs(value)
    down = max(size.bit_length() - 24, 0)
    kept, rest, half = size >> down, size & (1 << down) - 1, 1 << down >> 1
    kept += int(down > 0 and (rest > half or (rest == half and kept & 1 == 1)))
    size = kept << down
    if size < 1 << 23:
        return 0
    exponent = size.bit_length() - 23
    return None if exponent > 254 else sign | exponent << 23 | size >> exponent - 1 & (1 << 23) - 1


def by_integers(base: Vector, raw: bytes, asked: Downlink) -> list[int | None]:
    """What `moved` says, as bits: Python's integers alone, one coordinate after the other."""
    content = zlib.decompress(raw[1:], -15) if raw[0] else raw[1:]
    blocks, found = -(-len(base) // asked.block), []
    stream = int.from_bytes(content[2 * blocks :], "little")
    for place, number in enumerate(base.view(np.uint32).tolist()):
        scale = struct.unpack_from("<H", content, 2 * (place // asked.block))[0]
        code = stream >> place * asked.bits & (1 << asked.bits) - 1
        code -= code >> asked.bits - 1 << asked.bits
        found.append(rounded(units(number) + code * units(scale << 16)))
    return found


@settings(deadline=None, max_examples=60)
@given(pair=pairs(FINITE), asked=ASKED)
def test_integers_and_floats_give_the_same_bits(pair: tuple[Vector, Vector], asked: Downlink) -> None:
    model, base = pair
    raw = difference(model, base, asked)
    expected = by_integers(base, raw, asked)
    if None in expected:
        with pytest.raises(ProtocolViolation, match="NaN or infinity"):
            moved(base, raw, asked)
    else:
        assert moved(base, raw, asked).view(np.uint32).tolist() == expected


@settings(deadline=None, max_examples=60)
@given(pair=pairs(MODERATE), asked=ASKED)
def test_a_difference_shrinks_as_is_promised(pair: tuple[Vector, Vector], asked: Downlink) -> None:
    model, base = map(flushed, pair)
    made = moved(base, difference(model, base, asked), asked).astype(np.float64)
    before, after = np.abs(model - base.astype(np.float64)), np.abs(model - made)
    slack = 2.0**-23 * (np.abs(model) + np.abs(base)) + 2.0**-126  # float32's own rounding, and flushed results
    assert (after <= before + slack).all()
    levels = (1 << asked.bits - 1) - 1
    for start in range(0, len(base), asked.block):
        part = slice(start, start + asked.block)
        step = max(before[part].max() / levels * (1 + 2.0**-7), 2.0**-126)
        assert (after[part] <= step / 2 + slack[part]).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_is_left_out_comes_later(bits: int) -> None:
    """A model that stands still is reached: the error is in the next difference."""
    asked, generator = asking(bits, 16), np.random.default_rng(0)
    model, held = generator.normal(size=100).astype(np.float32), np.zeros(100, dtype=np.float32)
    errors = []
    for _ in range(25):
        errors.append(float(np.linalg.norm(model - held)))
        held = moved(held, difference(model, held, asked), asked)
    assert all(after <= before for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.05 * errors[0] if bits == 2 else errors[-1] < 1e-5 * errors[0]


def golden() -> tuple[Vector, Vector]:
    place = np.arange(1000, dtype=np.int64)
    base = ((place * 7919) % 2003 - 1001).astype(np.float32) * np.float32(2.0**-10)
    return base + ((place * 104729) % 4001 - 2000).astype(np.float32) * np.float32(2.0**-20), base


GOLDEN = {
    (8, 2048): ("22886aae08da566c", "03acdcb0500cb38a"),
    (4, 64): ("069820a9cb6947bb", "0114bd416fb88d11"),
    (2, 17): ("0ac94932f89173d6", "c86894d668facba2"),
}


@pytest.mark.parametrize(("bits", "block"), GOLDEN)
def test_golden_vectors(bits: int, block: int) -> None:
    """Of the content and of the model that it gives: a change of either would split clients of two versions."""
    model, base = golden()
    asked = asking(bits, block)
    raw = difference(model, base, asked)
    content = zlib.decompress(raw[1:], -15) if raw[0] else raw[1:]
    made = moved(base, raw, asked)
    found = hashlib.sha256(content).hexdigest()[:16], hashlib.sha256(made.astype("<f4").tobytes()).hexdigest()[:16]
    assert found == GOLDEN[bits, block]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_no_normal_number_is_counts_as_zero_on_both_sides(bits: int) -> None:
    asked = asking(bits, 16)
    base = np.array([1e-40, -0.0, -1e-40, 1.0], dtype=np.float32)
    made = moved(base, difference(base, base, asked), asked)
    assert made.view(np.uint32).tolist() == [0, 0, 0, np.float32(1).view(np.uint32)]


def plain(scales: list[int], codes: bytes) -> bytes:
    return b"\0" + struct.pack(f"<{len(scales)}H", *scales) + codes


BASE = np.zeros(20, dtype=np.float32)
ONE = Downlink(bits=4, block=16)
GOOD = plain([0x3F80, 0x3F80], bytes(10))
BAD = {
    "empty": (b"", "neither plain nor deflated"),
    "kind": (b"\2" + GOOD[1:], "neither plain nor deflated"),
    "truncated": (GOOD[:-1], "13 bytes, expected 14"),
    "oversized": (GOOD + b"\0", "15 bytes, expected 14"),
    "another dimension": (plain([0x3F80], bytes(8)), "10 bytes, expected 14"),
    "another block": (plain([0x3F80] * 3, bytes(10)), "16 bytes, expected 14"),
    "code": (plain([0x3F80] * 2, b"\x08" + bytes(9)), "code -8; -7 to 7 are allowed"),
    "code without a scale": (plain([0, 0], b"\x80" + bytes(9)), "code -8"),
    "negative scale": (plain([0xBF80, 0], bytes(10)), "a scale is negative"),
    "infinite scale": (plain([0x7F80, 0], bytes(10)), "no normal number"),
    "scale above 2**120": (plain([0x7B81, 0], bytes(10)), "too large"),
    "NaN scale": (plain([0x7FC0, 0], bytes(10)), "no normal number"),
    "subnormal scale": (plain([0x0001, 0], bytes(10)), "no normal number"),
    "not deflated": (b"\1\xff\xff", "cannot be inflated"),
    "half a stream": (b"\1" + zlib.compress(bytes(14), wbits=-15)[:-1], "not the deflated form"),
    "more behind a stream": (b"\1" + zlib.compress(bytes(14), wbits=-15) + b"\0", "not the deflated form"),
    "a stream of more": (b"\1" + zlib.compress(bytes(10**6), wbits=-15), "not the deflated form of 14 bytes"),
    "a stream of less": (b"\1" + zlib.compress(bytes(13), wbits=-15), "13 bytes, expected 14"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_bytes_are_refused_with_a_reason(case: str) -> None:
    raw, why = BAD[case]
    assert moved(BASE, GOOD, ONE).tolist() == BASE.tolist()
    with pytest.raises(ProtocolViolation, match=why):
        moved(BASE, raw, ONE)


def test_a_sum_that_overflows_is_refused() -> None:
    base = np.full(20, 3.4e38, dtype=np.float32)
    with pytest.raises(ProtocolViolation, match="holds NaN or infinity"):
        moved(base, plain([0x7B80, 0], b"\x07" + bytes(9)), ONE)


def test_padding_that_is_not_zero_is_refused() -> None:
    with pytest.raises(ProtocolViolation, match="padding"):
        moved(np.zeros(1, dtype=np.float32), plain([0x3F80], b"\x10"), ONE)


@settings(deadline=None, max_examples=100)
@given(raw=st.one_of(st.binary(max_size=40), st.binary(min_size=14, max_size=14).map(lambda body: b"\0" + body)))
def test_any_bytes_give_a_finite_model_or_one_refusal(raw: bytes) -> None:
    try:
        made = moved(BASE, raw, ONE)
    except ProtocolViolation as error:
        said = str(error)
    else:
        said = "difference: " if made.shape == BASE.shape and np.isfinite(made).all() else ""
    assert said.startswith("difference: ") and "\n" not in said


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_model_that_is_not_finite_has_no_difference(bad: float) -> None:
    broken = np.array([0.0, bad], dtype=np.float32)
    for model, base in ((broken, BASE[:2]), (BASE[:2], broken)):
        with pytest.raises(ProtocolViolation, match="NaN or infinity"):
            difference(model, base, ONE)


def test_models_of_two_lengths_have_no_difference() -> None:
    with pytest.raises(ProtocolViolation, match="a model of"):
        difference(BASE, BASE[:1], ONE)


def test_eight_bits_are_less_than_a_third_of_a_model() -> None:
    generator = np.random.default_rng(1)
    base = generator.normal(size=20_000).astype(np.float32)
    model = base + generator.normal(size=20_000).astype(np.float32) * np.float32(0.01)
    sizes = {bits: len(difference(model, base, Downlink(bits=bits))) for bits in (8, 4, 2)}
    assert sizes[8] < 4 * 20_000 / 3.9 and sizes[4] < 4 * 20_000 / 9 and sizes[2] < 4 * 20_000 / 25
