"""Simulated clients' part in secure aggregation: each with its own identity, sessions and masks, as on a device.

What a device adds around it (policy file, ledger, data) is the population's: a client is given the integers that its
block was trained to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedsus.errors import Refusal
from fedsus.rounds.device_half.answers import indifferent
from fedsus.rounds.messages import Request, request_of
from fedsus.rounds.models import Held
from fedsus.secagg import wire
from fedsus.secagg.session import MAX_COHORT
from fedsus.secagg.wire import Kind
from fedsus_simulations.clients.owners import joining

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedsus.owner.policy import Policy
    from fedsus.plan import Plan
    from fedsus.rounds.device_half.sessions import Sessions
    from fedsus.types import Clock, Ring, Stop, Vector
    from fedsus_simulations.clients.owners import Owners
    from fedsus_simulations.whole.memory import Members


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Trained:
    """A client's integers, made before; implements `fedsus.rounds.device_half.answers.Granted`.

    Nothing is charged: the run is.
    """

    ring: Ring
    bits: int

    def charge(self) -> None:
        """Nobody's budget."""

    def encoded(self, stop: Stop) -> Ring:
        """The integers, (size,) uint32."""
        del stop
        return self.ring

    def sent(self) -> None:
        """Nobody's budget."""

    def refund(self) -> None:
        """Nobody's budget."""

    def certified(self) -> Callable[[int], None]:
        """Nobody's budget."""
        return indifferent


@dataclass(slots=True)
class _Lent(Held):
    """What all clients have: a copy for each would fill the memory."""

    lender: Held

    def keep(self, plan: Plan, model: Vector) -> None:
        """Nothing."""

    def find(self, run: str, digest: str) -> Vector:
        """As `Held.find`."""
        return self.lender.find(run, digest)


@dataclass(slots=True)
class MaskedClients:
    """The clients of a roster; each one's sessions are made when it is first asked.

    Args:
        members: roster and identities.
        owners: their policies; each of them names itself, so a cohort that the simulation chose is joined.
        cohort: clients of a cohort.
        clock: seconds since the epoch, by which sessions end.
        held: the models that differences start from, one of each for all clients; whoever asks them keeps it.
    """

    members: Members
    owners: Owners
    cohort: int
    clock: Clock
    held: Held = field(default_factory=Held)
    _clients: dict[str, tuple[Sessions, Policy]] = field(default_factory=dict, init=False)

    def answer(self, name: str, position: int, message: bytes, trained: Trained | None = None) -> bytes:
        """One client's answer to a message; a request to train is refused where nothing was trained for it."""
        if name not in self._clients:
            policy = joining(self.owners.policy(position), self.cohort, name)
            sessions = self.members.sessions(name, self.clock)
            sessions.held = _Lent(self.held)
            self._clients[name] = (sessions, policy)
        sessions, policy = self._clients[name]

        def admit(request: Request) -> Trained:
            if trained is None:
                raise Refusal(f"plan of round {request.plan.round}: its owner does not allow it")
            return trained

        answer = sessions.answer(message, policy, admit, _never)
        answer.sent()
        return answer.body


def training_request(message: bytes, held: Held) -> Request | None:
    """The plan and model that a message asks to train; None in a phase without training. What else it says, its
    client checks.

    Args:
        held: the models that differences start from.

    Raises:
        ProtocolViolation: malformed.
    """
    for frame in wire.frames(message):
        if frame.kind == Kind.CONTRIBUTE:
            _, raw_plan, raw_model = wire.decode_contribute(wire.split_sid(frame.body)[1], MAX_COHORT)
            return request_of(bytes(raw_plan), raw_model, held)
    return None
