"""The clients of a cohort in processes of their own, a part of them in each: for benchmarks on more than one core.

Threads do not do: a signature check holds Python's lock, and a mask's next chunk then waits for it. Answers lie in
memory that both processes share: a pipe takes 64 KiB at a time, and each time another turn of both.
"""

from __future__ import annotations

import mmap
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Self

from fedsus.errors import RunFailed
from fedsus.types import Answered, Ask, Lost, Member, Reply
from fedsus_simulations.whole.secure_clients import Dropped, MemoryClient, MemoryFleet, never_dropped

Report = Callable[[Mapping[str, MemoryClient]], Any]
"""What a process tells of its clients at the end; it must pickle."""

_GONE: Final = "a process of simulated clients ended before it had answered"
_SLOTS: Final = 2
"""Answers of one process that may wait to be taken: it makes one while the other is added."""


@dataclass(slots=True)
class ForkedFleet:
    """As `MemoryFleet`, over processes; a context manager that ends them. Fork it before any thread is started.

    Args:
        clients: address -> client; they live in the processes, what is here stays as it was.
        dropped: which clients answer nothing any more.
        workers: processes.
        report: asked in each process when it ends.
        largest: bytes of the largest answer.
    """

    clients: Mapping[str, MemoryClient]
    dropped: Dropped = never_dropped
    workers: int = 2
    report: Report = len
    largest: int = 2**20
    _memory: list[mmap.mmap] = field(default_factory=list, init=False)
    _pipes: list[Connection] = field(default_factory=list, init=False)
    _processes: list[Any] = field(default_factory=list, init=False)
    _home: dict[str, int] = field(default_factory=dict, init=False)

    def __enter__(self) -> Self:
        names, context = list(self.clients), multiprocessing.get_context("fork")
        for number in range(self.workers):
            part = {name: self.clients[name] for name in names[number :: self.workers]}
            self._home |= dict.fromkeys(part, number)
            ours, theirs = context.Pipe()
            memory = mmap.mmap(-1, _SLOTS * self.largest)
            clients = MemoryFleet(part, self.dropped)
            process = context.Process(target=_serve, args=(theirs, memory, clients, self.report), daemon=True)
            process.start()
            self._memory.append(memory)
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        return self

    def __exit__(self, *_: object) -> None:
        # A later process holds the earlier ones' pipes too: none would see its own closed. SIGTERM would not do: it may
        # reach a process before that has left the handlers of this one behind. They keep nothing that could be lost.
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()

    def members(self) -> Sequence[Member]:
        """All clients."""
        return [Member(name, name) for name in self.clients]

    def ask(self, ask: Ask) -> Iterator[Reply]:
        """Ask each client; replies as they come.

        Raises:
            RunFailed: a process ended.
        """
        shares: list[list[tuple[str, bytes]]] = [[] for _ in self._pipes]
        for name, own in ask.requests.items():
            shares[self._home[name]].append((name, own))
        due = [len(share) for share in shares]
        for pipe, share in zip(self._pipes, shares, strict=True):
            if share:
                self._send(pipe, (share, ask.common))
        while any(due):
            ready = wait([pipe for pipe, left in zip(self._pipes, due, strict=True) if left])
            for number, pipe in enumerate(self._pipes):
                if pipe in ready:
                    due[number] -= 1
                    yield self._reply(pipe, self._memory[number])

    def reports(self) -> list[Any]:
        """What each process tells of its clients."""
        for pipe in self._pipes:
            pipe.send(None)
        return [pipe.recv() for pipe in self._pipes]

    @staticmethod
    def _send(pipe: Connection, asked: object) -> None:
        try:
            pipe.send(asked)
        except OSError:
            raise RunFailed(_GONE) from None

    @staticmethod
    def _reply(pipe: Connection, memory: mmap.mmap) -> Reply:
        """The next reply of a process; its slot is free again."""
        try:
            name, start, length = pipe.recv()
            body = memory[start : start + length]
            pipe.send(True)
        except (EOFError, OSError):
            raise RunFailed(_GONE) from None
        return Answered(name, body) if length else Lost(name)


def _serve(pipe: Connection, memory: mmap.mmap, fleet: MemoryFleet, report: Report) -> None:
    """Answer until the other end is closed."""
    size, slot, waiting = len(memory) // _SLOTS, 0, 0
    try:
        while (asked := pipe.recv()) is not None:
            share, common = asked
            for name, own in share:
                reply = fleet.reply(name, own + common)
                body = reply.body if isinstance(reply, Answered) else b""
                if waiting == _SLOTS:
                    waiting -= pipe.recv()
                start, slot = slot * size, (slot + 1) % _SLOTS
                if len(body) > size:
                    raise RunFailed(f"an answer of {len(body)} bytes; at most {size} were expected")
                memory[start : start + len(body)] = body
                pipe.send((name, start, len(body)))
                waiting += 1
            while waiting:
                waiting -= pipe.recv()
        pipe.send(report(fleet.clients))
    except (EOFError, BrokenPipeError):
        return
