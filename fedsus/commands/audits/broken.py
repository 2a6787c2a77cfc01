"""Mechanisms that break their promise, each in one way: what an audit must find, or it finds nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus.commands.audits.trial import Trial, updates_of
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.errors import ConfigError
from fedsus.privacy.noise import SystemNoise
from fedsus.protection import ClientCentral, ClientDistributed, ExampleDistributed, ExamplePrivacy

if TYPE_CHECKING:
    from fedsus.plan import Plan
    from fedsus.protection import Privacy

_NOTHING: Final = 1e-9
"""Noise that is none."""

_UNCLIPPED: Final = 2.0
"""Length of an update that is not clipped, in bounds."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to break a promise.

    Attributes:
        says: what is wrong, in words.
        fits: whether a plan promises what this breaks.
        into: the trial with the fault.
    """

    says: str
    fits: Callable[[Plan], bool]
    into: Callable[[Trial], Trial]


def broken(name: str, plan: Plan) -> Trial:
    """The trial of ``plan`` with a fault of `FAULTS`.

    Raises:
        ConfigError: no such fault, or the plan promises nothing that it breaks.
    """
    if name not in FAULTS:
        raise ConfigError(f"'{name}' is no fault; choose of: {', '.join(FAULTS)}")
    if not FAULTS[name].fits(plan):
        fitting = ", ".join(other for other, fault in FAULTS.items() if fault.fits(plan))
        raise ConfigError(f"'{name}' ({FAULTS[name].says}) does not fit this run; choose of: {fitting}")
    return FAULTS[name].into(Trial(plan, plan))


def _noise(factor: float) -> Callable[[Trial], Trial]:
    """All noise times ``factor``."""

    def into(trial: Trial) -> Trial:
        match trial.done.privacy:
            case ExamplePrivacy() as privacy:
                return trial.changed(noise_multiplier=privacy.noise_multiplier * factor)
            case ClientDistributed() | ExampleDistributed() as privacy:
                shares = privacy.shares
                metrics = None if shares.metrics is None else shares.metrics * factor**2
                less = {"variance": shares.variance * factor**2, "metrics": metrics}
                return trial.changed(shares=shares.model_copy(update=less))
            case ClientCentral() as privacy:
                adaptive = privacy.adaptive
                if adaptive is not None:
                    adaptive = adaptive.model_copy(update={"noise": adaptive.noise * factor})
                return trial.changed(
                    noise_multiplier=privacy.noise_multiplier * factor,
                    metrics=None if privacy.metrics is None else privacy.metrics * factor,
                    adaptive=adaptive,
                )
            case _:
                return trial

    return into


def _unclipped(trial: Trial) -> Trial:
    """A bound of twice the length, and noise for the promised one."""
    privacy = trial.done.privacy
    match privacy:
        case ExamplePrivacy() | ClientCentral():
            return _longer(trial, _UNCLIPPED * (trial.done.clip or privacy.clip))
        case ClientDistributed() | ExampleDistributed():
            return trial.changed(clip=_UNCLIPPED * privacy.clip)
        case _:
            return trial


def _clipped_before(trial: Trial) -> Trial:
    """An update may lie in what is sent alone: multiplied by sqrt(d / k) after clipping, it is too long."""
    times = math.sqrt(trial.done.dimension / trial.done.coordinates)
    match trial.done.privacy:
        case ClientCentral() as privacy:
            return _longer(trial, times * (trial.done.clip or privacy.clip))
        case ClientDistributed() | ExampleDistributed() as privacy:
            return trial.changed(clip=times * privacy.clip)
        case _:
            return trial


def _next_clip(trial: Trial) -> Trial:
    """The bound of the round after one in which nearly all were above it, and noise for this round's."""
    plan = trial.done
    mechanism, many = mechanism_of(plan), plan.cohort.size
    deltas = np.full((many, plan.dimension), 1e6)
    rings = mechanism.encode_all(updates_of(deltas, plan), [SystemNoise()] * many)
    total = rings.sum(axis=0, dtype=np.uint64).astype(np.uint32) & np.uint32((1 << mechanism.bits) - 1)
    state, _ = mechanism.release(mechanism.init(), total, many, SystemNoise())
    return _longer(trial, float(state["clip"][0]))


def _longer(trial: Trial, clip: float) -> Trial:
    """Clipped to ``clip``; noise is a multiple of the bound, so its multiplier is less."""
    plan, privacy = trial.done, trial.done.privacy
    if not isinstance(privacy, (ExamplePrivacy, ClientCentral)):
        return trial
    before = privacy.clip if plan.clip is None else plan.clip
    changed = trial.changed(noise_multiplier=privacy.noise_multiplier * before / clip, clip=clip)
    if plan.clip is None:
        return changed
    return replace(changed, done=changed.done.model_copy(update={"clip": clip}))


