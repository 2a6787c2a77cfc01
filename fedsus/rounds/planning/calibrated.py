"""From what a run asks to the privacy part of its plans: noise, scale and bits, computed once when the run opens."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final

from fedsus.errors import ConfigError, Refusal
from fedsus.privacy.accounting import SMALLEST_NOISE
from fedsus.privacy.calibration import LARGEST_LOCAL, LARGEST_NOISE, smallest_noise
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
from fedsus.rounds.planning import demands
from fedsus.rounds.planning.families import Family, impossible
from fedsus.rounds.planning.told_noise import share_of_examples
from fedsus.rounds.planning.width import MOST_BITS, bits_of
from fedsus.rounds.planning.withstood import numbers
from fedsus.secagg import thresholds

if TYPE_CHECKING:
    from fedsus.config import RunConfig
    from fedsus.protection import Distributed, Privacy, Private
    from fedsus.rounds.planning.families import Spends
    from fedsus.secagg.roster import Roster

_MOST_STEPS: Final = 1_000_000
_LARGEST_SCALE: Final = 1e15
_COUNT_SHARE: Final = 0.1
"""Of the budget, at most, for how many are below an adaptive bound."""


def calibrated(config: RunConfig, dimension: int, roster: Roster | int | None, spends: Spends) -> Privacy:
    """The plan's privacy part, with the least noise that keeps the run within its epsilon.

    Args:
        dimension: parameters of the model.
        roster: for a secure sum; or how many members it is going to have.
        spends: what so many attempts spend with a privacy part, against the adversary that its epsilon is for.

    Raises:
        ConfigError: no noise reaches the asked epsilon: says which epsilon, and how many rounds, would be; or the run
            does not fit unit and placement.
    """
    asked = config.plan.privacy
    if asked.unit == "none" or asked.epsilon is None or asked.delta is None:
        return NoPrivacy()
    demands.check(config, roster if roster is None or isinstance(roster, int) else len(roster.members))
    dimension = config.plan.encoding.coordinates(dimension)  # noise is added to what is sent
    attempts = config.plan.rounds + config.plan.spares
    try:
        family = _family(config, dimension, roster)
        noise = smallest_noise(
            asked.epsilon, lambda multiplier: spends(family.of(multiplier), attempts), family.largest
        )
        if noise is None:
            raise ConfigError(impossible(config, family, spends, asked.epsilon))
    except Refusal as error:
        raise ConfigError(f"plan.privacy: {error}") from None
    return _with_bits(config, padded(dimension), family.of(noise))


def _family(config: RunConfig, dimension: int, roster: Roster | int | None) -> Family:
    asked = config.plan.privacy
    if asked.where == "local":
        return Family(lambda multiplier: _local(config, multiplier), LARGEST_LOCAL)
    if asked.where == "central":
        return _central_family(config)
    colluders, survivors = noise_floor(config, roster)
    honest = survivors - colluders
    if honest < 1:
        raise ConfigError(
            f"plan.cohort: {survivors} survivors of which {colluders} may collude leave nobody's noise; "
            "raise cohort.minimum or ask for fewer colluders"
        )
    scale = asked.granularity * math.sqrt(padded(dimension)) / asked.clip
    if scale > _LARGEST_SCALE:
        raise ConfigError(f"plan.privacy.clip = {asked.clip:g}: steps of {1 / scale:g} are too fine; expect more")
    return _shared_family(config, dimension, colluders, survivors)


def _shared_family(config: RunConfig, dimension: int, colluders: int, survivors: int) -> Family:
    asked, honest = config.plan.privacy, survivors - colluders
    told = _told(config, honest, _given(asked.epsilon, "epsilon"), config.plan.rounds + config.plan.spares)
    update, beside = _variances(config, padded(dimension), honest, 1.0, told)
    scaled = update if told is not None or beside is None else max(update, beside)
    largest = min(LARGEST_NOISE, 0.999 * math.sqrt(MOST_VARIANCE / scaled))
    hint = "" if largest == LARGEST_NOISE else f", a granularity below {asked.granularity:g}"
    if scaled > update and hint:
        hint = f", a metrics_share above {asked.metrics_share:g}"
    if largest < SMALLEST_NOISE:
        fits = asked.granularity * largest / SMALLEST_NOISE
        raise ConfigError(
            f"plan.privacy.granularity = {asked.granularity:g}: {honest} shares cannot carry noise for "
            f"{padded(dimension)} coordinates so fine; ask for at most {fits:.3g}"
        )
    of = partial(_distributed, config, dimension, colluders, survivors, told)
    if told is None:
        return Family(of, largest, hint)

    def most(epsilon: float, attempts: int) -> Private:
        return _distributed(config, dimension, colluders, survivors, _told(config, honest, epsilon, attempts), largest)

    return Family(of, largest, f"{hint}, a metrics_share below {asked.metrics_share:g}", most)


def _told(config: RunConfig, honest: int, epsilon: float, attempts: int) -> float | None:
    """Of one client's share of the noise of what is told, where it does not follow that of the update."""
    if config.plan.privacy.unit != "example":
        return None
    return share_of_examples(config.plan, honest, epsilon, attempts)


