"""A run as it happens: the journal's entries as one live line, or as plain lines where there is no terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fedsus.errors import Refusal
from fedsus.journal import (
    AttemptAbandoned,
    AttemptOpened,
    Entry,
    RoundReleased,
    RunClosed,
    RunOpened,
)
from fedsus.privacy.stated import shown
from fedsus.protection import ClientCentral, Distributed

if TYPE_CHECKING:
    from rich.console import Console, ConsoleRenderable

    from fedsus.plan import Plan
    from fedsus.rounds.planning.specification import Specification

_FIRST: Final = ("loss", "accuracy")
_NAMES: Final = 8


@dataclass(slots=True)
class Progress:
    """What is known of a run so far; `feed` it the journal's entries.

    Attributes:
        specification: of the run, once it is opened.
        epsilon: planned: what the attempts so far may have spent, at the run's delta; None without DP.
        metrics: of the latest round that has any.
    """

    specification: Specification | None = None
    released: list[RoundReleased] = field(default_factory=list)
    attempt: AttemptOpened | None = None
    attempts: int = 0
    abandoned: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    closed: RunClosed | None = None

    def feed(self, entry: Entry) -> None:
        """Take one more entry into account."""
        match entry:
            case RunOpened():
                from fedsus.rounds.planning.specification import specification_of

                self.specification = specification_of(entry)
            case AttemptOpened():
                self.attempt, self.attempts = entry, entry.attempt
            case RoundReleased():
                self.attempt, self.abandoned = None, None
                self.released.append(entry)
                self.metrics = dict(entry.metrics or self.metrics)
            case AttemptAbandoned():
                self.attempt, self.abandoned = None, entry.reason
            case RunClosed():
                self.closed = entry

    @property
    def rounds(self) -> int:
        """Rounds that the run shall have."""
        return self.specification.config.plan.rounds if self.specification else 0

    @property
    def round(self) -> int:
        """Released training rounds."""
        return min(len(self.released), self.rounds)

    @property
    def bytes(self) -> int:
        """Payload bytes both ways, released rounds."""
        return sum(entry.bytes_sent + entry.bytes_received for entry in self.released)

    @property
    def seconds_left(self) -> float | None:
        """From the median of the last rounds; None before the first."""
        if not self.released:
            return None
        recent = sorted(entry.seconds for entry in self.released[-9:])
        return recent[len(recent) // 2] * (self.rounds - self.round)

    def line(self, epsilon: float | None) -> str:
        """One line about the latest released round."""
        last = self.released[-1]
        asked = last.survivors + last.refused + last.lost
        refused = f", {last.refused} refused" if last.refused else ""
        name = "evaluation" if last.round > self.rounds else f"round {last.round}/{self.rounds}"
        parts = [
            name,
            f"clients {last.survivors}/{asked}{refused}",
            *metric_words(last.metrics or {}, self._plan, last.survivors),
        ]
        if epsilon is not None and self.specification is not None:
            parts.append(f"epsilon {shown(epsilon)} {against(self.specification)} (planned)")
        if last.saturated:
            parts.append(f"{self._edge} {last.saturated}")
        parts.append(size(last.bytes_sent + last.bytes_received))
        parts.append(f"{last.seconds:.1f} s")
        if self.seconds_left:
            parts.append(f"{duration(self.seconds_left)} left")
        return "  ".join(parts)

    @property
    def _plan(self) -> Plan | None:
        return self.specification.first_plan if self.specification is not None else None

    def words(self) -> list[str]:
        """The latest metrics, as `metric_words`."""
        last = next((entry.survivors for entry in reversed(self.released) if entry.metrics), 0)
        return metric_words(self.metrics, self._plan, last)

    @property
    def _edge(self) -> str:
        """What a release counts as saturated: clamped coordinates, or those of a noised sum that nearly wrap around."""
        shares = self.specification is not None and isinstance(self.specification.privacy, Distributed)
        return "near wrapping" if shares else "saturated"

    def waiting(self) -> str | None:
        """What the run waits for, while it is not asking anyone."""
        if self.specification is None:
            return "opening"
        if self.attempt is not None or self.closed is not None or self.round:
            return None
        size, roster = self.specification.config.plan.cohort.size, self.specification.roster
        if roster is None:
            return f"waiting for {size} devices"
        names = ", ".join(member.name for member in roster.members[:_NAMES])
        more = ", ..." if len(roster.members) > _NAMES else ""
        return f"waiting for {size} devices, named as in the roster: {names}{more} (server.log says who is missing)"


class Spent:
    """Planned epsilon of a number of attempts, computed beside the display: the first takes a second or two."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="epsilon")
        self._job: Future[float | None] | None = None
        self._latest: float | None = None

    def ask(self, progress: Progress) -> None:
        """Compute for the attempts so far, unless the last computation is still under way."""
        specification, attempts = progress.specification, progress.attempts
        if specification is None or specification.privacy.unit == "none" or attempts == 0:
            return
        if self._job is None or self._job.done():
            self._latest = self.get(0)
            self._job = self._pool.submit(planned_epsilon, specification, attempts)

    def get(self, patience: float) -> float | None:
        """The newest value there is; waits ``patience`` seconds for one under way."""
        if self._job is not None and (patience or self._job.done()):
            try:
                self._latest = self._job.result(patience)
            except TimeoutError:
                return self._latest
        return self._latest

    def close(self) -> None:
        """Start nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def against(specification: Specification) -> str:
    """Whom a run's epsilon is against, in a few words."""
    privacy = specification.privacy
    if isinstance(privacy, Distributed):
        count = privacy.shares.colluders
        return f"against the server with {count} colluder{'s' * (count != 1)}"
    return "against recipients" if isinstance(privacy, ClientCentral) else "against everyone"


