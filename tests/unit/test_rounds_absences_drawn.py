"""More devices are connected than a cohort has places, and most of them sit out: spare attempts are kept."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from clear_runs import DIMENSION, FakeFleet, config
from hours import BEGAN, HOUR, Time

from fedsus.config import ServerConfig
from fedsus.journal import AttemptAbandoned, RoundReleased
from fedsus.reporting import read
from fedsus.rounds.messages import encode_hour, refusal
from fedsus.rounds.planning.specification import open_run
from fedsus.rounds.server_half.absences import SKEW_SECONDS
from fedsus.rounds.server_half.server import RunLoop
from fedsus.types import Answered, Ask, Member, Reply

BACK = BEGAN - BEGAN % HOUR + 9 * HOUR


class Spent(FakeFleet):
    """Ten devices, of which the first ``out`` sit out until `BACK`, and say so."""

    def __init__(self, time: Time, out: int) -> None:
        super().__init__(size=10)
        self.time, self.out = time, out

    def ask(self, ask: Ask) -> Iterator[Reply]:
        for reply in super().ask(ask):
            if int(reply.client) < self.out and self.time.now < BACK:
                yield Answered(reply.client, refusal(encode_hour(int(BACK / HOUR))))
            else:
                yield reply


@pytest.mark.parametrize("seed", range(5))
def test_draws_that_fail_for_those_who_sit_out_are_not_repeated_until_all_attempts_are_spent(
    tmp_path: Path, seed: int
) -> None:
    """Cohorts of three, two of them at least: by nine hours later all are back."""
    time, by = Time(), random.Random(seed)
    asked = config(rounds=3, spare=5).model_copy(update={"server": ServerConfig(wait_for_devices=3600.0)})
    open_run(tmp_path, "r", asked, np.zeros(DIMENSION, np.float32), lambda: BEGAN)

    def draw(members: Sequence[Member], size: int, attempt: int) -> Sequence[Member]:
        return by.sample(members, size)

    told: list[float | None] = []
    fleet = Spent(time, out=8)
    RunLoop(tmp_path, fleet, clock=time, sleep=time.sleep, draw=draw, waits=lambda until, why: told.append(until)).run()
    entries = read(tmp_path)
    assert sum(isinstance(entry, RoundReleased) for entry in entries) == 4, "with the last evaluation"
    assert sum(isinstance(entry, AttemptAbandoned) for entry in entries) <= 2 + 3
    assert BACK + SKEW_SECONDS <= time.now < BACK + SKEW_SECONDS + 60
    assert told == [BACK + SKEW_SECONDS, None]


def test_one_draw_that_fails_is_followed_by_another_at_once(tmp_path: Path) -> None:
    time, fails = Time(), [1, 0, 0, 0, 0]
    asked = config(rounds=3, spare=5).model_copy(update={"server": ServerConfig(wait_for_devices=3600.0)})
    open_run(tmp_path, "r", asked, np.zeros(DIMENSION, np.float32), lambda: BEGAN)

    def draw(members: Sequence[Member], size: int, attempt: int) -> Sequence[Member]:
        return members[:size] if fails[attempt - 1] else members[-size:]

    RunLoop(tmp_path, Spent(time, out=5), clock=time, sleep=time.sleep, draw=draw).run()
    assert sum(isinstance(entry, AttemptAbandoned) for entry in read(tmp_path)) == 1
    assert time.slept == 1.0, "a run that can do without them waits for nobody"
