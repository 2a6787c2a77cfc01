"""Calibrated noise spends what was allowed: no more, and hardly less."""

from __future__ import annotations

import math

import dp_accounting as dpa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.errors import ConfigError
from fedsus.privacy.accounting import SMALLEST_NOISE, dp_sgd_event, epsilon
from fedsus.privacy.calibration import calibrate


def spends(noise: float, delta: float, rate: float, steps: int) -> float:
    return epsilon(dp_sgd_event(noise, rate, steps), delta)


@pytest.mark.parametrize(
    ("target", "delta", "rate", "steps"),
    [
        (8.0, 1e-5, 0.1, 330),
        (3.0, 1e-5, 0.1, 330),
        (1.0, 1e-5, 0.01, 10_000),
        (0.1, 1e-5, 0.2, 30),
        (50.0, 1e-3, 0.5, 100),
    ],
)
def test_spends_at_most_epsilon_and_hardly_less(target: float, delta: float, rate: float, steps: int) -> None:
    noise = calibrate(target, delta, rate, steps)
    assert spends(noise, delta, rate, steps) <= target
    assert spends(noise * (1 - 1.5e-4), delta, rate, steps) > target


@settings(max_examples=4, deadline=None)
@given(target=st.floats(0.5, 20), log_rate=st.floats(-2, 0), steps=st.integers(1, 300))
def test_never_overspends(target: float, log_rate: float, steps: int) -> None:
    rate = 10**log_rate
    assert spends(calibrate(target, 1e-5, rate, steps), 1e-5, rate, steps) <= target


@pytest.mark.parametrize("target", [0.5, 1.0, 8.0])
@pytest.mark.parametrize("steps", [1, 100])
def test_matches_the_closed_form_without_sampling(target: float, steps: int) -> None:
    exact = dpa.get_sigma_gaussian(target, 1e-5) * math.sqrt(steps)
    assert exact * (1 - 1e-6) <= calibrate(target, 1e-5, 1.0, steps) <= exact * 1.002


def test_needs_less_noise_than_renyi_accounting() -> None:
    def make(noise: float) -> dpa.DpEvent:
        return dp_sgd_event(noise, 0.1, 330)

    renyi = dpa.calibrate_dp_mechanism(
        dpa.rdp.RdpAccountant, make, 8.0, 1e-5, dpa.ExplicitBracketInterval(0.5, 10.0), tol=1e-4
    )
    assert calibrate(8.0, 1e-5, 0.1, 330) < renyi


def test_monotone_in_every_argument() -> None:
    base = calibrate(8.0, 1e-5, 0.1, 330)
    assert calibrate(3.0, 1e-5, 0.1, 330) > base
    assert calibrate(8.0, 1e-6, 0.1, 330) > base
    assert calibrate(8.0, 1e-5, 0.2, 330) > base
    assert calibrate(8.0, 1e-5, 0.1, 660) > base


def test_generous_epsilon_ends_at_the_floor() -> None:
    assert calibrate(1000.0, 0.05, 0.1, 1) == SMALLEST_NOISE


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_unreachable_is_one_clear_line(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"epsilon = 1e-05 .* more epsilon or fewer rounds") as caught:
        calibrate(1e-5, 1e-9, rate, 100_000)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ((0.0, 1e-5, 0.1, 10), "epsilon"),
        ((math.inf, 1e-5, 0.1, 10), "epsilon"),
        ((math.nan, 1e-5, 0.1, 10), "epsilon"),
        ((1.0, 0.0, 0.1, 10), "delta"),
        ((1.0, 1.0, 0.1, 10), "delta"),
        ((1.0, 1e-5, 0.0, 10), "sampling_rate"),
        ((1.0, 1e-5, 1.1, 10), "sampling_rate"),
        ((1.0, 1e-5, 0.1, 0), "steps"),
    ],
)
def test_arguments_out_of_range(arguments: tuple[float, float, float, int], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        calibrate(*arguments)
