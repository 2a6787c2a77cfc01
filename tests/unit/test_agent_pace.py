"""When an agent asks again, and when it tries to connect again."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from fedsus_client.pace import Backoff, Pace

seeds = st.integers(0, 1000).map(random.Random)


@given(seeds, st.floats(0.01, 10), st.floats(1, 100))
def test_waits_double_with_jitter_up_to_the_longest_and_never_end(draw: random.Random, first: float, by: float) -> None:
    longest = first * by
    backoff = Backoff(first, longest, draw)
    for failures in range(2000):
        ceiling = min(first * 2.0 ** min(failures, 16), longest)
        assert ceiling / 2 <= backoff.wait() <= ceiling
    backoff.reset()
    assert first / 2 <= backoff.wait() <= first


def test_agents_do_not_return_in_step() -> None:
    waits = {Backoff().wait() for _ in range(100)}
    assert len(waits) == 100
    assert max(waits) - min(waits) > 0.3


@given(seeds, st.floats(0, 1e6), st.floats(0, 1e5), st.floats(0, 100))
def test_questions_are_close_together_after_an_answer_and_rarer_later(
    draw: random.Random, now: float, since: float, held: float
) -> None:
    active, idle = 0.05, 2.0
    pace = Pace(active, idle, draw)
    assert 0 <= pace.wait(now, now - held) <= 1.1 * idle
    assert pace.wait(now, now) >= 0.9 * idle  # nothing was answered yet
    pace.answered(now - since)
    wait = pace.wait(now, now)
    expected = min(max(active, 0.15 * since), idle)
    assert 0.89 * expected <= wait <= 1.11 * expected


def test_a_held_question_is_asked_again_at_once() -> None:
    pace = Pace(0.05, 2.0, random.Random(0))
    assert pace.wait(115.0, 100.0) == 0.0
