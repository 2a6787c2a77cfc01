"""Renyi divergences are upper bounds of what is computed exactly in one dimension and in two, in either direction."""

import itertools
import math
from functools import lru_cache

import dp_accounting as dpa
import mpmath
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant, compute_epsilon
from hypothesis import given
from hypothesis import strategies as st

from fedsus.errors import ConfigError, Refusal
from fedsus.privacy.events import SkellamDpEvent
from fedsus.privacy.rdp import HIGHEST, ORDERS, best_order, budget, epsilon_of, rdp

GRID_ORDERS = (2, 3, 4, 6, 8, 16, 32, 64, 128)
VARIANCES = (1e-3, 0.01, 0.1, 0.3, 0.7, 1.0, 2.0, 5.0, 13.0, 50.0, 400.0, 3e4)
SHIFTS = (1, 2, 3, 7, 20)


@lru_cache
def log_masses(variance, most):
    """log P(X = k), k = 0..most, of Skellam(variance): exp(-mu) I_k(mu), by the continued fraction of I_k / I_(k-1)."""
    ratio, logs = 0.0, np.zeros(most + 1)
    for k in range(most + 200 + int(10 * math.sqrt(variance)), 0, -1):
        ratio = 1 / (2 * k / variance + ratio)
        if k <= most:
            logs[k] = math.log(ratio)
    logs[0] = float(mpmath.log(mpmath.besseli(0, variance)) - variance)
    return np.cumsum(logs)


def masses(variance, shift, order):
    """Log masses at the integers that matter: of the noise, and of the noise moved by ``shift``."""
    most = int(1.3 * order * shift + 60 * math.sqrt(variance) + 100)
    at, logs = np.arange(shift - most, most + 1), log_masses(variance, 1 << most.bit_length())
    return logs[np.abs(at)], logs[np.abs(at - shift)]


def divergence(log_p, log_q, order):
    """D_order(P || Q); what lies beyond the range is known to be nothing."""
    terms = order * log_p + (1 - order) * log_q
    top = terms.max()
    assert max(terms.flat[0], terms.flat[-1]) < top - 40
    return (top + math.log(np.exp(terms - top).sum())) / (order - 1)


def mixed(rate, log_p, log_q):
    return np.logaddexp(math.log1p(-rate) + log_q, math.log(rate) + log_p)


def one(event, order):
    return float(rdp(event, (order,))[0])


def shifted(shift, variance):
    return SkellamDpEvent(shift, shift, variance)


def test_the_yardstick_itself_is_exact():
    """Masses against 50 digits, and the divergence of a known pair."""
    for variance, k in itertools.product((0.01, 1.0, 30.0, 2000.0), (0, 1, 5, 40, 300)):
        with mpmath.workdps(50):
            exact = float(mpmath.log(mpmath.besseli(k, variance)) - variance)
        assert log_masses(variance, 300)[k] == pytest.approx(exact, rel=1e-11)
    at = np.arange(-400.0, 401.0) / 10
    normal, moved = (-((at - mean) ** 2) / 2 - math.log(10 * math.sqrt(2 * math.pi)) for mean in (0, 1))
    assert divergence(moved, normal, 6) == pytest.approx(3.0, rel=1e-9)


@pytest.mark.parametrize("variance", VARIANCES)
def test_skellam_bound_is_one_in_both_directions(variance):
    """No variance is too small for it: below 1 it is merely loose."""
    for shift, order in itertools.product(SHIFTS, GRID_ORDERS):
        noise, moved = masses(variance, shift, order)
        bound = one(shifted(shift, variance), order)
        assert divergence(moved, noise, order) <= bound
        assert divergence(noise, moved, order) <= bound


@pytest.mark.parametrize("variance", [50.0, 400.0, 3e4])
def test_less_than_the_bound_would_be_none(variance):
    """The negative control: the bound of 3/2 of the variance fails."""
    noise, moved = masses(variance, 1, 2)
    assert divergence(moved, noise, 2) > one(shifted(1, 1.5 * variance), 2)


