"""Epsilon is an upper bound, close to what is known in closed form, and never a guess."""

from __future__ import annotations

import math
import subprocess
import sys

import dp_accounting as dpa
import pytest
from dp_accounting.rdp import RdpAccountant

from fedsus.errors import Refusal
from fedsus.privacy import rdp
from fedsus.privacy.accounting import LEAST_DELTA, LEAST_RESERVE, dp_sgd_event, epsilon, epsilon_rdp, held_back
from fedsus.privacy.events import SkellamDpEvent


def by_renyi(event: dpa.DpEvent, delta: float) -> float:
    return float(RdpAccountant().compose(event).get_epsilon(delta))


def test_events_say_what_happened() -> None:
    gaussian = dpa.GaussianDpEvent(1.5)
    assert dp_sgd_event(1.5, 0.1, 20) == dpa.SelfComposedDpEvent(dpa.PoissonSampledDpEvent(0.1, gaussian), 20)
    assert dp_sgd_event(1.5, 1.0, 20) == dpa.SelfComposedDpEvent(gaussian, 20)


@pytest.mark.parametrize(("noise", "steps"), [(0.8, 1), (1.0, 10), (13.9, 100), (200.0, 3)])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
def test_plain_gaussians_match_the_closed_form(noise: float, steps: int, delta: float) -> None:
    """Balle and Wang 2018, Theorem 8: k Gaussians of multiplier z are one of z / sqrt(k)."""
    exact = dpa.get_epsilon_gaussian(noise / math.sqrt(steps), delta)
    ours = epsilon(dp_sgd_event(noise, 1.0, steps), delta)
    assert ours == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("noise", [0.5, 2.0, 20.0])
def test_sampling_almost_everyone_approaches_the_closed_form(noise: float) -> None:
    """The same numbers by the other way of computing: a rate just below 1 goes through the distributions."""
    sampled, plain = epsilon(dp_sgd_event(noise, 1 - 1e-9, 10), 1e-5), epsilon(dp_sgd_event(noise, 1.0, 10), 1e-5)
    assert plain * (1 - 1e-6) <= sampled <= plain * 1.002


@pytest.mark.parametrize("rate", [0.9, 1.0])
def test_an_absurd_plan_costs_no_time(rate: float) -> None:
    assert epsilon(dp_sgd_event(0.1, rate, 10**11), 1e-5) == math.inf


@pytest.mark.parametrize(("noise", "rate", "steps"), [(1.0, 0.1, 300), (0.7, 0.02, 1000), (4.0, 0.5, 100)])
def test_renyi_accounting_is_looser(noise: float, rate: float, steps: int) -> None:
    event = dp_sgd_event(noise, rate, steps)
    ours, renyi = epsilon(event, 1e-5), by_renyi(event, 1e-5)
    assert ours <= renyi <= 1.5 * ours


def test_more_steps_more_sampling_and_less_noise_spend_more() -> None:
    base = epsilon(dp_sgd_event(1.2, 0.1, 100), 1e-5)
    assert base < epsilon(dp_sgd_event(1.2, 0.1, 110), 1e-5)
    assert base < epsilon(dp_sgd_event(1.2, 0.11, 100), 1e-5)
    assert base < epsilon(dp_sgd_event(1.1, 0.1, 100), 1e-5)
    assert base < epsilon(dp_sgd_event(1.2, 0.1, 100), 1e-6)
    assert base < epsilon(dp_sgd_event(1.2, 1.0, 100), 1e-5)


def test_parts_add_up_however_they_are_nested() -> None:
    one = dp_sgd_event(1.2, 0.1, 10)
    whole = epsilon(dp_sgd_event(1.2, 0.1, 40), 1e-5)
    assert epsilon(dpa.ComposedDpEvent([one] * 4), 1e-5) == whole
    assert epsilon(dpa.SelfComposedDpEvent(one, 4), 1e-5) == whole
    assert epsilon(dpa.ComposedDpEvent([one, dpa.SelfComposedDpEvent(one, 3), dpa.NoOpDpEvent()]), 1e-5) == whole


def test_order_of_different_events_does_not_matter() -> None:
    parts = [dp_sgd_event(1.2, 0.1, 10), dp_sgd_event(2.0, 0.2, 5), dp_sgd_event(5.0, 1.0, 1)]
    forth, back = dpa.ComposedDpEvent(parts), dpa.ComposedDpEvent(parts[::-1])
    assert epsilon(forth, 1e-5) == epsilon(back, 1e-5) > epsilon(parts[0], 1e-5)


def test_nothing_spends_nothing() -> None:
    assert epsilon(dpa.NoOpDpEvent(), 1e-5) == 0
    assert epsilon(dpa.ComposedDpEvent([]), 1e-5) == 0
    assert epsilon(dpa.SelfComposedDpEvent(dpa.NonPrivateDpEvent(), 0), 1e-5) == 0


@pytest.mark.parametrize(
    "event",
    [
        dpa.NonPrivateDpEvent(),
        dpa.GaussianDpEvent(0.0),
        dpa.ComposedDpEvent([dp_sgd_event(1.0, 0.1, 5), dpa.NonPrivateDpEvent()]),
        dpa.SelfComposedDpEvent(dpa.PoissonSampledDpEvent(0.1, dpa.GaussianDpEvent(0.0)), 2),
    ],
)
def test_no_privacy_is_infinity(event: dpa.DpEvent) -> None:
    assert epsilon(event, 1e-5) == math.inf


