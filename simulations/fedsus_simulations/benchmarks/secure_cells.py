"""What one secure sum costs a client and the server: all clients run where that is quick, else one server and a sample.

A sample is one client for each vector size, with its real states through all five phases. What surrounds it is real as
far as it or the server look at it: all identities and adverts, each checked by the server; signatures of everybody over
the root and the survivors; shares for the sampled clients, of random numbers under the real channel keys. What others
would seal for each other is random bytes, which the server decodes and keeps. Of the server's work, that of phase 0 is
done for all clients; that of later phases for the sampled ones, and multiplied.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

import numpy as np
from pydantic import TypeAdapter

from fedsus import plan as plans
from fedsus.errors import RunFailed
from fedsus.rounds.server_half.exchange import conduct
from fedsus.secagg import channels, wire
from fedsus.secagg.alike import confirmed_payload, own_mask
from fedsus.secagg.client import Advertised, advertise
from fedsus.secagg.exchange import Patience, establish, secure_sum
from fedsus.secagg.keys import Signatures, statement
from fedsus.secagg.masks import add_masks
from fedsus.secagg.rebuilding import Rebuilding
from fedsus.secagg.seat import Seat
from fedsus.secagg.server import Collected, Established, Sharing
from fedsus.secagg.session import Phase
from fedsus.secagg.shares import SHARE_BYTES
from fedsus.types import Ring
from fedsus_simulations.benchmarks import processes
from fedsus_simulations.benchmarks.secure_cases import Case, Cell
from fedsus_simulations.benchmarks.secure_memory import BITS, CountingClient, Vectors, federated
from fedsus_simulations.whole.secure_clients import Federation, Give, MemoryFleet, MemoryMarks

T = TypeVar("T")
CELLS: Final = TypeAdapter(list[Cell])
_PLAN: Final = b"a plan"
_PAIRS, _WORDS = 10_000, 2e9
"""All clients are run up to so many neighbours of all clients together, and numbers of all their masks."""


@dataclass(slots=True)
class TimedClient(CountingClient):
    """Counts its processor time too, seconds."""

    seconds: float = 0.0

    def answer(self, raw: bytes, now: float = 0.0) -> bytes:
        """As `CountingClient`."""
        start = time.thread_time()
        said = CountingClient.answer(self, raw, now)
        self.seconds += time.thread_time() - start
        return said


@dataclass(slots=True)
class Server:
    """The server's processor time, seconds, and growth of memory, bytes: measured around what it does."""

    seconds: float = 0.0
    memory: int = 0

    def does(self, work: Callable[[], T]) -> T:
        """Do a step and count it."""
        memory, start = processes.memory("self", "VmRSS"), time.process_time()
        done = work()
        self.seconds += time.process_time() - start
        self.memory += max(0, processes.memory("self", "VmRSS") - memory)
        return done


def measure(clients: int, sizes: Sequence[int]) -> list[Cell]:
    """A cell for each size, here and now."""
    hidden = federated(Case(clients=clients, parameters=1))
    cells = Sample(hidden, sizes).cells()
    pairs = clients * cells[0].neighbours
    quick = [pairs <= _PAIRS and pairs * cell.parameters <= _WORDS for cell in cells]
    return [_whole(hidden, cell) if run else cell for cell, run in zip(cells, quick, strict=True)]


def _whole(hidden: Federation, sampled: Cell) -> Cell:
    """The same cell with all clients run, on one thread; memory is the sampled server's, apart from any client's."""
    base = np.random.default_rng(1).integers(0, 1 << BITS, sampled.parameters, dtype=np.uint32)
    vectors, patience, checks = Vectors(base), Patience(600.0), Signatures()
    clients = {
        str(index): TimedClient(index, hidden.keys, identity, vectors.give, BITS, checks)
        for index, identity in enumerate(hidden.identities)
    }
    fleet, start = MemoryFleet(clients), time.process_time()
    established = conduct(establish(hidden.opening(2, checks), patience), fleet)
    digest = plans.digest(_PLAN)
    summed = conduct(secure_sum(established, digest, (_PLAN, b""), len(base), BITS, patience), fleet).summed
    spent = time.process_time() - start
    if not np.array_equal(summed.total, vectors.total()):
        raise RunFailed("benchmark: a sum is not that of its survivors' vectors")
    of_clients = sum(client.seconds for client in clients.values())
    changes = {
        "how": "run",
        "client_seconds": of_clients / len(clients),
        "upload": max(client.up for client in clients.values()),
        "download": max(client.down for client in clients.values()),
        "server_seconds": max(0.0, spent - of_clients),
    }
    return Cell.model_validate(sampled.model_dump() | changes)