def test_skellam_bound_for_vectors():
    """Coordinates are independent: their exact divergences add up."""
    random = np.random.default_rng(5)
    for variance, order in itertools.product((0.5, 4.0, 60.0), (2, 5, 17)):
        exact = {0: 0.0} | {k: divergence(*reversed(masses(variance, k, order)), order) for k in range(1, 9)}
        for _ in range(40):
            vector = np.abs(random.integers(-8, 9, random.integers(1, 30)))
            event = SkellamDpEvent(float(vector.sum()) or 1.0, math.sqrt((vector**2).sum()), variance)
            assert math.fsum(exact[int(k)] for k in vector) <= one(event, order)


@pytest.mark.parametrize("variance", [0.3, 2.0, 13.0, 400.0])
@pytest.mark.parametrize("rate", [1e-4, 0.02, 0.3, 0.5, 0.9])
def test_sampled_skellam_bound_is_one_in_both_directions(variance, rate):
    for shift, order in itertools.product((1, 3, 20), (2, 3, 8, 32)):
        noise, moved = masses(variance, shift, order)
        mixture = mixed(rate, moved, noise)
        bound = one(dpa.PoissonSampledDpEvent(rate, shifted(shift, variance)), order)
        assert divergence(mixture, noise, order) <= bound * (1 + 1e-12)
        assert divergence(noise, mixture, order) <= divergence(mixture, noise, order) * (1 + 1e-9)
        assert divergence(mixture, noise, order) > 0


@pytest.mark.parametrize("variance", [50.0, 400.0])
def test_the_sampled_bound_is_close_and_less_would_be_none(variance):
    noise, moved = masses(variance, 1, 4)
    exact = divergence(mixed(0.2, moved, noise), noise, 4)
    assert exact > one(dpa.PoissonSampledDpEvent(0.2, shifted(1, 1.5 * variance)), 4)
    assert exact > one(dpa.PoissonSampledDpEvent(0.2 * 2 / 3, shifted(1, variance)), 4)
    assert one(dpa.PoissonSampledDpEvent(0.2, shifted(1, variance)), 4) < 1.1 * exact


@pytest.mark.parametrize(("rate", "order"), [(0.1, 3), (0.5, 8), (0.9, 5)])
def test_sampled_skellam_bound_in_two_dimensions(rate, order):
    """A shift in both coordinates at once is sampled as one, and not coordinate by coordinate."""
    (first, first_moved), (second, second_moved) = masses(4.0, 3, order), masses(4.0, 2, order)
    noise, moved = np.add.outer(first, second), np.add.outer(first_moved, second_moved)
    mixture = mixed(rate, moved, noise)
    event = dpa.PoissonSampledDpEvent(rate, SkellamDpEvent(5.0, math.sqrt(13), 4.0))
    assert divergence(noise, mixture, order) <= divergence(mixture, noise, order) <= one(event, order)


@given(st.floats(1e-3, 200), st.booleans(), st.floats(1e-9, 1 - 1e-9), st.integers(2, 1024))
def test_two_points_that_are_swapped(log_ratio, less, rate, order):
    """Mironov, Talwar and Zhang 2019, Theorem 5, on one orbit: masses 1 and x, x and 1.

    To 100 digits, since the two sides may differ by far less than either.
    """
    with mpmath.workdps(100):
        x, q = mpmath.exp(-log_ratio if less else log_ratio), mpmath.mpf(rate)
        one_way, other_way = (1 - q) + q * x, (1 - q) * x + q
        ahead = one_way**order + other_way**order * x ** (1 - order)
        back = one_way ** (1 - order) + x**order * other_way ** (1 - order)
        assert ahead > back


def test_no_skellam_release_passes_for_a_gaussian():
    skellam, gaussian = SkellamDpEvent(40.0, 5.0, 100.0), dpa.GaussianDpEvent(2.0)
    assert (rdp(skellam) > rdp(gaussian)).all()
    sampled = [rdp(dpa.PoissonSampledDpEvent(0.1, event)) for event in (skellam, gaussian)]
    assert (sampled[0] > sampled[1]).all()


