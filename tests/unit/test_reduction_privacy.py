"""A reduced uplink never moves integers beyond what is accounted for, and noise is calibrated for what is sent."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import dp_accounting as dpa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noised_plans import banded, client_central, client_distributed, example_distributed, plan_of
from reduced_plans import NAMES, Name, of, reduced, stack, update

from fedsus.commands.privacy_inputs import Inputs
from fedsus.commands.privacy_plan import noise_of, planned, warnings
from fedsus.config import RunConfig, validate
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.encoding.noised import clip_rows
from fedsus.encoding.reduction import Reduced, Reduction
from fedsus.errors import ConfigError, ProtocolViolation
from fedsus.plan import Plan
from fedsus.privacy.adversaries import spent
from fedsus.privacy.events import SkellamDpEvent
from fedsus.privacy.noise import SeededNoise
from fedsus.privacy.sensitivity import client_update, example_update
from fedsus.protection import Distributed, NoPrivacy, Private
from fedsus.rounds.planning.specification import specified
from fedsus.types import LocalUpdates

SIGMAS = 6.5
"""Two-sided chance of a normal beyond it: 8e-11."""

deltas = st.tuples(st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 0.7, 1.0, 1.5, 40.0, 1e30]), st.booleans())


def adversarial(plan: Plan, seed: int, size: float, inside: bool) -> Any:
    """An update of that length, wholly within what is sent or anywhere, (d,) float64."""
    random = np.random.default_rng(seed)
    found = random.normal(size=plan.dimension)
    if inside:
        found = of(plan).expand(random.normal(size=plan.coordinates) ** 3)
    return found * (size / np.linalg.norm(found))


@given(deltas, st.sampled_from(NAMES))
@settings(max_examples=60, deadline=None)
def test_no_update_moves_a_client_s_integers_beyond_the_sensitivity(given_: Any, name: Name) -> None:
    for privacy in (client_distributed(10, granularity=2.0), client_central()):
        plan = reduced(privacy, 40, name)
        mechanism, one = mechanism_of(plan), adversarial(plan, *given_)
        assert isinstance(mechanism, Reduced)
        assert longest(mechanism, plan, mechanism._reduced(stack(one[np.newaxis]))) <= 1.0


def longest(mechanism: Reduced, plan: Plan, sent: LocalUpdates) -> float:
    """Length of the integers before noise, over the most that is accounted for."""
    inner: Any = mechanism.inner
    if plan.privacy.unit == "client" and plan.privacy.placement == "central":
        ring = inner._integers(sent, SeededNoise(0))[0].view(np.int32).astype(np.float64)
        return float(np.linalg.norm(ring) / inner._steps)
    whole = inner._rounded(sent, SeededNoise(0))[0]
    privacy: Any = plan.privacy
    return float(np.linalg.norm(whole) / client_update(privacy.clip, privacy.shares.scale, 16).l2)


@pytest.mark.parametrize("privacy", [client_distributed(10), client_central()])
def test_clipping_before_the_upscale_is_caught(privacy: Any) -> None:
    plan = reduced(privacy, 40)
    mechanism, one = mechanism_of(plan), adversarial(plan, 1, 5.0, True)[np.newaxis]
    assert isinstance(mechanism, Reduced)
    clip_rows(one, 1.0)
    loose = mechanism_of(reduced(privacy.model_copy(update={"clip": 100.0}), 40))
    assert isinstance(loose, Reduced)
    too_long = loose._reduced(stack(one))
    assert np.linalg.norm(too_long.deltas) == pytest.approx(2.0), "twice the bound, at a quarter of the coordinates"
    assert longest(mechanism, plan, too_long) <= 1.0, "the order that is built clips it again"


@given(st.integers(0, 2**32 - 1), st.sampled_from(NAMES), st.sampled_from([0.0, 1.0, 1e3, 1e12]))
@settings(max_examples=60, deadline=None)
def test_no_example_moves_a_sum_beyond_the_sensitivity(seed: int, name: Name, others: float) -> None:
    plan = reduced(example_distributed(10, granularity=2.0), 40, name)
    privacy: Any = plan.privacy
    mechanism, random = mechanism_of(plan), np.random.default_rng(seed)
    assert isinstance(mechanism, Reduced)
    inner: Any = mechanism.inner
    rest, example = others * random.normal(size=40), adversarial(plan, seed, privacy.clip, True)

    def moved(up: float) -> float:
        sums = stack(np.array([rest, rest + example]))
        sent = dataclasses.replace(mechanism.reduction, up=up).reduce(sums.deltas)
        both = [inner._rounded(stack(row[np.newaxis]), SeededNoise(3))[0] for row in sent]  # one dither
        return float(np.linalg.norm(both[1] - both[0]) / example_update(privacy.clip, privacy.shares.scale, 16).l2)

    assert mechanism.reduction.up == 1.0
    assert moved(1.0) <= 1.0
    if others <= 1e3:
        assert moved(2.0) > 1.0, "with the upscale that is right for clients an example moves too much"


def run(share: float, **privacy: Any) -> RunConfig:
    plan = {
        "rounds": 5,
        "cohort": {"size": 40, "minimum": 30},
        "secure_sum": {"colluders": 5},
        "privacy": {"unit": "client", "epsilon": 4.0, "delta": 1e-5, **privacy},
        "encoding": {"uplink": {"name": "projection", "share": share}},
    }
    return validate({"name": "r", "task": {"name": "heart"}, "plan": plan}, RunConfig, "run.toml")


def test_noise_is_calibrated_and_accounted_for_what_is_sent() -> None:
    whole, quarter = (specified("r", run(share), 4000, 40) for share in (1.0, 0.25))
    shares: Any = quarter.privacy
    assert shares.shares.scale == pytest.approx(32 * math.sqrt(1024))
    assert whole.privacy.shares.scale == pytest.approx(32 * math.sqrt(4096))  # type: ignore[union-attr]
    event: Any = spent(quarter.first_plan, 1)["client", "server"]
    assert isinstance(event, SkellamDpEvent)
    assert event.l2 == client_update(1.0, shares.shares.scale, 1024).l2
    assert event.l2 < spent(whole.first_plan, 1)["client", "server"].l2  # type: ignore[attr-defined]
    assert quarter.epsilon(quarter.attempts) <= 4.0
    noise = [math.sqrt(one.privacy.shares.variance) / one.privacy.shares.scale for one in (whole, quarter)]  # type: ignore[union-attr]
    assert noise[1] == pytest.approx(noise[0], rel=1e-3), "per coordinate that is sent, in units of the update"


@pytest.mark.parametrize("privacy", [client_distributed(10, metrics=4.0), example_distributed(10)])
def test_each_device_recomputes_what_it_spends_from_the_plan(privacy: Private) -> None:
    plan = reduced(privacy, 40, metrics=True) if privacy.unit == "client" else reduced(privacy, 40)
    small = plan_of(privacy, 10, metrics=privacy.unit == "client")
    assert spent(plan, 3) == spent(small, 3)
    assert not any(
        isinstance(event, dpa.NonPrivateDpEvent) for (unit, _), event in spent(plan, 1).items() if unit == privacy.unit
    )


def test_rounding_of_a_huge_sum_of_which_nothing_is_sent_moves_nothing_either() -> None:
    """Float64 errs in proportion to the whole sum, also where what is sent of it is small."""
    plan = reduced(example_distributed(10, granularity=2.0), 40)
    privacy: Any = plan.privacy
    mechanism, one = mechanism_of(plan), of(plan)
    assert isinstance(mechanism, Reduced)
    inner: Any = mechanism.inner
    rest = np.random.default_rng(1).normal(size=40)
    for _ in range(2):
        rest -= one.expand(one.reduce(rest[np.newaxis])[0]) * (10 / 40)

    def moved(reduction: Reduction, seed: int) -> float:
        sums = 2.0**54 * rest + np.array([np.zeros(40), adversarial(plan, seed, privacy.clip, True)])
        both = [inner._rounded(stack(row[np.newaxis]), SeededNoise(3))[0] for row in reduction.reduce(sums)]
        return float(np.linalg.norm(both[1] - both[0]) / example_update(privacy.clip, privacy.shares.scale, 16).l2)

    assert max(moved(one, seed) for seed in range(20)) <= 1.0
    assert max(moved(dataclasses.replace(one, longest=None), seed) for seed in range(20)) > 1.0


UNITS = {
    "client": {"unit": "client"},
    "example": {"unit": "example", "placement": "distributed", "denominator": 100.0, "sampling_rate": 1.0},
}


@pytest.mark.parametrize("unit", UNITS)
def test_released_noise_is_as_long_as_is_planned(unit: str) -> None:
    inputs = Inputs(run(0.1, **UNITS[unit]), 10_000, "here", 40)
    plan = planned(inputs, None)
    noise, first = noise_of(plan), plan.specification.first_plan
    assert noise is not None and isinstance(first.privacy, Distributed)
    mechanism, survivors = mechanism_of(first), first.privacy.shares.survivors
    total = np.zeros(mechanism.size, dtype=np.uint32)
    mechanism.add_to(
        total, stack(np.zeros((survivors, 10_000), np.float32)), [SeededNoise(n) for n in range(survivors)]
    )
    _, mean = mechanism.release({}, total, survivors, SeededNoise(0))
    rate = 1.0 if unit == "client" else first.training.optimizer.learning_rate
    found = float(np.linalg.norm(mean.delta)) / rate
    assert noise.length == pytest.approx(found, rel=SIGMAS / math.sqrt(2 * 1000))
    assert noise.length == pytest.approx(noise.deviation * 100)
    wrong = math.sqrt(10) if unit == "client" else 1 / math.sqrt(10)
    assert noise.length * wrong != pytest.approx(found, rel=SIGMAS / math.sqrt(2 * 1000))
    (said,) = [line for line in warnings(plan) if "encoding.uplink" in line] or [""]
    assert ("grows 3.16 times" in said) == (unit == "example")


def test_noise_that_later_rounds_cancel_needs_the_same_coordinates() -> None:
    with pytest.raises(ConfigError, match="cancelled at the same coordinates"):
        mechanism_of(reduced(banded(bands=3), 40))
    mechanism_of(reduced(banded(bands=1), 40))  # whose noise is independent
    mechanism_of(reduced(banded(bands=3), 40, share=1.0))
    central = run(0.5, placement="central", bands=2)
    with pytest.raises(ConfigError, match="leave one of the two out"):
        specified("r", central, 4000, 400)


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"name": "rand_k", "share": 0.0}, r"plan\.encoding\.uplink\.share' = 0\.0: .*greater than 0"),
        ({"name": "rand_k", "share": 1.5}, r"uplink\.share' = 1\.5: .*less than or equal to 1"),
        ({"name": "top_k", "share": 0.5}, r"uplink\.name' = 'top_k': .*'rand_k' or 'projection'"),
        ({"name": "rand_k"}, r"'plan\.encoding\.uplink\.share' is missing"),
    ],
)
def test_mistakes_are_one_line(given_: dict[str, Any], said: str) -> None:
    fields = {"rounds": 1, "cohort": {"size": 3, "minimum": 3}, "encoding": {"uplink": given_}}
    with pytest.raises(ConfigError, match=said) as error:
        validate({"task": {"name": "heart"}, "plan": fields}, RunConfig, "run.toml")
    assert "\n" not in str(error.value)


def test_updates_of_another_shape_are_refused() -> None:
    with pytest.raises(ProtocolViolation, match=r"shape \(7,\), the plan says \(40,\)"):
        mechanism_of(reduced(NoPrivacy(), 40)).encode(update(np.zeros(7, np.float32)), SeededNoise(0))
