"""Masks: the stream they are, that they cancel, and that workers and chunks change nothing."""

from __future__ import annotations

import traceback
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from fedsus.errors import ProtocolViolation
from fedsus.secagg import masks
from fedsus.secagg.masks import add_mask, add_masks
from fedsus.secagg.secret import Secret
from fedsus.types import Ring

BITS = pytest.mark.parametrize("bits", [16, 20, 31, 32])
NO_CARRY = bytes(16)

# AES-256 of the blocks 0, 1 and 2 under the zero key: the hash key of test case 13 of McGrew and Viega, "The
# Galois/Counter Mode of Operation (GCM)", the tag of its empty message, and the cipher text of test case 14.
ZERO_KEY_STREAM = bytes.fromhex(
    "dc95c078a2408989ad48a21492842087530f8afbc74536b9a963b4f1c4cb738bcea7403d4d606b6e074ec5d3baf39d18"
)


def key(number: int) -> Secret:
    return Secret(number.to_bytes(32, "big"))


def stream(secret: Secret, words: int, bits: int) -> Ring:
    """The whole mask at once, as SECAGG's definition reads: the oracle."""
    cipher = Cipher(algorithms.AES256(secret.reveal()), modes.CTR(NO_CARRY)).encryptor()
    return np.frombuffer(cipher.update(bytes(4 * words)), "<u4") & np.uint32(2**bits - 1)


def summed(pairs: Sequence[tuple[Secret, int]], words: int, bits: int) -> Ring:
    total = np.zeros(words, dtype=np.int64)
    for secret, sign in pairs:
        total += sign * stream(secret, words, bits).astype(np.int64)
    return (total % 2**bits).astype(np.uint32)


def test_published_vector() -> None:
    total = np.zeros(12, dtype=np.uint32)
    add_mask(total, Secret(bytes(32)), 32, 1)
    assert total.astype("<u4").tobytes() == ZERO_KEY_STREAM


@pytest.mark.parametrize(
    ("bits", "golden"),
    [
        (16, [37106, 18730, 62377, 11997, 40057, 8303]),
        (20, [37106, 1001770, 717737, 470749, 498809, 598127]),
        (32, [3053490418, 3500099882, 1788539817, 2155294429, 954702969, 2598969455]),
    ],
)
def test_golden_values_of_version_1(bits: int, golden: list[int]) -> None:
    """Words 0..3 and the last two of a mask of 1,000,003 words."""
    total = np.zeros(1_000_003, dtype=np.uint32)
    add_mask(total, Secret(bytes(range(32))), bits, 1)
    assert [*total[:4].tolist(), *total[-2:].tolist()] == golden


@BITS
@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 1000, (1 << 17) - 1, 1 << 17, (1 << 17) + 1, (1 << 19) + 6])
def test_it_is_the_low_bits_of_the_stream(size: int, bits: int) -> None:
    pairs = [(key(1), 1), (key(2), -1), (key(3), -1)]
    total = np.zeros(size, dtype=np.uint32)
    add_masks(total, iter(pairs), bits)
    assert np.array_equal(total, summed(pairs, size, bits))


@given(
    size=st.integers(0, 200),
    bits=st.integers(16, 32),
    workers=st.integers(1, 5),
    signs=st.lists(st.sampled_from([1, -1]), max_size=6),
    chunk=st.sampled_from([4, 8, 12, 64]),
    block=st.sampled_from([1, 4, 7, 20, 1000]),
)
def test_chunks_and_workers_change_nothing(
    size: int, bits: int, workers: int, signs: list[int], chunk: int, block: int
) -> None:
    """Chunks and blocks are made so small that short vectors meet all their edges."""
    pairs = [(key(number), sign) for number, sign in enumerate(signs)]
    start = np.arange(size, dtype=np.uint32) * np.uint32(2**16 + 3) & np.uint32(2**bits - 1)
    total = start.copy()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_CHUNK": chunk, "_BLOCK": block, "_ZEROS": bytes(4 * chunk)}.items():
            patch.setattr(masks, name, value)
        add_masks(total, pairs, bits, workers)
    assert np.array_equal(total, (start + summed(pairs, size, bits)) & np.uint32(2**bits - 1))


@BITS
def test_workers_give_equal_bits_at_full_size(bits: int) -> None:
    pairs = [(key(number), 1 if number % 2 else -1) for number in range(5)]
    totals = []
    for workers in (1, 2, 3, 8):
        totals.append(np.arange(1_200_001, dtype=np.uint32) & np.uint32(2**bits - 1))
        add_masks(totals[-1], pairs, bits, workers)
        assert int(totals[-1].max()) < 2**bits
    assert all(np.array_equal(totals[0], other) for other in totals[1:])


