"""What one run used, by its journal and its devices' records; ratios of runs that were measured alike."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from fedsus.errors import RunFailed
from fedsus.journal import RoundReleased, RunOpened
from fedsus.owner import consumed
from fedsus.owner.consumed import NOTHING, Consumed

if TYPE_CHECKING:
    from fedsus.costs import Phase
    from fedsus.journal import Entry
    from fedsus.owner.energy_record import Interval

Side = Literal["devices", "server"]
SIDES: Final[tuple[Side, ...]] = get_args(Side)
Who = Literal["devices", "server", "both"]

FIRST: Final = 1
"""The round that is told apart: devices load the task and check the whole run's epsilon in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """One run.

    Attributes:
        devices, server: all rounds but the first; devices together.
        first: joules of the first round, devices and server.
        seconds: of each round but the first, from asking to release.
        sent, received: bytes between server and all clients in the rounds but the first.
        processor: seconds of processor time of the whole run, "devices" and "server", by the operating system:
            waiting between messages and the first round are in them.
        accuracy: percent of held-out examples; ``auc`` likewise, None where there is none.
        epsilon: by a device's ledger, the largest; 0 without DP.
    """

    devices: Consumed
    server: Consumed
    first: float
    seconds: tuple[float, ...]
    sent: int
    received: int
    processor: Mapping[str, float] = field(default_factory=dict)
    accuracy: float = 0.0
    auc: float | None = None
    epsilon: float = 0.0

    @property
    def rounds(self) -> int:
        """How many rounds are counted."""
        return len(self.seconds)

    @property
    def joules(self) -> float:
        """J of one round, devices and server."""
        return self.both.total / self.rounds

    @property
    def both(self) -> Consumed:
        """Devices and server, of all rounds that are counted."""
        return self.devices + self.server

    @property
    def octets(self) -> float:
        """Bytes of one round, both directions."""
        return (self.sent + self.received) / self.rounds

    @property
    def second(self) -> float:
        """Median of the rounds' seconds."""
        return statistics.median(self.seconds)

    def written(self) -> dict[str, Any]:
        """As plain data, for a line of JSON."""
        return asdict(self)

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Spent:
        """What `written` wrote.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        sides: dict[str, Consumed] = {who: consumed.read(plain[who]) for who in SIDES}
        return cls(**{**plain, **sides, "seconds": tuple(plain["seconds"])})

    def phases(self, who: Side) -> dict[Phase, float]:
        """J of one round by phase."""
        used = self.devices if who == "devices" else self.server
        return {phase: joules / self.rounds for phase, joules in used.joules.items()}


def of_run(entries: Sequence[Entry], records: Mapping[str, Sequence[Interval]], rounds: int) -> Spent:
    """What a finished run used.

    Args:
        entries: its journal.
        records: device -> its own record; of other runs too.
        rounds: that were asked; each must have been released with all devices.

    Raises:
        RunFailed: a round or a figure is missing.
    """
    runs = [entry.run for entry in entries if isinstance(entry, RunOpened)]
    released = [entry for entry in entries if isinstance(entry, RoundReleased)]
    whole = [entry for entry in released if entry.survivors == len(records)]
    if len(runs) != 1 or len(whole) != rounds:
        raise RunFailed(f"benchmark: {len(whole)} of {rounds} rounds were released with all {len(records)} devices")
    server = {entry.round: _server(entry) for entry in whole}
    devices = dict.fromkeys(server, NOTHING)
    for name, intervals in records.items():
        for number, used in _device(name, intervals, runs[0], rounds).items():
            devices[number] += used
    later = [entry for entry in whole if entry.round != FIRST]
    return Spent(
        devices=_sum(devices[entry.round] for entry in later),
        server=_sum(server[entry.round] for entry in later),
        first=devices[FIRST].total + server[FIRST].total,
        seconds=tuple(entry.seconds for entry in later),
        sent=sum(entry.bytes_sent for entry in later),
        received=sum(entry.bytes_received for entry in later),
    )


def _server(entry: RoundReleased) -> Consumed:
    if entry.server is None:
        raise RunFailed(f"benchmark: the server's meter has no figure of round {entry.round}")
    return Consumed.of(entry.server)


def _device(name: str, intervals: Sequence[Interval], run: str, rounds: int) -> dict[int, Consumed]:
    """Round -> what a device used for it."""
    found = dict.fromkeys(range(1, rounds + 1), NOTHING)
    for interval in intervals:
        if interval.attempt is not None and interval.attempt.run == run and interval.attempt.round in found:
            found[interval.attempt.round] += interval.used
    for number, used in found.items():
        if not used.measured or used.unmeasured:
            raise RunFailed(f"benchmark: the record of {name} lacks round {number}, or a part of it")
    return found


def _sum(parts: Iterable[Consumed]) -> Consumed:
    return sum(parts, NOTHING)


def ratios(plain: Sequence[Spent], private: Sequence[Spent], who: Who = "both") -> list[float]:
    """Joules of plain rounds over those of private ones, block by block: 1 where privacy costs nothing.

    Args:
        who: whose joules, on both sides.

    Raises:
        RunFailed: both were not measured alike, or one measured nothing.
    """
    check_alike([*plain, *private])
    pairs = [(joules(one, who), joules(other, who)) for one, other in zip(plain, private, strict=True)]
    if not all(one and other for one, other in pairs):
        raise RunFailed("benchmark: a run of no joules has no ratio")
    return [one / other for one, other in pairs]


def joules(one: Spent, who: Who = "both") -> float:
    """J of one round, of devices, server, or both."""
    return one.joules if who == "both" else sum(one.phases(who).values())


def measured(runs: Sequence[Spent]) -> str:
    """How runs that were measured alike were: method, range, source and boundary, in words."""
    used = runs[0].both
    low, high = used.low / used.total, used.high / used.total
    sources, boundaries = ("; ".join(dict.fromkeys(found)) for found in (used.sources, used.boundaries))
    return (
        f"joules are {used.method}, {low:.2g} to {high:.2g} times as many are possible; source: {sources}; boundary: "
        f"{boundaries}"
    )


def check_alike(spent: Sequence[Spent]) -> None:
    """Refuse to compare a counter with a model, or two models.

    Raises:
        RunFailed: methods or sources of the runs differ; on either side.
    """
    for who in SIDES:
        used = [one.devices if who == "devices" else one.server for one in spent]
        for what, found in (
            ("methods", {one.method for one in used}),
            ("sources", {"; ".join(sorted(one.sources)) for one in used}),
            ("boundaries", {"; ".join(sorted(one.boundaries)) for one in used}),
        ):
            if len(found) > 1:
                raise RunFailed(
                    f"benchmark: the {who} were measured by different {what}, which cannot be compared: "
                    f"{' | '.join(sorted(found))}"
                )
