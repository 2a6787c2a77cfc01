"""Several rows of one person: bounds against what is computed by integration and by sums, in both directions."""

import itertools
import math
from functools import cache

import dp_accounting as dpa
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from scipy.special import ive, logsumexp
from scipy.stats import binom

from fedsus.errors import Refusal
from fedsus.owner import filters
from fedsus.privacy import groups
from fedsus.privacy.accounting import dp_sgd_event, epsilon, epsilon_rdp
from fedsus.privacy.events import SampledRowsDpEvent, SkellamDpEvent, from_json, to_json
from fedsus.privacy.rdp import rdp

HEART = (1.78699, 0.1, 120)
"""z, q and batches of a run of epsilon 3 at delta 1e-5."""
CASES = [(0.1, 3, 1.787), (0.02, 2, 0.8), (0.5, 4, 3.0), (0.9, 2, 2.0), (1e-6, 5, 1.0)]
SKELLAM = [(0.1, (2, 2, 2), 9.0), (0.3, (1, 1), 1.0), (0.3, (3, -3, 2, 3), 60.0), (0.05, (1, -1, 1, 1, 1), 400.0)]


def gaussian(rate, rows, noise):
    return SampledRowsDpEvent(rate, rows, dpa.GaussianDpEvent(noise))


def one(event, order):
    return float(rdp(event, (order,))[0])


@cache
def densities(rate, rows, noise):
    """Logarithms on a fine grid, written out: without the person, and with; and the grid's step."""
    at = np.linspace(-14 * noise, 14 * noise + 12 * rows, 20_001)
    normal = [-((at - k) ** 2) / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi)) for k in range(rows + 1)]
    chances = [math.comb(rows, k) * rate**k * (1 - rate) ** (rows - k) for k in range(rows + 1)]
    return normal[0], logsumexp(normal, axis=0, b=np.array(chances)[:, None]), at[1] - at[0]


def divergence(log_p, log_q, order, step=1.0):
    terms = order * log_p + (1 - order) * log_q
    assert max(terms[0], terms[-1]) < terms.max() - 40
    return float(logsumexp(terms) + math.log(step)) / (order - 1)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("order", [2, 5, 9])
def test_gaussian_noise_is_as_integration_finds_it(case, order):
    without, there, step = densities(*case)
    bound = one(gaussian(*case), order)
    exact = divergence(there, without, order, step)
    assert exact <= bound + 1e-11
    assert bound == pytest.approx(exact, rel=1e-6, abs=1e-11)
    assert divergence(without, there, order, step) <= bound + 1e-11


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_the_losses_are_as_integration_finds_them(case):
    """Hockey-stick divergence of one release, in either direction."""
    rate, rows, noise = case
    without, there, step = densities(*case)
    found = groups.losses(rate, rows, noise, 1e-3)
    for at in (-0.3, 0.0, 0.2, 0.7, 1.5, 3.0):
        both = ((there, without), (without, there))
        exact = max(float(np.maximum(np.exp(p) - math.exp(at) * np.exp(q), 0).sum() * step) for p, q in both)
        said = found.get_delta_for_epsilon(at)
        assert exact - 1e-6 <= said <= 1.01 * exact + 1e-6


def test_the_losses_are_those_of_dp_accounting():
    noise, rate, steps = HEART
    chances = tuple(binom.pmf(range(4), 3, rate))
    event = dpa.dp_event.MixtureOfGaussiansDpEvent(noise, (0.0, 1.0, 2.0, 3.0), chances)
    accountant = PLDAccountant(value_discretization_interval=1e-2)
    accountant.compose(dpa.SelfComposedDpEvent(event, steps))
    ours = groups.losses(rate, 3, noise, 1e-2).self_compose(steps).get_epsilon_for_delta(1e-5)
    assert ours == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-6)


def by_old_rule(rows):
    """As of one row that moves so many times as far, drawn as often as any of them."""
    noise, rate, steps = HEART
    return dp_sgd_event(noise / rows, 1 - (1 - rate) ** rows, steps)


def by_group_privacy(rows, delta=1e-5):
    """Of r rows, where one is (e, d)-DP: (r e, d (exp(r e) - 1) / (exp(e) - 1))."""
    accountant = PLDAccountant(value_discretization_interval=1e-2)
    accountant.compose(dp_sgd_event(*HEART))
    tried = np.linspace(1.0, 7.0, 121)
    return min(rows * e for e in tried if accountant.get_delta(e) * math.expm1(rows * e) <= delta * math.expm1(e))


@pytest.mark.parametrize(("rows", "expected"), [(2, 6.715), (3, 10.980)])
def test_it_is_below_both_older_bounds(rows, expected):
    event = dp_sgd_event(*HEART, rows)
    found = epsilon(event, 1e-5)
    assert found == pytest.approx(expected, abs=2e-3)
    assert epsilon(dp_sgd_event(*HEART), 1e-5) < found < by_group_privacy(rows) < epsilon(by_old_rule(rows), 1e-5)
    assert found < epsilon_rdp(event, 1e-5) < epsilon_rdp(by_old_rule(rows), 1e-5)


