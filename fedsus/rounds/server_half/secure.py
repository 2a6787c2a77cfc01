"""The server's sessions of secure aggregation over a run: cohorts, numbers, what one round prepares for the next."""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from fedsus import plan as plans
from fedsus.encoding.mechanism import Mechanism
from fedsus.errors import CorruptionError
from fedsus.rounds.planning.withstood import numbers
from fedsus.rounds.server_half.exchange import Fleet, conduct
from fedsus.secagg import thresholds
from fedsus.secagg.cohort import SIGMA, drawn
from fedsus.secagg.cohort import keys as cohort_keys
from fedsus.secagg.exchange import Patience, establish, secure_sum
from fedsus.secagg.keys import Signatures
from fedsus.secagg.roster import digest
from fedsus.secagg.server import Established, Opening, Party
from fedsus.secagg.session import Session

if TYPE_CHECKING:
    from fedsus.encoding.packing import Buffer
    from fedsus.plan import Plan
    from fedsus.rounds.planning.specification import Specification
    from fedsus.types import Clock, Forms, Member, Summed

_ROUNDS_OF_LIFE: Final = 2
_PATIENT_ROUNDS: Final = 3
"""Rounds that connected clients may be left out of one after another before a session starts on its own."""

_SKEW_SECONDS: Final = 300
"""How far a device's clock may be ahead: a node's signature of another time is not accepted."""

_SLACK_SECONDS: Final = 900
"""How long a session outlives its own round and the one it rides on: clocks differ, and devices are waited for."""

_DRAWS, _SHUFFLED = 64, 100_000
"""Most draws of one cohort, and most members shuffled for it, 0.2 s: of many, each draw has as many connected."""


Draw = Callable[[Sequence["Member"], int, int], Sequence["Member"]]
"""Chooses so many of the members for an attempt: (members, size, attempt)."""


def draw_anew(members: Sequence[Member], size: int, attempt: int) -> Sequence[Member]:
    """Members at random, by the operating system's generator."""
    del attempt
    return random.SystemRandom().sample(members, size)