@pytest.mark.parametrize(("rate", "noise"), [(0.1, 1.0), (0.5, 0.1), (1e-7, 3.0), (1 - 1e-12, 2.0), (1e-300, 0.3)])
def test_the_sum_is_exact(rate, noise):
    """Against the defining sum, however small the rate."""
    event = dpa.PoissonSampledDpEvent(rate, dpa.GaussianDpEvent(noise))
    for order in (2, 7, 64, 500):
        with mpmath.workdps(640):
            q, variance = mpmath.mpf(rate), mpmath.mpf(noise) ** 2
            terms = (
                mpmath.binomial(order, j) * (1 - q) ** (order - j) * q**j * mpmath.exp((j * j - j) / (2 * variance))
                for j in range(order + 1)
            )
            exact = float(mpmath.log(mpmath.fsum(terms)) / (order - 1))
        assert one(event, order) == pytest.approx(exact, rel=1e-10, abs=1e-300)


@pytest.mark.parametrize(("rate", "noise"), [(1.0, 0.7), (0.02, 1.1), (0.5, 10.0), (1.0, 1e4), (0.9, 0.05)])
def test_agrees_with_dp_accounting(rate, noise):
    event = dpa.SelfComposedDpEvent(dpa.PoissonSampledDpEvent(rate, dpa.GaussianDpEvent(noise)), 37)
    theirs = RdpAccountant(list(ORDERS)).compose(event)
    assert rdp(event) == pytest.approx(theirs.rdp, rel=1e-9)
    assert epsilon_of(rdp(event), ORDERS, 1e-6)[0] == pytest.approx(theirs.get_epsilon(1e-6), rel=1e-9)


def test_releases_add_up():
    skellam, gaussian = SkellamDpEvent(40.0, 5.0, 100.0), dpa.PoissonSampledDpEvent(0.1, dpa.GaussianDpEvent(2.0))
    both = dpa.ComposedDpEvent([dpa.SelfComposedDpEvent(skellam, 3), gaussian, dpa.NoOpDpEvent()])
    assert rdp(both) == pytest.approx(3 * rdp(skellam) + rdp(gaussian), rel=1e-12)
    assert (rdp(dpa.ComposedDpEvent([gaussian, skellam, skellam, skellam])) == rdp(both)).all()
    assert rdp(dpa.SelfComposedDpEvent(dpa.NonPrivateDpEvent(), 0)).tolist() == [0.0] * len(ORDERS)
    assert rdp(dpa.PoissonSampledDpEvent(0.0, skellam)).tolist() == [0.0] * len(ORDERS)
    assert (rdp(dpa.PoissonSampledDpEvent(1.0, skellam)) == rdp(skellam)).all()


@pytest.mark.parametrize(
    "event",
    [
        dpa.NonPrivateDpEvent(),
        dpa.GaussianDpEvent(0.0),
        dpa.GaussianDpEvent(1e-300),
        dpa.PoissonSampledDpEvent(0.5, dpa.GaussianDpEvent(0.0)),
        SkellamDpEvent(1e200, 1e200, 1.0),
        SkellamDpEvent(1e300, 1e300, 1e-300),
        dpa.PoissonSampledDpEvent(0.5, SkellamDpEvent(1e200, 1e200, 1e-300)),
        dpa.ComposedDpEvent([dpa.GaussianDpEvent(1.0), dpa.NonPrivateDpEvent()]),
    ],
    ids=str,
)
def test_no_privacy_is_infinite(event):
    assert rdp(event).tolist() == [math.inf] * len(ORDERS)
    assert epsilon_of(rdp(event), ORDERS, 1e-5)[0] == math.inf


def test_extremes_are_numbers():
    events = (SkellamDpEvent(1e-200, 1e-200, 1e300), SkellamDpEvent(0.0, 0.0, 1.0), SkellamDpEvent(9.0, 3.0, 1e-12))
    for event, rate in itertools.product(events, (1e-300, 1e-9, 1 - 1e-16, 1.0)):
        divergences = rdp(dpa.PoissonSampledDpEvent(rate, event))
        assert not np.isnan(divergences).any() and (divergences >= 0).all()


