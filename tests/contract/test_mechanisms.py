"""What every mechanism promises. A new one adds a row: its name, how to make it from a plan, and its plan's privacy."""

import numpy as np
import pytest

from fedsus import plan
from fedsus.encoding import FixedPoint, pack, packed_size, unpack
from fedsus.errors import ConfigError, ProtocolViolation
from fedsus.types import LocalUpdate

NONE = plan.NoPrivacy()
EXAMPLE = plan.ExamplePrivacy(
    epsilon=8.0, delta=1e-5, clip=1.0, sampling_rate=0.1, steps=10, denominator=20.0, noise_multiplier=1.0
)
ROWS = {
    "fixed point": (FixedPoint, NONE),
    "fixed point, private": (FixedPoint, EXAMPLE),
}
DIMENSION, CLIENTS = 40, 6


class Seeded:
    """A seeded source of noise, for tests alone."""

    def __init__(self, seed):
        self._random = np.random.default_rng(seed)

    def normal(self, size):
        return self._random.standard_normal(size)

    def uniform(self, size):
        return self._random.random(size)

    def words(self, size):
        return self._random.integers(1 << 64, size=size, dtype=np.uint64)


@pytest.fixture(params=ROWS)
def make(request):
    build, privacy = ROWS[request.param]

    def mechanism(bits=32, clients=CLIENTS):
        return build(
            plan.Plan(
                run="r",
                round=1,
                attempt=1,
                rounds=1,
                spare_attempts=2,
                model="0" * 64,
                dimension=DIMENSION,
                task=plan.TaskPart(name="t"),
                training=plan.Training(),
                privacy=privacy,
                encoding=plan.Encoding(bits=bits, weight_cap=64),
                metrics=(plan.Metric(name="accuracy", low=0.0, high=1.0),),
                cohort=plan.Cohort(size=clients, minimum=1),
                deadline=60.0,
            )
        )

    return mechanism


def update(seed, size=0.1, weight=10.0):
    delta = np.random.default_rng(seed).normal(scale=size, size=DIMENSION).astype(np.float32)
    return LocalUpdate(delta, weight, np.array([4.0]), 8, "event")


def total(rings, bits):
    return (np.sum(rings, axis=0, dtype=np.uint64) % (1 << bits)).astype(np.uint32)


@pytest.mark.parametrize("bits", [20, 27, 32])
def test_integers_fit_their_bits_and_survive_packing(make, bits):
    mechanism = make(bits)
    ring = mechanism.encode(update(0, size=100.0), Seeded(0))
    assert ring.dtype == np.uint32
    assert ring.shape == (mechanism.size,)
    assert mechanism.bits == bits
    raw = pack(ring, bits)
    assert len(raw) == packed_size(mechanism.size, bits)
    assert np.array_equal(unpack(raw, mechanism.size, bits), ring)


@pytest.mark.parametrize("bits", [20, 27, 32])
@pytest.mark.parametrize("survivors", [1, CLIENTS])
def test_the_mean_of_equal_weights_comes_back(make, bits, survivors):
    mechanism = make(bits)
    updates = [update(seed) for seed in range(survivors)]
    rings = [mechanism.encode(one, Seeded(seed)) for seed, one in enumerate(updates)]
    mean = mechanism.decode(total(rings, bits), survivors)
    expected = np.mean([one.delta for one in updates], axis=0)
    assert mean.delta.dtype == np.float32
    assert mean.delta == pytest.approx(expected, abs=4 * 64 / 10 * CLIENTS / 2**bits + 1e-6)


def test_the_order_of_arrival_makes_no_difference(make):
    mechanism = make()
    rings = [mechanism.encode(update(seed), Seeded(seed)) for seed in range(CLIENTS)]
    first, second = mechanism.decode(total(rings, 32), CLIENTS), mechanism.decode(total(rings[::-1], 32), CLIENTS)
    assert first.delta.tobytes() == second.delta.tobytes()
    assert first.totals.tobytes() == second.totals.tobytes()


def test_equal_updates_and_seeds_give_equal_integers_and_the_update_stays_as_it_was(make):
    mechanism, one = make(), update(0)
    before = one.delta.copy()
    assert np.array_equal(mechanism.encode(one, Seeded(1)), mechanism.encode(one, Seeded(1)))
    assert np.array_equal(one.delta, before)


@pytest.mark.parametrize("bits", [17, 24, 32])
def test_a_full_cohort_of_the_largest_updates_does_not_wrap(make, bits):
    mechanism = make(bits)
    ring = mechanism.encode(
        LocalUpdate(np.full(DIMENSION, 1e30, np.float32), 1e9, np.array([1e9]), 10**9, "e"), Seeded(0)
    )
    alone = mechanism.decode(ring, 1).delta
    assert (alone > 0).all()
    assert mechanism.decode(total([ring] * CLIENTS, bits), CLIENTS).delta == pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_counts_for_nothing(make, bad):
    mechanism, one = make(), update(0)
    one.delta[3] = bad
    delta = mechanism.decode(mechanism.encode(one, Seeded(0)), 1).delta
    assert np.isfinite(delta).all()
    assert np.abs(delta).max() < 1.0


def test_too_small_a_ring_and_wrong_shapes_are_refused(make):
    with pytest.raises(ConfigError, match="cannot carry"):
        make(16, clients=4000)
    mechanism = make()
    with pytest.raises(ProtocolViolation):
        mechanism.encode(LocalUpdate(np.zeros(3, np.float32), 1.0, np.array([4.0]), 8, None), Seeded(0))
    for size, survivors in ((mechanism.size - 1, 1), (mechanism.size, CLIENTS + 1)):
        with pytest.raises(ProtocolViolation):
            mechanism.decode(np.zeros(size, np.uint32), survivors)
