"""Who is asked in a round whose noise is correlated with that of earlier ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from fedsus.config import RunConfig, validate
from fedsus.errors import RunFailed
from fedsus.journal import RunState
from fedsus.rounds.planning.specification import Specification, specified
from fedsus.rounds.server_half.gathering import Gathering, turn_of
from fedsus.rounds.server_half.secure import draw_anew
from fedsus.types import Ask, Member, Reply

BANDS, ROUNDS = 3, 9
MEMBERS = [Member(f"id{number}", f"hospital-{number}") for number in range(24)]


class Here:
    """All are connected."""

    def members(self) -> Sequence[Member]:
        return MEMBERS

    def ask(self, ask: Ask) -> Iterator[Reply]:
        raise NotImplementedError


def specification(size: int = 4, **privacy: object) -> Specification:
    plan = {
        "rounds": ROUNDS,
        "exchange": "clear_sum",
        "cohort": {"size": size, "minimum": 2},
        "privacy": {"unit": "client", "placement": "central", "epsilon": 5.0, "delta": 1e-5, **privacy},
    }
    config = validate(
        {"name": "r", "task": {"name": "heart"}, "plan": plan, "server": {"wait_for_devices": 0.0}}, RunConfig, "run"
    )
    return specified("r", config, 34)


def gathering(asked: Specification) -> Gathering:
    return Gathering(asked, Here(), None, draw_anew, lambda: 0.0, lambda seconds: None)


def test_each_client_is_asked_in_every_bth_round_at_most_whoever_starts_the_server_again() -> None:
    asked: dict[str, list[int]] = {}
    for round in range(1, ROUNDS + 1):
        for member in gathering(specification(bands=BANDS)).cohort(RunState(next_round=round, attempts=round - 1)):
            asked.setdefault(member.name, []).append(round)
    assert sum(map(len, asked.values())) == 4 * ROUNDS
    assert all((np.diff(rounds) >= BANDS).all() for rounds in asked.values())


def test_noise_that_is_independent_asks_anybody() -> None:
    rounds: Counter[str] = Counter()
    for round in range(1, 40):
        cohort = gathering(specification()).cohort(RunState(next_round=round, attempts=round - 1))
        rounds.update(member.name for member in cohort)
    assert len(rounds) > BANDS * 4, "not the same few"


def test_a_turn_with_too_few_clients_says_how_many_there_are() -> None:
    fewest = min(Counter(turn_of("r", member.name, BANDS) for member in MEMBERS).items(), key=lambda item: item[1])
    round = fewest[0] or BANDS
    with pytest.raises(RunFailed, match=f"{fewest[1]} devices are connected, {fewest[1] + 1} are needed"):
        gathering(specification(size=fewest[1] + 1, bands=BANDS)).cohort(RunState(next_round=round))