class SecureRounds:
    """Opens sessions, keeps the one that a round established for the next.

    Args:
        specification: of the run.
        clock: seconds since the epoch.
        draw: chooses a cohort of those connected, where the plan's choice is "named".
        workers: threads for masks.
    """

    def __init__(self, specification: Specification, clock: Clock, draw: Draw = draw_anew, workers: int = 2) -> None:
        roster = specification.roster
        if roster is None:
            raise CorruptionError("journal: a run with secure_sum, and no roster")
        self._specification, self._roster, self._clock, self._workers = specification, roster, clock, workers
        self._draw = draw
        self._asked = specification.config.plan
        self._numbers = numbers(self._asked, roster)
        self._hash = ""
        self._signatures = Signatures()
        self._names = {member.name for member in roster.members}
        self._ready: Established | None = None
        self._opening: Opening | None = None
        self._left_out = 0

    @classmethod
    def of(cls, specification: Specification, clock: Clock, draw: Draw = draw_anew) -> SecureRounds | None:
        """None for a run in clear."""
        return cls(specification, clock, draw) if specification.config.plan.exchange == "secure_sum" else None

    @property
    def floor(self) -> int:
        """The least clients with which a round can succeed."""
        asked, found = self._asked.cohort, self._numbers
        return thresholds.floor(asked.size, found.colluders, found.dropouts, asked.minimum)

    def known(self, members: Sequence[Member]) -> list[Member]:
        """Connected clients that bear a name of the roster, the first of each."""
        found: dict[str, Member] = {}
        for member in members:
            if member.name in self._names:
                found.setdefault(member.name, member)
        return sorted(found.values())

    def absent(self, members: Sequence[Member]) -> tuple[list[str], list[str]]:
        """Names of the roster that nobody connected bears, and connected names that it lacks."""
        here = {member.name for member in members}
        return sorted(self._names - here), sorted(here - self._names)

    def session(self, round: int, attempt: int, cohort: Sequence[Member], dimension: int) -> bytes:
        """The sid of an attempt: of the session that the round before established, or of a new one."""
        ready, self._opening = self._ready, None
        self._hash = self._hash or self._specification.hash(dimension)
        if ready is not None and self._fits(ready, round, attempt, cohort):
            return ready.sid
        self._ready = None
        self._opening = self._open(round, attempt, cohort, None)
        return self._opening.sid

    def conduct(
        self,
        plan: Plan,
        model: Buffer | Forms,
        mechanism: Mechanism,
        cohort: Sequence[Member],
        has_next: bool,
        fleet: Fleet,
    ) -> Summed:
        """The sum of a plan's cohort, in the session that `session` named.

        Args:
            model: as it travels, `fedsus.rounds.models`.

        Raises:
            CohortTooSmall, ProtocolViolation: the attempt is abandoned; nothing was opened.
        """
        light = self._asked.secure_sum
        patience = Patience(plan.deadline, min(light.light_deadline, plan.deadline), light.grace)
        established, opening = self._ready, self._opening
        self._ready = self._opening = None
        if opening is not None:
            established = conduct(establish(opening, patience), fleet)
        if established is None:
            raise CorruptionError("secure sum: no session was opened")
        following = self._open(plan.round + 1, plan.attempt + 1, cohort, established.sid) if has_next else None
        raw = plans.encode(plan)
        result = conduct(
            secure_sum(
                established,
                plans.digest(raw),
                (raw, model),
                mechanism.size,
                mechanism.bits,
                patience,
                following,
                self._workers,
            ),
            fleet,
        )
        self._ready = result.following
        return result.summed

    def _fits(self, ready: Established, round: int, attempt: int, cohort: Sequence[Member]) -> bool:
        """Whether a prepared session is this attempt's, lives long enough, and has enough clients left."""
        session = ready.party.session
        here = {member.id for member in cohort if member.name in self._names_of(session)}
        there = here & {ready.party.clients[index] for index in ready.shared}
        # A session that rides along does not wait for clients that were lost before. One that is slow, and not gone,
        # gets the time that a session on its own has, now and then.
        self._left_out = self._left_out + 1 if here - there else 0
        if self._left_out >= _PATIENT_ROUNDS:
            self._left_out = 0
            return False
        in_time = session.expires - self._clock() > self._seconds + _SKEW_SECONDS
        return (session.round, session.attempt) == (round, attempt) and len(there) >= session.floor and in_time

    def _names_of(self, session: Session) -> set[str]:
        return {self._roster.members[position].name for position in session.cohort}

    @property
    def _seconds(self) -> float:
        """The longest that one round takes; of clients that are asked again with the whole model too."""
        trainings = 1 if self._asked.downlink is None else 2
        return trainings * self._asked.deadline + 4 * self._asked.secure_sum.light_deadline

    def _open(self, round: int, attempt: int, cohort: Sequence[Member], previous: bytes | None) -> Opening:
        found, roster, nonce = self._numbers, self._roster, secrets.token_hex(32)
        positions: tuple[int, ...] = tuple(range(len(roster.members)))
        if found.choice == "drawn":
            nonce, positions = self._drawn(cohort, attempt)
        elif found.choice == "named":
            positions = self._chosen(cohort, self._asked.cohort.size, attempt)
        session = Session(
            federation=roster.federation,
            roster=digest(roster).hex(),
            number=roster.number,
            server=self._specification.server,
            nonce=nonce,
            run=self._specification.run,
            specification=self._hash,
            round=round,
            attempt=attempt,
            previous=None if previous is None else previous.hex(),
            cohort=positions,
            choice=found.choice,
            colluders=found.colluders,
            dropouts=found.dropouts,
            rule=found.thresholds.rule,
            neighbours=found.thresholds.neighbours,
            threshold=found.thresholds.threshold,
            sigma=SIGMA,
            minimum=self._asked.cohort.minimum,
            expires=math.ceil(self._clock() + _ROUNDS_OF_LIFE * self._seconds + _SLACK_SECONDS),
        )
        addresses = {member.name: member.id for member in cohort}
        names = [roster.members[position].name for position in positions]
        clients = {index: addresses[name] for index, name in enumerate(names) if name in addresses}
        return Opening(Party(session, cohort_keys(session, roster), clients, self._signatures))

    def _drawn(self, cohort: Sequence[Member], attempt: int) -> tuple[str, tuple[int, ...]]:
        """A nonce and the positions that it draws: of a few draws the one with most who are connected.

        That weakens nothing: the A of a drawn cohort holds however often a server draws again.
        """
        here = {self._roster.index(member.name) for member in cohort}
        run, size = self._specification.run, self._asked.cohort.size
        best: tuple[str, tuple[int, ...]] = ("", ())
        most = -1
        for _ in range(max(1, min(_DRAWS, _SHUFFLED // len(self._roster.members)))):
            nonce = secrets.token_hex(32)
            positions = drawn(self._roster, run, self._hash, attempt, nonce, size)
            there = len(here.intersection(positions))
            if there > most:
                best, most = (nonce, positions), there
            if most == size:
                break
        return best

    def _chosen(self, cohort: Sequence[Member], size: int, attempt: int) -> tuple[int, ...]:
        """Positions of connected members, drawn, filled up with others at random, who then count as dropouts."""
        asked = self._draw(cohort, size, attempt) if len(cohort) > size else cohort
        here = {member.name for member in asked}
        order = list(range(len(self._roster.members)))
        random.SystemRandom().shuffle(order)
        order.sort(key=lambda position: self._roster.members[position].name not in here)
        return tuple(sorted(order[:size]))
