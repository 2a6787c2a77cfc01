"""The simulators' benchmarks: what is made of the sides' rounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from simulated_sides import SAMPLES, spent, work

from fedsus.errors import EnvironmentFault, RunFailed
from fedsus_simulations.benchmarks import (
    cli,
    registry,
    simulate_images,
    simulate_peers,
    simulate_rounds,
    simulate_trivial,
)
from fedsus_simulations.benchmarks.result import complete
from fedsus_simulations.benchmarks.simulate_ours import ENCODING, REST, TRAINING, Run
from fedsus_simulations.benchmarks.simulate_peers import PFL, Places
from fedsus_simulations.benchmarks.simulate_rounds import FEDSUS, FLOWER, LOOP, Sides


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    """Two turns, measured."""
    found = Sides(tmp_path, work(tmp_path), 50_890, Path("python"), None)
    found.found = {
        FEDSUS: [spent([9, 0.1, 0.3], score=(1.0, 0.6)), spent([9, 0.2, 0.2], score=(1.0, 0.6))],
        LOOP: [spent([9, 0.5, 0.5], score=(1.1, 0.6), peak=1e9), spent([9, 0.6, 0.6], score=(1.1, 0.6), peak=2e9)],
        PFL: [spent([9, 1, 1], versions={"pfl": "0.6.0"}), spent([9, 3, 3], versions={"pfl": "0.6.0"})],
    }
    return found


def test_first_rounds_are_left_out_and_turns_are_told(sides: Sides) -> None:
    body = sides.compared(0.25, 8, 80)
    assert body["ours"]["median"] == pytest.approx(0.2)
    assert body["ours"]["n"] == 4
    assert body["peer"]["median"] == pytest.approx(2.0)
    assert body["ratio"] == pytest.approx(10.0)
    assert body["target"] == "at most 0.25 s, 8 times faster"
    assert set(body["figures"]) == {LOOP}
    table = sides.by_turn()
    assert [row[-1] for row in table["rows"]] == pytest.approx([5.0, 15.0])
    result = complete("simulate-mlp", True, body | {"tables": [table, sides.progress(2.3)]})
    assert result.reached is True
    assert result.versions["pfl"] == "0.6.0"
    assert simulate_peers.NO_FLOWER in sides.notes((1.0, 2.0))


def test_a_missed_number_is_missed(sides: Sides) -> None:
    assert complete("simulate-mlp", True, sides.compared(0.19, 8)).reached is False
    assert complete("simulate-mlp", True, sides.compared(0.25, 11)).reached is False
    sides.flower, sides.found[FLOWER] = Path("python"), [spent([9, 10.0])]
    result = complete("simulate-mlp", True, sides.compared(0.25, 8, 80))
    assert result.figures[FLOWER].reached is False
    assert result.figures[LOOP].reached is None
    assert simulate_peers.NO_FLOWER not in sides.notes((1.0, 2.0))


def test_flower_is_left_out_where_it_is_not(sides: Sides) -> None:
    sides.flower_once(2)
    assert FLOWER not in sides.found


def test_a_path_that_ray_cannot_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate_peers, "pfl", lambda _: Path("python"))
    monkeypatch.setattr(simulate_peers, "flower", lambda _: Path("python"))
    long, short = Path("/", "long" * 12), Path("/", "tmp")
    with pytest.raises(EnvironmentFault, match="49 characters; Ray's sockets need at most 40: set TMPDIR=/tmp"):
        Sides.of(long, work(long), 1, Places())
    assert Sides.of(short, work(short), 1, Places()).flower is not None
    monkeypatch.setattr(simulate_peers, "flower", lambda _: None)
    assert Sides.of(long, work(long), 1, Places()).flower is None


def test_ours_must_have_learned_as_much_as_the_bare_loop(sides: Sides) -> None:
    rows = sides.progress(2.3)["rows"]
    assert [row[0] for row in rows] == [FEDSUS, LOOP]
    sides.found[FEDSUS] = [spent([9, 0.1, 0.3], score=(1.5, 0.6))]
    with pytest.raises(RunFailed, match="did not do the same work"):
        sides.progress(2.3)


def test_the_arithmetic_limit_is_of_the_best_product(sides: Sides) -> None:
    found = simulate_images.limit(sides, 1000)
    assert found["peer"]["median"] == pytest.approx(1000 * 6 * SAMPLES / 2e9)
    assert found["ratio"] < 1


def test_parts_are_told_a_round() -> None:
    rows = simulate_rounds.parts_table({TRAINING: 6.0, ENCODING: 1.0, REST: 3.0}, 2)["rows"]
    assert [row[1] for row in rows] == [3.0, 0.5, 1.5]
    assert [row[2] for row in rows] == pytest.approx([60, 10, 30])


def test_many_registered_are_compared_with_few(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    def ours(what: str, sides: Sides, clients: int) -> Run:
        more = {"memory": 10**9 if clients > 1000 else 5 * 10**8, "start": 6.0 if clients > 1000 else 3.0}
        return Run.model_validate(spent([9, 0.3 if clients > 1000 else 0.29]).model_dump() | more)

    monkeypatch.setattr(simulate_trivial, "ours", ours)
    rows = complete("x", True, sides.compared(1, 1) | {"figures": simulate_trivial.registered(sides, 2)}).figures
    assert [row.reached for row in rows.values()] == [True, False, True]


def test_peers_and_data_reach_the_benchmark_and_its_json_is_kept(
    sides: Sides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def run(self: registry.Benchmark, quick: bool, places: Places | None = None) -> dict[str, Any]:
        given.append(places)
        return sides.compared(1, 1)

    monkeypatch.setattr(registry.Benchmark, "run", run)
    options = ["--peer-venv", "a", "--peer-venv", "b", "--data", "c", "--into", str(tmp_path / "out"), "--quick"]
    CliRunner().invoke(cli.bench, ["simulate-mlp", *options], catch_exceptions=False)
    assert given == [Places((Path("a"), Path("b")), Path("c"))]
    kept = json.loads((tmp_path / "out" / "simulate-mlp.json").read_text())
    assert kept["ratio"] == pytest.approx(10.0)
    refused = CliRunner().invoke(cli.bench, ["server-memory", "--peer-venv", "a"])
    assert refused.exit_code == 2
