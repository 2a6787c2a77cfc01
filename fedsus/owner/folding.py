"""Makes a long record short, at a start and on each new day: what is days ago by the hour, however long an agent runs.

folded   what was used in an hour until ``time``, for a run or, null, for none
worked   what one of a run's last attempts used; older records have `largest`, the most that one of a day did
owed     what a run was not told when this was written; again: some of it was told once
flying   its report under way then
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from fedsus.owner import consumed, days
from fedsus.owner.consumed import NOTHING, Consumed
from fedsus.owner.cost_reports import Flight, Reports
from fedsus.owner.energy_record import Recent, interval_of, recent_of

if TYPE_CHECKING:
    from fedsus.owner.note_file import NoteFile

_LONG: Final = 2000
"""Lines of days that are over, beyond which a record is folded."""

_WHOLE_DAYS: Final = 3
_HOUR: Final = 3600.0


def replay(entry: Mapping[str, Any], recent: Recent, reports: Reports) -> float:
    """Take one line over; its time, or 0.

    Raises:
        ValueError, KeyError, TypeError: it is not of this version.
    """
    match entry["type"]:
        case "used" | "folded" | "worked" | "largest" as kind:
            interval = recent_of(entry, recent)
            if kind == "used" and interval is not None and interval.attempt is not None:
                reports.used(interval.attempt.run, interval.used)
            return 0.0 if interval is None else interval.time
        case "sent":
            reports.begin(_text(entry["run"]), int(entry["round"]), int(entry["attempt"]))
        case "told":
            reports.certified(_text(entry["run"]), int(entry["attempt"]))
        case "withdrawn":
            reports.withdrawn(_text(entry["run"]), int(entry["attempt"]))
        case "owed":
            run = _text(entry["run"])
            reports.used(run, consumed.read(entry["used"]))
            if entry.get("again") is True:  # which an older version did not write
                reports.repeated.add(run)
        case "flying":
            told = consumed.read(entry["used"])
            again = entry["again"] is True
            reports.flights[_text(entry["run"])] = Flight(int(entry["round"]), int(entry["attempt"]), told, again)
        case _:
            raise ValueError("a line of another kind")
    return 0.0


def shorten(notes: NoteFile) -> None:
    """Fold the record of a running agent, where it is long. A crash leaves the one file or the other.

    Raises:
        CorruptionError: the file is not what this process wrote.
        EnvironmentFault: it cannot be read or written; it is as it was.
    """
    shorter = folded(notes.again()) if notes.lines >= _LONG else None
    if shorter is not None:
        notes.replace(shorter)


def folded(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """The lines of a shorter record that says the same; None where it is short enough.

    Raises:
        ValueError, KeyError, TypeError: a line is not of this version.
    """
    last = max((entry["time"] for entry in entries if entry["type"] == "used"), default=0.0)
    limit = (last // days.DAY - _WHOLE_DAYS) * days.DAY
    cut = 1 + max((at for at, one in enumerate(entries) if one["type"] == "used" and one["time"] < limit), default=-1)
    if sum(entry["type"] != "folded" for entry in entries[:cut]) < _LONG:
        return None
    recent, reports = Recent(), Reports()
    hours: dict[tuple[int, str | None], tuple[float, Consumed]] = {}
    for entry in entries[:cut]:
        replay(entry, recent, reports)
        if entry["type"] in ("used", "folded"):
            one = interval_of(entry)
            key = int(one.time // _HOUR), None if one.attempt is None else one.attempt.run
            hours[key] = one.time, hours.get(key, (0.0, NOTHING))[1] + one.used
    return [
        *(
            {"type": "folded", "time": time, "run": run, "round": 0, "attempt": 0, "used": used.written()}
            for (_, run), (time, used) in hours.items()
        ),
        *(
            {"type": "worked", **attempt._asdict(), "time": one.time}
            | {"joules": one.amounts.joules, "grams": one.amounts.grams}
            for found in recent.runs.values()
            for attempt, one in found.items()
            if one.whole
        ),
        *(
            {"type": "owed", "run": run, "again": run in reports.repeated, "used": used.written()}
            for run, used in reports.untold.items()
        ),
        *(
            {"type": "flying", "run": run, "round": one.round, "attempt": one.attempt, "again": one.again}
            | {"used": one.told.written()}
            for run, one in reports.flights.items()
        ),
        *({key: value for key, value in entry.items() if key not in ("v", "seq", "prev")} for entry in entries[cut:]),
    ]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value
