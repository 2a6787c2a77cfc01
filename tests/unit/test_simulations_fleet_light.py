"""Phases without training in virtual time: whoever is there answers, and only who is needed is waited for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from simulated import Crowd, Places, run_config

from fedsus.secagg import wire
from fedsus.secagg.wire import Kind
from fedsus.types import Answered, Ask, Lost
from fedsus_simulations.clients.fleet import SimulatedFleet
from fedsus_simulations.clients.owners import Owners
from fedsus_simulations.clients.traces import Instant, VirtualClock

REQUEST = wire.frame(Kind.CONFIRM, b"s" * 32, b"x")
LIGHT, GRACE = 30.0, 5.0


@dataclass
class Mute:
    """Clients that answer with their name."""

    asked: list[str] = field(default_factory=list)

    def answer(self, name: str, position: int, message: bytes, trained: Any = None) -> bytes:
        assert trained is None
        assert message == REQUEST
        assert name == f"client-{position}"
        self.asked.append(name)
        return name.encode()


@dataclass
class Slow(Instant):
    """Client p answers after p seconds; some have left."""

    left: frozenset[int] = frozenset()

    def reached(self, now: float, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        return ~np.isin(positions, list(self.left))

    def light(self, positions: NDArray[np.int64], down: int) -> NDArray[np.float64]:
        assert down == len(REQUEST)
        return positions.astype(np.float64)


def asked(left: set[int], **changes: Any) -> tuple[float, list[str], list[str]]:
    """Seconds, who answered, who was lost, of a phase of clients 0 to 4."""
    owners = Owners.of([], run_config(5), {"heart": "heart"}, 1, 8)
    mute: Any = Mute()
    fleet = SimulatedFleet(Crowd(8), Places(), owners, Slow(frozenset(left)), VirtualClock(), 4, mute)
    names = [f"client-{position}" for position in range(5)]
    fields: dict[str, Any] = {"deadline": LIGHT, "common": REQUEST, "grace": GRACE}
    replies = list(fleet.ask(Ask(dict.fromkeys(names, b""), **fields | changes)))
    answered = [reply.client for reply in replies if isinstance(reply, Answered)]
    lost = [reply.client for reply in replies if isinstance(reply, Lost)]
    assert sorted(answered + lost) == names
    assert mute.asked == answered
    return fleet.clock.now, answered, lost


LAST = frozenset({"client-4"})


@pytest.mark.parametrize(
    ("left", "changes", "seconds"),
    [
        (set(), {}, 4.0),
        (set(), {"deadline": 2.5}, 2.5),
        (set(), {"optional": LAST}, 3.0),
        ({2}, {}, LIGHT),
        ({2}, {"enough": lambda: True}, 4.0 + GRACE),
        ({2}, {"enough": lambda: False}, LIGHT),
        ({2}, {"enough": lambda: True, "deadline": 6.0}, 6.0),
        ({4}, {"optional": LAST}, 3.0),
        ({3, 4}, {"optional": LAST}, LIGHT),
        ({0, 1, 2, 3, 4}, {}, LIGHT),
    ],
)
def test_only_who_is_needed_is_waited_for(left: set[int], changes: dict[str, Any], seconds: float) -> None:
    taken, _, lost = asked(left, **changes)
    assert taken == seconds
    assert lost == [f"client-{position}" for position in sorted(left)]


def test_slow_clients_answer_all_the_same() -> None:
    """Nobody falls out of a phase without training for being slow: the same survive with masks and without."""
    _, answered, lost = asked(set(), deadline=0.5)
    assert len(answered) == 5 and not lost


def test_optional_clients_alone_are_all_waited_for() -> None:
    everybody = frozenset(f"client-{position}" for position in range(5))
    assert asked(set(), optional=everybody)[0] == 4.0