@pytest.mark.parametrize("control", [gaussian(0.1, 2, 1.787), gaussian(0.2 / 3, 3, 1.787), gaussian(0.1, 3, 2.68)])
def test_less_than_it_would_be_none(control):
    without, there, step = densities(*CASES[0])
    assert divergence(there, without, 3, step) > 1.1 * one(control, 3)


def skellam(rate, moves, variance):
    most = max(map(abs, moves))
    return SampledRowsDpEvent(rate, len(moves), SkellamDpEvent(float(most), float(most), variance))


def masses(rate, moves, variance, most=600):
    """Logarithms at integers: without the person, and with each subset of its rows."""
    at = np.arange(-most, most + 1)
    with np.errstate(divide="ignore"):
        noise = {by: np.log(ive(np.abs(at - by), variance)) for by in range(-20, 21)}
    parts = [
        (sum(itertools.compress(moves, drawn)), rate ** sum(drawn) * (1 - rate) ** (len(moves) - sum(drawn)))
        for drawn in itertools.product((0, 1), repeat=len(moves))
    ]
    there = logsumexp([noise[by] for by, _ in parts], axis=0, b=np.array([chance for _, chance in parts])[:, None])
    seen = np.all([np.isfinite(one) for one in noise.values()], axis=0)
    return noise[0][seen], there[seen]


@pytest.mark.parametrize("case", SKELLAM, ids=str)
def test_skellam_noise_is_bounded_in_both_directions(case):
    without, there = masses(*case)
    for order in (2, 3, 4, 6):
        bound = one(skellam(*case), order)
        assert divergence(there, without, order) <= bound
        assert divergence(without, there, order) <= bound


def test_less_than_the_bound_on_skellam_noise_would_be_none():
    rate, moves, variance = 0.1, (2, 2, 2), 100.0
    without, there = masses(rate, moves, variance)
    exact = divergence(there, without, 2)
    assert exact <= one(skellam(rate, moves, variance), 2) < 1.3 * exact
    assert exact > one(skellam(rate * 2 / 3, moves, variance), 2)
    assert exact > one(skellam(rate, moves, 1.5 * variance), 2)
    assert exact > one(skellam(rate, moves[1:], variance), 2)


@pytest.mark.parametrize("rows", [2, 3, 7])
@pytest.mark.parametrize("rate", [1e-4, 0.1, 0.8])
def test_no_bound_is_above_the_older_one(rate, rows):
    orders, any_of = range(2, 65), -math.expm1(rows * math.log1p(-rate))
    for release, moved in (
        (dpa.GaussianDpEvent(2.0), dpa.GaussianDpEvent(2.0 / rows)),
        (SkellamDpEvent(40.0, 10.0, 500.0), SkellamDpEvent(40.0 * rows, 10.0 * rows, 500.0)),
    ):
        found = rdp(SampledRowsDpEvent(rate, rows, release), orders)
        older = rdp(dpa.PoissonSampledDpEvent(any_of, moved), orders)
        single = rdp(dpa.PoissonSampledDpEvent(rate, release), orders)
        assert (found <= older * (1 + 1e-9) + 1e-11).all()
        assert (found >= single).all()


def test_of_many_rows_numbers_are_rounded_up_by_less_than_a_sixteenth(monkeypatch):
    for rows in (2, 32, 33, 1000, 1_000_000):
        size, chance = groups.sizes(0.01, rows)
        assert size[0] == 0 and size[-1] == rows and (rows > 32 or size.size == rows + 1) and size.size < 220
        assert (np.diff(size)[1:] <= np.maximum(size[1:-1] / 16, 1)).all()
        assert math.fsum(np.exp(chance)) == pytest.approx(1, abs=1e-12)
    releases = dpa.GaussianDpEvent(8.0), SkellamDpEvent(9.0, 3.0, 600.0)
    exact, rounded = ([], [])
    for part, found in ((groups.FINEST, exact), (3, rounded)):
        monkeypatch.setattr(groups, "FINEST", part)
        found += [rdp(SampledRowsDpEvent(0.05, 20, release), (2, 4)) for release in releases]
    assert all((one < two).all() for one, two in zip(exact, rounded, strict=True))


def test_a_row_more_costs_a_little_more_also_where_numbers_are_rounded():
    """Were all numbers rounded up to multiples, 33 rows would cost twice as much as 32, and 1,000 far more."""
    before, after = (epsilon(dp_sgd_event(3.0, 0.01, 7, rows), 1e-5) for rows in (32, 33))
    assert before < after < 1.05 * before
    assert epsilon(dp_sgd_event(20.0, 0.001, 200, 1000), 1e-5) == pytest.approx(2.968, abs=2e-3)