def test_workers_are_threads_and_short_vectors_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Pool(masks.ThreadPoolExecutor):  # type: ignore[name-defined, misc]
        def __init__(self, workers: int, **settings: str) -> None:
            made.append(workers)
            super().__init__(workers, **settings)

    monkeypatch.setattr(masks, "ThreadPoolExecutor", Pool)
    for size in (0, 100_000, (1 << 18) - 1, 1 << 18, 1_000_000):
        add_masks(np.zeros(size, dtype=np.uint32), [(key(1), 1)], 20, workers=4)
    assert made == [2, 4]


@BITS
def test_pairs_cancel_and_their_order_does_not_matter(bits: int) -> None:
    """Four clients, each pair with one mask that the lower adds and the higher subtracts: the sum is the inputs'."""
    generator = np.random.default_rng(1)
    inputs = generator.integers(0, 2**bits, (4, 1001), dtype=np.uint32)
    masked = inputs.copy()
    for i, row in enumerate(masked):
        pairs = [(key(10 * min(i, j) + max(i, j)), 1 if i < j else -1) for j in range(4) if j != i]
        add_masks(row, pairs[:: 1 if i % 2 else -1], bits)
        assert not np.array_equal(row, inputs[i])
    mask = np.uint32(2**bits - 1)
    assert np.array_equal(masked.sum(axis=0, dtype=np.uint32) & mask, inputs.sum(axis=0, dtype=np.uint32) & mask)


def test_adding_then_subtracting_gives_the_vector_back() -> None:
    before = np.arange(1000, dtype=np.uint32)
    total = before.copy()
    add_mask(total, key(7), 17, 1)
    assert not np.array_equal(total, before)
    add_mask(total, key(7), 17, -1)
    assert np.array_equal(total, before)


def test_a_part_of_a_larger_vector_is_masked_in_place_and_nothing_beside_it() -> None:
    whole = np.full(1000, 5, dtype=np.uint32)
    add_mask(whole[100:900], key(7), 20, 1)
    assert np.array_equal(whole[100:900], (stream(key(7), 800, 20) + np.uint32(5)) & np.uint32(2**20 - 1))
    assert (whole[:100] == 5).all() and (whole[900:] == 5).all()


def wiped() -> Secret:
    secret = key(1)
    secret.wipe()
    return secret


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bits": 15}, "16 to 32"),
        ({"bits": 33}, "16 to 32"),
        ({"masks": [(key(1), 1), (key(1), 0)]}, "sign 0"),
        ({"masks": [(key(1), 2)]}, "sign 2"),
        ({"masks": [(key(1), 1), (Secret(bytes(16)), 1)]}, "32 bytes"),
        ({"masks": [(key(1), 1), (wiped(), 1)]}, "wiped"),
        ({"total": np.zeros(8, np.int32)}, "uint32"),
        ({"total": np.zeros(8, np.uint64)}, "uint32"),
        ({"total": np.zeros((2, 4), np.uint32)}, "2 dimensions"),
    ],
)
def test_bad_calls_are_refused_before_anything_is_added(changed: dict[str, object], message: str) -> None:
    call = {"total": np.zeros(8, np.uint32), "masks": [(key(1), 1)], "bits": 20} | changed
    with pytest.raises(ProtocolViolation, match=message):
        add_masks(**call)  # type: ignore[arg-type]
    assert not np.asarray(call["total"]).any()


def test_memory_beside_the_vector_does_not_grow() -> None:
    """Nor with the seeds: 40 masks of 1M words would be 160 MB if each were made whole."""
    total = np.zeros(1_000_000, dtype=np.uint32)
    pairs = [(key(number), 1) for number in range(40)]
    tracemalloc.start()
    try:
        add_masks(total, pairs, 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_no_key_in_a_traceback_with_local_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **settings: object) -> None:
        raise MemoryError

    monkeypatch.setattr(masks.np, "add", fails)  # type: ignore[attr-defined]
    with pytest.raises(MemoryError) as caught:
        add_masks(np.zeros(8, np.uint32), [(Secret(bytes(range(65, 97))), 1)], 20)
    text = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "key = <secret>" in text, "the local values are looked at"
    assert "ABCDEF" not in text and "414243" not in text and "65, 66, 67" not in text
