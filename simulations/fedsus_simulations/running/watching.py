"""A simulation as it happens: one live view, or a plain line now and then where there is no terminal.

Told of each round by the run itself; what it costs does not grow with the rounds, and epsilon is computed beside the
run for a hundredth of the time at most.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from fedsus.privacy.stated import shown
from fedsus_server.progress import Progress, against, duration, metric_words, planned_epsilon, size

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from rich.console import Console, ConsoleRenderable
    from rich.live import Live

    from fedsus.journal import Entry, RoundReleased

LINE_SECONDS = 2.0
"""Between two lines where there is no terminal."""
_REFRESHES: Final = 2.0
_EPSILON_SHARE: Final = 100


@dataclass(slots=True)
class Epsilon:
    """Planned epsilon, computed beside the run; the newest value and the attempt that it is of.

    Args:
        clock: seconds, rising.
    """

    clock: Callable[[], float] = time.monotonic
    latest: tuple[int, float] | None = None
    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="epsilon"), init=False
    )
    _job: Future[None] | None = field(default=None, init=False)
    _next: float = field(default=0.0, init=False)

    def ask(self, progress: Progress) -> None:
        """Begin to compute it for the attempts so far, if it is time."""
        specification, attempts = progress.specification, progress.attempts
        if specification is None or specification.privacy.unit == "none" or not attempts:
            return
        if (self._job is None or self._job.done()) and self.clock() >= self._next:

            def compute() -> None:
                started = self.clock()
                value = planned_epsilon(specification, attempts)
                if value is not None:
                    self.latest = attempts, value
                self._next = self.clock() + _EPSILON_SHARE * (self.clock() - started)

            self._job = self._pool.submit(compute)

    def close(self) -> None:
        """Wait for nothing."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass(slots=True)
class Watching:
    """Shows a run; use it in ``with``.

    Args:
        console: where to.
        quiet: show nothing.
        clock: seconds, rising.
    """

    console: Console
    quiet: bool = False
    clock: Callable[[], float] = time.monotonic
    progress: Progress = field(default_factory=Progress)
    central: dict[str, float] = field(default_factory=dict)
    epsilon: Epsilon = field(default_factory=Epsilon)
    _bytes: int = field(default=0, init=False)
    _live: Live | None = field(default=None, init=False)
    _said: float = field(default=float("-inf"), init=False)

    def __enter__(self) -> Self:
        if self.console.is_terminal and not self.quiet:
            from rich.live import Live

            self._live = Live(
                get_renderable=self.view, console=self.console, refresh_per_second=_REFRESHES, transient=False
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.epsilon.close()
        if self._live is not None:
            self._live.stop()

    def begin(self, entries: list[Entry]) -> None:
        """What the journal says so far."""
        for entry in entries:
            self.progress.feed(entry)
        self._bytes = self.progress.bytes

    def round(self, released: RoundReleased, central: dict[str, float] | None) -> None:
        """One more round."""
        self.progress.feed(released)
        self.progress.attempts = released.attempt
        self._bytes += released.bytes_sent + released.bytes_received
        self.central = central or self.central
        if self.quiet or self._live is not None:
            return
        now, last = self.clock(), released.round >= self.progress.rounds
        if last or now - self._said >= LINE_SECONDS:
            self._said = now
            self.epsilon.ask(self.progress)
            self.console.print(self.line(central), soft_wrap=True, markup=False, highlight=False)

    def line(self, central: dict[str, float] | None) -> str:
        """One line about the latest round."""
        parts = [self.progress.line(None)]
        if central:
            parts.append("test part, after it: " + "  ".join(metric_words(central)))
        latest, last = self.epsilon.latest, self.progress.released[-1].round >= self.progress.rounds
        if latest is not None and not (last and latest[0] != self.progress.attempts):  # the end says it of all of them
            parts.append(self._spent(latest))
        virtual = self.progress.released[-1].virtual
        if virtual:
            parts.append(f"virtual {duration(virtual)}")
        return "  ".join(parts)

    def _spent(self, latest: tuple[int, float]) -> str:
        whom = f" {against(self.progress.specification)}" if self.progress.specification is not None else ""
        return f"epsilon {shown(latest[1])}{whom} (planned, after {latest[0]} attempt{'s' * (latest[0] > 1)})"

    def view(self) -> ConsoleRenderable:
        """The live view."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        self.epsilon.ask(self.progress)
        progress = self.progress
        rows = Table.grid(padding=(0, 2))
        rows.add_row("rounds", ProgressBar(total=max(progress.rounds, 1), completed=progress.round, width=40))
        rows.add_row("", f"{progress.round} of {progress.rounds}" if progress.rounds else "loading")
        if progress.released:
            last = progress.released[-1]
            asked = last.survivors + last.refused + last.lost
            rows.add_row("clients", f"{last.survivors} of {asked}  (refused {last.refused}, lost {last.lost})")
            if progress.metrics:
                rows.add_row("clients' metrics", "  ".join(progress.words()))
            if self.central:
                rows.add_row("central", "  ".join(metric_words(self.central)))
            if self.epsilon.latest is not None:
                rows.add_row("epsilon", self._spent(self.epsilon.latest).removeprefix("epsilon "))
            rows.add_row("bytes", size(self._bytes))
            if last.virtual:
                rows.add_row("virtual time", duration(last.virtual))
        left = progress.seconds_left
        rows.add_row("left", "..." if left is None else duration(left))
        return rows
