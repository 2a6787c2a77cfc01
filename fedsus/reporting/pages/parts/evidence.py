"""What all of this rests on: receipt, hashes, software, time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fedsus.reporting.figures import Absent
from fedsus.reporting.outside import AT_LEAST
from fedsus.reporting.pages.document import Section, Table
from fedsus.reporting.pages.words import cleaned, value

if TYPE_CHECKING:
    from fedsus.reporting.pages.source import Source

_MOST_VERSIONS: int = 30


def section(source: Source) -> Section:
    """The receipt's state first, then what identifies the run."""
    text = (
        "Every figure of this page is computed from the run's journal, in which each line holds the hash of the line "
        "before. A receipt is the operator's signature under the same figures; who holds journal and receipt can "
        "check them without any network: fedsus receipt verify RUN.",
        "The journal is the operator's own. Nobody else saw what the server measured, when, how many answered, refused "
        "or were lost, and which model came out; what devices report is hidden in sums. Who countersigns vouches for "
        "the plans that it was sent, epsilon and the roster alone.",
    )
    return Section(
        "evidence", "What this rests on", text, (), None, (_receipt(source), _identity(source), _time(source))
    )


def sentence(source: Source) -> str:
    """The receipt in a few words."""
    found = source.checked
    match found.status:
        case "none":
            why = "the run is not over" if source.said.run.status == "open" else "nobody signed these figures"
            return f"no receipt: {why}"
        case "holds":
            return f"holds; signed by the operator's key {found.operator}"
        case "broken":
            return f"does NOT hold: {cleaned(found.why)}"
        case "unknown":
            return f"cannot be checked: {cleaned(found.why)}"


def _receipt(source: Source) -> Table:
    found = source.checked
    rows = [("Receipt", sentence(source))]
    if found.status == "holds":
        rows.append(("Countersigned by", ", ".join(map(cleaned, found.countersigners)) or "nobody"))
        rows += [("Not checked", cleaned(note)) for note in found.notes]
    return Table("Receipt", ("", "State"), tuple(rows))


def _identity(source: Source) -> Table:
    said, model = source.said, source.said.model
    rows = [
        ("Run", cleaned(said.run.name)),
        ("Task", cleaned(source.specification.config.task.name)),
        ("Opened by fedsus", cleaned(said.asked.fedsus)),
        ("Journal", f"{said.journal.entries:,} entries, head {said.journal.head}"),
        ("Initial model", said.asked.initial_model),
    ]
    if isinstance(model, Absent):
        rows.append(("Released model", f"not known: {cleaned(model.absent)}"))
    else:
        rows.append(("Released model", model.hash or "its hash is not noted in this journal"))
        rows.append(("Checkpoint that holds it", model.checkpoint))
    rows.append(("What was asked (specification)", said.asked.specification or "not known: an older journal"))
    software = said.asked.software
    if software is None:
        rows.append(("Software of the server", "not known: the journal has no list"))
    else:
        shown = sorted(software.items())
        rows += [(cleaned(name), cleaned(version)) for name, version in shown[:_MOST_VERSIONS]]
    return Table("Identity (SHA-256 where it is a hash)", ("", "Value"), tuple(rows))


def _time(source: Source) -> Table:
    found, run = source.said.time, source.said.run
    rows = [
        ("Opened", moment(run.opened)),
        ("Closed", "not yet" if run.closed is None else moment(run.closed)),
        ("First to last entry", value(found.run) + (AT_LEAST if AT_LEAST in found.run.source else "")),
        ("Released rounds", value(found.rounds)),
        ("Waited for cleaner hours", value(found.waited)),
        (
            "The simulation's own clock",
            f"{found.virtual.absent}" if isinstance(found.virtual, Absent) else value(found.virtual),
        ),
    ]
    return Table("Time", ("", "By the server's clock"), tuple(rows))


def moment(seconds: float) -> str:
    """Date and time, in UTC."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return "no date: the clock was wrong"
