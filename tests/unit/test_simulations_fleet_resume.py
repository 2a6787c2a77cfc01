"""A simulation of hospitals with traces, stopped between rounds and gone on with: virtual time goes on as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedsus.config import validate
from fedsus.errors import ConfigError
from fedsus.journal import AttemptAbandoned, RoundReleased
from fedsus.reporting import read
from fedsus.rounds.server_half.server import RunLoop, pause_after
from fedsus.types import Vector
from fedsus_simulations.clients import attempts
from fedsus_simulations.running.simulation import Simulation
from fedsus_simulations.scenario.config import Scenario

TRACES = {"dropout": 0.15, "spread": 0.5, "stragglers": 0.2, "availability": "office", "hour": 9.9, "time_zones": 3}


def scenario(masks: str, **changes: Any) -> Scenario:
    fields = {
        "seed": 1,
        "task": {"name": "heart"},
        "plan": {
            "rounds": 5,
            "spare_attempts": 30,
            "deadline": 100.0,
            "cohort": {"size": 4, "minimum": 2},
            "secure_sum": {"colluders": 1},
        },
        "population": {"data": "heart"},
        "simulation": {"masks": masks, "trainer": "loop", "evaluate_every": 0},
        "traces": TRACES,
    }
    return validate(fields | changes, Scenario, "scenario.toml")


def run(folder: Path, asked: Scenario, until: int | None = None) -> Vector:
    """Run in a process's worth of fresh objects, to the end or to a round."""

    def stop(released: RoundReleased, model: Vector) -> None:
        del model
        if released.round == until:
            raise KeyboardInterrupt

    simulation = Simulation.of(asked, folder.parent)
    try:
        return simulation.run(folder, "run", stop)
    finally:
        simulation.close()


def released(folder: Path) -> list[RoundReleased]:
    return [entry for entry in read(folder) if isinstance(entry, RoundReleased)]


@pytest.mark.parametrize("masks", ["none", "real"])
def test_a_stopped_run_ends_as_one_that_was_not(tmp_path: Path, masks: str) -> None:
    asked, whole, stopped = scenario(masks), tmp_path / "whole", tmp_path / "stopped"
    model = run(whole, asked)
    for round in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(stopped, asked, round)
    assert run(stopped, asked).tobytes() == model.tobytes()
    first, second = released(whole), released(stopped)
    assert [one.checkpoint for one in first] == [one.checkpoint for one in second]
    assert len({one.survivors for one in first}) > 1  # somebody fell out
    times = [one.virtual or 0.0 for one in second]
    assert times == sorted(set(times)) and times[0] > 0
    if masks == "none":  # with masks a resumed run asks two more phases, which take a moment
        assert times == [one.virtual for one in first]
        assert (whole / attempts.NAME).read_bytes() == (stopped / attempts.NAME).read_bytes()
    assert len(attempts.read(stopped)) == len({one.attempt for one in attempts.read(stopped)})


def test_a_run_goes_on_with_its_own_scenario_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(folder, scenario("real"), 1)
    with pytest.raises(ConfigError, match="its journal is of another scenario"):
        run(folder, scenario("real", seed=2))


def test_the_pause_after_an_abandoned_attempt_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = scenario("none", traces={"dropout": 0.55, "spread": 0.5})
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    model, cut = run(whole, asked), RunLoop._pause
    in_a_row = [entry.attempt for entry in read(whole) if isinstance(entry, AttemptAbandoned)]
    assert {1, 2} <= set(in_a_row)  # the second pause is longer than the first

    def power_cut(loop: RunLoop, *_: int) -> None:
        monkeypatch.setattr(RunLoop, "_pause", cut)
        raise KeyboardInterrupt

    for _ in range(2):
        monkeypatch.setattr(RunLoop, "_pause", power_cut)
        with pytest.raises(KeyboardInterrupt):
            run(stopped, asked)
    assert run(stopped, asked).tobytes() == model.tobytes()
    assert [one.virtual for one in released(stopped)] == [one.virtual for one in released(whole)]
    assert (whole / attempts.NAME).read_bytes() == (stopped / attempts.NAME).read_bytes()


def test_pauses_after_any_number_of_abandoned_attempts() -> None:
    assert [pause_after(count) for count in (0, 1, 2, 5, 6, 100_000)] == [0.0, 1.0, 2.0, 16.0, 30.0, 30.0]
