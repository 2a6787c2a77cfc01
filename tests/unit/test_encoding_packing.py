"""Packing: every width round-trips, in exactly the stated size, and nothing sloppy is taken."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.encoding import add_packed, pack, packed_size, unpack
from fedsus.errors import ProtocolViolation

WIDTHS = range(16, 33)


def ring(count, bits, seed=0):
    values = np.random.default_rng(seed).integers(0, 1 << bits, size=count, dtype=np.uint64)
    return values.astype(np.uint32)


def reference(values, bits):
    """The stream as one big integer: residue i shifted by i * bits."""
    number = sum(int(value) << (i * bits) for i, value in enumerate(values))
    return number.to_bytes((len(values) * bits + 7) // 8, "little")


@given(bits=st.sampled_from(list(WIDTHS)), count=st.integers(0, 200), seed=st.integers(0, 99))
@settings(deadline=None)
def test_bytes_are_the_stream_of_bits(bits, count, seed):
    values = ring(count, bits, seed)
    raw = pack(values, bits)
    assert raw == reference(values, bits)
    assert len(raw) == packed_size(count, bits)
    assert np.array_equal(unpack(raw, count, bits), values)
    assert np.array_equal(unpack(memoryview(raw), count, bits), values)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("count", [32767, 32768, 32769, 70_001])
def test_round_trip_over_chunk_borders(bits, count):
    values = ring(count, bits)
    assert np.array_equal(unpack(pack(values, bits), count, bits), values)


@pytest.mark.parametrize("bits", WIDTHS)
def test_adding_packed_is_the_sum_mod_two_to_the_bits(bits):
    first, second = ring(40_001, bits, 1), ring(40_001, bits, 2)
    total = first.copy()
    add_packed(total, pack(second, bits), bits)
    expected = (first.astype(np.uint64) + second) % (1 << bits)
    assert np.array_equal(total, expected)
    assert total.dtype == np.uint32


@pytest.mark.parametrize("bits", [16, 21, 32])
def test_wrong_length_is_refused(bits):
    raw = pack(ring(33, bits), bits)
    for bad in (raw[:-1], raw + b"\0", b""):
        with pytest.raises(ProtocolViolation, match="bytes, expected"):
            unpack(bad, 33, bits)


def test_nonzero_padding_is_refused_before_anything_is_added():
    raw = bytearray(pack(ring(3, 17), 17))  # 51 bits: five bits of padding
    raw[-1] |= 0x80
    total = np.zeros(3, dtype=np.uint32)
    with pytest.raises(ProtocolViolation, match="padding"):
        add_packed(total, raw, 17)
    assert not total.any()


def test_too_large_residues_and_other_widths_are_refused():
    with pytest.raises(ProtocolViolation, match="not below"):
        pack(np.array([1 << 20], dtype=np.uint32), 20)
    for bits in (15, 33):
        with pytest.raises(ProtocolViolation, match="16 to 32"):
            pack(np.zeros(1, dtype=np.uint32), bits)


@pytest.mark.parametrize("bits", [20, 32])
def test_adding_needs_no_unpacked_copy(bits):
    count = 1_000_000
    total, raw = ring(count, bits, 1), pack(ring(count, bits, 2), bits)
    tracemalloc.start()
    add_packed(total, raw, bits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < count * 4 / 10