@pytest.mark.parametrize(
    "event",
    [
        dpa.UnsupportedDpEvent(),
        dpa.ZCDpEvent(0.1),
        dpa.LaplaceDpEvent(1.0),
        dpa.PoissonSampledDpEvent(0.1, dpa.NonPrivateDpEvent()),
        dpa.SampledWithoutReplacementDpEvent(100, 10, dpa.GaussianDpEvent(1.0)),
        dpa.GaussianDpEvent(math.nan),
        dpa.GaussianDpEvent(math.inf),
        dpa.GaussianDpEvent(-1.0),
        dpa.GaussianDpEvent(0.01),
        dpa.GaussianDpEvent(0.099),
        dpa.PoissonSampledDpEvent(1.5, dpa.GaussianDpEvent(1.0)),
        dpa.PoissonSampledDpEvent(math.nan, dpa.GaussianDpEvent(1.0)),
        dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(1.0), -1),
        dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(1.0), 1.5),
        "not an event",
    ],
    ids=str,
)
def test_what_cannot_be_computed_is_refused(event: dpa.DpEvent) -> None:
    with pytest.raises(Refusal):
        epsilon(event, 1e-5)
    with pytest.raises(Refusal):
        epsilon(dpa.ComposedDpEvent([dp_sgd_event(1.0, 0.1, 5), event]), 1e-5)


@pytest.mark.parametrize("delta", [0.0, -1e-5, 1.0, 2.0, math.nan])
def test_delta_out_of_range_is_refused(delta: float) -> None:
    with pytest.raises(Refusal, match="delta"):
        epsilon(dp_sgd_event(1.0, 0.1, 5), delta)


def skellam_event(noise: float, steps: int = 1) -> dpa.DpEvent:
    return dpa.SelfComposedDpEvent(SkellamDpEvent(1e6, 1e4, (noise * 1e4) ** 2), steps)


def by_formula(event: dpa.DpEvent, delta: float) -> float:
    return rdp.epsilon_of(rdp.rdp(event), rdp.ORDERS, delta)[0]


def test_any_skellam_noise_means_renyi_accounting() -> None:
    for event in (skellam_event(4.0, 10), dpa.ComposedDpEvent([dp_sgd_event(1.0, 0.1, 20), skellam_event(2.0)])):
        found = epsilon(event, 1e-5)
        assert found == epsilon_rdp(event, 1e-5) == pytest.approx(by_formula(event, 1e-5), rel=1e-9)
        assert found > by_formula(event, 1e-5)
    gaussian = dp_sgd_event(1.0, 0.1, 20)
    assert epsilon(gaussian, 1e-5) < epsilon_rdp(gaussian, 1e-5) == by_formula(gaussian, 1e-5)


def test_what_samplers_cost_is_held_back_from_delta() -> None:
    """Where delta is small enough to see it."""
    event, delta = skellam_event(4.0), 2 * LEAST_DELTA
    assert epsilon(event, delta) == by_formula(event, delta - LEAST_RESERVE) > by_formula(event, delta)


def test_how_much_is_held_back() -> None:
    """At most 2**40 draws a release, each within 2**-105, paid by either neighbour."""
    assert held_back(3.0, 0) == 0
    assert held_back(3.4, 1) == LEAST_RESERVE == 2.0**-60 < held_back(7.0, 1) == (1 + math.exp(7)) * 2.0**-65
    assert held_back(3.0, 323) == (1 + math.exp(3)) * 323 * 2.0**-65
    assert held_back(math.inf, 1) > 1


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (0.5, 1), (4.0, 16), (2e4, 2**20)])
def test_more_is_held_back_for_more_releases_and_more_epsilon(noise: float, steps: int) -> None:
    """(1 + exp(epsilon)) t, t = 2**-65 a release, must be among what was held back; it is no more than needed."""
    event, delta = skellam_event(noise, steps), 1e-10
    found = epsilon(event, delta)
    needed = (1 + math.exp(found)) * steps * 2.0**-65
    assert needed > LEAST_RESERVE or steps == 1
    assert by_formula(event, delta - needed) <= found <= by_formula(event, delta - 4 * needed - LEAST_RESERVE)


def test_where_samplers_cost_more_than_delta_nothing_is_promised() -> None:
    assert 30 < epsilon(skellam_event(0.22), 1e-5) < math.inf
    assert epsilon(skellam_event(0.15), 1e-5) == math.inf > by_formula(skellam_event(0.15), 1e-5)
    assert epsilon(skellam_event(1e12, 2**53), 1e-10) == math.inf


@pytest.mark.parametrize("delta", [LEAST_DELTA, 1e-20])
def test_too_small_a_delta_for_the_sampler_is_refused(delta: float) -> None:
    for event in (skellam_event(1.0), dpa.PoissonSampledDpEvent(0.1, SkellamDpEvent(4.0, 2.0, 9.0))):
        for accountant in (epsilon, epsilon_rdp):
            with pytest.raises(Refusal, match="2\\*\\*-50"):
                accountant(event, delta)
    assert epsilon(dpa.GaussianDpEvent(9.0), delta) < math.inf


def test_renyi_accounting_knows_any_noise() -> None:
    """What would take distributions hours takes a formula no time."""
    with pytest.raises(Refusal, match="0.1 upwards"):
        epsilon(dpa.GaussianDpEvent(0.01), 1e-5)
    assert 5000 < epsilon_rdp(dpa.GaussianDpEvent(0.01), 1e-5) < 12000


def test_the_module_loads_without_the_accountant() -> None:
    modules = "fedsus.privacy.accounting, fedsus.privacy.calibration, fedsus.privacy.rdp"
    code = f"import sys, {modules}; print('dp_accounting' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
