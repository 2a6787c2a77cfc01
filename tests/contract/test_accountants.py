"""What every accountant promises. A new one adds a row: its name, how to ask it, and the releases that it knows."""

import itertools
import math

import dp_accounting as dpa
import pytest
from dp_accounting.rdp import RdpAccountant

from fedsus.errors import Refusal
from fedsus.privacy import rdp
from fedsus.privacy.accounting import epsilon, epsilon_rdp
from fedsus.privacy.events import SkellamDpEvent, from_json, to_json


def gaussian(noise=1.5, rate=1.0, steps=10):
    return dpa.SelfComposedDpEvent(sampled(dpa.GaussianDpEvent(noise), rate), steps)


def skellam(noise=1.5, rate=1.0, steps=10, step=64):
    """Vectors of 16 coordinates and at most ``step`` long; noise of ``noise * step``."""
    return dpa.SelfComposedDpEvent(sampled(SkellamDpEvent(4.0 * step, step, (noise * step) ** 2), rate), steps)


def mixed(noise=1.5, rate=1.0, steps=10):
    parts = [gaussian(noise, rate, steps), skellam(2 * noise, rate, steps), gaussian(5.0, 1.0, steps)]
    return dpa.ComposedDpEvent(parts)


def sampled(event, rate):
    return event if rate == 1 else dpa.PoissonSampledDpEvent(rate, event)


ROWS = {
    "tightest, Gaussian": (epsilon, gaussian),
    "tightest, Skellam": (epsilon, skellam),
    "tightest, mixed": (epsilon, mixed),
    "Renyi, Gaussian": (epsilon_rdp, gaussian),
    "Renyi, Skellam": (epsilon_rdp, skellam),
    "Renyi, mixed": (epsilon_rdp, mixed),
}
RATES = (0.3, 1.0)


@pytest.fixture(params=ROWS)
def row(request):
    return ROWS[request.param]


@pytest.fixture(params=[epsilon, epsilon_rdp], ids=["tightest", "Renyi"])
def accountant(request):
    return request.param


@pytest.mark.parametrize("rate", RATES)
def test_more_of_anything_spends_more(row, rate):
    spent, release = row
    base = spent(release(rate=rate), 1e-5)
    assert 0 < base < math.inf
    assert base < spent(release(rate=rate, steps=12), 1e-5)
    assert base < spent(release(rate=rate, noise=1.4), 1e-5)
    assert base < spent(release(rate=rate), 1e-6)
    assert base > spent(release(rate=0.9 * rate), 1e-5)


def test_the_rate_of_sampling_is_continuous_at_one(row):
    spent, release = row
    assert spent(release(rate=1 - 1e-9), 1e-5) == pytest.approx(spent(release(), 1e-5), rel=3e-3)


@pytest.mark.parametrize("rate", RATES)
def test_how_releases_are_nested_and_ordered_is_all_the_same(row, rate):
    spent, release = row
    parts = [release(rate=rate, steps=2), release(rate=rate, steps=3), gaussian(7.0, 0.5, 1), dpa.NoOpDpEvent()]
    whole = spent(dpa.ComposedDpEvent(parts), 1e-5)
    assert spent(dpa.ComposedDpEvent(parts[::-1]), 1e-5) == whole
    assert spent(dpa.ComposedDpEvent([dpa.ComposedDpEvent(parts[:2]), dpa.ComposedDpEvent(parts[2:])]), 1e-5) == whole
    assert spent(dpa.ComposedDpEvent([release(rate=rate, steps=5), parts[2]]), 1e-5) == whole


def test_what_a_ledger_holds_spends_the_same(row):
    spent, release = row
    event = release(rate=0.05)
    assert spent(from_json(to_json(event)), 1e-5) == spent(event, 1e-5)


def test_no_release_spends_nothing(row):
    spent, release = row
    for event in (
        release(steps=0),
        dpa.NoOpDpEvent(),
        dpa.ComposedDpEvent([]),
        dpa.SelfComposedDpEvent(dpa.NonPrivateDpEvent(), 0),
        dpa.PoissonSampledDpEvent(0.0, dpa.GaussianDpEvent(0.0)),
    ):
        assert spent(event, 1e-5) == 0


def test_a_release_without_noise_spends_infinity(row):
    spent, release = row
    for bare in (dpa.NonPrivateDpEvent(), dpa.GaussianDpEvent(0.0)):
        assert spent(dpa.ComposedDpEvent([release(), bare]), 1e-5) == math.inf


