"""From what a run asks to the privacy part of its plans: noise, scale and bits, computed once when the run opens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from fedsus.errors import ConfigError
from fedsus.privacy.calibration import LARGEST_NOISE
from fedsus.privacy.sensitivity import client_metrics, padded
from fedsus.protection import (
    MOST_VARIANCE,
    Adaptive,
    Banded,
    ClientCentral,
    ClientDistributed,
    ExampleDistributed,
    ExamplePrivacy,
    NoPrivacy,
    Shares,
)
from fedsus.rounds.secure import numbers
from fedsus.secagg import thresholds

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedsus.config import PrivacyConfig, RunConfig
    from fedsus.protection import Distributed, Privacy, Private
    from fedsus.secagg.roster import Roster

_ROOM: Final = 4.0
"""Standard deviations of a sum, had all moved the same way, that fit into the range: K of PRIVACY's formula."""

_FEWEST_BITS: Final = 16


def calibrated(config: RunConfig, dimension: int, roster: Roster | None, spends: Callable[[Privacy], float]) -> Privacy:
    """The plan's privacy part, with the least noise that keeps the run within its epsilon.

    Args:
        dimension: parameters of the model.
        roster: for a secure sum.
        spends: what the whole run spends with a privacy part, against the adversary that its epsilon is for.

    Raises:
        ConfigError: no noise reaches the asked epsilon, or the training does not fit the unit.
    """
    asked = config.plan.privacy
    if asked.unit == "none" or asked.epsilon is None or asked.delta is None:
        return NoPrivacy()
    if (asked.unit, asked.where) == ("example", "local"):
        return _local(config, asked, asked.epsilon, asked.delta)
    from fedsus.privacy.calibration import smallest_noise

    made, largest = _maker(config, dimension, roster)
    try:
        noise = smallest_noise(asked.epsilon, lambda multiplier: spends(made(multiplier)), largest)
    except ConfigError as error:
        raise ConfigError(f"plan.privacy: {error}") from None
    return made(noise)


def _local(config: RunConfig, asked: PrivacyConfig, epsilon: float, delta: float) -> ExamplePrivacy:
    from fedsus.privacy.calibration import calibrate

    steps = round(config.plan.training.local_epochs / asked.sampling_rate)
    total = steps * (config.plan.rounds + config.plan.spares)
    return ExamplePrivacy(
        epsilon=epsilon,
        delta=delta,
        clip=asked.clip,
        sampling_rate=asked.sampling_rate,
        steps=steps,
        denominator=_given(asked.denominator, "denominator"),
        noise_multiplier=calibrate(epsilon, delta, asked.sampling_rate, total),
    )


def _maker(config: RunConfig, dimension: int, roster: Roster | None) -> tuple[Callable[[float], Private], float]:
    """The privacy part as a function of the noise multiplier, and the largest that it takes."""
    asked = config.plan.privacy
    if asked.where == "central":
        return (lambda multiplier: _central(config, multiplier)), LARGEST_NOISE / 2
    colluders, survivors = noise_floor(config, roster)
    if asked.unit == "example":
        _one_step(config)

    def made(multiplier: float) -> Distributed:
        return _distributed(config, dimension, colluders, survivors, multiplier)

    shares = made(1.0).shares
    most = max(shares.variance, shares.metrics or 0.0)
    return made, min(LARGEST_NOISE, 0.999 * math.sqrt(MOST_VARIANCE / most))


def noise_floor(config: RunConfig, roster: Roster | None) -> tuple[int, int]:
    """A, and the least clients whose shares are in a sum that is opened.

    Raises:
        ConfigError: the sum is in clear and nobody said how many clients may collude.
    """
    asked = config.plan
    if asked.exchange == "secure_sum":
        found = numbers(asked, roster)
        least = thresholds.floor(asked.cohort.size, found.colluders, found.dropouts, asked.cohort.minimum)
        return found.colluders, least
    if asked.secure_sum.colluders is None:
        raise ConfigError(
            f"plan.exchange = 'clear_sum': placement '{asked.privacy.where}' hides each update in a secure sum; "
            "ask for exchange = 'secure_sum', or placement = 'local'"
        )
    return asked.secure_sum.colluders, asked.cohort.minimum


