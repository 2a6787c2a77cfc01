"""From a journal to what its receipt says. Deterministic: nothing but the entries, the last line's hash and the
operator's public key goes in, so that `fedsus receipt verify` finds the same from the journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ValidationError

from fedsus.errors import ConfigError, CorruptionError
from fedsus.journal import AttemptAbandoned, AttemptOpened, Entry, RoundReleased, RunClosed, RunOpened, fold
from fedsus.reporting import costing, noise, outside, sci, spending
from fedsus.reporting.figures import Absent, Figure, exact
from fedsus.reporting.predicate import (
    Asked,
    AskedPlan,
    Budgets,
    Digest,
    JournalReference,
    Measured,
    Metric,
    Model,
    Participation,
    Predicate,
    Released,
    RosterReference,
    Run,
    Statement,
    Subject,
    Time,
)
from fedsus.reporting.traffic import traffic
from fedsus.rounds.planning.specification import Specification, specification_of
from fedsus.secagg.roster import digest as roster_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedsus.plan import Plan

_LOWER: Final = ("loss", "error", "perplexity")
"""Metrics with such a word in their name are better when lower."""

_KINDS: Final[tuple[Literal["joules", "grams"], ...]] = ("joules", "grams")
_CAPPED: Final = {"joules": {"joules", "kwh"}, "grams": {"grams"}}

_NOT_ASKED: Final = ("server", "performance", "energy", "carbon")
"""Tables of run.toml that no device is asked anything by."""


def statement(entries: Sequence[Entry], head: str, operator: str | None = None) -> Statement:
    """What the receipt of a run says.

    Args:
        entries: all of the journal's, oldest first.
        head: SHA-256 (hex) of the journal's last line.
        operator: the operator's public key (hex); None where nobody signs, as in a report.

    Raises:
        ConfigError: the journal is empty.
        CorruptionError: the entries cannot follow each other, or what they say is none of this version.
        Refusal: an epsilon cannot be computed.
    """
    try:
        return _statement(entries, head, operator)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise CorruptionError(f"journal: no receipt can say it: {where}: {first['msg']}") from None
    except OverflowError as error:
        raise CorruptionError(f"journal: no receipt can say it: a number is too large: {error}") from None


def _statement(entries: Sequence[Entry], head: str, operator: str | None) -> Statement:
    state = fold(entries)
    opened = state.opened
    if opened is None:
        raise ConfigError("the journal is empty: the run was never opened")
    specification = specification_of(opened)
    released = [entry for entry in entries if isinstance(entry, RoundReleased)]
    model = _model(state.closed, released, specification)
    privacy = spending.privacy(specification, state.attempts)
    carbon = costing.carbon(specification, entries)
    metrics = _metrics(specification, released)
    predicate = Predicate(
        run=_run(opened, state.closed),
        operator=operator,
        asked=_asked(opened, specification, entries),
        participation=_participation(specification, entries, released),
        privacy=privacy,
        secure_sum=spending.secure_sum(specification),
        energy=costing.energy(specification, entries),
        carbon=carbon,
        traffic=traffic(entries),
        sci=sci.intensity(specification, carbon, released, metrics),
        metrics=metrics,
        time=_time(entries, released),
        budgets=_budgets(specification, state.closed, entries, len(released)),
        model=model,
        journal=JournalReference(head=head, entries=len(entries)),
    )
    return Statement(subject=_subjects(model, head), predicate=predicate)


def plain(found: Statement) -> dict[str, Any]:
    """As JSON's plain data, by the names of in-toto."""
    data: dict[str, Any] = found.model_dump(mode="json", by_alias=True)
    return data


def _run(opened: RunOpened, closed: RunClosed | None) -> Run:
    return Run(
        name=opened.run,
        status="open" if closed is None else closed.reason,
        because=None if closed is None else closed.because,
        opened=opened.time,
        closed=None if closed is None else closed.time,
    )


def _asked(opened: RunOpened, specification: Specification, entries: Sequence[Entry]) -> Asked:
    configuration = {name: part for name, part in opened.config["run"].items() if name not in _NOT_ASKED}
    return Asked(
        configuration=configuration,
        privacy=specification.privacy.model_dump(mode="json"),
        specification=specification.hash(specification.dimension) if specification.dimension else None,
        initial_model=opened.model_hash,
        plans=tuple(
            AskedPlan(round=entry.round, attempt=entry.attempt, digest=entry.plan_digest)
            for entry in entries
            if isinstance(entry, AttemptOpened)
        ),
        fedsus=opened.fedsus_version,
        software=opened.software,
    )


def _participation(
    specification: Specification, entries: Sequence[Entry], released: Sequence[RoundReleased]
) -> Participation:
    roster = specification.roster
    attempts = sum(isinstance(entry, AttemptOpened) for entry in entries)
    abandoned = sum(isinstance(entry, AttemptAbandoned) for entry in entries)
    return Participation(
        roster=None
        if roster is None
        else RosterReference(
            federation=roster.federation,
            number=roster.number,
            digest=roster_digest(roster).hex(),
            members=len(roster.members),
        ),
        cohort=specification.config.plan.cohort.size,
        rounds=tuple(
            Released(round=e.round, attempt=e.attempt, survivors=e.survivors, refused=e.refused, lost=e.lost)
            for e in released
        ),
        survivors=sum(entry.survivors for entry in released),
        refused=sum(entry.refused for entry in released),
        lost=sum(entry.lost for entry in released),
        attempts=attempts,
        abandoned=abandoned,
        cut_off=attempts - abandoned - len(released),
    )


