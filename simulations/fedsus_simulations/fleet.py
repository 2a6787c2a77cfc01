"""The fleet of a simulation: whole phases at once, for the round loop of a deployment.

In clear, and where masks are skipped, each block of clients is trained and added at once. With real masks, each
client's own part in secure aggregation (`fedsus.rounds.sessions`) answers every phase, and masks the integers that its
block was trained to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from fedsus.encoding.mechanism import FixedPoint
from fedsus.encoding.packing import packed_size
from fedsus.errors import Refusal
from fedsus.owner.admission import admit
from fedsus.rounds.messages import Request, decode_request, encode_answer
from fedsus.secagg import wire
from fedsus.types import Answered, Ask, Lost, Member, Partial, Refused, Reply
from fedsus_simulations.masked import Trained, training_request
from fedsus_simulations.workers import blocks_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedsus.owner.policy import Policy
    from fedsus_simulations.masked import MaskedClients
    from fedsus_simulations.population import Population
    from fedsus_simulations.traces import Traces, VirtualClock
    from fedsus_simulations.workers import Workers

_HEADER = len(encode_answer(b""))


class _Members(Sequence[Member]):
    """Clients that can be asked, made when they are looked at: a round's cost does not grow with the registered."""

    def __init__(self, names: Sequence[str], positions: Sequence[int] | None) -> None:
        self._names, self._positions = names, positions

    def __len__(self) -> int:
        return len(self._names if self._positions is None else self._positions)

    @overload
    def __getitem__(self, at: int) -> Member: ...
    @overload
    def __getitem__(self, at: slice) -> list[Member]: ...
    def __getitem__(self, at: int | slice) -> Member | list[Member]:
        if isinstance(at, slice):
            return [self[number] for number in range(len(self))[at]]
        name = self._names[at if self._positions is None else int(self._positions[at])]
        return Member(name, name)


@dataclass(slots=True)
class SimulatedFleet:
    """Implements `fedsus.rounds.exchange.Fleet` for a population.

    Args:
        policy: of the owners. Admission runs once for each plan, since all have the same.
        stack: clients in a block.
        masked: the clients' part in secure aggregation; None where masks are skipped.
        clock: advanced by what each phase takes.
    """

    population: Population
    workers: Workers
    policy: Policy
    tasks: Mapping[str, str]
    traces: Traces
    clock: VirtualClock
    stack: int
    masked: MaskedClients | None = None

    def members(self) -> Sequence[Member]:
        """Who is there now."""
        return _Members(self.population.names, self.traces.available(self.clock.now))  # type: ignore[arg-type]

    def ask(self, ask: Ask) -> Iterator[Reply]:
        """Let the clients of a phase answer; replies block by block."""
        known = {name: self.population.position(name) for name in ask.requests}
        positions = {name: position for name, position in known.items() if position is not None}
        for name in known.keys() - positions.keys():
            yield Lost(name)
        if not positions:
            return
        first = ask.request(next(iter(positions)))
        if wire.is_secure(first):
            yield from self._masked(ask, positions)
        else:
            yield from self._clear(ask, decode_request(first), positions)

    def _clear(self, ask: Ask, request: Request, positions: Mapping[str, int]) -> Iterator[Reply]:
        try:
            admit(request.plan, self.policy, self.tasks)
        except Refusal:
            yield from map(Refused, positions)
            return
        mechanism = FixedPoint(request.plan)
        answer = _HEADER + packed_size(mechanism.size, mechanism.bits)
        there, lost = self._trained(ask, request, positions, answer)
        blocks = self._blocks(there)
        for added in self.workers.totals(request, [[there[name] for name in block] for block in blocks]):
            asked = [name for number in added.blocks for name in blocks[number]]
            answered = [name for name in asked if there[name] not in added.refused]
            yield Partial(answered, added.total, answer * len(answered))
            yield from (Refused(name) for name in asked if there[name] in added.refused)
        yield from map(Lost, lost)

    def _masked(self, ask: Ask, positions: Mapping[str, int]) -> Iterator[Reply]:
        if self.masked is None:
            yield from map(Refused, positions)
            return
        request = training_request(ask.request(next(iter(positions))), len(positions))
        if request is None:
            down = max(len(own) for own in ask.requests.values()) + len(ask.common)
            times = self.traces.light(list(positions.values()), down, 0)
            self.clock.advance(min(float(times.max()), ask.deadline))
            for name in positions:
                yield Answered(name, self.masked.answer(name, ask.request(name)))
            return
        try:
            admit(request.plan, self.policy, self.tasks)
        except Refusal:
            yield from map(Refused, positions)
            return
        mechanism = FixedPoint(request.plan)
        there, lost = self._trained(ask, request, positions, packed_size(mechanism.size, mechanism.bits))
        blocks = self._blocks(there)
        encoded = self.workers.rings(request, [[there[name] for name in block] for block in blocks])
        for block, made in zip(blocks, encoded, strict=True):
            rows = iter(made.rings)
            for name in block:
                trained = None if there[name] in made.refused else Trained(next(rows), mechanism.bits)
                yield Answered(name, self.masked.answer(name, ask.request(name), trained))
        yield from map(Lost, lost)

    def _blocks(self, there: Mapping[str, int]) -> list[Sequence[str]]:
        return blocks_of(list(there), self.stack)

    def _trained(
        self, ask: Ask, request: Request, positions: Mapping[str, int], answer: int
    ) -> tuple[dict[str, int], list[str]]:
        """Who answers in time, in the order of the request, and who does not; time passes."""
        at = list(positions.values())
        examples = self.population.sizes[at] * request.plan.training.local_epochs
        down = len(ask.request(next(iter(positions))))
        times = self.traces.training(at, request.plan.attempt, examples, down, answer)
        in_time = times <= ask.deadline
        self.clock.advance(float(times.max()) if in_time.all() else ask.deadline)
        there = {name: at for (name, at), here in zip(positions.items(), in_time, strict=True) if here}
        return there, [name for name in positions if name not in there]
