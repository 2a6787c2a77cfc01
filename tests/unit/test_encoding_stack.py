"""A stack of updates: its rows are encoded as each alone would be, and its sum is that of the rows' integers."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedsus import plan
from fedsus.encoding import FixedPoint, rounding
from fedsus.errors import ConfigError, ProtocolViolation
from fedsus.types import LocalUpdates

PRIVACY = plan.ExamplePrivacy(
    epsilon=8.0, delta=1e-5, clip=1.0, sampling_rate=0.1, steps=10, denominator=20.0, noise_multiplier=1.0
)
METRICS = (plan.Metric(name="loss", low=0.0, high=10.0), plan.Metric(name="score", low=-1.0, high=1.0))
RANGE, CAP = 0.7, 100  # 0.7 lies between two float32 values: clamping before or after the conversion differs


def mechanism(dimension=5, clients=8, bits=32, privacy=None, purpose="train", metrics=METRICS):
    return FixedPoint(
        plan.Plan(
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
            encoding=plan.Encoding(bits=bits, value_range=RANGE, weight_cap=CAP),
            metrics=metrics,
            cohort=plan.Cohort(size=clients, minimum=1),
            deadline=60.0,
        )
    )


def stack(deltas, weights=None, totals=None, held_out=None, metrics=2):
    deltas = np.asarray(deltas, np.float32)
    m = len(deltas)
    return LocalUpdates(
        deltas,
        np.full(m, 50.0) if weights is None else np.asarray(weights, np.float64),
        np.zeros((m, metrics)) if totals is None else np.asarray(totals, np.float64).reshape(m, metrics),
        np.zeros(m, np.int64) if held_out is None else np.asarray(held_out, np.int64),
        "event",
    )


def added(rings, total, bits):
    for ring in rings:
        total = (total + ring) & np.uint32((1 << bits) - 1)
    return total


def by_hand(coder, update, clients):
    """The table at the top of the mechanism, in Python's own numbers."""
    top, ring = 1 << coder.bits, [0] * coder.size
    signed, unsigned, saturated = (top // 2 - 1) // clients, (top - 1) // clients, 0
    private, cap = coder.layout.private, 1 if coder.layout.private else CAP
    weight, held = (min(round(n), CAP) if math.isfinite(n) and n > 0 else 0 for n in (update.weight, update.held_out))
    weight = cap if private else weight
    if coder.layout.purpose == "train":
        values = [float(x) for x in update.delta]
        if not all(map(math.isfinite, values)):
            saturated, weight = sum(not math.isfinite(x) for x in values), 0
        elif weight:
            saturated = sum(abs(x) > RANGE for x in values)
            scale = signed * (weight / cap) / RANGE
            ring[: len(values)] = [round(max(-RANGE, min(RANGE, x)) * scale) % top for x in values]
    if private:
        return ring
    if held and np.isfinite(update.totals).all():
        for i, (sum_, one) in enumerate(zip(update.totals, METRICS, strict=True)):
            share = (sum_ / update.held_out - one.low) / (one.high - one.low)
            inside = max(0.0, min(1.0, share))
            ring[coder.layout.totals.start + i] = round(inside * (held / CAP * unsigned))
            saturated += abs(share - inside) > 1e-6
        ring[coder.layout.held_out.start] = held
    if coder.layout.purpose == "train":
        ring[coder.layout.weight.start] = weight
        ring[coder.layout.saturated.start] = min(saturated, unsigned)
    return ring


EDGES = (0.0, -0.0, RANGE, -RANGE, np.nextafter(np.float32(RANGE), np.float32(1)), 1e-40, 3e38, -3e38)
values = st.one_of(
    st.floats(-1, 1, width=32),
    st.sampled_from([float(np.float32(x)) for x in EDGES]),
    st.sampled_from([math.nan, math.inf, -math.inf]),
)
weights = st.one_of(st.floats(0, 2 * CAP), st.sampled_from([0.0, 0.5, 1.5, 2.5, -3.0, 1e300, math.nan, math.inf]))
figures = st.one_of(st.floats(-2000, 2000), st.sampled_from([math.nan, math.inf, 0.0]))


@st.composite
def stacks(draw):
    dimension = draw(st.integers(1, 9))
    rows = draw(st.lists(st.lists(values, min_size=dimension, max_size=dimension), min_size=0, max_size=8))
    m = len(rows)
    return stack(
        np.array(rows, np.float32).reshape(m, dimension),
        draw(st.lists(weights, min_size=m, max_size=m)),
        draw(st.lists(figures, min_size=2 * m, max_size=2 * m)),
        draw(st.lists(st.integers(0, 3 * CAP), min_size=m, max_size=m)),
    )


@given(
    updates=stacks(),
    bits=st.sampled_from([16, 20, 31, 32]),
    kind=st.sampled_from(["train", "private", "evaluate"]),
    chunk=st.sampled_from([1, 3, 7, 1 << 15]),
    start=st.integers(0, 2**32 - 1),
)
@example(stack([[0.1, math.nan], [1.0, -2.0]]), 20, "train", 1, 5)
@settings(deadline=None, max_examples=300)
def test_a_stack_is_what_its_rows_are(updates, bits, kind, chunk, start):
    privacy, purpose = (PRIVACY if kind == "private" else None), ("evaluate" if kind == "evaluate" else "train")
    coder = mechanism(updates.deltas.shape[1], bits=bits, privacy=privacy, purpose=purpose)
    before = updates.deltas.tobytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding, "CHUNK", chunk)
        rings = coder.encode_all(updates, None)
        total = np.full(coder.size, start & ((1 << bits) - 1), np.uint32)
        expected = added(rings, total, bits)
        coder.add_to(total, updates)
    assert rings.dtype == total.dtype == np.uint32
    assert rings.shape == (len(updates), coder.size)
    assert np.array_equal(total, expected)
    for ring, update in zip(rings, updates, strict=True):
        assert np.array_equal(ring, coder.encode(update, None))
        assert ring.tolist() == by_hand(coder, update, 8)
    assert updates.deltas.tobytes() == before


