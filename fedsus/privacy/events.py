"""Privacy events: those that ``dp_accounting`` lacks, and the text in which an owner's ledger keeps them.

This module imports ``dp_accounting``: modules that start quickly import it where they need it.
"""

from __future__ import annotations

import json
import math
import reprlib
import sys
from typing import Any, Final

import attrs
import dp_accounting as dpa

from fedsus.errors import Refusal

LONGEST: Final = 1 << 16
"""Characters of an event's text."""

DEEPEST: Final = 8
"""Events within events."""

MOST_TIMES: Final = 2**53
"""Repetitions, however nested: exact as a double."""

MOST_ROWS: Final = 1_000_000
"""Of one person."""

_NONE = {"no_op": dpa.NoOpDpEvent, "non_private": dpa.NonPrivateDpEvent}


@attrs.frozen
class SkellamDpEvent(dpa.DpEvent):  # type: ignore[misc]  # dp_accounting publishes no types
    """Integers that one record moves by at most (l1, l2) in norm, plus Skellam noise on each coordinate.

    Attributes:
        l1: D1, sensitivity in the 1-norm, in integer steps.
        l2: D2, sensitivity in the 2-norm, in integer steps.
        variance: mu, the total variance per coordinate, in steps squared, of the noise that the adversary cannot
            subtract. Skellam(mu) is the difference of two independent Poisson(mu / 2).
    """

    l1: float
    l2: float
    variance: float


@attrs.frozen
class SampledRowsDpEvent(dpa.DpEvent):  # type: ignore[misc]  # as above
    """A release over rows that are drawn each by itself, of all rows of one person together.

    Attributes:
        sampling_probability: q, the chance of each row to be drawn.
        rows: r, most rows of the person, 2 or more; one row is a PoissonSampledDpEvent.
        event: of one row that is drawn; k rows move the release k times as far.
    """

    sampling_probability: float
    rows: int
    event: dpa.DpEvent


def moved(event: dpa.DpEvent, times: float) -> dpa.DpEvent:
    """The event of what moves a Gaussian or Skellam release ``times`` as far."""
    if isinstance(event, SkellamDpEvent):
        return SkellamDpEvent(event.l1 * times, event.l2 * times, event.variance)
    return dpa.GaussianDpEvent(event.noise_multiplier / times)


def to_json(event: dpa.DpEvent) -> str:
    """The one text that says ``event``: equal events have equal texts, and `from_json` reads no other.

    Raises:
        Refusal: the event is unknown, or a number in it is out of range.
    """
    text = json.dumps(_tree(event, 1), sort_keys=True, separators=(",", ":"), allow_nan=False)
    if len(text) > LONGEST:
        raise Refusal(f"privacy event of {len(text)} characters: at most {LONGEST}; repeat equal parts by a count")
    return text


def from_json(text: str) -> dpa.DpEvent:
    """The event of a text that `to_json` wrote.

    Raises:
        Refusal: not such a text, to the letter; the event is unknown, too deep or too long; a number is out of range.
    """
    if len(text) > LONGEST:
        raise Refusal(f"privacy event of {len(text)} characters: at most {LONGEST}")
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        raise Refusal("privacy event: not JSON") from None
    event = _event(tree, 1)
    if to_json(event) != text:  # keys in duplicate, other spellings of a number: a hash must mean one event
        raise Refusal("privacy event: not in canonical form")
    return event


def check(event: Any) -> None:
    """Refuses an event that is of no known kind, or whose own numbers (not those of events in it) are out of range.

    Raises:
        Refusal: see above.
    """
    if isinstance(event, dpa.GaussianDpEvent):
        _within("noise multiplier", event.noise_multiplier, 0, math.inf)
    elif isinstance(event, SkellamDpEvent):
        _check_skellam(event)
    elif isinstance(event, (dpa.PoissonSampledDpEvent, SampledRowsDpEvent)):
        _check_sampled(event)
    elif isinstance(event, dpa.SelfComposedDpEvent):
        if type(event.count) is not int or not 0 <= event.count <= MOST_TIMES:
            raise Refusal(
                f"privacy event repeated {reprlib.repr(event.count)} times: expected an integer from 0 to 2**53"
            )
    elif isinstance(event, dpa.ComposedDpEvent):
        if not isinstance(event.events, (list, tuple)):
            raise Refusal(f"privacy event composed of {type(event.events).__name__}: expected a list of events")
    elif not isinstance(event, (dpa.NoOpDpEvent, dpa.NonPrivateDpEvent)):
        raise Refusal(f"privacy event {type(event).__name__} is unknown: its epsilon is not computed")


def leaves(event: dpa.DpEvent) -> dict[dpa.DpEvent, int]:
    """The releases in ``event`` and how often each happens, equal ones merged, in an order of their own.

    Compositions are taken apart; what releases nothing (no repetitions, a sampling rate of 0) is left out.

    Raises:
        Refusal: see `check`; or a release happens more than `MOST_TIMES`.
    """
    counts: dict[dpa.DpEvent, int] = {}
    _collect(event, 1, counts, 1)
    for leaf, count in counts.items():
        if count > MOST_TIMES:
            raise Refusal(f"privacy event {reprlib.repr(leaf)} happens more than 2**53 times")
    return {leaf: counts[leaf] for leaf in sorted(counts, key=repr)}


