"""What a planned run tells beside its model, in words: first whether anything of it will be seen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedsus.commands.privacy_told import Told, told_beside
from fedsus.encoding.costs import told_devices, told_rounding, told_spread
from fedsus.privacy.stated import shown
from fedsus.protection import NoPrivacy
from fedsus.reporting.noise import SURE

if TYPE_CHECKING:
    from fedsus.commands.privacy_plan import Planned

_SEEN = 2 * SURE
"""Deviations that a range must be wider than for a figure to be told (`fedsus.reporting.noise.hidden`)."""


def told(plan: Planned) -> list[tuple[str, str]]:
    """Facts of metrics and costs under differential privacy, a line each, the verdict first."""
    first, asked = plan.specification.first_plan, plan.specification.config.plan
    share, names = asked.privacy.metrics_share, ", ".join([*(one.name for one in first.metrics), *first.cost_ranges])
    title = "told" if first.costs is not None else "metrics"
    if not names or share is None:
        return [(title, "none are sent")]
    # Costs are added up over a run; metrics are told of each round alone.
    size, rounds = asked.cohort.size, asked.rounds if first.costs is not None else 1
    noise = told_devices(first, size)
    beside = told_beside(plan.specification, plan.inputs.members)
    found = [_verdict(plan, noise, rounds)]
    if not _seen(noise, size, rounds):
        found += [_from(noise, rounds), f"or leave metrics_share out: {_price(beside, share)} for nothing"]
    found.append(
        f"{names}: noised, with {100 * share:g} % of the budget; in a sum over {size} the noise of each is the whole "
        f"range of {digits(noise)} devices (standard deviation)"
    )
    if beside is not None:
        found += _beside(beside)
    return [(title if at == 0 else "", line) for at, line in enumerate(found)]


def costs(plan: Planned) -> list[tuple[str, str]]:
    """Facts of what devices tell of their costs, where the run asks."""
    first, asked = plan.specification.first_plan, plan.specification.config.plan
    if asked.costs is None:
        return []
    if first.costs is None:
        return [("costs", "none are sent")]
    size, rounds, most = asked.cohort.size, asked.rounds, first.costs
    text = f"up to {_both(most.joules, most.grams)} of a device in a round, "
    text += f"{_both(size * most.joules, size * most.grams)} of all {size}; their sum is "
    if isinstance(plan.specification.privacy, NoPrivacy):
        off = told_rounding(first, size)
        return [("costs", f"{text}exact but for rounding, {off['joules']:.2g} J and {off['grams']:.2g} g at most")]
    off = told_spread(first, size)
    run = {name: value * math.sqrt(rounds) for name, value in off.items()}
    text += f"noised by {_both(off['joules'], off['grams'])}, over {rounds} rounds "
    return [("costs", f"{text}{_both(run['joules'], run['grams'])} (standard deviations)")]


def digits(value: float) -> str:
    """Three that count, written out from 1,000 on."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"


def _both(joules: float, grams: float) -> str:
    return f"{digits(joules)} J and {digits(grams)} g"


def _seen(noise: float, size: int, rounds: int) -> bool:
    """Whether a sum over all rounds tells anything, by the rule of the report and the receipt."""
    return _SEEN * noise * math.sqrt(rounds) < size * rounds


def _verdict(plan: Planned, noise: float, rounds: int) -> str:
    """What will be seen of a round, and of all rounds."""
    size, costs = plan.specification.config.plan.cohort.size, plan.specification.first_plan.costs
    text = f"a metric's mean over {size} devices is off by +-{digits(SURE * noise / size)} times its range (95 %)"
    if costs is not None:
        most, off = digits(size * costs.joules), digits(SURE * noise * costs.joules)
        text = f"{size} devices tell at most {most} J a round; the noise is +-{off} J (95 %)"
    if _seen(noise, size, 1):
        return text
    if _seen(noise, size, rounds):
        return f"{text}: no round will be seen, only the costs of all {rounds} together"
    return f"{text}: nothing will be seen"


def _from(noise: float, rounds: int) -> str:
    """The cohorts of which something would be seen.

    Noise in whole ranges does not grow with a cohort whose part of colluders and dropouts stays as it is, and falls
    where their number does: so many are enough.
    """
    text = f"from about {digits(_up(_SEEN * noise))} devices on a round would be seen"
    if rounds > 1:
        text += f", from {digits(_up(_SEEN * noise / math.sqrt(rounds)))} on the costs of all {rounds} together"
    return text


def _up(value: float) -> float:
    """Two digits that count, rounded up."""
    step = 10.0 ** max(math.floor(math.log10(value)) - 1, 0)
    return math.ceil(value / step + 1e-9) * step


def _price(beside: Told | None, share: float) -> str:
    if beside is None:
        return f"it costs {100 * share:g} % of the budget"
    return f"it makes the gradients' noise {100 * (beside.longer - 1):.2g} % larger"


def _beside(told: Told) -> list[str]:
    """What telling costs beside gradients."""
    larger = f"the gradients' noise is {100 * (told.longer - 1):.2g} % larger for it"
    if told.bits > told.alone:
        larger += f", and sums are mod 2^{told.bits} instead of 2^{told.alone}"
    return [
        f"one row may move all that its client tells: that is told unsampled, and alone spends {shown(told.epsilon)}",
        larger,
    ]
