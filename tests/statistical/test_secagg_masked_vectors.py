"""What the server receives is uniform mod 2**bits: per coordinate, across rounds, for a client, a pair and all of them.

All inputs are one constant, so that whatever is not uniform comes from the masks. Clients are weakened in one way at a
time to show that the test would find it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fedsus import plan as plans
from fedsus.encoding.packing import unpack
from fedsus.rounds.server_half.exchange import conduct
from fedsus.secagg import client as clients
from fedsus.secagg import wire
from fedsus.secagg.exchange import Patience, establish
from fedsus.secagg.keys import Identity, Signatures
from fedsus.secagg.masks import add_masks
from fedsus.secagg.secret import Secret
from fedsus.secagg.wire import Kind
from fedsus.types import Ring
from fedsus_simulations.whole.secure_clients import Federation, MemoryFleet

NEVER = 1e-9
N, SIZE, ROUNDS, PLAN = 3, 67, 80, b"plan"
IDENTITIES = [Identity.generate() for _ in range(N)]

Received = NDArray[np.uint32]
"""(rounds, clients, coordinates) of masked residues."""


def received(bits: int) -> Received:
    """The vectors that arrive in `ROUNDS` sessions; every input is 12,345 everywhere."""
    fed, signatures = Federation(IDENTITIES, 1, 0), Signatures(64)
    found = np.empty((ROUNDS, N, SIZE), dtype=np.uint32)
    members = fed.clients(lambda _: np.full(SIZE, 12_345, dtype=np.uint32), bits, signatures)
    for at in range(ROUNDS):
        established = conduct(establish(fed.opening(1 + at, signatures), Patience(10.0)), MemoryFleet(members))
        request = established.request(PLAN, b"")
        collected = established.collect(plans.digest(PLAN), np.zeros(SIZE, np.uint32), bits)
        for index in range(N):
            answer = members[str(index)].answer(established.own_request(index) + request)
            (frame,) = wire.frames(answer)
            assert frame.kind == Kind.CONTRIBUTE
            collected.take(index, frame.body)  # as the server does: signed, of the right length
            found[at, index] = unpack(wire.split_signature(frame.body)[1], SIZE, bits)
        for member in members.values():
            member.states.clear()
    return found


def p_counts(values: NDArray[np.uint32], cells: int) -> float:
    """Whether all of 0..cells - 1 are equally likely: chi-square, on both sides."""
    counts = np.bincount(values.reshape(-1), minlength=cells)
    expected = values.size / cells
    statistic = float(((counts - expected) ** 2).sum() / expected)
    return min(1.0, 2 * min(stats.chi2.sf(statistic, cells - 1), stats.chi2.cdf(statistic, cells - 1)))


def p_uniform(residues: Ring, bits: int) -> float:
    """The highest and the lowest three bits of (rounds, ..., coordinates): of each coordinate, and of all together."""
    found = []
    for part in (residues >> np.uint32(bits - 3), residues & np.uint32(7)):
        found += [p_counts(part, 8), *(p_counts(part[..., at], 8) for at in range(part.shape[-1]))]
    return min(1.0, len(found) * min(found))


def p_received(rows: Received, bits: int) -> float:
    """Whether vectors, their changes from round to round, their sums over pairs and over all clients are uniform."""
    mask = np.uint32((1 << bits) - 1)
    pairs = (rows[:, [0, 0, 1]] + rows[:, [1, 2, 2]]) & mask
    views = [rows, (rows[1::2] - rows[::2]) & mask, pairs, rows.sum(axis=1, dtype=np.uint32) & mask]
    return min(1.0, len(views) * min(p_uniform(view, bits) for view in views))


@pytest.fixture(scope="module")
def whole() -> Received:
    """Of 32 bits."""
    return received(32)


@pytest.mark.parametrize("bits", [16, 20])
def test_what_the_server_receives_is_uniform(bits: int) -> None:
    assert p_received(received(bits), bits) > NEVER


def test_what_the_server_receives_is_uniform_over_all_bits(whole: Received) -> None:
    assert p_received(whole, 32) > NEVER


def fewer_bits(patch: pytest.MonkeyPatch) -> None:
    def masked(ring: Ring, masks: list[tuple[Secret, int]], bits: int, workers: int) -> None:
        add_masks(ring, masks, bits - 1, workers)

    patch.setattr(clients, "add_masks", masked)


def one_mask_for_all_rounds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(clients, "own_mask", lambda secret, tid, plan: Secret(bytes(32)))
    patch.setattr(clients, "pair_mask", lambda secret, tid, plan: Secret(bytes(31) + b"\1"))


def two_rounds_a_mask(patch: pytest.MonkeyPatch) -> None:
    """Each client masks two rounds with one stream, fresh for the two after them."""
    turns = {}

    def masked(ring: Ring, masks: list[tuple[Secret, int]], bits: int, workers: int) -> None:
        turn = turns.setdefault("turn", 0)
        client, pair = turn % N, turn // N // 2
        turns["turn"] = turn + 1
        seed = bytes([client]) + pair.to_bytes(31, "little")
        add_masks(ring, [(Secret(seed), 1)], bits, workers)

    patch.setattr(clients, "add_masks", masked)


def pair_masks_alone(patch: pytest.MonkeyPatch) -> None:
    """Without own masks, vectors look uniform, but their sum is the sum of the inputs."""

    def masked(ring: Ring, masks: list[tuple[Secret, int]], bits: int, workers: int) -> None:
        add_masks(ring, masks[1:], bits, workers)

    patch.setattr(clients, "add_masks", masked)


def an_end_not_masked(patch: pytest.MonkeyPatch) -> None:
    def masked(ring: Ring, masks: list[tuple[Secret, int]], bits: int, workers: int) -> None:
        add_masks(ring[:-1], masks, bits, workers)

    patch.setattr(clients, "add_masks", masked)


@pytest.mark.parametrize(
    ("weaken", "bits"),
    [
        (fewer_bits, 20),
        (fewer_bits, 32),
        (one_mask_for_all_rounds, 32),
        (two_rounds_a_mask, 20),
        (pair_masks_alone, 32),
        (an_end_not_masked, 20),
    ],
)
def test_the_test_finds_clients_that_mask_badly(
    weaken: Callable[[pytest.MonkeyPatch], None], bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weaken(monkeypatch)
    assert p_received(received(bits), bits) < NEVER


def test_no_two_vectors_share_a_mask(whole: Received) -> None:
    """Of all rounds and clients, no two differ by a constant, as equal inputs under one mask would."""
    rows = whole.reshape(-1, SIZE)
    assert len(np.unique(rows - rows[:, :1], axis=0)) == len(rows)
