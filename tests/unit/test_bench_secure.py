"""The benchmarks of secure sums: what they refuse, what counts as a round, what they say; Flower's half in memory."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from flwr.app import Context, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from pydantic import ValidationError

from fedsus.config import RunConfig, validate
from fedsus.errors import EnvironmentFault, RunFailed
from fedsus.journal import Entry, RoundReleased, RunOpened
from fedsus_simulations.benchmarks import (
    agent,
    cli,
    deployed_round,
    registry,
    secure_cells,
    secure_memory,
    secure_ours,
    secure_round,
    secure_scaling,
    secure_sum,
    stock_client,
    stock_secure,
    stock_simulation,
)
from fedsus_simulations.benchmarks.result import Result, complete
from fedsus_simulations.benchmarks.secure_cases import Case, Cell, Spent
from fedsus_simulations.benchmarks.stock_secure import Work
from fedsus_simulations.benchmarks.stock_simulation import Simulated

ROOT = Path(__file__).resolve().parents[2]
SECURE = ("secure-round", "secure-sum", "secure-scaling")
WORK = Work(clients=4, size=50, rounds=2, shares=4, threshold=3)
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the benchmarks read /proc")


class Here:
    """Flower's grid, reduced to what SecAgg+ asks of it: clients in this process, the first ``silent`` never reply."""

    run = SimpleNamespace(run_id=1)

    def __init__(self, app: Callable[[Message, Context], Message], clients: int, silent: int) -> None:
        self._app, self._silent = app, silent
        self._contexts = {node: Context(1, node, {}, RecordDict(), {}) for node in range(1, clients + 1)}

    def get_node_ids(self) -> list[int]:
        return list(self._contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return [self._reply(message) for message in messages]

    def _reply(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if node <= self._silent:
            return Message(Error(code=0), reply_to=message)
        message.content = copy.deepcopy(message.content)  # one object serves all clients, and each takes from it
        return self._app(message, self._contexts[node])


def flower(monkeypatch: pytest.MonkeyPatch, folder: Path, silent: int = 0) -> Sequence[tuple[float, float]]:
    """What Flower's SecAgg+ wrote after `WORK`."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    grid: Any = Here(stock_secure.client_app(torch=False), WORK.clients, silent)
    stock_secure.serve(grid, Context(1, 0, {}, RecordDict(), {}), WORK, folder / "times.json")
    return stock_secure.marks(folder / "times.json")


def test_rounds_of_the_peer_really_sum(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = flower(monkeypatch, tmp_path)
    assert [mean for _, mean in found] == pytest.approx([0.0, 1.0, 2.0], abs=stock_secure.TOLERANCE)
    assert len(stock_secure.seconds(found)) == WORK.rounds
    assert min(stock_secure.seconds(found)) > 0


def test_a_round_that_the_peer_halted_is_no_measurement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = flower(monkeypatch, tmp_path, silent=2)
    assert len(found) == WORK.rounds + 1, "Flower goes on as if nothing were"
    with pytest.raises(RunFailed, match="round 1 of Flower's SecAgg.* moved the mean by 0 in place of 1"):
        stock_secure.seconds(found)


def test_before_the_first_round_there_are_no_marks(tmp_path: Path) -> None:
    assert stock_secure.marks(tmp_path / "times.json") == []


def test_the_peer_gets_the_threshold_of_ours_and_a_graph_that_flower_can_run() -> None:
    assert (secure_round.SHARES, secure_round.THRESHOLD) == (4, (4 + 1) // 2 + 1)
    assert secure_sum.SHARES % 2 == 1, "Flower crashes on an even number below the cohort's"
    assert secure_sum.NEIGHBOURS >= secure_sum.SHARES, "ours has no fewer"
    app = tomllib.loads((secure_round.SECURE_APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert set(app["config"]) == {*(field.name for field in dataclasses.fields(Work)), "times"}


@pytest.mark.parametrize("name", SECURE)
def test_each_refuses_in_one_line_before_anything_is_started(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secure_round, "peer_once", pytest.fail)
    monkeypatch.setattr(secure_sum, "peer_once", pytest.fail)
    monkeypatch.setattr(secure_sum, "ours_once", pytest.fail)
    monkeypatch.setattr(stock_client, "measure", pytest.fail)

    def none() -> None:
        raise EnvironmentFault("not here")

    for module, need in ((secure_ours, "need_deployment"), (secure_ours, "need_cells"), (stock_simulation, "need_ray")):
        monkeypatch.setattr(module, need, none)
    with pytest.raises(EnvironmentFault, match="^not here$"):
        registry.find(name).run(True)


def test_without_ray_the_refusal_names_the_command_and_the_extra_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock_simulation, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault) as refusal:
        secure_sum.run(True)
    line = str(refusal.value)
    assert "\n" not in line
    assert f"{sys.executable} -m pip install -c constraints.txt -e 'simulations[peers]'" in line
    extras = tomllib.loads((ROOT / "simulations" / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "peers" in extras


def spent(**changes: Any) -> Spent:
    """What a good child process says of a quick case."""
    body = {"seconds": [0.5, 0.4], "peak": 10**8, "survivors": [30, 30], "exact": True, "upload": 400_100}
    return Spent.model_validate_json(
        json.dumps({**body, "download": 9_000, "notes": ["checks were cached"], **changes})
    )


CASE = Case(clients=30, parameters=100_000, neighbours=20, rounds=2)


@pytest.mark.parametrize(
    ("case", "changes", "complaint"),
    [
        (CASE, {"exact": False}, "not that of its survivors"),
        (CASE, {"survivors": [30, 29]}, "should have 30 to 30"),
        (CASE, {"seconds": [0.5], "survivors": [30]}, "1 of 2 rounds"),
        (CASE.model_copy(update={"dropping": 0.3}), {"survivors": [20, 30]}, "should have 21 to 30"),
    ],
)
def test_a_wrong_sum_is_no_measurement(case: Case, changes: dict[str, Any], complaint: str) -> None:
    assert secure_sum.checked("sparse", CASE, spent()) == spent()
    with pytest.raises(RunFailed, match=complaint):
        secure_sum.checked("sparse", case, spent(**changes))


@pytest.mark.parametrize(
    "changes", [{"seconds": [0.5]}, {"seconds": [], "survivors": []}, {"seconds": [-1.0, 1.0]}, {"speed": 1}]
)
def test_what_a_child_says_is_read_strictly(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spent(**changes)


def test_ours_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    found = secure_sum.ours_once(tmp_path, "small", Case(clients=9, parameters=1000, rounds=2))
    assert found.exact
    assert found.survivors == (9, 9)
    assert 4_000 < found.upload < 20_000
    assert found.peak > 10**7


@pytest.mark.parametrize(("dropping", "cached", "neighbours"), [(0.0, True, 22), (0.2, False, None)])
def test_ours_really_sums(dropping: float, cached: bool, neighbours: int | None) -> None:
    case = Case(clients=30, parameters=100, dropping=dropping, cached=cached, neighbours=neighbours, seed=3)
    found = secure_memory.measure(case)
    assert found.exact
    assert 24 <= found.survivors[0] <= (29 if dropping else 30)
    (note,) = found.notes
    assert ("done once" in note) is cached
    assert ("k = 22" in note) is (neighbours == 22)


def test_a_vector_that_is_missing_from_the_sum_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(clients=9, parameters=100)
    assert secure_memory.measure(case).exact

    def short(self: secure_memory.Vectors, index: int) -> Any:
        self.given.add(index)
        return self.base * np.uint32(2 * index + 1 if index else 0)

    monkeypatch.setattr(secure_memory.Vectors, "give", short)
    assert not secure_memory.measure(case).exact


def test_drops_are_at_all_points_and_as_many_as_asked() -> None:
    case = Case(clients=100, parameters=1, dropping=0.3, seed=2)
    at = secure_memory.Drops.of(case).at
    assert len(at) == 30
    assert set(at.values()) == set(range(5))


def journal(exchange: str, survivors: Sequence[int]) -> list[Entry]:
    """A run's entries, as far as the benchmark looks at them."""
    opened = RunOpened(
        run="round",
        config={"run": {"plan": {"exchange": exchange}}},
        model_hash="0" * 64,
        checkpoint="0" * 64,
        fedsus_version="0",
    )
    rows = [
        RoundReleased(
            round=number,
            attempt=number,
            survivors=count,
            refused=0,
            lost=4 - count,
            weight=float(count),
            metrics=None,
            held_out=0,
            saturated=None,
            checkpoint="0" * 64,
            bytes_sent=1,
            bytes_received=1,
            seconds=0.5,
            time=float(number),
        )
        for number, count in enumerate(survivors, start=1)
    ]
    return [opened, *rows]


def test_a_deployed_round_counts_when_the_journal_says_that_all_were_summed_as_asked() -> None:
    found = deployed_round.released(journal("secure_sum", [4, 4, 4]), "secure_sum", 4, 3)
    assert [entry.time for entry in found] == [1.0, 2.0, 3.0]
    with pytest.raises(RunFailed, match="the journal says exchange clear_sum, not secure_sum"):
        deployed_round.released(journal("clear_sum", [4, 4, 4]), "secure_sum", 4, 3)
    with pytest.raises(RunFailed, match="of 3 rounds, 3 were released, 2 with all 4 clients"):
        deployed_round.released(journal("secure_sum", [4, 3, 4]), "secure_sum", 4, 3)
    with pytest.raises(RunFailed, match="of none, not secure_sum"):
        deployed_round.released([], "secure_sum", 4, 3)


def test_every_run_of_the_benchmarks_says_how_it_sums() -> None:
    for exchange in ("clear_sum", "secure_sum"):
        toml = deployed_round._RUN.format(exchange=exchange, clients=4, rounds=3)
        config = validate(tomllib.loads(toml), RunConfig, "run.toml")
        assert (config.plan.exchange, config.plan.cohort.size) == (exchange, 4)
    alone = validate(tomllib.loads(agent._RUN), RunConfig, "run.toml")
    assert alone.plan.exchange == "clear_sum", "one client alone has no secure sum"


@pytest.mark.parametrize("quick", [True, False])
def test_secure_sum_compares_each_case_with_the_rounds_after_the_first(
    quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Case] = []

    def ours(folder: Path, label: str, case: Case) -> Spent:
        asked.append(case)
        return spent(peak=10**9 if case.dropping else 10**8)

    monkeypatch.setattr(stock_simulation, "need_ray", lambda: None)
    monkeypatch.setattr(secure_sum, "ours_once", ours)
    monkeypatch.setattr(secure_sum, "peer_once", lambda folder, case: Simulated((60.0, 9.0), 2 * 10**9))
    result = complete("secure-sum", quick, secure_sum.run(quick))
    assert result.peer.median == 9.0
    assert result.ratio == pytest.approx(20.0)
    assert (asked[0].neighbours, asked[0].cached) == (secure_sum.NEIGHBOURS, False)
    assert asked[2].neighbours is None, "the default graph"
    assert (secure_sum.DROPS in result.figures) is not quick
    assert result.figures[f"memory, {secure_sum.SPARSE}"].ratio == pytest.approx(20.0)
    assert any("quick sizes" in note for note in result.notes) is quick
    if not quick:
        assert (asked[0].clients, asked[0].parameters) == (100, 1_000_000)
        assert asked[3] == Case(clients=1_000, parameters=100_000, dropping=0.3, cached=True)


def test_secure_round_leaves_out_first_rounds_where_there_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secure_ours, "deployed_rounds", lambda folder, clients, size, rounds: [2.0] * (rounds - 1))
    monkeypatch.setattr(secure_round, "peer_once", lambda folder, rounds: [90.0] + [40.0] * (rounds - 1))
    quick = complete("secure-round", True, secure_round.run(True))
    assert (quick.peer.n, quick.peer.warm_up, quick.ratio) == (1, 0, pytest.approx(45.0))
    full = complete("secure-round", False, secure_round.run(False))
    assert (full.peer.n, full.peer.warm_up, full.ratio) == (6, 2, pytest.approx(20.0))


def test_one_client_of_the_peer_by_its_own_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stock_client.measure(6, 1000)
    assert whole.masked == 6
    assert whole.seconds > 0
    assert 8 * 1001 < whole.upload < 8 * 1001 + 6 * 500 + 1000, "int64 on the wire"
    monkeypatch.setattr(stock_client, "_BUDGET", 4000)
    part = stock_client.measure(6, 1000)
    assert part.masked == 4
    assert part.seconds > 0


def test_a_sampled_cell_costs_what_running_all_clients_does() -> None:
    hidden = secure_memory.federated(Case(clients=12, parameters=1))
    (sampled,) = secure_cells.Sample(hidden, [5_000]).cells()
    run = secure_cells._whole(hidden, sampled)
    assert (sampled.how, run.how, run.neighbours) == ("sampled", "run", 11)
    assert (run.upload, run.download) == pytest.approx((sampled.upload, sampled.download), rel=0.02)
    assert 20_000 < run.upload < 30_000
    # Noise of a shared machine apart: neither leaves out a phase.
    assert 0.2 < sampled.client_seconds / run.client_seconds < 5
    assert 0.2 < sampled.server_seconds / run.server_seconds < 5


def test_a_sample_on_the_sparse_graph_goes_through_all_phases() -> None:
    few, many = secure_cells.Sample(secure_memory.federated(Case(clients=220, parameters=1)), [1_000, 50_000]).cells()
    assert few.neighbours < 219
    assert (few.how, many.how) == ("sampled", "sampled")
    assert many.upload - few.upload == 4 * 49_000
    assert many.download == few.download
    assert many.server_memory > 0


def cell(clients: int, parameters: int) -> Cell:
    """Costs that are made up."""
    return Cell(
        clients=clients,
        parameters=parameters,
        neighbours=min(clients - 1, 20),
        how="extrapolated" if clients * parameters >= 10**10 else "sampled" if clients > 1000 else "run",
        client_seconds=1e-8 * parameters * min(clients, 20),
        upload=4 * parameters + 20 * clients,
        download=100 * clients,
        server_seconds=1e-9 * clients * parameters,
        server_memory=8 * parameters,
    )


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> Result:
    """A result of `secure_scaling` with made-up costs of ours and of the peer."""
    monkeypatch.setattr(secure_ours, "cells", lambda clients, sizes: [cell(clients, size) for size in sizes])
    peer = stock_client.FlowerClient
    monkeypatch.setattr(
        stock_client,
        "measure",
        lambda neighbours, parameters: peer(1e-7 * parameters * neighbours, 8 * parameters, min(neighbours, 10)),
    )
    return complete("secure-scaling", False, secure_scaling.run(False))


def test_scaling_has_a_row_for_each_size_and_its_ratio_is_of_one_that_was_measured(scaling: Result) -> None:
    table, server = scaling.tables
    assert [row[:4] for row in server.rows] == [row[:4] for row in table.rows]
    assert len(table.rows) == len(secure_scaling.CLIENTS) * len(secure_scaling.PARAMETERS)
    assert scaling.ours.what == "a client, 3,000 clients x 1,000,000, 20 neighbours"
    how = {(row[0], row[1]): row[3] for row in table.rows}
    assert how[10_000, 10_000_000] == "extrapolated"
    assert scaling.ratio == pytest.approx(10.0)
    (told,) = (note for note in scaling.notes if note.startswith("extrapolated:"))
    assert "10,000 x 10,000,000" in told
    assert "10 x 10,000" not in told.replace("10 x 10,000,000", "")
    assert any("scaled to all" in note for note in scaling.notes)


def test_scaling_refuses_to_compare_what_nobody_measured() -> None:
    guess = cell(10_000, 10_000_000)
    with pytest.raises(RunFailed, match="every size was extrapolated"):
        secure_scaling.body([(guess, stock_client.FlowerClient(1.0, 1, 1))])


def test_the_command_shows_the_table_and_draws_it(
    scaling: Result, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "measure", lambda name, quick, places: scaling)
    folder = tmp_path / "pictures"
    done = CliRunner().invoke(cli.bench, ["secure-scaling", "--plot", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "the server, one round" in done.stdout
    assert re.search(r"^ *10k +10M +20 +extrapolated +2 +20 +40,200 +80,000 +1,000", done.stdout, re.MULTILINE)
    assert sorted(path.name for path in folder.iterdir()) == ["secure-scaling.png", "secure-scaling.svg"]
    assert (folder / "secure-scaling.png").read_bytes().startswith(b"\x89PNG")
    as_json = CliRunner().invoke(cli.bench, ["secure-scaling", "--json"], catch_exceptions=False)
    assert Result.model_validate_json(as_json.stdout) == scaling
    assert CliRunner().invoke(cli.bench, ["secure-sum", "--plot", str(folder)]).exit_code == 2


def test_a_ragged_table_is_refused(scaling: Result) -> None:
    table, server = scaling.model_dump()["tables"]
    body = scaling.model_dump(exclude={"name", "quick", "machine", "versions"})
    ragged = {**table, "rows": [*table["rows"], table["rows"][0][:-1]]}
    with pytest.raises(RunFailed, match="row 29 has 8 cells, there are 9 columns"):
        complete("secure-scaling", False, {**body, "tables": [ragged, server]})
