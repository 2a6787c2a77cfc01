"""A receipt for people: what it says, and what was checked, a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from fedsus.errors import ConfigError
from fedsus.plan import canonical
from fedsus.reporting.figures import Absent
from fedsus.reporting.predicate import PREDICATE_TYPE, SIMULATED, Statement
from fedsus.secagg.keys import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedsus.envelope import Envelope
    from fedsus.reporting.figures import Quantity
    from fedsus.reporting.predicate import Energy, Measured, Metric, Operational, Predicate
    from fedsus.reporting.verification import Verified

_WIDTH: Final = 14


def figure(found: Quantity) -> str:
    """A figure with its range, unit and method; or why there is none."""
    if isinstance(found, Absent):
        return f"not known: {found.absent}"
    value = f"{found.value:.6g} {found.unit}"
    if found.low == found.high:
        return f"{value} ({found.method})"
    return f"{value} ({found.low:.3g} to {found.high:.3g}, {found.method})"


def verified_lines(found: Verified) -> Iterator[str]:
    """A receipt that holds."""
    predicate = found.payload["predicate"]
    run, count = predicate["run"], predicate["journal"]["entries"]
    yield f"holds: run {run['name']}, {run['status']}; recomputed from {count} journal entries"
    yield _line("signed by", f"the operator's key {found.operator}")
    yield _line("countersigned", ", ".join(found.countersigners) or "by nobody")
    for note in found.notes:
        yield f"! {note}"


def lines(sealed: Envelope, payload: Any) -> Iterator[str]:
    """What a receipt says, unchecked.

    Raises:
        ConfigError: it is not one of this version.
    """
    try:
        said = Statement.model_validate_json(canonical(payload)).predicate
    except (ValidationError, ValueError, RecursionError):
        kind = payload.get("predicateType") if isinstance(payload, dict) else None
        raise ConfigError(f"not a receipt of this version ({PREDICATE_TYPE}): {str(kind)[:80]}") from None
    ended = f"{said.run.status}; ended by: {said.budgets.ended_by}"
    yield _line("run", f"{said.run.name}, {ended}")
    if not isinstance(said.time.virtual, Absent):
        yield f"! {SIMULATED}"
    yield _line("model", said.model.absent if isinstance(said.model, Absent) else said.model.hash or "hash not noted")
    yield _line("journal", f"{said.journal.entries} entries, {said.journal.head}")
    yield _line(
        "signatures", f"{len(sealed.signatures)}, not checked; first {fingerprint(bytes.fromhex(sealed.author))}"
    )
    yield from _who(said)
    yield from _privacy(said)
    yield from _costs(said)
    yield _line("seconds", f"{figure(said.time.run)}; waited {figure(said.time.waited)}")
    if not isinstance(said.metrics, Absent):
        for name, metric in said.metrics.items():
            yield _line(name, _metric(metric))


def _who(said: Predicate) -> Iterator[str]:
    there = said.participation
    if there.roster is not None:
        yield _line("roster", f"{there.roster.number} of '{there.roster.federation}', {there.roster.members} members")
    yield _line(
        "clients",
        f"{there.cohort} a round; over {len(there.rounds)} releases {there.survivors} answered, {there.refused} "
        f"refused, {there.lost} were lost; {there.attempts} attempts, {there.abandoned} abandoned, "
        f"{there.cut_off} cut off",
    )


def _privacy(said: Predicate) -> Iterator[str]:
    for loss in said.privacy.losses:
        if loss.delta is None:
            yield _line("epsilon", "infinite: no differential privacy was asked for")
            return
        mark = "  <- the run's own" if loss.goal else ""
        at = f"{loss.epsilon}" if isinstance(loss.epsilon, str) else f"{loss.epsilon:g} at delta {loss.delta:g}"
        yield _line("epsilon", f"{at}: each {loss.unit}, against {loss.adversary}{mark}")


def _costs(said: Predicate) -> Iterator[str]:
    for name, used in (("server", said.energy.server), ("devices", said.energy.devices)):
        yield _line("energy", f"{name}: {figure(used) if isinstance(used, Absent) else _energy(used)}")
    yield _line("energy", f"devices, assumed: {figure(said.energy.assumed)}")
    yield _line("energy", f"network: {figure(said.energy.network)}")
    for one in said.carbon.operational:
        part = "" if one.covered == one.of else f", of {one.covered} of {one.of}"
        yield _line("carbon", f"{one.machine}: {figure(one.grams)}{part}{_priced(one)}")
    yield _line("carbon", f"operational: {figure(said.carbon.total)}")
    yield _line("carbon", f"devices, assumed: {figure(said.carbon.assumed)}")
    yield _line("carbon", f"embodied: server {figure(said.carbon.embodied_server)}")
    yield _line("carbon", f"embodied: devices {figure(said.carbon.embodied_devices)}")
    yield _line("carbon", f"network: {figure(said.carbon.network)}")
    yield _line("SCI", figure(said.sci.per_round))
    yield _line("SCI", figure(said.sci.per_accuracy_point))
    yield _line("bytes", f"sent {figure(said.traffic.total.sent)}, received {figure(said.traffic.total.received)}")


def _priced(one: Operational) -> str:
    return "" if isinstance(one.grams, Absent) else f"; {one.kind}, {one.grams.source}"


def _metric(found: Metric | Absent) -> str:
    if isinstance(found, Absent):
        return figure(found)
    first, last, best = (_measured(one) for one in (found.first, found.last, found.best))
    return f"first {first}, last {last}, best {best}"


def _measured(one: Measured) -> str:
    """With its range, where noise gives it one."""
    noisy = one.value.low != one.value.high
    ranged = f"; {one.value.low:.3g} to {one.value.high:.3g} with its noise" if noisy else ""
    return f"{one.value.value:.4g} (round {one.round}{ranged})"


def _energy(used: Energy) -> str:
    phases = ", ".join(f"{phase} {one.value:.4g}" for phase, one in used.phases.items())
    part = "" if used.covered == used.of else f"; of {used.covered} of {used.of}"
    return figure(used.total) + (f": {phases}" if phases else "") + part


def _line(name: str, text: str) -> str:
    """What is not printable in a receipt must not write into a reader's terminal."""
    return "".join(one if one.isprintable() else "?" for one in f"{name:<{_WIDTH}}{text}")
