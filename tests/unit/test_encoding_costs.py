"""What devices tell of their costs: exact sums within their rounding, nothing that poisons a sum, noise that fits."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noised_plans import CLIENTS, METRICS, SURVIVORS, client_central, client_distributed, example_distributed, plan_of

from fedsus.costs import Costs
from fedsus.encoding.costs import CostBlock, told_rounding, told_spread
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.encoding.packing import pack
from fedsus.errors import ProtocolViolation
from fedsus.plan import Cohort, Encoding, Plan, Uplink
from fedsus.privacy.adversaries import spent
from fedsus.privacy.noise import SeededNoise
from fedsus.privacy.sensitivity import METRIC_STEPS
from fedsus.protection import ClientCentral, NoPrivacy
from fedsus.types import LocalUpdate, LocalUpdates

COSTS = Costs(joules=500.0, grams=0.25)
DIMENSION = 8
WHOLE, HALF = Encoding(), Encoding(uplink=Uplink(name="projection", share=0.5))
PRIVACIES = {
    "none": NoPrivacy(),
    "distributed": client_distributed(DIMENSION, metrics=9.0),
    "examples": example_distributed(DIMENSION, metrics=9.0),
    "central": client_central(metrics=0.001),
}


def plan(kind: str = "none", metrics: bool = True, clients: int = CLIENTS, **changes: Any) -> Plan:
    fields: dict[str, Any] = {"costs": COSTS, "exchange": "secure_sum", "session": "0" * 64, **changes}
    if clients != CLIENTS:
        fields["cohort"] = Cohort(size=clients, minimum=min(clients, SURVIVORS))
    return plan_of(PRIVACIES[kind], DIMENSION, metrics, **fields)


def update(costs: Any = (), seed: int = 0) -> LocalUpdate:
    delta = np.random.default_rng(seed).normal(scale=0.01, size=DIMENSION).astype(np.float32)
    return LocalUpdate(delta, 10.0, np.array([20.0, 6.0]), 8, None, np.array(costs, dtype=np.float64))


def report(of: Plan, fraction: float) -> list[float]:
    return [fraction * high for _, high in of.cost_ranges.values()]


def released(of: Plan, rings: Any, noise: Any = None) -> Any:
    mechanism = mechanism_of(of)
    total = (np.sum(rings, axis=0, dtype=np.uint64) % (1 << mechanism.bits)).astype(np.uint32)
    return mechanism.release(mechanism.init(), total, len(rings), noise or SeededNoise(9))[1]


def sums(of: Plan, reports: list[Any]) -> Any:
    mechanism = mechanism_of(of)
    rings = [mechanism.encode(update(costs, seed), SeededNoise(seed)) for seed, costs in enumerate(reports)]
    return released(of, rings).costs


@given(
    fractions=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    bits=st.sampled_from([20, 27, 32]),
    purpose=st.sampled_from(["train", "evaluate"]),
)
@settings(deadline=None, max_examples=60)
def test_exact_sums_come_back_within_their_rounding(fractions: list[float], bits: int, purpose: Any) -> None:
    of = plan(encoding=Encoding(bits=bits), purpose=purpose)
    found = sums(of, [report(of, fraction) for fraction in fractions])
    most = np.array(list(told_rounding(of, len(fractions)).values()))
    assert (np.abs(found - np.array(report(of, math.fsum(fractions)))) <= most * (1 + 1e-9)).all()
    steps = ((1 << bits) - 1) // CLIENTS
    assert most == pytest.approx(len(fractions) / 2 / steps * np.array(report(of, 1.0)))
    assert set(told_spread(of, 3).values()) == {0.0}


@pytest.mark.parametrize(("bits", "clients"), [(20, 7), (22, 33), (32, 6), (32, 1000)])
def test_a_full_cohort_at_its_bounds_does_not_wrap(bits: int, clients: int) -> None:
    of = plan(clients=clients, encoding=Encoding(bits=bits, weight_cap=4))
    ring = mechanism_of(of).encode(update(report(of, 1.0)), SeededNoise(0))
    assert released(of, [ring] * clients).costs == pytest.approx(report(of, clients), rel=1e-12)


def test_fewer_coordinates_of_an_update_leave_costs_as_they_are() -> None:
    of, half = plan(), plan(encoding=HALF)
    reports = [report(of, share) for share in (0.25, 1.0, 0.0)]
    assert mechanism_of(half).size == mechanism_of(of).size - DIMENSION // 2
    assert np.array_equal(sums(half, reports), sums(of, reports))


def test_counts_are_exact() -> None:
    """Whole numbers of devices stay whole, whatever the width."""
    of = plan(encoding=Encoding(bits=20))
    names = list(of.cost_ranges)
    some = [[0.0] * len(names) for _ in range(5)]
    for one in some[:3]:
        one[names.index("devices")] = 1.0
    found = sums(of, [*some, []])
    assert found[names.index("devices")] == 3.0 and found[names.index("counted")] == 0.0


@pytest.mark.parametrize("kind", PRIVACIES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -5.0, -1e-300])
def test_a_report_that_cannot_be_is_none_and_the_rest_of_the_sum_stays(kind: str, bad: float) -> None:
    of = plan(kind)
    broken = report(of, 0.5)
    broken[1] = bad
    mechanism = mechanism_of(of)
    ring = mechanism.encode(update(broken), SeededNoise(3))
    assert np.array_equal(ring, mechanism.encode(update(), SeededNoise(3)))
    assert np.array_equal(ring, mechanism.encode(update(report(of, 0.0)), SeededNoise(3)))
    mechanism.check(pack(ring, mechanism.bits))
    good = report(of, 0.5)
    assert sums(of, [good, broken, good, good]) == pytest.approx(np.array(good) * 3, abs=max(good) / 20)


@pytest.mark.parametrize("kind", PRIVACIES)
def test_a_report_beyond_its_bounds_is_clamped(kind: str) -> None:
    of, mechanism = plan(kind), mechanism_of(plan(kind))
    huge = mechanism.encode(update(np.full(len(of.cost_ranges), 1e300)), SeededNoise(3))
    assert np.array_equal(
        huge[DIMENSION + 2 :], mechanism.encode(update(report(of, 1.0)), SeededNoise(3))[DIMENSION + 2 :]
    )
    mechanism.check(pack(huge, mechanism.bits))


def test_clamped_figures_are_counted_where_clamped_coordinates_are() -> None:
    of, mechanism = plan(), mechanism_of(plan())
    over = report(of, 0.5)
    over[0], over[1] = 501.0, 1e300
    assert released(of, [mechanism.encode(update(costs), SeededNoise(0)) for costs in (over, [], over)]).saturated == 4


@pytest.mark.parametrize(
    ("kind", "purpose", "encoding"),
    [*((kind, "train", encoding) for kind in PRIVACIES for encoding in (WHOLE, HALF)), ("none", "evaluate", WHOLE)],
)
def test_a_stack_is_what_each_device_sends(kind: str, purpose: Any, encoding: Encoding) -> None:
    of = plan(kind, purpose=purpose, encoding=encoding)
    mechanism, size = mechanism_of(of), len(of.cost_ranges)
    reports = np.random.default_rng(0).random((6, size)) * report(of, 1.2)
    reports[2], reports[3, 1], reports[4, 0] = 0.0, np.nan, -1.0
    ones = [update(costs, seed) for seed, costs in enumerate(reports)]
    stack = LocalUpdates(
        np.stack([one.delta for one in ones]),
        np.array([one.weight for one in ones]),
        np.stack([one.totals for one in ones]),
        np.array([one.held_out for one in ones]),
        costs=reports,
    )
    for costs in (reports, None):
        told = dataclasses.replace(stack, costs=costs)
        rings = mechanism.encode_all(told, [SeededNoise(seed) for seed in range(6)])
        for seed, (ring, one) in enumerate(zip(rings, told, strict=True)):
            assert np.array_equal(ring, mechanism.encode(one, SeededNoise(seed)))
        total = np.full(mechanism.size, 7, dtype=np.uint32)
        mechanism.add_to(total, told, [SeededNoise(seed) for seed in range(6)])
        assert np.array_equal(total, (rings.sum(axis=0, dtype=np.uint64) + 7) % (1 << mechanism.bits))
    empty = mechanism.encode(dataclasses.replace(ones[2], costs=np.zeros(0)), SeededNoise(2))
    assert np.array_equal(empty, mechanism.encode(ones[2], SeededNoise(2)))


@pytest.mark.parametrize("kind", PRIVACIES)
def test_reports_of_another_length_are_an_error_and_of_no_plan_are_left_out(kind: str) -> None:
    with pytest.raises(ProtocolViolation, match="figures of costs"):
        mechanism_of(plan(kind)).encode(update([1.0, 1.0, 1.0]), SeededNoise(0))
    silent = mechanism_of(plan(kind, costs=None))
    assert np.array_equal(silent.encode(update([1.0, 1.0]), SeededNoise(0)), silent.encode(update(), SeededNoise(0)))
    assert len(released(plan(kind, costs=None), [silent.encode(update(), SeededNoise(0))] * CLIENTS).costs) == 0


def test_what_no_cohort_can_reach_is_refused() -> None:
    of, mechanism = plan(encoding=Encoding(bits=20)), mechanism_of(plan(encoding=Encoding(bits=20)))
    most = CostBlock(of).steps
    ring = mechanism.encode(update(report(of, 1.0)), SeededNoise(0))
    assert ring[-1] == most
    mechanism.check(pack(ring, mechanism.bits))
    ring[-1] += 1
    with pytest.raises(ProtocolViolation, match="a count is beyond"):
        mechanism.check(pack(ring, mechanism.bits))
    with pytest.raises(ProtocolViolation, match="costs is beyond"):
        mechanism.release({}, ring, 1, SeededNoise(0))


@pytest.mark.parametrize("kind", ["distributed", "examples", "central"])
@pytest.mark.parametrize("metrics", [False, True])
def test_noised_sums_come_back_and_the_noise_is_what_is_said(kind: str, metrics: bool) -> None:
    """Noise of two thirds, or three halves, of the scale would be told apart."""
    of, many = plan(kind, metrics), 600
    mechanism, shares = mechanism_of(of), (1.0, 0.0, 0.5, 0.25)
    one = update()
    stack = LocalUpdates(
        np.tile(one.delta, (4 * many, 1)),
        np.full(4 * many, one.weight),
        np.tile(one.totals[: len(of.metrics)], (4 * many, 1)),
        np.full(4 * many, one.held_out),
        costs=np.tile([report(of, share) for share in shares], (many, 1)),
    )
    noise = SeededNoise(4)
    rings = mechanism.encode_all(stack, [noise] * len(stack)).reshape(many, 4, mechanism.size)
    told = np.array([released(of, four, noise).costs for four in rings])
    spread = np.array(list(told_spread(of, 4).values()))
    rounding = np.array(list(told_rounding(of, 4).values()))
    assert (np.abs(told.mean(axis=0) - report(of, 1.75)) < 6 * spread / math.sqrt(many) + rounding).all()
    assert rounding == pytest.approx(np.array(report(of, 1.0)) * 2 / METRIC_STEPS)
    assert told.std(axis=0) == pytest.approx(spread, rel=0.2)


def test_noised_sums_may_be_negative_and_are_told_as_they_are() -> None:
    of = plan("central")

    class Low(SeededNoise):
        def normal(self, size: int) -> Any:
            return np.full(size, -3.0)

    mechanism = mechanism_of(of)
    found = released(of, [mechanism.encode(update(), SeededNoise(0))] * SURVIVORS, Low(0)).costs
    assert (found < 0).all()
    assert found == pytest.approx(-3 * np.array(list(told_spread(of, SURVIVORS).values())), rel=0.35)


def vectors(of: Plan) -> list[Any]:
    """All extreme integer vectors of one client's told block, less those of a client who is not there: zeros."""
    mechanism = mechanism_of(of)
    ends = [(0.0, high) for _, high in of.cost_ranges.values()]
    seen = [(8 * metric.low, 8 * metric.high) for metric in of.metrics]
    found = []
    nobody = dataclasses.replace(update(report(of, 0.5)), totals=np.array([8 * 5.0, 8 * 0.5])[: len(of.metrics)])
    base = mechanism.encode(nobody, SeededNoise(1)).astype(np.int64)
    for corner in itertools.product(*seen, *ends):
        told = np.array(corner)
        one = dataclasses.replace(nobody, totals=told[: len(seen)], costs=told[len(seen) :])
        moved = mechanism.encode(one, SeededNoise(1)).astype(np.int64) - base
        signed = (moved + (1 << (mechanism.bits - 1))) % (1 << mechanism.bits) - (1 << (mechanism.bits - 1))
        found.append(signed[DIMENSION:])
        assert not signed[:DIMENSION].any()
    return found


