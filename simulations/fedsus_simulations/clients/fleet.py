"""The fleet of a simulation: whole phases at once, for the round loop of a deployment.

In clear, and where masks are skipped, each block of clients is trained and added at once. With real masks, each
client's own part in secure aggregation (`fedsus.rounds.device_half.sessions`) answers every phase, and masks the
integers that its block was trained to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedsus.encoding.mechanisms import mechanism_of
from fedsus.encoding.packing import packed_size
from fedsus.rounds.messages import Request, decode_request, encode_answer
from fedsus.rounds.models import Held
from fedsus.secagg import wire
from fedsus.types import Answered, Ask, Lost, Member, Partial, Refused, Reply
from fedsus_simulations.clients.asked import Asked, Available
from fedsus_simulations.clients.fates import Fates, Judge
from fedsus_simulations.clients.identities import simulated_members
from fedsus_simulations.clients.masked import MaskedClients, Trained, training_request
from fedsus_simulations.clients.owners import Owners
from fedsus_simulations.clients.traces import VirtualClock, traces_of

if TYPE_CHECKING:
    from fedsus.config import RunConfig
    from fedsus.secagg.roster import Roster
    from fedsus_simulations.clients.attempts import Attempt
    from fedsus_simulations.clients.blocks import Workers
    from fedsus_simulations.clients.population import Population
    from fedsus_simulations.clients.traces import Traces
    from fedsus_simulations.scenario.config import Scenario

_HEADER = len(encode_answer(b""))

Note = Callable[["Attempt"], None]
"""Told of each attempt once its answers are there."""


@dataclass(slots=True)
class SimulatedFleet:
    """Implements `fedsus.rounds.server_half.exchange.Fleet` for a population.

    Args:
        clock: advanced by what each phase takes.
        stack: clients in a block.
        masked: the clients' part in secure aggregation; None where masks are skipped.
        note: told of each attempt.
        held: the last models of all clients, of whom none is started again; ``masked`` has it too.
    """

    population: Population
    workers: Workers
    owners: Owners
    traces: Traces
    clock: VirtualClock
    stack: int
    masked: MaskedClients | None = None
    note: Note | None = None
    held: Held = field(default_factory=Held)
    _judge: Judge = field(init=False)
    _names: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        self._judge = Judge(self.population, self.owners, self.traces)
        self._names = self.population.names

    @property
    def roster(self) -> Roster | None:
        """Of the clients; None where masks are skipped."""
        return None if self.masked is None else self.masked.members.roster

    def members(self) -> Sequence[Member]:
        """Who is there now."""
        return Available(self._names, self.traces.available(self.clock.now))

    def ask(self, ask: Ask) -> Iterator[Reply]:
        """Let the clients of a phase answer; replies block by block, and last who is lost.

        Raises:
            EnvironmentFault: a worker failed more often than it may; the run stays open.
        """
        asked, unknown = Asked.of(ask.requests, self.population)
        if asked:
            first = ask.request(asked.names[0])
            if not wire.is_secure(first):
                yield from self._clear(ask, decode_request(first, self.held), asked)
            elif self.masked is None:
                yield from map(Refused, asked.names)
            else:
                yield from self._masked(ask, asked, first, self.masked)
        yield from map(Lost, unknown)

    def _clear(self, ask: Ask, request: Request, asked: Asked) -> Iterator[Reply]:
        """Train and add whole blocks."""
        self.held.keep(request.plan, request.model)
        mechanism = mechanism_of(request.plan)
        up = _HEADER + packed_size(mechanism.size, mechanism.bits)
        fates = self._judge.training(ask, request.plan, asked, self.clock.now, up)
        blocks = fates.answers.blocks(self.stack)
        refused: set[int] = set()
        for added in self.workers.totals(request, [block.positions.tolist() for block in blocks]):
            clients = [name for number in added.blocks for name in blocks[number].split(added.refused)[0].names]
            refused |= added.refused
            if clients:
                yield Partial(clients, added.total, up * len(clients))
        answered, failed = fates.answers.split(refused)
        yield from map(Refused, fates.refuses.names + failed.names)
        yield from self._ended(request, fates, answered)

    def _masked(self, ask: Ask, asked: Asked, first: bytes, masked: MaskedClients) -> Iterator[Reply]:
        """Each client's own answer."""
        request = training_request(first, self.held)
        if request is None:
            yield from self._light(ask, asked, masked)
            return
        mechanism = mechanism_of(request.plan)
        up = packed_size(mechanism.size, mechanism.bits)
        fates = self._judge.training(ask, request.plan, asked, self.clock.now, up)
        blocks = fates.answers.blocks(self.stack)
        refused: set[int] = set()
        encoded = self.workers.rings(request, [block.positions.tolist() for block in blocks])
        for block, made in zip(blocks, encoded, strict=True):
            refused |= made.refused
            for (name, position), ring in zip(block.split(made.refused)[0], made.rings, strict=True):
                given = Trained(ring, mechanism.bits)
                yield Answered(name, masked.answer(name, position, ask.request(name), given))
        answered, failed = fates.answers.split(refused)
        yield from self._answers(ask, fates.refuses, masked)
        yield from self._answers(ask, failed, masked)
        self.held.keep(request.plan, request.model)  # not before: all of them start from the last one
        yield from self._ended(request, fates, answered)

    def _light(self, ask: Ask, asked: Asked, masked: MaskedClients) -> Iterator[Reply]:
        """A phase without training."""
        answers = self._judge.light(ask, asked, self.clock.now)
        yield from self._answers(ask, answers.there, masked)
        self.clock.advance(answers.seconds(ask))
        yield from map(Lost, answers.away.names)

    @staticmethod
    def _answers(ask: Ask, asked: Asked, masked: MaskedClients) -> Iterator[Reply]:
        for name, position in asked:
            yield Answered(name, masked.answer(name, position, ask.request(name)))

    def _ended(self, request: Request, fates: Fates, answered: Asked) -> Iterator[Reply]:
        """Time passes, and the attempt is noted."""
        if self.note is not None:
            here = len(self._names), len(self.members())
            self.note(fates.attempt(request.plan, self.clock.now, here, answered))
        self.clock.advance(fates.seconds)
        yield from map(Lost, fates.lost.names)


def fleet_of(
    scenario: Scenario, config: RunConfig, population: Population, workers: Workers, stack: int, reference: str
) -> SimulatedFleet:
    """The fleet that a scenario describes, with a clock at 0.

    Args:
        config: the run, `fedsus_simulations.scenario.config.Scenario.run_config`.
        stack: clients in a block.
        reference: the task on every device, a built-in name or ``module:Class``.

    Raises:
        ConfigError: more clients than a roster lists, or shares of owners above 1.
    """
    seed, clients = scenario.seed, len(population.names)
    masked = config.plan.exchange == "secure_sum"
    with_masks = config
    if scenario.plan.exchange == "secure_sum" and not masked:
        real = scenario.simulation.model_copy(update={"masks": "real"})
        with_masks = scenario.model_copy(update={"simulation": real}).run_config(clients)
    owners = Owners.of(scenario.owners, with_masks, {config.task.name: reference}, seed, clients)
    size, began = config.plan.cohort.size, time.time()  # clients' own clocks stand: no session ends while they train
    held = Held()
    return SimulatedFleet(
        population,
        workers,
        owners,
        traces_of(scenario.traces, seed, clients),
        VirtualClock(),
        stack,
        MaskedClients(simulated_members(population.names, seed), owners, size, lambda: began, held) if masked else None,
        held=held,
    )