def planned_epsilon(specification: Specification, attempts: int) -> float | None:
    """What ``attempts`` attempts may spend at the run's delta, `against` whom the placement protects from: recomputed
    from the plan, an upper bound for each device; its ledger says what it did spend. None without DP.
    """
    if specification.privacy.unit == "none":
        return None
    try:
        return specification.epsilon(attempts)
    except Refusal:
        return None


def show(entries: Iterator[Entry], console: Console) -> Progress:
    """Follow a run to its end, on a terminal or in plain lines; what is known of it then."""
    progress, spent = Progress(), Spent()
    try:
        with _live(progress, spent, console) if console.is_terminal else _plain(progress, spent, console) as say:
            for entry in entries:
                progress.feed(entry)
                spent.ask(progress)
                say(entry)
    finally:
        spent.close()
    return progress


@contextmanager
def _plain(progress: Progress, spent: Spent, console: Console) -> Iterator[Callable[[Entry], None]]:
    said = threading.Event()

    def say(entry: Entry) -> None:
        text = None
        if isinstance(entry, RoundReleased):
            text = progress.line(spent.get(5.0))
        elif isinstance(entry, AttemptAbandoned):
            text = f"round {entry.round}/{progress.rounds}  attempt {entry.attempt} abandoned: {entry.reason}"
        elif progress.waiting() and not said.is_set():
            said.set()
            text = progress.waiting()
        if text:
            console.print(text, soft_wrap=True, markup=False, highlight=False)

    yield say


@contextmanager
def _live(progress: Progress, spent: Spent, console: Console) -> Iterator[Callable[[Entry], None]]:
    from rich.live import Live

    with Live(get_renderable=lambda: _view(progress, spent), console=console, refresh_per_second=4) as live:

        def say(entry: Entry) -> None:
            if isinstance(entry, AttemptAbandoned):
                live.console.print(f"attempt {entry.attempt} abandoned: {entry.reason}", markup=False, highlight=False)
            live.refresh()

        yield say


def _view(progress: Progress, spent: Spent) -> ConsoleRenderable:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    last = progress.released[-1] if progress.released else None
    rows = Table.grid(padding=(0, 2))
    rows.add_row("rounds", ProgressBar(total=max(progress.rounds, 1), completed=progress.round, width=40))
    rows.add_row("", progress.waiting() or f"{progress.round} of {progress.rounds} released")
    if last is not None:
        asked = last.survivors + last.refused + last.lost
        rows.add_row("clients", f"{last.survivors} of {asked}  (refused {last.refused}, lost {last.lost})")
    if progress.metrics:
        rows.add_row("metrics", "  ".join(progress.words()))
    epsilon = spent.get(0)
    if epsilon is not None and progress.specification is not None:
        budget, whom = progress.specification.config.plan.privacy.epsilon, against(progress.specification)
        rows.add_row("epsilon", f"{shown(epsilon)} of {budget:g} {whom} (planned)")
    rows.add_row("bytes", size(progress.bytes))
    left = progress.seconds_left
    rows.add_row("left", "..." if left is None else duration(left))
    return rows


def metric_words(metrics: Mapping[str, float], plan: Plan | None = None, survivors: int = 0) -> list[str]:
    """Loss and accuracy first, then others by name: each with its noise, or that noise hides it.

    Args:
        plan: of the run; None where metrics have no noise.
        survivors: whose sum they are of.
    """
    from fedsus.reporting.noise import live

    names = [name for name in _FIRST if name in metrics] + sorted(metrics.keys() - set(_FIRST))
    return live(plan, {name: metrics[name] for name in names}, survivors)


def size(count: int) -> str:
    """Bytes for people, decimal units."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
