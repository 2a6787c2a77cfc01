"""While a run goes on: what it may have spent, against whom, and what a sum's edge is called."""

from __future__ import annotations

from typing import Any

import pytest

from fedsus.config import RunConfig
from fedsus.journal import RoundReleased
from fedsus.rounds.specification import Specification, specified
from fedsus_server.progress import Progress, against, planned_epsilon

KINDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "none": ({}, "against everyone", "saturated 7"),
    "example": (
        {"unit": "example", "epsilon": 3.0, "delta": 1e-5, "denominator": 9.0, "sampling_rate": 1.0},
        "against everyone",
        "saturated 7",
    ),
    "distributed": (
        {"unit": "client", "epsilon": 8.0, "delta": 1e-5},
        "against the server with 2 colluders",
        "near wrapping 7",
    ),
    "central": (
        {"unit": "client", "placement": "central", "epsilon": 8.0, "delta": 1e-5},
        "against recipients",
        "saturated 7",
    ),
}


def specification(privacy: dict[str, Any], colluders: int = 2) -> Specification:
    plan = {
        "rounds": 4,
        "exchange": "clear_sum",
        "cohort": {"size": 10, "minimum": 8},
        "secure_sum": {"colluders": colluders},
        "privacy": privacy,
    }
    return specified("one", RunConfig.model_validate({"task": {"name": "heart"}, "plan": plan}), 34)


def released() -> RoundReleased:
    return RoundReleased(
        round=2,
        attempt=3,
        survivors=9,
        refused=0,
        lost=1,
        weight=9.0,
        metrics=None,
        held_out=0,
        saturated=7,
        checkpoint="0" * 64,
        bytes_sent=1000,
        bytes_received=1000,
        seconds=1.0,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_says_against_whom_and_how_many_are_at_the_edge(kind: str) -> None:
    privacy, whom, edge = KINDS[kind]
    found = specification(privacy)
    progress = Progress(specification=found, released=[released()], attempts=3)
    epsilon = planned_epsilon(found, 3)
    line = progress.line(epsilon)
    assert edge in line
    assert len(line) < 140
    if not privacy:
        assert epsilon is None and "epsilon" not in line
        return
    assert epsilon == found.epsilon(3)
    assert f"epsilon {epsilon:.2f} {whom} (planned)" in line


def test_one_colluder_is_one() -> None:
    assert against(specification(KINDS["distributed"][0], colluders=1)) == "against the server with 1 colluder"