@pytest.mark.parametrize("orders", [(1,), (0,), (-3,), (2.5,), (2.0,), (True,), (HIGHEST + 1,), ("2",), (2, None)])
def test_orders_that_are_none(orders):
    for attempt in (
        lambda: rdp(dpa.GaussianDpEvent(1.0), orders),
        lambda: epsilon_of(np.zeros(len(orders)), orders, 1e-5),
        lambda: budget(1.0, 1e-5, orders[-1]),
    ):
        with pytest.raises(ConfigError, match="order"):
            attempt()


def test_orders_are_whole_and_rising():
    assert ORDERS[0] == 2 and ORDERS[-1] == 1024
    assert all(low < high for low, high in itertools.pairwise(ORDERS))
    assert (rdp(dpa.GaussianDpEvent(1.0), np.array([2, 9])) == [1.0, 4.5]).all()


epsilons, deltas, orders = st.floats(0, 50), st.floats(-30, -0.1).map(lambda x: 10**x), st.sampled_from(ORDERS)


@given(epsilons, deltas, orders)
def test_a_budget_is_the_largest_that_fits(epsilon, delta, order):
    allowed = budget(epsilon, delta, order)
    assert allowed >= 0
    if allowed > 0:
        assert epsilon_of(np.array([allowed]), (order,), delta)[0] <= epsilon
    assert epsilon_of(np.array([allowed * (1 + 1e-8) + 1e-12 * (1 + epsilon)]), (order,), delta)[0] > epsilon


@given(st.lists(st.floats(0, 100), min_size=3, max_size=3), st.floats(1e-12, 0.5))
def test_epsilon_is_that_of_dp_accounting(values, delta):
    found = epsilon_of(np.array(values), (2, 17, 900), delta)
    if all(values):
        assert found == compute_epsilon((2, 17, 900), values, delta)
    else:
        assert found[0] == 0


def test_budgets_that_are_none():
    assert budget(math.inf, 1e-5, 8) == math.inf
    for epsilon, delta in [(-1.0, 1e-5), (math.nan, 1e-5), (1.0, 0.0), (1.0, 1.0), (1.0, math.nan)]:
        with pytest.raises(ConfigError):
            budget(epsilon, delta, 8)
    with pytest.raises(ConfigError):
        epsilon_of(np.zeros(2), (2, 3, 4), 1e-5)
    with pytest.raises(ConfigError):
        epsilon_of(np.array([math.nan]), (2,), 1e-5)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0, 8.0])
def test_the_best_order_fits_most(epsilon):
    """No fixed order lets more copies through, and few more would pass with the order chosen in hindsight."""
    event = dpa.PoissonSampledDpEvent(0.02, SkellamDpEvent(400.0, 20.0, 900.0))
    curve = rdp(event)
    order = best_order(epsilon, 1e-5, event)
    fits = budget(epsilon, 1e-5, order) / one(event, order)
    assert all(budget(epsilon, 1e-5, other) / curve[i] <= fits for i, other in enumerate(ORDERS))
    assert epsilon_of(curve * fits, ORDERS, 1e-5)[0] == pytest.approx(epsilon)


def test_the_best_order_without_an_event():
    """That of a Gaussian whose epsilon is the one asked for."""
    for epsilon in (0.1, 1.0, 3.0, 8.0):
        noise = dpa.get_sigma_gaussian(epsilon, 1e-5)
        assert best_order(epsilon, 1e-5) == best_order(epsilon, 1e-5, dpa.GaussianDpEvent(noise))
        _, order = epsilon_of(rdp(dpa.GaussianDpEvent(noise)), ORDERS, 1e-5)
        assert abs(best_order(epsilon, 1e-5) - order) <= 0.2 * order + 1
    assert (
        best_order(1.0, 1e-5, dpa.NonPrivateDpEvent())
        == best_order(1.0, 1e-5, dpa.NoOpDpEvent())
        == best_order(1, 1e-5)
    )
    with pytest.raises(Refusal):
        best_order(1.0, 1e-5, dpa.LaplaceDpEvent(1.0))