def _collect(event: Any, times: int, counts: dict[dpa.DpEvent, int], depth: int) -> None:
    if depth > 4 * DEEPEST:
        raise Refusal(f"privacy event: more than {4 * DEEPEST} events within events")
    check(event)
    if isinstance(event, dpa.SelfComposedDpEvent):
        _collect(event.event, times * event.count, counts, depth + 1)
    elif isinstance(event, dpa.ComposedDpEvent):
        for part in event.events:
            _collect(part, times, counts, depth + 1)
    elif isinstance(event, (dpa.PoissonSampledDpEvent, SampledRowsDpEvent)):
        check(event.event)
        if times and event.sampling_probability:
            counts[event] = counts.get(event, 0) + times
    elif times and not isinstance(event, dpa.NoOpDpEvent):
        counts[event] = counts.get(event, 0) + times


def _check_sampled(event: Any) -> None:
    _within("sampling rate", event.sampling_probability, 0, 1)
    if not isinstance(event.event, (dpa.GaussianDpEvent, SkellamDpEvent)):
        raise Refusal(f"privacy event {type(event.event).__name__} under Poisson sampling is unknown")
    if isinstance(event, SampledRowsDpEvent) and (type(event.rows) is not int or not 2 <= event.rows <= MOST_ROWS):
        raise Refusal(
            f"privacy event of {reprlib.repr(event.rows)} rows of one person: expected an integer from 2 to {MOST_ROWS}"
        )


def _check_skellam(event: SkellamDpEvent) -> None:
    for name in ("l1", "l2", "variance"):
        _within(f"Skellam noise: {name}", getattr(event, name), 0, math.inf)
    if event.l1 < event.l2:
        raise Refusal(f"Skellam noise: l1 = {event.l1} is less than l2 = {event.l2}: no vector has such norms")
    if event.variance == 0:
        raise Refusal("Skellam noise: variance = 0: expected more than 0; what has no noise is a NonPrivateDpEvent")


def _within(name: str, value: Any, low: float, high: float) -> None:
    """Finite, a number (no bool), and from low to high."""
    wanted = f"a finite number, {low} or more" if math.isinf(high) else f"a number from {low} to {high}"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and low <= value <= min(high, sys.float_info.max)):
        raise Refusal(f"privacy event: {name} {reprlib.repr(value)}: expected {wanted}")


def _tree(event: Any, depth: int) -> dict[str, Any]:
    """Dictionaries, lists and numbers of a checked event."""
    if depth > DEEPEST:
        raise Refusal(f"privacy event: more than {DEEPEST} events within events")
    check(event)
    if isinstance(event, dpa.GaussianDpEvent):
        return {"kind": "gaussian", "noise_multiplier": _plain(event.noise_multiplier)}
    if isinstance(event, SkellamDpEvent):
        numbers = {name: _plain(getattr(event, name)) for name in ("l1", "l2", "variance")}
        return {"kind": "skellam", **numbers}
    if isinstance(event, dpa.PoissonSampledDpEvent):
        rate = _plain(event.sampling_probability)
        return {"kind": "poisson_sampled", "rate": rate, "event": _tree(event.event, depth + 1)}
    if isinstance(event, SampledRowsDpEvent):
        rate, release = _plain(event.sampling_probability), _tree(event.event, depth + 1)
        return {"kind": "sampled_rows", "rate": rate, "rows": event.rows, "event": release}
    if isinstance(event, dpa.SelfComposedDpEvent):
        return {"kind": "self_composed", "count": event.count, "event": _tree(event.event, depth + 1)}
    if isinstance(event, dpa.ComposedDpEvent):
        return {"kind": "composed", "events": [_tree(part, depth + 1) for part in event.events]}
    return {"kind": "no_op" if isinstance(event, dpa.NoOpDpEvent) else "non_private"}


def _plain(number: float) -> float:
    """A double; -0.0 as 0.0."""
    return float(number) + 0.0


def _event(tree: Any, depth: int) -> dpa.DpEvent:
    """The checked event of what JSON held."""
    if depth > DEEPEST:
        raise Refusal(f"privacy event: more than {DEEPEST} events within events")
    if not isinstance(tree, dict):
        raise Refusal("privacy event: expected an object with a kind")
    fields = dict(tree)
    kind = fields.pop("kind", None)
    try:
        event = _build(kind, fields, depth)
    except TypeError:
        raise Refusal(f"privacy event {reprlib.repr(kind)}: unexpected or missing fields") from None
    check(event)
    return event


def _build(kind: Any, fields: dict[str, Any], depth: int) -> dpa.DpEvent:
    """An unchecked event.

    Raises:
        TypeError: fields are missing or too many.
    """
    if kind == "gaussian":
        return dpa.GaussianDpEvent(**fields)
    if kind == "skellam":
        return SkellamDpEvent(**fields)
    if kind == "poisson_sampled":
        return _sampled(**fields, depth=depth)
    if kind == "sampled_rows":
        return _sampled_rows(**fields, depth=depth)
    if kind == "self_composed":
        return _repeated(**fields, depth=depth)
    if kind == "composed":
        return _composed(**fields, depth=depth)
    if kind in ("no_op", "non_private"):
        return _NONE[kind](**fields)
    raise Refusal(f"privacy event of kind {reprlib.repr(kind)} is unknown")


def _sampled(*, rate: Any, event: Any, depth: int) -> dpa.DpEvent:
    return dpa.PoissonSampledDpEvent(rate, _event(event, depth + 1))


def _sampled_rows(*, rate: Any, rows: Any, event: Any, depth: int) -> dpa.DpEvent:
    return SampledRowsDpEvent(rate, rows, _event(event, depth + 1))


def _repeated(*, count: Any, event: Any, depth: int) -> dpa.DpEvent:
    return dpa.SelfComposedDpEvent(_event(event, depth + 1), count)


def _composed(*, events: Any, depth: int) -> dpa.DpEvent:
    if not isinstance(events, list):
        raise Refusal("privacy event: expected a list of events")
    return dpa.ComposedDpEvent([_event(part, depth + 1) for part in events])
