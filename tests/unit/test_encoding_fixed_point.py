"""Fixed point: the decoded mean is the weighted mean, whatever the order; nothing wraps; bad data count for nothing."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus import config, plan
from fedsus.encoding import FixedPoint
from fedsus.errors import ConfigError, ProtocolViolation
from fedsus.types import LocalUpdate

PRIVACY = plan.ExamplePrivacy(
    epsilon=8.0, delta=1e-5, clip=1.0, sampling_rate=0.1, steps=10, denominator=20.0, noise_multiplier=1.0
)
METRICS = (plan.Metric(name="loss", low=0.0, high=10.0), plan.Metric(name="score", low=-1.0, high=1.0))


def make_plan(dimension=5, clients=4, bits=32, privacy=None, purpose="train", metrics=METRICS, **encoding):
    return plan.Plan(
        run="r",
        purpose=purpose,
        round=1,
        attempt=1,
        rounds=1,
        spare_attempts=2,
        model="0" * 64,
        dimension=dimension,
        task=plan.TaskPart(name="t"),
        training=plan.Training(),
        privacy=privacy or plan.NoPrivacy(),
        encoding=plan.Encoding(bits=bits, **encoding),
        metrics=metrics,
        cohort=plan.Cohort(size=clients, minimum=1),
        deadline=60.0,
    )


def update(delta, weight=100.0, totals=(50.0, 5.0), held_out=20, event=None):
    return LocalUpdate(np.asarray(delta, np.float32), weight, np.asarray(totals, np.float64), held_out, event)


def summed(rings, bits):
    total = np.zeros_like(rings[0])
    for ring in rings:
        total += ring
        total &= np.uint32((1 << bits) - 1)
    return total


clients = st.lists(
    st.tuples(
        st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3),
        st.integers(0, 2000),
        st.integers(0, 2000),
        st.floats(0, 1),
    ),
    min_size=1,
    max_size=6,
)


@given(cohort=clients, bits=st.sampled_from([20, 24, 31, 32]), order=st.randoms(use_true_random=False))
@settings(deadline=None)
def test_decoded_sum_is_the_weighted_mean(cohort, bits, order):
    mechanism = FixedPoint(make_plan(3, clients=6, bits=bits))
    updates = [update(d, float(n), [10 * x * h, (2 * x - 1) * h], h) for d, n, h, x in cohort]
    rings = [mechanism.encode(one, None) for one in updates]
    mean = mechanism.decode(summed(rings, bits), len(rings))
    weights = np.minimum([n for _, n, _, _ in cohort], 1024)
    assert mean.weight == weights.sum()
    if weights.sum():
        expected = weights @ np.array([d for d, _, _, _ in cohort]) / weights.sum()
        error = len(cohort) / 2 * mechanism.step / weights.sum() + 1e-6
        assert np.abs(mean.delta - expected).max() <= error
    else:
        assert not mean.delta.any()
    held = np.minimum([h for _, _, h, _ in cohort], 1024)
    share = np.array([x for _, _, _, x in cohort])
    assert mean.held_out == held.sum()
    resolution = len(cohort) * 1024 * 6 / 2**bits
    assert mean.totals[0] == pytest.approx(10 * (held @ share), abs=10 * resolution)
    assert mean.totals[1] == pytest.approx(held @ (2 * share - 1), abs=2 * resolution)
    assert mean.saturated == 0
    order.shuffle(rings)
    again = mechanism.decode(summed(rings, bits), len(rings))
    assert np.array_equal(again.delta, mean.delta)
    assert np.array_equal(again.totals, mean.totals)


@given(
    size=st.integers(1, 40),
    bits=st.integers(16, 32),
    sign=st.sampled_from([-1, 1]),
    value_range=st.floats(1e-3, 1e3),
    cap=st.integers(1, 1500),
)
@settings(deadline=None)
def test_the_largest_updates_of_a_full_cohort_do_not_wrap(size, bits, sign, value_range, cap):
    try:
        mechanism = FixedPoint(make_plan(2, clients=size, bits=bits, value_range=value_range, weight_cap=cap))
    except ConfigError:
        return
    edge = np.nextafter(np.float32(value_range), np.float32(0))
    one = update([sign * 1e30, sign * edge], 1e9, [1e9 * 10, 1e9], 10**9)
    mean = mechanism.decode(summed([mechanism.encode(one, None)] * size, bits), size)
    assert mean.delta == pytest.approx(sign * value_range, rel=1e-5)
    assert mean.weight == mean.held_out == size * cap
    assert mean.totals / mean.held_out == pytest.approx([10.0, 1.0])
    assert mean.saturated == size


def test_saturation_is_counted_over_clients():
    mechanism = FixedPoint(make_plan(value_range=1.0))
    rings = [mechanism.encode(update(d), None) for d in ([2, -3, 0, 1, -1], [0, 0, 0, 0, 1.5])]
    mean = mechanism.decode(summed(rings, 32), 2)
    assert mean.saturated == 3
    assert mean.delta == pytest.approx([0.5, -0.5, 0, 0.5, 0], abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_counts_for_nothing(bad):
    mechanism = FixedPoint(make_plan())
    honest = mechanism.encode(update([1, 1, 1, 1, 1]), None)
    broken = mechanism.encode(update([3, 3, bad, 3, 3]), None)
    assert not broken[mechanism.layout.update].any()
    mean = mechanism.decode(summed([honest, broken], 32), 2)
    assert mean.delta == pytest.approx(1.0)
    assert mean.weight == 100
    assert mean.saturated == 1
    private = FixedPoint(make_plan(privacy=PRIVACY))
    assert not private.encode(update([3, 3, bad, 3, 3]), None).any()


@pytest.mark.parametrize("weight", [np.nan, np.inf, -3.0, 0.0])
def test_a_weight_that_is_no_count_is_zero(weight):
    mechanism = FixedPoint(make_plan())
    mean = mechanism.decode(mechanism.encode(update([1] * 5, weight), None), 1)
    assert mean.weight == 0
    assert not mean.delta.any()


def test_metrics_out_of_bounds_are_clamped_and_counted_and_nan_counts_for_nothing():
    mechanism = FixedPoint(make_plan())
    mean = mechanism.decode(mechanism.encode(update([0] * 5, 100.0, [1e9, 0.0], 20), None), 1)
    assert mean.totals == pytest.approx([200.0, 0.0], abs=1e-4)
    assert mean.saturated == 1
    mean = mechanism.decode(mechanism.encode(update([0] * 5, 100.0, [np.nan, 0.0], 20), None), 1)
    assert mean.held_out == 0
    assert not mean.totals.any()


def test_a_private_run_sends_the_update_alone_with_equal_weights():
    mechanism = FixedPoint(make_plan(privacy=PRIVACY))
    assert mechanism.size == 5
    rings = [mechanism.encode(update([x] * 5, weight=w, event="spent"), None) for x, w in ((1, 1.0), (2, 900.0))]
    mean = mechanism.decode(summed(rings, 32), 2)
    assert mean.delta == pytest.approx(1.5)
    assert (mean.weight, mean.held_out, mean.saturated, mean.totals.size) == (2.0, 0, None, 0)


def test_an_evaluation_sends_metrics_alone():
    mechanism = FixedPoint(make_plan(purpose="evaluate"))
    assert mechanism.size == 3
    mean = mechanism.decode(mechanism.encode(update([], 0.0), None), 1)
    assert mean.totals == pytest.approx([50.0, 5.0], abs=1e-4)
    assert mean.held_out == 20


@pytest.mark.parametrize(
    ("clients", "bits", "needed"), [(4000, 16, "at least 22"), (40_000, 22, "at least 26"), (1_000_000, 32, None)]
)
def test_too_few_bits_for_the_cohort_name_the_way_out(clients, bits, needed):
    if needed is None:
        FixedPoint(make_plan(clients=clients, bits=bits))
        with pytest.raises(ConfigError, match="no width up to 32 can: choose a smaller"):
            FixedPoint(make_plan(clients=clients, bits=bits, weight_cap=10_000))
        return
    with pytest.raises(ConfigError, match=f"bits = {bits} cannot carry {clients} clients: it takes {needed}"):
        FixedPoint(make_plan(clients=clients, bits=bits))
    FixedPoint(make_plan(clients=clients, bits=int(needed.split()[-1])))


def test_a_client_has_at_least_127_steps_on_each_side_of_zero():
    mechanism = FixedPoint(make_plan(clients=258, bits=16, privacy=PRIVACY, value_range=1.27))
    assert mechanism.step == pytest.approx(0.01)
    with pytest.raises(ConfigError, match="259 clients: it takes at least 17, or a smaller cohort"):
        FixedPoint(make_plan(clients=259, bits=16, privacy=PRIVACY))


def test_sums_that_honest_clients_cannot_reach_are_refused():
    mechanism = FixedPoint(make_plan(bits=24))
    good = mechanism.encode(update([1] * 5), None)
    for index, value, what in ((0, 1 << 22, "update"), (5, 5000, "weight"), (9, 5000, "held_out")):
        bad = good.copy()
        bad[index] = value
        with pytest.raises(ProtocolViolation, match=what):
            mechanism.decode(bad, 1)
    for total, survivors in ((good[:-1], 1), (good, 5)):
        with pytest.raises(ProtocolViolation):
            mechanism.decode(total, survivors)


def test_wrong_shapes_are_refused():
    mechanism = FixedPoint(make_plan())
    with pytest.raises(ProtocolViolation, match="the plan says"):
        mechanism.encode(update([0] * 4), None)
    with pytest.raises(ProtocolViolation, match="the plan names 2"):
        mechanism.encode(update([0] * 5, totals=[1.0]), None)


def test_memory_beyond_input_and_output_is_a_chunk():
    mechanism = FixedPoint(make_plan(1_000_000))
    one = update(np.random.default_rng(0).normal(size=1_000_000))
    tracemalloc.start()
    ring = mechanism.encode(one, None)
    encoding = tracemalloc.get_traced_memory()[1] - ring.nbytes
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    mean = mechanism.decode(ring, 1)
    decoding = tracemalloc.get_traced_memory()[1] - before - mean.delta.nbytes
    tracemalloc.stop()
    assert max(encoding, decoding) < 1_500_000


def test_metrics_cross_the_wire_and_come_from_toml():
    one = make_plan()
    assert plan.decode(plan.encode(one)) == one
    text = """
        rounds = 1
        cohort = {size = 3, minimum = 2}
        [[metrics]]
        name = "loss"
        low = 0
        high = 10.0
    """
    assert config.loads(text, config.PlanConfig).metrics == (METRICS[0],)
    for bad, message in (("high = 0.0", "not below"), ("high = inf", r"0\.high"), ("high = '1'", r"0\.high")):
        with pytest.raises(ConfigError, match=message):
            config.loads(text.replace("high = 10.0", bad), config.PlanConfig)
    with pytest.raises(ConfigError, match="must differ"):
        config.loads(text + "[[metrics]]\nname = 'loss'\nlow = 0.0\nhigh = 1.0\n", config.PlanConfig)