def _metrics(specification: Specification, released: Sequence[RoundReleased]) -> dict[str, Metric | Absent] | Absent:
    """First, last and best value of each metric. A round's metrics are of the model that it was sent."""
    told = [entry for entry in released if entry.metrics]
    if not told:
        return Absent(absent=_no_metrics(specification))
    names, plan = sorted({name for entry in told for name in entry.metrics or {}}), specification.first_plan
    return {name: _metric(plan, name, told) for name in names}


def _no_metrics(specification: Specification) -> str:
    if not specification.config.plan.metrics:
        return "the run asked for no metrics"
    if not specification.first_plan.metrics:
        return "no metric leaves a device: no part of the privacy budget was set aside for them"
    return "no released round had held-out examples"


def _metric(plan: Plan, name: str, told: Sequence[RoundReleased]) -> Metric | Absent:
    """Of the releases whose noise does not hide it; why there is none where it hides all."""
    having = [(entry, entry.metrics[name]) for entry in told if entry.metrics and name in entry.metrics]
    why = [noise.hidden_metric(plan, name, entry.survivors) for entry, _ in having]
    values = [
        Measured(round=entry.round, value=_value(plan, name, value, entry))
        for (entry, value), gone in zip(having, why, strict=True)
        if gone is None
    ]
    if not values:
        return next(gone for gone in why if gone is not None)
    better: Literal["lower", "higher"] = "lower" if any(word in name for word in _LOWER) else "higher"
    ranked = min if better == "lower" else max
    return Metric(first=values[0], last=values[-1], best=ranked(values, key=lambda one: one.value.value), better=better)


def _value(plan: Plan, name: str, value: float, entry: RoundReleased) -> Figure:
    """With noise, the range is three standard deviations to either side, as far as the metric's own range goes."""
    noisy = spending.metric_deviation(plan, name, entry.survivors) > 0
    value, low, high = noise.metric_within(plan, name, value, entry.survivors)
    source = (
        f"mean over {entry.survivors} clients, with the noise of the run"
        if noisy
        else f"mean over {entry.held_out} held-out examples"
    )
    return Figure(value=value, low=low, high=high, unit="1", method="summed", source=source)


def _time(entries: Sequence[Entry], released: Sequence[RoundReleased]) -> Time:
    clock, more = "the server's clock", outside.AT_LEAST if costing.set_back(entries) else ""
    virtual = next((entry.virtual for entry in reversed(released) if entry.virtual is not None), None)
    return Time(
        run=exact(costing.lasted(entries), "s", f"{clock}, first to last entry{more}"),
        rounds=exact(sum(entry.seconds for entry in released), "s", f"{clock}, released rounds"),
        waited=exact(sum(entry.waited for entry in released), "s", f"{clock}, put off for cleaner hours"),
        virtual=Absent(absent="a deployment, no simulation")
        if virtual is None
        else exact(virtual, "s", "the simulation's clock at the last release", "modelled"),
    )


def _budgets(
    specification: Specification, closed: RunClosed | None, entries: Sequence[Entry], released: int
) -> Budgets:
    config = specification.config
    caps = {name: getattr(config.budget, name) for name in ("joules", "kwh", "grams")}
    given = {name: float(cap) for name, cap in caps.items() if cap is not None}
    return Budgets(
        caps=given,
        counted={
            kind: outside.counted(specification, entries, kind) for kind in _KINDS if _CAPPED[kind] & given.keys()
        },
        epsilon=config.plan.privacy.epsilon,
        attempts=specification.attempts,
        ended_by=_ended(specification, closed, released),
    )


def _ended(specification: Specification, closed: RunClosed | None, released: int) -> str:
    if closed is None:
        return "nothing: the run is open"
    if closed.because:
        return closed.because
    rounds = specification.config.plan.rounds
    return {
        "completed": f"all {rounds} rounds were released",
        "stopped": f"the operator, after {released} releases",
        "failed": f"attempts or devices ran out, after {released} releases",
    }[closed.reason]


def _model(closed: RunClosed | None, released: Sequence[RoundReleased], specification: Specification) -> Model | Absent:
    checkpoint = closed.model if closed is not None else released[-1].checkpoint if released else None
    if checkpoint is None:
        return Absent(absent="no round was released")
    return Model(
        hash=None if closed is None else closed.model_hash,
        checkpoint=checkpoint,
        dimension=specification.dimension or None,
    )


def _subjects(model: Model | Absent, head: str) -> tuple[Subject, ...]:
    if isinstance(model, Absent):
        return (Subject(name="journal", digest=Digest(sha256=head)),)
    checkpoint = Subject(name="checkpoint", digest=Digest(sha256=model.checkpoint))
    if model.hash is None:
        return (checkpoint,)
    return Subject(name="model", digest=Digest(sha256=model.hash)), checkpoint
