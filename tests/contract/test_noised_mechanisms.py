"""What every mechanism promises that noises whole updates. A new one adds a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from noised_plans import (
    CLIENTS,
    SURVIVORS,
    adaptive,
    banded,
    client_central,
    client_distributed,
    example_distributed,
    plan_of,
)

from fedsus.encoding.mechanism import Mechanism
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.encoding.packing import pack, unpack
from fedsus.encoding.reduction import Reduced
from fedsus.errors import ProtocolViolation
from fedsus.plan import Encoding, Uplink
from fedsus.privacy.noise import SeededNoise
from fedsus.types import LocalUpdate, LocalUpdates

DIMENSION = 40

ROWS: dict[str, tuple[Any, bool]] = {
    "client distributed": (client_distributed(DIMENSION), False),
    "client distributed, metrics": (client_distributed(DIMENSION, metrics=9.0), True),
    "example distributed": (example_distributed(DIMENSION), False),
    "example distributed, metrics": (example_distributed(DIMENSION, metrics=9.0), True),
    "client central": (client_central(), False),
    "client central, metrics": (client_central(metrics=0.001), True),
    "client central, adaptive": (adaptive(), False),
    "client central, banded": (banded(), False),
}
UPLINKS = {
    "client distributed, rand_k": ("client distributed, metrics", "rand_k"),
    "client distributed, projection": ("client distributed", "projection"),
    "client central, projection, adaptive": ("client central, adaptive", "projection"),
    "client central, rand_k": ("client central, metrics", "rand_k"),
    "example distributed, projection": ("example distributed", "projection"),
}
ROWS |= {name: ROWS[whole] for name, (whole, _) in UPLINKS.items()}
ENCODINGS = {name: Encoding(uplink=Uplink(name=how, share=0.6)) for name, (_, how) in UPLINKS.items()}  # type: ignore[arg-type]
SCALE = {row: 0.5 / 20.0 for row in ROWS if row.startswith("example")}
"""What the sum is multiplied by; the others give the mean."""


@pytest.fixture(params=ROWS)
def row(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(row: str) -> Callable[..., Mechanism]:
    privacy, metrics = ROWS[row]
    return lambda **changes: mechanism_of(plan_of(privacy, DIMENSION, metrics, **encoded(row), **changes))


def encoded(row: str) -> dict[str, Encoding]:
    return {"encoding": ENCODINGS[row]} if row in ENCODINGS else {}


def back(mechanism: Mechanism, delta: Any) -> Any:
    """What would come back of an update without noise and clipping."""
    if isinstance(mechanism, Reduced):
        return mechanism.reduction.expand(mechanism.reduction.reduce(delta[np.newaxis])[0])
    return delta


def update(seed: int, size: float = 0.1, metrics: bool = True) -> LocalUpdate:
    """An update of norm ``size``; loss 2.5, accuracy 0.75 over eight held-out examples."""
    delta = np.random.default_rng(seed).normal(size=DIMENSION)
    delta *= size / np.linalg.norm(delta)
    totals = np.array([20.0, 6.0]) if metrics else np.zeros(0)
    return LocalUpdate(delta.astype(np.float32), 10.0, totals, 8 if metrics else 0, None)


def summed(mechanism: Mechanism, updates: list[LocalUpdate]) -> np.ndarray[Any, np.dtype[np.uint32]]:
    total = np.zeros(mechanism.size, dtype=np.uint64)
    for seed, one in enumerate(updates):
        total += mechanism.encode(one, SeededNoise(seed))
    return (total % (1 << mechanism.bits)).astype(np.uint32)


def test_integers_fit_their_bits_and_survive_packing_and_the_check(make: Callable[..., Mechanism]) -> None:
    mechanism = make()
    for size in (0.0, 0.1, 1e30):
        ring = mechanism.encode(update(0, size), SeededNoise(0))
        assert (ring.dtype, ring.shape) == (np.uint32, (mechanism.size,))
        raw = pack(ring, mechanism.bits)
        assert np.array_equal(unpack(raw, mechanism.size, mechanism.bits), ring)
        mechanism.check(raw)
        with pytest.raises(ProtocolViolation):
            mechanism.check(raw + b"\0")


@pytest.mark.parametrize("survivors", [SURVIVORS, CLIENTS])
def test_the_mean_comes_back_within_the_noise(make: Callable[..., Mechanism], row: str, survivors: int) -> None:
    mechanism = make()
    updates = [update(seed) for seed in range(survivors)]
    _, mean = mechanism.release(mechanism.init(), summed(mechanism, updates), survivors, SeededNoise(99))
    deltas = np.array([one.delta for one in updates])
    expected = back(mechanism, deltas.sum(axis=0) * SCALE[row] if row in SCALE else deltas.mean(axis=0))
    assert mean.delta.dtype == np.float32
    assert mean.delta == pytest.approx(expected, abs=0.05)
    assert np.linalg.norm(mean.delta - expected) < 0.5 * np.linalg.norm(expected), "it is not noise alone"
    assert (mean.weight, mean.held_out) == (survivors, survivors if ROWS[row][1] else 0)
    if ROWS[row][1]:
        assert mean.totals / survivors == pytest.approx([2.5, 0.75], abs=0.05)


def test_a_stack_is_what_each_client_sends(make: Callable[..., Mechanism]) -> None:
    mechanism, updates = make(), [update(seed, 3.0 * seed) for seed in range(5)]
    stack = LocalUpdates(
        np.stack([one.delta for one in updates]),
        np.array([one.weight for one in updates]),
        np.stack([one.totals for one in updates]),
        np.array([one.held_out for one in updates]),
    )
    rings = mechanism.encode_all(stack, [SeededNoise(seed) for seed in range(5)])
    for seed, (ring, one) in enumerate(zip(rings, updates, strict=True)):
        assert np.array_equal(ring, mechanism.encode(one, SeededNoise(seed)))
    total = np.full(mechanism.size, 7, dtype=np.uint32)
    mechanism.add_to(total, stack, [SeededNoise(seed) for seed in range(5)])
    assert np.array_equal(total, (summed(mechanism, updates).astype(np.uint64) + 7) % (1 << mechanism.bits))


def test_equal_seeds_give_equal_integers_others_do_not_and_the_update_stays(
    make: Callable[..., Mechanism], row: str
) -> None:
    mechanism, one = make(), update(0)
    before = one.delta.copy()
    assert np.array_equal(mechanism.encode(one, SeededNoise(1)), mechanism.encode(one, SeededNoise(1)))
    same = np.array_equal(mechanism.encode(one, SeededNoise(1)), mechanism.encode(one, SeededNoise(2)))
    assert same == ("central" in row), "central noise is the server's"
    assert np.array_equal(one.delta, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_sent_as_zeros(make: Callable[..., Mechanism], bad: float) -> None:
    mechanism, one = make(), update(0)
    one.delta[3] = bad
    zeros = dataclasses.replace(one, delta=np.zeros(DIMENSION, np.float32))
    ring, other = mechanism.encode(one, SeededNoise(5)), mechanism.encode(zeros, SeededNoise(5))
    assert np.array_equal(ring[:DIMENSION], other[:DIMENSION])


def test_metrics_that_are_not_there_or_out_of_range_change_no_length(make: Callable[..., Mechanism]) -> None:
    mechanism, one = make(), update(0)
    for totals, held_out in (
        (np.array([np.nan, 1.0]), 8),
        (np.array([1e30, -1e30]), 8),
        (np.array([0.0, 0.0]), 0),
        (np.zeros(0), 0),
    ):
        ring = mechanism.encode(dataclasses.replace(one, totals=totals, held_out=held_out), SeededNoise(0))
        assert ring.shape == (mechanism.size,)
        mechanism.check(pack(ring, mechanism.bits))


def test_wrong_shapes_and_survivors_are_refused(make: Callable[..., Mechanism]) -> None:
    mechanism = make()
    with pytest.raises(ProtocolViolation):
        mechanism.encode(LocalUpdate(np.zeros(3, np.float32), 1.0, np.zeros(0), 0, None), SeededNoise(0))
    good = summed(mechanism, [update(seed) for seed in range(SURVIVORS)])
    for total, survivors in ((good[:-1], SURVIVORS), (good, CLIENTS + 1), (good, 0)):
        with pytest.raises(ProtocolViolation):
            mechanism.release(mechanism.init(), total, survivors, SeededNoise(0))


def test_zero_weight_and_unseen_clients_cost_no_shape(row: str) -> None:
    privacy, metrics = ROWS[row]
    if not hasattr(privacy, "full_weight"):
        pytest.skip("its weights are the examples' own")
    weighted = privacy.model_copy(update={"full_weight": 20.0})
    mechanism = mechanism_of(plan_of(weighted, DIMENSION, metrics, **encoded(row)))
    half = [dataclasses.replace(update(0), weight=10.0)] * CLIENTS
    none = [dataclasses.replace(update(0), weight=weight) for weight in (0.0, -1.0, np.nan, 0.0, 0.0, 0.0)]
    more = [dataclasses.replace(update(0), weight=1e9)] * CLIENTS
    for updates, factor in ((half, 0.5), (none, 0.0), (more, 1.0)):
        _, mean = mechanism.release(mechanism.init(), summed(mechanism, updates), CLIENTS, SeededNoise(3))
        assert mean.delta == pytest.approx(factor * back(mechanism, update(0).delta), abs=0.02)


@pytest.mark.parametrize("balance", [-1e9, 1e9])
def test_a_count_that_is_all_noise_keeps_an_adaptive_bound_in_range(balance: float) -> None:
    """Much noise on few clients: the server's rule must not overflow, which would end the run."""

    class Constant(SeededNoise):
        def normal(self, size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
            return np.full(size, balance)

    mechanism = mechanism_of(plan_of(adaptive(), DIMENSION))
    total = summed(mechanism, [update(seed) for seed in range(SURVIVORS)])
    state, _ = mechanism.release(mechanism.init(), total, SURVIVORS, Constant(0))
    assert state["clip"].tolist() == [1e-9 if balance > 0 else 1e9]