def _local(config: RunConfig, multiplier: float) -> ExamplePrivacy:
    asked, epochs = config.plan.privacy, config.plan.training.local_epochs
    steps = round(epochs / asked.sampling_rate)
    if steps > _MOST_STEPS:
        raise ConfigError(
            f"plan.privacy.sampling_rate = {asked.sampling_rate:g}: {steps} batches a round, at most {_MOST_STEPS} "
            f"are possible; ask for {epochs / _MOST_STEPS:g} or more"
        )
    return ExamplePrivacy(
        epsilon=_given(asked.epsilon, "epsilon"),
        delta=_given(asked.delta, "delta"),
        clip=asked.clip,
        sampling_rate=asked.sampling_rate,
        steps=steps,
        denominator=_given(asked.denominator, "denominator"),
        noise_multiplier=multiplier,
    )


def noise_floor(config: RunConfig, roster: Roster | int | None) -> tuple[int, int]:
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
        raise ConfigError(demands.in_clear(config))
    return asked.secure_sum.colluders, asked.cohort.minimum


def _variances(
    config: RunConfig, size: int, honest: int, multiplier: float, told: float | None = None
) -> tuple[float, float | None]:
    """Of one client's share of the noise: each coordinate of the update, each metric or cost; in steps squared.

    With the share of the budget that these have, both blocks together spend what one of noise ``multiplier`` would;
    where ``told`` says the second, ``multiplier`` is of the first alone.
    """
    asked = config.plan.privacy
    share = asked.metrics_share if config.plan.told and told is None else None
    variance = (asked.granularity * multiplier) ** 2 * size / (1 - (share or 0)) / honest
    if share is None:
        return variance, told
    return variance, (client_metrics(config.plan.told).l2 * multiplier) ** 2 / share / honest


def _distributed(
    config: RunConfig, dimension: int, colluders: int, survivors: int, told: float | None, multiplier: float
) -> Distributed:
    """With the most bits: epsilon does not depend on them."""
    asked, size = config.plan.privacy, padded(dimension)
    epsilon, delta = _given(asked.epsilon, "epsilon"), _given(asked.delta, "delta")
    variance, metrics = _variances(config, size, survivors - colluders, multiplier, told)
    shares = Shares(
        scale=asked.granularity * math.sqrt(size) / asked.clip,
        variance=variance,
        bits=MOST_BITS,
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


def _with_bits(config: RunConfig, size: int, privacy: Private) -> Private:
    """The same, with as many bits as its sums need."""
    if not isinstance(privacy, ExampleDistributed | ClientDistributed):
        return privacy
    shares = privacy.shares.model_copy(update={"bits": bits_of(config, size, privacy.shares)})
    return privacy.model_copy(update={"shares": shares})


def _central_family(config: RunConfig) -> Family:
    once, given = _central(config, 1.0), config.plan.privacy.adaptive
    fixed = None if given is None else given.noise
    hint = "" if fixed is None else f", more noise than adaptive.noise = {fixed:g}"
    largest = LARGEST_NOISE * (1 - 1e-9) / max(once.noise_multiplier, once.metrics or 0.0)
    return Family(lambda multiplier: _central(config, multiplier), largest, hint)


def _adaptive(config: RunConfig, multiplier: float) -> Adaptive | None:
    """Without a noise that is given, a twentieth of the cohort (Andrew et al. 2021), and more where that would spend
    over a tenth of the budget: one client moves the count by a half.
    """
    given = config.plan.privacy.adaptive
    if given is None:
        return None
    noise = given.noise or max(config.plan.cohort.size / 20, multiplier / math.sqrt(_COUNT_SHARE) / 2)
    return Adaptive(quantile=given.quantile, learning_rate=given.learning_rate, noise=noise)


def _central(config: RunConfig, multiplier: float) -> ClientCentral:
    """Noise that is correlated over rounds covers all rounds with one release of the updates, and not what is told."""
    asked = config.plan.privacy
    share = asked.metrics_share if config.plan.told else None
    banded, releases = None, 1
    if asked.bands is not None:
        releases = math.ceil(config.plan.rounds / asked.bands)
        banded = Banded(bands=asked.bands, participations=releases)
    return ClientCentral(
        epsilon=_given(asked.epsilon, "epsilon"),
        delta=_given(asked.delta, "delta"),
        clip=asked.clip,
        full_weight=asked.full_weight,
        noise_multiplier=multiplier / math.sqrt(1 - (share or 0)),
        metrics=None if share is None else multiplier * math.sqrt(releases / share),
        adaptive=_adaptive(config, multiplier),
        banded=banded,
    )


def _given(value: float | None, name: str) -> float:
    """What configuration has checked to be there."""
    if value is None:
        raise ConfigError(f"plan.privacy: needs '{name}'")
    return value