def _plain_metrics(trial: Trial) -> Trial:
    privacy = trial.done.privacy
    if isinstance(privacy, ClientDistributed | ExampleDistributed):
        return trial.changed(shares=privacy.shares.model_copy(update={"metrics": _NOTHING}))
    return trial.changed(metrics=_NOTHING)


def _forgotten_costs(trial: Trial) -> Trial:
    """Noise for the metrics alone, while costs are told beside them."""
    plan, privacy = trial.done, trial.done.privacy
    part = len(plan.metrics) / plan.told  # of the squared sensitivity
    match privacy:
        case ClientDistributed() | ExampleDistributed() if privacy.shares.metrics is not None:
            less = privacy.shares.model_copy(update={"metrics": privacy.shares.metrics * part})
            return trial.changed(shares=less)
        case ClientCentral() if privacy.metrics is not None:
            return trial.changed(metrics=privacy.metrics * math.sqrt(part))
        case _:
            return trial


def _told_noise(factor: Callable[[ExampleDistributed], float]) -> Callable[[Trial], Trial]:
    """Noise of what is told times ``factor``."""

    def into(trial: Trial) -> Trial:
        privacy = trial.done.privacy
        if not isinstance(privacy, ExampleDistributed) or privacy.shares.metrics is None:
            return trial
        less = privacy.shares.metrics * factor(privacy) ** 2
        return trial.changed(shares=privacy.shares.model_copy(update={"metrics": less}))

    return into


def _told_by_examples(plan: Plan) -> bool:
    return isinstance(plan.privacy, ExampleDistributed) and _measured(plan)


def _is(*kinds: type[Privacy]) -> Callable[[Plan], bool]:
    return lambda plan: isinstance(plan.privacy, kinds)


def _shared(plan: Plan) -> bool:
    return isinstance(plan.privacy, (ClientDistributed, ExampleDistributed))


def _measured(plan: Plan) -> bool:
    return bool(plan.told) and getattr(getattr(plan.privacy, "shares", plan.privacy), "metrics", None) is not None


def _twins(plan: Plan) -> bool:
    """A colluder, and two honest clients of whom one is not the canary."""
    shares = getattr(plan.privacy, "shares", None)
    return shares is not None and shares.colluders >= 1 and shares.survivors - shares.colluders >= 2


def _several(plan: Plan) -> bool:
    shares = getattr(plan.privacy, "shares", None)
    return shares is not None and shares.survivors - shares.colluders >= 2


def _sampled(plan: Plan) -> bool:
    return getattr(plan.privacy, "sampling_rate", 1.0) < 1


FAULTS: Final[Mapping[str, Fault]] = {
    "half-the-noise": Fault("all noise has half its deviation", lambda _: True, _noise(1 / 2)),
    "two-thirds-of-the-noise": Fault("all noise has two thirds of its deviation", lambda _: True, _noise(2 / 3)),
    "no-clipping": Fault("updates of twice the bound are not clipped", lambda _: True, _unclipped),
    "clip-before-upscale": Fault(
        "clipped before the part that is sent is multiplied",
        lambda plan: plan.coordinates < plan.dimension and not isinstance(plan.privacy, ExamplePrivacy),
        _clipped_before,
    ),
    "next-clip": Fault(
        "clipped to the next round's bound, noised for this one's",
        lambda plan: getattr(plan.privacy, "adaptive", None) is not None,
        _next_clip,
    ),
    "plain-metrics": Fault("metrics, and costs beside them, have no noise", _measured, _plain_metrics),
    "forgotten-costs": Fault(
        "metrics and costs have noise for the metrics alone",
        lambda plan: plan.costs is not None and bool(plan.metrics) and _measured(plan),
        _forgotten_costs,
    ),
    "half-the-range": Fault(
        "metrics and costs have noise for half of what one example may move",
        _told_by_examples,
        _told_noise(lambda _: 1 / 2),
    ),
    "sampled-metrics": Fault(
        "metrics and costs have noise as if they were drawn like a batch",
        lambda plan: _told_by_examples(plan) and _sampled(plan),
        _told_noise(lambda privacy: privacy.sampling_rate),
    ),
    "plain-weights": Fault(
        "the sum of the clients' weights is released without noise",
        _is(ClientDistributed, ClientCentral),
        lambda trial: replace(trial, weights=True),
    ),
    "all-examples": Fault("every example is in the batch", _sampled, lambda trial: trial.changed(sampling_rate=1.0)),
    "missing-shares": Fault(
        "a sum is opened of one client less than the noise needs",
        _several,
        lambda trial: replace(trial, missing=1),
    ),
    "uncounted-colluder": Fault(
        "one client more than counted works with the server", _several, lambda trial: replace(trial, known=1)
    ),
    "shared-seed": Fault(
        "an honest client's noise comes from a colluder's seed", _twins, lambda trial: replace(trial, twins=True)
    ),
}
"""By the names that ``fedsus privacy audit --broken`` takes."""