def _distributed(
    config: RunConfig, dimension: int, colluders: int, survivors: int, multiplier: float
) -> ExampleDistributed | ClientDistributed:
    asked = config.plan.privacy
    epsilon, delta = _given(asked.epsilon, "epsilon"), _given(asked.delta, "delta")
    size, honest = padded(dimension), survivors - colluders
    if honest < 1:
        raise ConfigError(
            f"plan.cohort: {survivors} survivors of which {colluders} may collude leave nobody's noise; "
            "raise cohort.minimum or ask for fewer colluders"
        )
    share = asked.metrics_share if config.plan.metrics else None
    scale = asked.granularity * math.sqrt(size) / asked.clip
    variance = (scale * asked.clip * multiplier) ** 2 / (1 - (share or 0)) / honest
    metrics = None
    if share is not None:
        metrics = (client_metrics(len(config.plan.metrics)).l2 * multiplier) ** 2 / share / honest
    shares = Shares(
        scale=scale,
        variance=variance,
        bits=asked.bits or _bits(config, size, variance, metrics),
        colluders=colluders,
        survivors=survivors,
        metrics=metrics,
    )
    if asked.unit == "example":
        return ExampleDistributed(
            epsilon=epsilon,
            delta=delta,
            clip=asked.clip,
            sampling_rate=asked.sampling_rate,
            denominator=_given(asked.denominator, "denominator"),
            shares=shares,
        )
    return ClientDistributed(
        epsilon=epsilon, delta=delta, clip=asked.clip, full_weight=asked.full_weight, shares=shares
    )


def _bits(config: RunConfig, size: int, variance: float, metrics: float | None) -> int:
    """Bits for `_ROOM` deviations of one coordinate of a sum in which all vectors point the same way.

    Rotated, a vector of length L has coordinates of standard deviation L / sqrt(size). The metrics' sums are sure.
    """
    from fedsus.privacy.sensitivity import METRIC_STEPS

    asked, clients = config.plan.privacy, config.plan.cohort.size
    together = clients if asked.unit == "client" else _given(asked.denominator, "denominator")
    deviation = math.sqrt((asked.granularity * together) ** 2 + clients / 4 + variance * clients)
    bits = max(_FEWEST_BITS, math.ceil(math.log2(2 * _ROOM * deviation)))
    if metrics is not None:
        told = clients * METRIC_STEPS + 2 * 2 * _ROOM * math.sqrt(metrics * clients)
        bits = max(bits, math.ceil(math.log2(told)))
    if bits > 32:
        raise ConfigError(
            f"plan.privacy: sums need {bits} bits, 32 are there; lower granularity = {asked.granularity:g}, "
            "or ask fewer clients"
        )
    return bits


def _central(config: RunConfig, multiplier: float) -> ClientCentral:
    asked = config.plan.privacy
    share = asked.metrics_share if config.plan.metrics else None
    adaptive, banded = None, None
    if asked.adaptive is not None:
        given = asked.adaptive
        adaptive = Adaptive(
            quantile=given.quantile,
            learning_rate=given.learning_rate,
            noise=given.noise or max(config.plan.cohort.size / 20, 1e-3),
        )
    if asked.bands is not None:
        banded = Banded(bands=asked.bands, participations=math.ceil(config.plan.rounds / asked.bands))
    return ClientCentral(
        epsilon=_given(asked.epsilon, "epsilon"),
        delta=_given(asked.delta, "delta"),
        clip=asked.clip,
        full_weight=asked.full_weight,
        noise_multiplier=multiplier / math.sqrt(1 - (share or 0)),
        metrics=None if share is None else multiplier / math.sqrt(share),
        adaptive=adaptive,
        banded=banded,
    )


def _one_step(config: RunConfig) -> None:
    """Refuse training that is more than one plain gradient step."""
    training, strategy = config.plan.training, config.plan.strategy.name
    for name, found, expected in (
        ("local_epochs", training.local_epochs, 1),
        ("optimizer.name", training.optimizer.name, "sgd"),
        ("optimizer.momentum", training.optimizer.momentum, 0.0),
        ("optimizer.weight_decay", training.optimizer.weight_decay, 0.0),
        ("proximal", training.proximal, 0.0),
        ("gradient_clip", training.gradient_clip, None),
    ):
        if found != expected:
            raise ConfigError(
                f"plan.training.{name} = {found}: the example unit distributed takes one plain gradient step a round; "
                f"leave it at {expected}, and give momentum to the strategy (now '{strategy}')"
            )


def _given(value: float | None, name: str) -> float:
    """What configuration has checked to be there."""
    if value is None:
        raise ConfigError(f"plan.privacy: needs '{name}'")
    return value
