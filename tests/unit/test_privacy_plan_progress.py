"""While a run goes on: what it may have spent, against whom, and what a sum's edge is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsus.config import RunConfig
from fedsus.errors import ConfigError
from fedsus.journal import AttemptOpened, Journal, RoundReleased
from fedsus.privacy.stated import shown
from fedsus.rounds.planning.specification import Specification, open_run, specified
from fedsus_server import following, runs
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
    assert f"epsilon {shown(epsilon)} {whom} (planned)" in line


def test_one_colluder_is_one() -> None:
    assert against(specification(KINDS["distributed"][0], colluders=1)) == "against the server with 1 colluder"


@pytest.mark.parametrize("unit", ["none", "example"])
def test_the_cautions_of_a_run_are_told_when_it_starts(unit: str, tmp_path: Path) -> None:
    config = specification(KINDS[unit][0] | ({"delta": 0.09, "denominator": 20.0} if unit == "example" else {})).config
    open_run(tmp_path / "one", "one", config, np.zeros(34, np.float32), lambda: 0.0)
    lines = runs.caution_lines(tmp_path / "one")
    if unit == "none":
        assert lines == []
        return
    assert len(lines) == 1
    assert lines[0].startswith("! delta 0.09 is not below 1 / n: with n = 20 rows of a device")


def test_status_says_what_a_run_may_have_spent(tmp_path: Path) -> None:
    found = specification(KINDS["distributed"][0])
    open_run(tmp_path / "one", "one", found.config, np.zeros(34, np.float32), lambda: 0.0)
    assert following._released(tmp_path / "one") == "running, 0 rounds released"
    with Journal.open(tmp_path / "one", lambda: 0.0) as journal:
        journal.append(AttemptOpened(round=1, attempt=1, plan_digest="0" * 64, cohort=10))
    told = f"epsilon {shown(found.epsilon(1))} against the server with 2 colluders (planned)"
    assert following._released(tmp_path / "one") == f"running, 0 rounds released, {told}"


def test_a_run_that_every_device_refuses_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'task = { name = "heart" }\n[plan]\nrounds = 4\nexchange = "clear_sum"\ncohort = { size = 3, minimum = 3 }\n'
        '[plan.privacy]\nunit = "client"\nepsilon = 3.0\ndelta = 1e-5\n',
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match=r"plan.exchange = 'clear_sum'.*in a secure sum"):
        runs.open_new(path, tmp_path / "runs", lambda: 0.0)