@pytest.mark.parametrize("metrics", [False, True])
def test_events_count_costs_an_accountant_that_forgets_them_is_caught(metrics: bool) -> None:
    """Worst neighbouring integer vectors by brute force, against what the events say; and against what they would say
    without costs."""
    of = plan("distributed", metrics)
    worst_l1 = max(int(np.abs(vector).sum()) for vector in vectors(of))
    worst_l2 = max(float(np.sqrt((vector**2).sum())) for vector in vectors(of))
    event = spent(of, 1)["client", "server"].events[1]  # type: ignore[attr-defined]
    assert (event.l1, event.l2) == (worst_l1, pytest.approx(worst_l2, rel=1e-15))
    forgotten = spent(of.model_copy(update={"costs": None}), 1)["client", "server"]
    if metrics:
        assert forgotten.events[1].l2 < worst_l2 / 1.4  # type: ignore[attr-defined]
    else:
        assert not hasattr(forgotten, "events"), "of no metrics nothing is told"
    twice = spent(of, 1)["example", "server"].events[1]  # type: ignore[attr-defined]
    assert (twice.l1, twice.l2) == (2 * event.l1, pytest.approx(2 * event.l2))


@pytest.mark.parametrize("metrics", [False, True])
def test_the_servers_noise_is_a_multiple_of_how_far_a_client_moves_the_block(metrics: bool) -> None:
    privacy = client_central(metrics=2.0)
    of = plan("central", metrics).model_copy(update={"privacy": privacy})
    assert isinstance(privacy, ClientCentral)

    class Ones(SeededNoise):
        def __init__(self, value: float) -> None:
            super().__init__(0)
            self.value = value

        def normal(self, size: int) -> Any:
            return np.full(size, self.value)

    mechanism = mechanism_of(of)
    rings = [mechanism.encode(update(), SeededNoise(0))] * SURVIVORS
    moved = released(of, rings, Ones(1.0)).costs - released(of, rings, Ones(0.0)).costs
    steps = moved / report(of, 1.0) * METRIC_STEPS
    worst = max(float(np.sqrt((vector**2).sum())) for vector in vectors(of))
    assert steps == pytest.approx(2.0 * worst, rel=1e-3)
    assert len(METRICS) == 2 and worst == pytest.approx(METRIC_STEPS / 2 * math.sqrt(2 + 2 * metrics))
