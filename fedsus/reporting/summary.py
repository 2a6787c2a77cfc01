"""A run in a few numbers, and its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fedsus.errors import ConfigError, CorruptionError
from fedsus.journal import NAME, Entry, Reader, RoundReleased, RunClosed, RunOpened, fold, get

if TYPE_CHECKING:
    from pathlib import Path

    from fedsus.types import Vector


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a journal says of its run.

    Attributes:
        run: identifier; the folder's name before the run was opened.
        folder: the run's folder.
        status: "open" until it is closed: whether a server works on it now, a journal does not know;
            "broken" only in the list of `runs`.
        opened: the first entry, with the configuration; None before it.
        closed: the last entry; None until then.
        rounds: released rounds, oldest first, with survivors, metrics, bytes and seconds of each.
        attempts: attempts used, those among them that released nothing included.
        model: blob that holds the newest model; None before any round was released.
        fault: what is wrong with a broken journal, in one line.
    """

    run: str
    folder: Path
    status: Literal["new", "open", "completed", "stopped", "failed", "broken"]
    opened: RunOpened | None
    closed: RunClosed | None
    rounds: tuple[RoundReleased, ...]
    attempts: int
    model: str | None
    fault: str | None = None

    @property
    def survivors(self) -> tuple[int, ...]:
        """Survivors of each released round."""
        return tuple(entry.survivors for entry in self.rounds)

    @property
    def metrics(self) -> dict[int, dict[str, float]]:
        """Mean metrics by round; rounds without any, and what noise hides, are left out."""
        told = {entry.round: entry.metrics for entry in self.rounds if entry.metrics is not None}
        privacy = {} if self.opened is None else self.opened.config.get("privacy") or {}
        if not told or self.opened is None or privacy.get("unit", "none") == "none":
            return told
        from fedsus.reporting.noise import seen
        from fedsus.rounds.planning.specification import specification_of

        plan = specification_of(self.opened).first_plan
        shown = {entry.round: seen(plan, entry.metrics or {}, entry.survivors) for entry in self.rounds}
        return {round: metrics for round, metrics in shown.items() if metrics}

    @property
    def bytes_sent(self) -> int:
        """Bytes from server to clients in released rounds."""
        return sum(entry.bytes_sent for entry in self.rounds)

    @property
    def bytes_received(self) -> int:
        """Bytes from clients to server in released rounds."""
        return sum(entry.bytes_received for entry in self.rounds)

    @property
    def seconds(self) -> float:
        """Seconds of released rounds together."""
        return sum(entry.seconds for entry in self.rounds)


def read(run_dir: Path) -> list[Entry]:
    """All entries of a run, oldest first. An unfinished last line is left out.

    Raises:
        ConfigError: no journal is there.
        CorruptionError: a broken line or chain, by file and line.
    """
    path = run_dir / NAME
    reader = Reader(path)
    try:
        with path.open("rb") as file:
            return [reader.feed(line[:-1]) for line in file if line.endswith(b"\n")]
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; is {run_dir} the folder of a run?") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def summary(run_dir: Path) -> RunSummary:
    """A run in a few numbers.

    Raises:
        ConfigError: no journal is there.
        CorruptionError: a broken line or chain, by file and line.
    """
    entries = read(run_dir)
    state = fold(entries)
    return RunSummary(
        run=state.opened.run if state.opened else run_dir.name,
        folder=run_dir,
        status=state.closed.reason if state.closed else "open" if state.opened else "new",
        opened=state.opened,
        closed=state.closed,
        rounds=tuple(entry for entry in entries if isinstance(entry, RoundReleased)),
        attempts=state.attempts,
        model=(state.closed.model if state.closed else None) or (state.released.checkpoint if state.released else None),
    )


def released_model(run_dir: Path) -> Vector:
    """The newest released model of a run, (d,) float32.

    Raises:
        ConfigError: no journal is there, or no round was released yet.
        CorruptionError: journal or checkpoint is broken.
    """
    name = summary(run_dir).model
    if name is None:
        raise ConfigError(f"{run_dir}: no round was released yet, so there is no model")
    while True:
        try:
            return _model(run_dir, name)
        except CorruptionError:
            newer = summary(run_dir).model
            if newer is None or newer == name:
                raise
            name = newer  # the run went on meanwhile, and removed what was the newest


def _model(run_dir: Path, name: str) -> Vector:
    model: Vector | None = get(run_dir, name).get("model")
    if model is None:
        raise CorruptionError(f"{run_dir}: checkpoint {name[:12]}... holds no 'model'")
    return model


def runs(folder: Path) -> list[RunSummary]:
    """Summaries of all runs in ``folder``, oldest first; empty when it does not exist.

    A broken journal does not hide the others: its run has status "broken" and says why in ``fault``.
    """
    found = [_summary_or_fault(path.parent) for path in sorted(folder.glob(f"*/{NAME}"))]
    return sorted(found, key=lambda one: (one.opened.time if one.opened else float("inf"), one.run))


def _summary_or_fault(run_dir: Path) -> RunSummary:
    try:
        return summary(run_dir)
    except (ConfigError, CorruptionError) as error:
        return RunSummary(run_dir.name, run_dir, "broken", None, None, (), 0, None, str(error))