@dataclass(slots=True)
class Sample:
    """One session of which some clients are run, one for each size.

    Args:
        hidden: all identities.
        sizes: parameters of each cell.
    """

    hidden: Federation
    sizes: Sequence[int]
    server: Server = field(default_factory=Server)
    channels: dict[tuple[int, int], channels.Channel] = field(default_factory=dict)
    """(client of the sample, holder): the holder's keys to seal to it and to open from it."""

    def cells(self) -> list[Cell]:
        """Costs by size."""
        first, sharing, states = self._advertised()
        clients = self._chosen(first, sharing, states)
        request, each = sharing.request(), Server()
        bodies = {client.index: _body(client.answer(request)) for client in clients}
        for index, body in bodies.items():
            each.does(partial(sharing.take, index, body))
        self._fill(sharing, bodies.keys())
        established = self.server.does(sharing.close)
        shares = each.seconds / len(bodies)
        return [self._cell(client, established, shares) for client in clients]

    def _advertised(self) -> tuple[TimedClient, Sharing, list[Advertised]]:
        """Phase 0 of everybody, as the server checks it, and of one client more whose costs are counted."""
        opening, keys, signatures = self.hidden.opening(), self.hidden.keys, Signatures()
        request = self.server.does(opening.request)
        first = TimedClient(0, keys, self.hidden.identities[0], lambda index: np.zeros(index, np.uint32), BITS)
        first.answer(request)
        states = []
        for index, identity in enumerate(self.hidden.identities):
            seat = Seat(opening.party.session, opening.sid, keys, index, identity, signatures, MemoryMarks())
            state, advert = advertise(seat, 0.0)
            states.append(state)
            self.server.does(partial(opening.take, index, advert))
        return first, self.server.does(opening.close), states

    def _chosen(self, first: TimedClient, sharing: Sharing, states: list[Advertised]) -> list[TimedClient]:
        """The clients of the sample, after phase 0; the keys of their channels as their holders have them."""
        clients = []
        for index, size in zip(sharing.graph.holders(0), self.sizes, strict=False):
            vector = np.random.default_rng(index).integers(0, 1 << BITS, size, dtype=np.uint32)
            client = replace(first, index=index, identity=self.hidden.identities[index], give=_giving(vector))
            client.states, client.marks = {sharing.sid: states[index]}, MemoryMarks()
            clients.append(client)
            for holder in set(sharing.graph.holders(index)) - {index}:
                state = states[holder]
                own = channels.agreed(state.channel, state.seat, sharing.tid, sharing.adverts, [index])
                self.channels[index, holder] = own[index]
        return clients

    def _fill(self, sharing: Sharing, sampled: Collection[int]) -> None:
        """What the others shared: real for the sample and in what they sign for all, else random bytes."""
        memory = processes.memory("self", "VmRSS")
        for index in sorted(sharing.adverts.keys() - sampled):
            holders = set(sharing.graph.holders(index)) - {index}
            random = secrets.token_bytes(wire.SEALED_BYTES * len(holders))
            sealed = dict(zip(holders, _parts(random, wire.SEALED_BYTES), strict=True))
            for client in holders.intersection(sampled):
                share = bytes(1) + secrets.token_bytes(SHARE_BYTES - 1)
                channel = self.channels[client, index]
                sealed[client] = channels.seal_shares(channel, 2 * share, sharing.tid, index, client)
            signed = self._signed(index, Phase.ROOT, sharing.sid, sharing.root)
            body = wire.Shared(secrets.token_bytes(32), signed, sealed, bytes(64)).encode()
            del sealed
            # Decoded as the server does; its two checks of signatures are counted in the sample.
            sharing._shared[index] = wire.decode_shared(body, len(self.hidden.identities))
        self.server.memory += max(0, processes.memory("self", "VmRSS") - memory)

    def _signed(self, index: int, phase: Phase, context: bytes, payload: bytes) -> bytes:
        return self.hidden.identities[index].sign(statement(phase, context, index, payload))

    def _cell(self, client: TimedClient, established: Established, shares: float) -> Cell:
        """Phases 2 to 4 of one client, and what they are to the server."""
        index, size = client.index, len(client.give(client.index))
        once, each = Server(self.server.seconds, self.server.memory), Server(shares)
        digest = plans.digest(_PLAN)
        own = each.does(partial(established.own_request, index))
        said = client.answer(own + once.does(partial(established.request, _PLAN, b"")))
        total = np.zeros(size, dtype=np.uint32)
        collected = established.collect(digest, total, BITS)
        each.does(lambda: collected.take(index, _body(said)))
        collected.members |= established.shared.keys()
        signature = client.answer(once.does(collected.confirm_request))
        each.does(lambda: collected.take_signature(index, _body(signature)))
        payload = confirmed_payload(digest, collected._survivors)
        for other in established.shared.keys() - {index}:
            collected._signatures[other] = self._signed(other, Phase.CONFIRM, established.tid, payload)
        openings = client.answer(once.does(collected.unmask_request))
        each.does(lambda: collected.take_openings(index, _body(openings)))
        self._unmask(collected, index, each)
        clients, neighbours = len(self.hidden.identities), established.party.session.neighbours
        return Cell(
            clients=clients,
            parameters=size,
            neighbours=min(neighbours, clients - 1),
            how="sampled",
            client_seconds=client.seconds,
            upload=client.up,
            download=client.down,
            server_seconds=once.seconds + clients * each.seconds,
            # One answer is at hand while it is added; of what clients opened, each leaves as much.
            server_memory=once.memory + total.nbytes + len(said) + clients * len(openings),
        )

    def _unmask(self, collected: Collected, index: int, each: Server) -> None:
        """Rebuild the sampled client's own secret from the shares that its holders can open, and take its mask off."""
        base = collected.base
        shares = {}
        for holder, sealed in base.shared[index].sealed.items():
            both = channels.open_shares(self.channels[index, holder].receiving, sealed, base.tid, index, holder)
            if both is None:
                raise RunFailed(f"the share of client {index} that {holder} holds does not open")
            shares[1 + holder] = both.reveal()[:SHARE_BYTES]
        rebuilding = Rebuilding(base.party.session.threshold)
        check = partial(collected._owns, index)
        if base.party.session.rule == "complete":  # all secrets come from the same holders: prepared once
            rebuilding.secret(index, shares, check)

        def take_off() -> None:
            mask = own_mask(rebuilding.secret(index, shares, check), base.tid, collected.plan)
            add_masks(collected.total, [(mask, -1)], BITS)

        each.does(take_off)


def _giving(vector: Ring) -> Give:
    return lambda _: vector.copy()


def _body(said: bytes) -> bytes:
    """The body of an answer's one frame.

    Raises:
        RunFailed: the client refused.
    """
    (frame,) = wire.frames(said)
    if frame.refused:
        raise RunFailed(f"benchmark: a sampled client refused phase {frame.kind.name.lower()}")
    return bytes(frame.body)


def _parts(raw: bytes, width: int) -> list[bytes]:
    return [raw[at : at + width] for at in range(0, len(raw), width)]


if __name__ == "__main__":
    found = measure(int(sys.argv[1]), [int(size) for size in sys.argv[2:]])
    print(CELLS.dump_json(found).decode())  # noqa: T201 (the parent reads it)
