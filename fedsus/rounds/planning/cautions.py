"""What is allowed in a private run, and should be known to who asks for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from fedsus.encoding.costs import told_devices
from fedsus.privacy.sensitivity import padded
from fedsus.protection import ClientCentral, Distributed, ExampleDistributed, ExamplePrivacy, NoPrivacy
from fedsus.rounds.planning.width import needed_bits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedsus.rounds.planning.specification import Specification

_HIGH_EPSILON: Final = 10.0
_FINE: Final = 32.0
"""Granularity from which rounding costs an example at most 6 % of D2 squared."""

_DROWNS: Final = 0.1
"""Of all devices' whole ranges, the part above which the deviation of the noise is no small one."""


def cautions(specification: Specification, members: int | None) -> list[str]:
    """One line each.

    Args:
        members: of the roster, or all that may be asked; None where nobody said.
    """
    if isinstance(specification.privacy, NoPrivacy):
        return ["no differential privacy: each device answers only if its owner granted an infinite epsilon"]
    return [*_budget(specification, members), *_noise(specification), *_sampling(specification, members)]


def public_size(specification: Specification, members: int | None) -> tuple[float, str] | None:
    """How many of the protected unit there are, as far as is public, and what says so."""
    privacy = specification.privacy
    if isinstance(privacy, ExamplePrivacy):
        return privacy.denominator / privacy.sampling_rate, "rows of a device, by denominator / sampling_rate"
    if isinstance(privacy, ExampleDistributed):
        return privacy.denominator / privacy.sampling_rate, "rows of all, by denominator / sampling_rate"
    return None if members is None else (float(members), "members of the roster")


def _budget(specification: Specification, members: int | None) -> Iterator[str]:
    privacy = specification.privacy
    known = public_size(specification, members)
    if isinstance(privacy, NoPrivacy):
        return
    if known is not None:
        count, what = known
        if privacy.delta >= 1 / count:
            yield (
                f"delta {privacy.delta:g} is not below 1 / n: with n = {count:.6g} {what}, a mechanism that publishes "
                f"one of them whole would pass; ask for {_below(1 / count):.0e} or less"
            )
    if privacy.epsilon > _HIGH_EPSILON:
        yield f"epsilon {privacy.epsilon:g} promises little: most choose {_HIGH_EPSILON:g} or less"
    asked = specification.config.plan
    way = "no budget is set aside for {}; set metrics_share"
    if isinstance(privacy, ExamplePrivacy):
        way = "placement 'local' has no noise for {}; placement = 'distributed' has, with a metrics_share"
    if asked.metrics and not specification.first_plan.metrics:
        yield f"plan.metrics names {len(asked.metrics)}, and none is sent: {way.format('them')}"
    if asked.costs is not None and specification.first_plan.costs is None:
        yield (
            f"plan.costs asks for what devices use, and nothing is sent: {way.format('it')}; owners alone know it, and "
            "all others assume it from public numbers"
        )


def _below(number: float) -> float:
    """A tenth of it, as a power of ten."""
    return float(10.0 ** math.floor(math.log10(number / 10) + 1e-9))


def _noise(specification: Specification) -> Iterator[str]:
    privacy, config = specification.privacy, specification.config
    if isinstance(privacy, ExampleDistributed) and config.plan.privacy.granularity < _FINE:
        fine = config.plan.privacy.granularity
        yield (
            f"granularity {fine:g}: rounding lengthens what an example can move by {100 / fine:.3g} %, and the noise "
            f"with it; {_FINE:g} or more costs 3 % or less"
        )
    if isinstance(privacy, Distributed) and config.plan.privacy.bits is not None:
        needed = needed_bits(config, padded(specification.first_plan.coordinates), privacy.shares)
        if privacy.shares.bits < needed:
            yield (
                f"bits {privacy.shares.bits}: sums of updates that point the same way need {needed}; beyond they "
                "wrap around, which costs accuracy and no privacy"
            )
    yield from _drowned(specification)
    sent, whole = specification.first_plan.coordinates, specification.first_plan.dimension
    if sent < whole and privacy.unit == "example":
        yield (
            f"encoding.uplink sends {sent} of {whole} coordinates: examples are clipped before, so that the noise's "
            f"deviation grows {math.sqrt(whole / sent):.3g} times; with unit = 'client' it does not"
        )
    if isinstance(privacy, ClientCentral):
        sees = "each client's update" if config.plan.exchange == "clear_sum" else "the exact sum of each round"
        yield f"noise is added by the server, which sees {sees}: against it nothing protects"
        if privacy.adaptive is not None:
            yield (
                f"adaptive: the clip is public and changes after each round; noise follows it, and so does how much a "
                f"round helps; how many were below it has noise {privacy.adaptive.noise:g}, which epsilon counts"
            )


def _drowned(specification: Specification) -> Iterator[str]:
    """Noise of metrics and costs that is large beside the sum of all devices' whole ranges."""
    plan, asked = specification.first_plan, specification.config.plan
    noise, size, rounds = told_devices(plan, asked.cohort.size), asked.cohort.size, asked.rounds
    if not plan.told or noise <= _DROWNS * size:
        return
    fewer = ", or to leave 'metrics' or [plan.costs] out" if plan.metrics and plan.costs is not None else ""
    many = (noise * math.sqrt(rounds), size * rounds)
    yield (
        f"noise drowns what a round tells of metrics and costs: in a sum over {size} devices its deviation is the "
        f"whole range of {_digits(noise)}, over all rounds of {_digits(many[0])} in {many[1]:,}; larger cohorts or "
        f"a larger metrics_share help{fewer}"
    )


def _digits(value: float) -> str:
    """Three that count, written out."""
    return f"{float(f'{value:.3g}'):,.10g}"


def _sampling(specification: Specification, members: int | None) -> Iterator[str]:
    size, bands = specification.config.plan.cohort.size, specification.config.plan.privacy.bands or 1
    if members is not None and bands > 1:
        mean = members / bands
        if size > mean - 3 * math.sqrt(mean):
            yield (
                f"bands {bands}: clients take turns by a hash of their names, about {mean:.0f} in each: some turns may "
                f"have fewer than {size}, and wait for them in vain; ask for a smaller cohort"
            )
    if members is not None and size < members and not isinstance(specification.privacy, ExamplePrivacy):
        yield (
            f"{size} of {members} clients are asked in a round, which no epsilon here counts: who takes part is not "
            "secret, so being drawn by chance amplifies nothing"
        )
