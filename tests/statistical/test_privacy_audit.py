"""What every mechanism is seen to give away is below its claim; what must not be is in test_privacy_audit_faults.py.

Bounds fail with a chance of 1e-3 each; draws come from fixed seeds, so that who passes here passes always. One audit is
drawn anew each time, with bounds that fail once in 1e9.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import Any

import dp_accounting as dpa
import pytest
from audited_plans import PLANS, examples

from fedsus.commands.audits import running
from fedsus.commands.audits.broken import broken
from fedsus.commands.audits.running import Finding
from fedsus.commands.audits.trial import Trial, events
from fedsus.privacy.accounting import epsilon
from fedsus.privacy.auditing import audit, sharpest
from fedsus.privacy.events import SkellamDpEvent
from fedsus.privacy.noise import SeededNoise, SystemNoise

DRAWS = 100_000
RELEASED_ONE_BY_ONE = 50_000
"""Of each input where a release is one draw."""

SHOWN = 0.6
"""Share of the tight epsilon of one round that the draws show at some delta."""


@lru_cache
def audited(name: str) -> list[Finding]:
    plan = PLANS[name]
    trial = Trial(plan, plan)
    draws = running.experiment(trial, RELEASED_ONE_BY_ONE if "adaptive" in name else DRAWS, SeededNoise(20))
    return running.findings(trial, draws, (1,) if "example" in name else running.ROUNDS)


@pytest.mark.parametrize("name", PLANS)
def test_no_claim_is_refuted(name: str) -> None:
    found = audited(name)
    for finding in found:
        assert not finding.broken, finding
    seen = {(finding.block, who) for finding in found for who in finding.adversaries}
    assert seen == set(events(PLANS[name])), "a block or an adversary was left out"
    assert all(bound.claim < math.inf for finding in found for bound in finding.bounds)


def tight(event: Any, delta: float) -> float:
    """Epsilon of Gaussian noise of the same variance: claims of Skellam noise are Renyi bounds, which are looser."""
    sampled = isinstance(event, dpa.PoissonSampledDpEvent)
    whole = event.event if sampled else event
    if isinstance(whole, SkellamDpEvent):
        whole = dpa.GaussianDpEvent(math.sqrt(whole.variance) / whole.l2)
    return epsilon(dpa.PoissonSampledDpEvent(event.sampling_probability, whole) if sampled else whole, delta)


@pytest.mark.parametrize("name", [name for name in PLANS if "coarse" not in name])
def test_much_of_a_tight_claim_is_seen(name: str) -> None:
    """Else the audit would find nothing. A coarse scale is left out: there rounding is most of the sensitivity."""
    claims = events(PLANS[name])
    for finding in audited(name):
        if finding.block == "all" or finding.rounds == 3:
            continue
        best, event = sharpest(finding.bounds), claims[finding.block, finding.adversaries[0]]
        if isinstance(event, dpa.PoissonSampledDpEvent):  # whose tight epsilon takes seconds at a large delta
            best = next(bound for bound in finding.bounds if bound.delta == 0.01)
        assert best.lower > SHOWN * tight(event, best.delta), (finding, tight(event, best.delta))


def test_a_colluder_is_found_by_those_whom_it_helps() -> None:
    trial = broken("uncounted-colluder", PLANS["client distributed"])
    found = running.findings(trial, running.experiment(trial, DRAWS, SeededNoise(32)), (1,))
    assert {who for finding in found if finding.broken for who in finding.adversaries} == {"server", "clients"}


def test_rounding_gives_more_away_than_gaussian_noise_on_the_sum_before_it() -> None:
    """At a quarter of a step a coordinate: the claim has room for rounding, and needs it."""
    plan = examples(1.0, 1.0, granularity=0.25)
    trial = Trial(plan, plan)
    draws = running.experiment(trial, DRAWS, SeededNoise(33))
    assert not any(finding.broken for finding in running.findings(trial, draws, (1,)))
    unrounded = dpa.GaussianDpEvent(1.0)  # noise of the honest clients over scale * clip
    naive = audit(*draws["update", "server"], partial(epsilon, unrounded), 1e-5)
    assert any(bound.broken for bound in naive)


def test_noise_of_this_machine_passes_too() -> None:
    plan = PLANS["client distributed"]
    trial = Trial(plan, plan)
    found = running.findings(trial, running.experiment(trial, 20_000, SystemNoise()), (1,), failure=1e-9)
    assert not any(finding.broken for finding in found)
    assert all(finding.bounds[0].lower > 0.5 for finding in found)


def test_audits_are_repeatable() -> None:
    plan = PLANS["client central, banded"]
    trial = Trial(plan, plan)
    first, second = (running.experiment(trial, 2_000, SeededNoise(5)) for _ in range(2))
    assert running.findings(trial, first) == running.findings(trial, second)