@pytest.mark.parametrize("rate", [0.5, 1.0])
@pytest.mark.parametrize("steps", [10**11, 2**53])
def test_an_absurd_plan_costs_no_time(row, rate, steps):
    spent, release = row
    assert spent(release(noise=0.1, rate=rate, steps=steps), 1e-5) > 1e6


@pytest.mark.parametrize(
    "event",
    [
        "not an event",
        None,
        dpa.UnsupportedDpEvent(),
        dpa.LaplaceDpEvent(1.0),
        dpa.ZCDpEvent(0.1),
        dpa.SampledWithoutReplacementDpEvent(100, 10, dpa.GaussianDpEvent(1.0)),
        dpa.PoissonSampledDpEvent(0.1, dpa.NonPrivateDpEvent()),
        dpa.PoissonSampledDpEvent(0.1, gaussian()),
        dpa.PoissonSampledDpEvent(1.5, dpa.GaussianDpEvent(1.0)),
        dpa.PoissonSampledDpEvent(math.nan, SkellamDpEvent(4.0, 2.0, 9.0)),
        dpa.PoissonSampledDpEvent(0.0, dpa.LaplaceDpEvent(1.0)),
        dpa.GaussianDpEvent(-1.0),
        dpa.GaussianDpEvent(math.nan),
        dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(1.0), -1),
        dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(1.0), 2.0),
        dpa.SelfComposedDpEvent(gaussian(), 2**53),
        dpa.SelfComposedDpEvent(dpa.LaplaceDpEvent(1.0), 0),
        SkellamDpEvent(2.0, 4.0, 9.0),
        SkellamDpEvent(4.0, 2.0, 0.0),
        SkellamDpEvent(4.0, 2.0, math.nan),
        SkellamDpEvent(-4.0, -2.0, 9.0),
        SkellamDpEvent(math.inf, 2.0, 9.0),
    ],
    ids=str,
)
def test_what_is_unknown_or_out_of_range_is_refused(accountant, event):
    for whole in (event, dpa.ComposedDpEvent([gaussian(), event]), dpa.ComposedDpEvent([skellam(), event])):
        with pytest.raises(Refusal):
            accountant(whole, 1e-5)


@pytest.mark.parametrize("delta", [0.0, -1e-5, 1.0, 2.0, math.nan])
def test_delta_out_of_range_is_refused(row, delta):
    spent, release = row
    with pytest.raises(Refusal, match="delta"):
        spent(release(), delta)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("noise", [0.8, 4.0])
def test_renyi_accounting_is_the_looser_one(noise, rate):
    for event in (gaussian(noise, rate, 100), dpa.ComposedDpEvent([gaussian(noise, rate, 50), gaussian(3.0, 0.5, 5)])):
        tight, loose = epsilon(event, 1e-5), epsilon_rdp(event, 1e-5)
        assert tight <= loose <= 1.3 * tight


@pytest.mark.parametrize("accounted", [epsilon, epsilon_rdp], ids=["tightest", "Renyi"])
@pytest.mark.parametrize("noise", [0.7, 2.0, 30.0])
def test_both_against_the_closed_form(accounted, noise):
    """A sampling rate next to 1 makes the first one compute by distributions what it knows in closed form."""
    exact = dpa.get_epsilon_gaussian(noise / math.sqrt(10), 1e-5)
    found = accounted(gaussian(noise, 1 - 1e-9, 10), 1e-5)
    assert exact * (1 - 1e-6) <= found <= exact * (1.002 if accounted is epsilon else 1.25)


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("noise", [0.5, 2.0, 20.0])
def test_renyi_accounting_agrees_with_dp_accounting(noise, rate):
    event = gaussian(noise, rate, 200)
    theirs = RdpAccountant(list(rdp.ORDERS)).compose(event).get_epsilon(1e-5)
    assert epsilon_rdp(event, 1e-5) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("rate", RATES)
def test_finer_skellam_noise_tends_to_a_gaussian_from_above(rate):
    """Steps so small that the integers are all but continuous."""
    limit = epsilon_rdp(gaussian(rate=rate), 1e-5)
    excess = [epsilon(skellam(rate=rate, step=step), 1e-5) / limit - 1 for step in (4, 16, 64, 256, 2**20)]
    assert all(coarse > fine > 0 for coarse, fine in itertools.pairwise(excess))
    assert excess[0] > 0.01
    assert excess[-1] < 1e-9
