"""The harness of `fedsus bench`: what every result must hold, and what it refuses."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedsus.errors import ConfigError, EnvironmentFault, RunFailed
from fedsus_simulations import benchmarks
from fedsus_simulations.benchmarks import cli, registry, simulate_peers
from fedsus_simulations.benchmarks.result import Result, comparison, complete, figure

LACKING = ("secure-round", "secure-sum", "secure-scaling", "simulate-mlp", "simulate-cnn", "simulate-trivial")
"""May refuse here: the extra `peers` or another peer is not in the test environment."""


def fake(quick: bool) -> dict[str, Any]:
    """A benchmark that needs no time."""
    ours = figure([0.1, 0.2, 0.4] if quick else [0.1], "s", "a fake round", warm_up=1)
    peer = figure([2.0, 1.0, 4.0], "s", "a fake peer")
    return {**comparison(ours, peer, "at most 1 s"), "notes": ["made up"], "figures": {"more": comparison(ours, peer)}}


def broken(quick: bool) -> dict[str, Any]:
    """A benchmark that fails."""
    raise RunFailed("no peer here")


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> dict[str, registry.Benchmark]:
    """The registry holds a fake alone; a test may add to it."""
    rows = {"fake": registry.Benchmark("fake", __name__, "a fake")}
    monkeypatch.setattr(cli, "BENCHMARKS", rows)
    monkeypatch.setattr(registry, "BENCHMARKS", rows)
    measures = {"fake": fake, "broken": broken}
    monkeypatch.setattr(registry.Benchmark, "run", lambda self, quick, places: measures[self.name](quick))
    return rows


@pytest.mark.usefixtures("rows")
def test_json_of_one_holds_everything_that_a_figure_needs() -> None:
    done = CliRunner().invoke(cli.bench, ["fake", "--quick", "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found["name"] == "fake"
    assert found["quick"] is True
    assert set(found["machine"]) == {"cpu", "cores", "memory_gb"}
    assert found["machine"]["cores"] >= 1
    assert {"python", "torch", "flwr", "fedsus"} <= set(found["versions"])
    assert found["ours"] == {
        "min": 0.1, "median": 0.2, "max": 0.4, "unit": "s", "n": 3, "warm_up": 1, "what": "a fake round",
    }  # fmt: skip
    assert found["peer"]["median"] == 2.0
    assert found["ratio"] == pytest.approx(10.0)
    assert "fake" in done.stderr


@pytest.mark.usefixtures("rows")
def test_full_sizes_are_the_default_and_a_table_is_for_people() -> None:
    done = CliRunner().invoke(cli.bench, ["fake"], catch_exceptions=False)
    assert "full sizes" in done.stdout
    assert "a fake round" in done.stdout
    assert "made up" in done.stdout


def test_all_runs_every_row_and_a_failing_one_fails_the_command_not_the_others(
    rows: dict[str, registry.Benchmark],
) -> None:
    last = rows.pop("fake")
    rows["broken"] = registry.Benchmark("broken", __name__, "always fails")
    rows["fake"] = last
    done = CliRunner().invoke(cli.bench, ["all", "--quick", "--json"])
    assert [found["name"] for found in json.loads(done.stdout)] == ["fake"]
    assert isinstance(done.exception, RunFailed)
    assert "1 of 2" in str(done.exception)
    assert "broken: no peer here" in str(done.exception)


@pytest.mark.usefixtures("rows")
def test_all_succeeds_when_every_row_does() -> None:
    done = CliRunner().invoke(cli.bench, ["all", "--quick"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "a fake round" in done.stdout


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no benchmark 'server-memry'; did you mean 'server-memory'\?"):
        registry.find("server-memry")


def test_list_names_every_benchmark() -> None:
    done = CliRunner().invoke(cli.bench, ["list"], catch_exceptions=False)
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(registry.BENCHMARKS)


def test_every_file_that_measures_has_a_row_and_every_row_a_file() -> None:
    (folder,) = benchmarks.__path__
    measuring = {path.stem for path in Path(folder).glob("*.py") if "\ndef run(quick: bool" in path.read_text()}
    assert measuring == {row.module.rpartition(".")[2] for row in registry.BENCHMARKS.values()}
    assert {name.replace("-", "_") for name in registry.BENCHMARKS} == measuring


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"ratio": float("nan")}, "ratio"),
        ({"ratio": -1.0}, "ratio"),
        ({"speed": 1}, "speed"),
        ({"ours": {"min": 2.0, "median": 1.0, "max": 3.0, "unit": "s", "n": 3}}, "out of order"),
        ({"peer": {"min": 1.0, "median": 1.0, "max": 1.0, "unit": "s", "n": 0}}, "peer.n"),
    ],
)
def test_a_result_that_cannot_be_true_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RunFailed, match=complaint):
        complete("fake", True, fake(True) | change)


def test_a_result_without_a_peer_is_refused() -> None:
    body = fake(True)
    del body["peer"]
    with pytest.raises(RunFailed, match="benchmark 'fake': peer"):
        complete("fake", True, body)


def test_nothing_measured_is_no_figure() -> None:
    with pytest.raises(RunFailed, match="nothing was measured"):
        figure([], "s", "rounds")


def test_ratio_is_larger_when_ours_is_smaller() -> None:
    peer = figure([10.0], "s")
    assert comparison(figure([1.0], "s"), peer)["ratio"] > comparison(figure([2.0], "s"), peer)["ratio"] > 1
    assert comparison(figure([0.0], "s"), peer)["ratio"] < float("inf")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", registry.BENCHMARKS)
def test_each_runs_with_quick_sizes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(environment: Path) -> Path:
        raise EnvironmentFault(f"{environment}: no environment is built in tests")

    monkeypatch.setattr(simulate_peers, "build", refuse)
    try:
        result = complete(name, True, importlib.import_module(registry.BENCHMARKS[name].module).run(True))
    except EnvironmentFault as fault:
        if name not in LACKING:
            raise
        pytest.skip(str(fault))
    assert isinstance(result, Result)
    assert result.ratio > 0
