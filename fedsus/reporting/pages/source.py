"""What a page is made of: a run's journal, what follows from it, and whether a receipt beside it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fedsus.errors import ConfigError, CorruptionError, FedsusError, ReceiptFault
from fedsus.journal import NAME, AttemptAbandoned, Reader, RoundReleased
from fedsus.reporting.receipt import FILE, MOST_JOURNAL, read_file
from fedsus.reporting.statement import statement
from fedsus.rounds.planning.specification import Specification, specification_of

if TYPE_CHECKING:
    from pathlib import Path

    from fedsus.journal import Entry, RunOpened
    from fedsus.reporting.predicate import Predicate


@dataclass(frozen=True, slots=True)
class Checked:
    """The receipt beside a journal.

    Attributes:
        status: "none": there is none; "unknown": it cannot be checked.
        why: what does not hold, or why it cannot be checked.
        operator: fingerprint of the key that signed.
        countersigners: names of the members who countersigned.
        notes: what was not checked.
    """

    status: Literal["none", "holds", "broken", "unknown"]
    why: str = ""
    operator: str = ""
    countersigners: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A run.

    Attributes:
        entries: of the journal, oldest first.
        said: what its receipt says, or would say.
        checked: the receipt's state.
    """

    entries: tuple[Entry, ...]
    opened: RunOpened
    specification: Specification
    said: Predicate
    checked: Checked

    @property
    def released(self) -> list[RoundReleased]:
        """The released rounds."""
        return [entry for entry in self.entries if isinstance(entry, RoundReleased)]

    @property
    def abandoned(self) -> list[AttemptAbandoned]:
        """The attempts that released nothing and said why."""
        return [entry for entry in self.entries if isinstance(entry, AttemptAbandoned)]

    @property
    def private(self) -> bool:
        """Whether the run is differentially private."""
        return self.specification.privacy.unit != "none"

    @property
    def virtual(self) -> bool:
        """Whether it is a simulation, with a clock of its own."""
        return any(isinstance(e, RoundReleased | AttemptAbandoned) and e.virtual is not None for e in self.entries)


def load(run_dir: Path) -> Source:
    """The run in a folder, open or closed. An unfinished last line of its journal is left out.

    Raises:
        ConfigError: no journal is there, or nothing is in it yet.
        CorruptionError: it is broken.
        Refusal: an epsilon cannot be computed.
    """
    path = run_dir / NAME
    if not path.exists():
        raise ConfigError(f"{path}: no such file; is {run_dir} the folder of a run?")
    raw = read_file(path, MOST_JOURNAL)
    reader = Reader(path)
    entries = tuple(reader.feed(line) for line in raw.split(b"\n")[:-1])
    opened = reader.state.opened
    if opened is None:
        raise ConfigError(f"{path}: it is empty: the run was never opened, and there is nothing to report")
    said = statement(entries, reader.prev).predicate
    return Source(entries, opened, specification_of(opened), said, _checked(run_dir, raw))


def _checked(run_dir: Path, journal: bytes) -> Checked:
    from fedsus.envelope import MAX_BYTES
    from fedsus.reporting.verification import Evidence, verify

    file = run_dir / FILE
    if not file.exists():
        return Checked("none")
    try:
        found = verify(read_file(file, MAX_BYTES), Evidence(journal=journal))
    except (ReceiptFault, CorruptionError) as error:
        return Checked("broken", str(error))
    except FedsusError as error:
        return Checked("unknown", str(error))
    return Checked("holds", "", found.operator, found.countersigners, found.notes)