def test_more_rows_spend_more_and_extremes_are_numbers():
    found = [epsilon_rdp(dp_sgd_event(5.0, 0.01, 50, rows), 1e-5) for rows in (1, 2, 40)]
    assert found == sorted(found) and len(set(found)) == len(found)
    for event in (gaussian(1e-12, 2, 0.1), gaussian(0.5, 1_000_000, 5.0), gaussian(1 - 1e-12, 50, 0.1)):
        assert all(value > 0 for value in rdp(event, (2, 8)))
    assert epsilon(dpa.SelfComposedDpEvent(gaussian(0.5, 1_000_000, 1.0), 10), 1e-5) == math.inf
    assert epsilon_rdp(gaussian(0.5, 2, 5e-324), 1e-5) == rdp(gaussian(1e-9, 40, 5e-324), (3,))[0] == math.inf
    assert rdp(dpa.SelfComposedDpEvent(SkellamDpEvent(1e150, 1e150, 1.0), 10**9), (2,))[0] == math.inf
    for event in (gaussian(0.5, 2, 1e200), dpa.PoissonSampledDpEvent(0.5, dpa.GaussianDpEvent(1e200))):
        with pytest.raises(Refusal, match="cannot be computed"):
            epsilon(event, 1e-5)
    assert rdp(gaussian(0.0, 3, 1.0), (2,)).tolist() == [0.0]
    whole = rdp(gaussian(1.0, 3, 1.5), (2, 5))
    assert (whole == rdp(dpa.GaussianDpEvent(0.5), (2, 5))).all()


@pytest.mark.parametrize(
    ("rate", "rows", "noise"), [(1e-9, 2, 1000.0), (1e-9, 5, 100.0), (1e-7, 3, 300.0), (0.9, 3, 1e5)]
)
def test_small_divergences_are_not_rounded_down(rate, rows, noise):
    """D_2 in closed form, of two draws of how many rows; 1 and less than 1e-20 do not add up in floating point."""
    bound = one(gaussian(rate, rows, noise), 2)
    k = np.arange(1.0, rows + 1)
    chance = binom.pmf(k, rows, rate)
    exact = float(np.log1p(chance @ np.expm1(np.outer(k, k) / noise**2) @ chance))
    assert exact <= bound * (1 + 1e-9)
    assert rate > 0.5 or bound <= 1.2 * exact


@pytest.mark.parametrize("rate", [1e-9, 1e-6])
def test_a_row_more_is_never_cheaper_however_little_is_spent(rate):
    release = SkellamDpEvent(40.0, 10.0, 2000.0)
    found = [rdp(SampledRowsDpEvent(rate, rows, release), (2, 16, 64)) for rows in (2, 31, 32)]
    assert all((fewer < more).all() for fewer, more in itertools.pairwise(found))


def test_losses_that_take_too_long_are_accounted_for_by_renyi_divergence(monkeypatch):
    """An upper bound all the same, and no refusal."""
    monkeypatch.setattr(groups, "_MOST_LOSSES", 10)
    event = dp_sgd_event(3.0, 0.02, 7, 2)
    assert groups.losses(0.02, 2, 3.0, 1e-2) is None
    assert epsilon(event, 1e-5) == epsilon_rdp(event, 1e-5)


def test_parts_of_one_person_and_of_one_row_add_up():
    single, several = dp_sgd_event(2.0, 0.1, 10), dp_sgd_event(2.0, 0.1, 10, 2)
    both = epsilon(dpa.ComposedDpEvent([single, several, dpa.GaussianDpEvent(3.0)]), 1e-5)
    assert max(epsilon(single, 1e-5), epsilon(several, 1e-5)) < both < epsilon(dp_sgd_event(2.0, 0.1, 20, 2), 1e-5) + 2


def test_the_text_says_rate_rows_and_the_release_of_one():
    event = dp_sgd_event(1.5, 0.1, 20, 3)
    text = (
        '{"count":20,"event":{"event":{"kind":"gaussian","noise_multiplier":1.5},"kind":"sampled_rows","rate":0.1,'
        '"rows":3},"kind":"self_composed"}'
    )
    assert to_json(event) == text and from_json(text) == event
    assert dp_sgd_event(1.5, 0.1, 20, 1) == dp_sgd_event(1.5, 0.1, 20)
    assert dp_sgd_event(1.5, 1.0, 20, 3) == dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(0.5), 20)


@pytest.mark.parametrize("rows", [1, 0, -3, 2.0, True, 1_000_001, "3", None])
def test_rows_that_are_none_are_refused(rows):
    """One row has a text already, and equal events have equal texts."""
    with pytest.raises(Refusal, match=r"rows of one person: expected an integer from 2 to 1000000"):
        to_json(gaussian(0.1, rows, 1.0))


def test_old_texts_mean_what_they_meant_and_add_to_new_ones():
    old = to_json(dp_sgd_event(0.5, 0.271, 10))
    new = to_json(dp_sgd_event(1.5, 0.1, 10, 3))
    apart = [filters.divergence({text: 1}, 3) for text in (old, new)]
    assert apart[1] < apart[0] == pytest.approx(10 * one(dpa.PoissonSampledDpEvent(0.271, dpa.GaussianDpEvent(0.5)), 3))
    assert filters.divergence({old: 2, new: 5}, 3) == pytest.approx(2 * apart[0] + 5 * apart[1])