def random_stack(rows=40, dimension=700, seed=0):
    """Ordinary updates, many weights, some coordinates beyond the range, one broken row; rounding ties among them."""
    random = np.random.default_rng(seed)
    deltas = random.normal(scale=0.2, size=(rows, dimension)).astype(np.float32)
    deltas[:, ::7] = np.round(deltas[:, ::7] * 64) / 64
    deltas[3, 5] = math.nan
    return stack(deltas, random.integers(0, 2 * CAP, rows))


@pytest.mark.parametrize("bits", [17, 24, 32])
def test_the_sum_is_exact_at_the_size_of_a_cohort(bits):
    coder, updates = mechanism(700, clients=40, bits=bits), random_stack()
    expected = added([coder.encode(one, None) for one in updates], np.zeros(coder.size, np.uint32), bits)
    total = np.zeros(coder.size, np.uint32)
    coder.add_to(total, updates)
    assert np.array_equal(total, expected)
    mean = coder.decode(total, len(updates))
    alive = [one for one in updates if np.isfinite(one.delta).all()]
    capped = np.minimum([one.weight for one in alive], CAP)
    assert mean.weight == capped.sum()
    wanted = capped @ np.clip([one.delta for one in alive], -RANGE, RANGE) / capped.sum()
    assert np.abs(mean.delta - wanted).max() <= 20 * coder.step / capped.sum() + 1e-7


@pytest.mark.parametrize(
    "wrong", ["one scale for all", "a scale one step off", "rounded after adding", "scaled float32"]
)
def test_a_wrong_rounding_is_seen(monkeypatch, wrong):
    """The comparison above fails where a row is scaled or rounded by anything but its own expression."""
    coder, updates = mechanism(700, clients=40, bits=32), random_stack()
    right = np.zeros(coder.size, np.uint32)
    coder.add_to(right, updates)
    original = rounding.rounded

    def changed(deltas, scales, limit, whole):
        if wrong == "one scale for all":
            scales = np.where(scales > 0, scales.max(), 0)
        elif wrong == "a scale one step off":
            scales = scales * (1 + 1e-7)
        elif wrong == "scaled float32":
            deltas, scales = deltas * scales[:, None].astype(np.float32), np.sign(scales)
            limit = np.full_like(limit, math.inf)
        else:
            whole = np.floor
        return original(deltas, scales, limit, whole)

    monkeypatch.setattr(rounding, "rounded", changed)
    total = np.zeros(coder.size, np.uint32)
    coder.add_to(total, updates)
    assert not np.array_equal(total, right)


def test_broken_rows_leave_the_others_as_they_are():
    coder = mechanism(4, clients=4)
    honest = [[0.5, -0.5, 0.1, 0.0]] * 2
    total = np.zeros(coder.size, np.uint32)
    coder.add_to(total, stack([*honest, [math.inf, math.nan, 1.0, 1.0], [5.0, 5.0, -5.0, 0.0]], [50, 50, 50, 0]))
    mean = coder.decode(total, 4)
    assert mean.delta == pytest.approx(honest[0], abs=1e-6)
    assert (mean.weight, mean.saturated) == (100, 2)


def test_stacks_of_other_shapes_are_refused_and_nothing_is_added():
    coder = mechanism()
    total = np.zeros(coder.size, np.uint32)
    for bad, message in (
        (stack(np.zeros((2, 4))), r"update: shape \(4,\), the plan says \(5,\)"),
        (stack(np.ones((2, 5)), metrics=1), "update: 1 metrics, the plan names 2"),
    ):
        for call in (lambda bad=bad: coder.encode_all(bad, None), lambda bad=bad: coder.add_to(total, bad)):
            with pytest.raises(ProtocolViolation, match=message):
                call()
    with pytest.raises(ProtocolViolation, match="sum: 9 residues, expected 10"):
        coder.add_to(total[:-1], stack(np.ones((2, 5))))
    assert not total.any()


def test_the_smallest_range_is_one_that_float32_has():
    """Below, one step is no number: the scale of the rounding would be infinite."""
    asked = {"run": "r", "purpose": "train", "round": 1, "attempt": 1, "rounds": 1, "spare_attempts": 2}
    asked |= {"model": "0" * 64, "dimension": 2, "task": plan.TaskPart(name="t"), "training": plan.Training()}
    asked |= {"privacy": plan.NoPrivacy(), "metrics": (), "cohort": plan.Cohort(size=2, minimum=1), "deadline": 60.0}
    coder = FixedPoint(plan.Plan(**asked, encoding=plan.Encoding(value_range=1e-37)))
    total = np.zeros(coder.size, np.uint32)
    coder.add_to(total, stack([[1e-37, -1e-38]], metrics=0))
    assert coder.decode(total, 1).delta == pytest.approx([1e-37, -1e-38], rel=1e-5)
    with pytest.raises(ConfigError, match=r"encoding\.value_range = 1e-310: expected 1e-37 or more"):
        FixedPoint(plan.Plan(**asked, encoding=plan.Encoding(value_range=1e-310)))


def test_a_sum_takes_no_memory_for_rings():
    coder = mechanism(200_000, clients=20, metrics=())
    updates = stack(np.random.default_rng(0).normal(size=(20, 200_000)), metrics=0)
    total = np.zeros(coder.size, np.uint32)
    tracemalloc.start()
    coder.add_to(total, updates)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total.any()
    assert peak < 1_500_000
