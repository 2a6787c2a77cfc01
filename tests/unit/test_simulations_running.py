"""A simulated run in its folder: evaluated on the way, and resumed to the same end wherever it was stopped."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedsus.config import loads
from fedsus.errors import ConfigError, CorruptionError, EnvironmentFault
from fedsus.journal import NAME, AttemptOpened, Disk, Journal, RoundReleased
from fedsus.reporting import read, released_model, summary
from fedsus.types import Vector
from fedsus_simulations.running import evaluation
from fedsus_simulations.running.simulation import Loader, Simulation
from fedsus_simulations.scenario.config import Scenario

ROUNDS = 5
TOML = f"""\
name = "small"
seed = 3
[task]
name = "heart"
[plan]
rounds = {ROUNDS}
spare_attempts = 20
metrics = [{{ name = "loss", low = 0.0, high = 10.0 }}, {{ name = "accuracy", low = 0.0, high = 1.0 }}]
[plan.cohort]
size = 3
minimum = 2
[population]
data = "heart"
[simulation]
masks = "none"
[traces]
dropout = 0.1
spread = 0.5
"""


class Stopped(Exception):
    """Stops a run between two rounds."""


def scenario(**changes: object) -> Scenario:
    made = loads(TOML, Scenario)
    return made.model_copy(update={"simulation": made.simulation.model_copy(update=changes)})


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    return Loader(tmp_path_factory.mktemp("data"))


def run(folder: Path, loader: Loader, stop_after: int = 0, **changes: object) -> Vector:
    simulation = Simulation.of(scenario(**changes), loader.root, loader=loader)

    def watch(released: RoundReleased, model: Vector) -> None:
        if released.round == stop_after:
            raise Stopped

    try:
        return simulation.run(folder, "small", watch)
    finally:
        simulation.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, loader: Loader) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder, loader)
    return folder


def same_end(folder: Path, whole: Path) -> None:
    """Model, central evaluation, cohorts' outcomes and virtual time are those of the undisturbed run."""
    assert released_model(folder).tobytes() == released_model(whole).tobytes()
    assert (folder / evaluation.NAME).read_bytes() == (whole / evaluation.NAME).read_bytes()
    told = [[(e.round, e.attempt, e.survivors, e.virtual) for e in summary(f).rounds] for f in (folder, whole)]
    assert told[0] == told[1]


def test_each_round_is_evaluated_once_from_the_initial_model_on(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / evaluation.NAME).read_text(encoding="utf-8").splitlines()]
    assert [line["round"] for line in lines] == list(range(ROUNDS + 1))
    assert lines[-1]["metrics"]["accuracy"] > lines[0]["metrics"]["accuracy"]


def test_central_metrics_are_those_of_the_released_model(whole: Path, loader: Loader) -> None:
    from fedsus.learning import evaluation as learning

    task, population = loader.load(scenario())
    assert population.central is not None
    report = learning.owner_report(task, released_model(whole), population.central)
    found = evaluation.read(whole)[ROUNDS]
    assert found == {name: pytest.approx(report[name]) for name in found}


@pytest.mark.parametrize(("every", "expected"), [(2, [0, 2, 4, 5]), (100, [0, 5]), (0, [])])
def test_every_so_many_rounds_and_the_last(tmp_path: Path, loader: Loader, every: int, expected: list[int]) -> None:
    run(tmp_path, loader, evaluate_every=every)
    assert sorted(evaluation.read(tmp_path)) == expected


@pytest.mark.parametrize("masks", ["none", "real"])
def test_a_run_stopped_between_rounds_ends_as_one_that_was_not(
    tmp_path: Path, loader: Loader, whole: Path, masks: str
) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, loader, stop_after=2, masks=masks)
    with pytest.raises(Stopped):
        run(tmp_path, loader, stop_after=4, masks=masks)
    run(tmp_path, loader, masks=masks)
    assert released_model(tmp_path).tobytes() == released_model(whole).tobytes()
    assert (tmp_path / evaluation.NAME).read_bytes() == (whole / evaluation.NAME).read_bytes()


def test_an_attempt_that_was_cut_off_is_asked_again_with_the_same_draw(
    tmp_path: Path, loader: Loader, whole: Path
) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, loader, stop_after=2)
    last = summary(tmp_path)
    with Journal.open(tmp_path, lambda: 0.0) as journal:
        journal.append(AttemptOpened(round=3, attempt=last.attempts + 1, plan_digest="0" * 64, cohort=3))
    with (tmp_path / NAME).open("ab") as file:
        file.write(b'{"half a li')
    run(tmp_path, loader)
    same_end(tmp_path, whole)


def test_a_round_that_was_released_but_not_evaluated_is_evaluated_on_resume(
    tmp_path: Path, loader: Loader, whole: Path
) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, loader, stop_after=3)
    path = tmp_path / evaluation.NAME
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:9])
    run(tmp_path, loader)
    same_end(tmp_path, whole)


def test_a_run_killed_before_its_journal_had_a_line_begins_anew(tmp_path: Path, loader: Loader, whole: Path) -> None:
    for content in (b"", b'{"v":1,"seq'):
        folder = tmp_path / str(len(content))
        folder.mkdir()
        (folder / NAME).write_bytes(content)
        run(folder, loader)
        same_end(folder, whole)


@pytest.mark.parametrize("writes", [3, 6, 7, 9])
def test_a_full_disk_is_one_line_and_loses_nothing(
    tmp_path: Path, loader: Loader, whole: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [writes]
    real = Disk.write

    def full(self: Disk, file: int, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            real(self, file, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, file, data)

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", full)
        with pytest.raises(EnvironmentFault, match="disk is full; free some space"):
            run(tmp_path, loader)
    run(tmp_path, loader)
    same_end(tmp_path, whole)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, loader: Loader) -> None:
    first = run(tmp_path, loader)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert run(tmp_path, loader).tobytes() == first.tobytes()
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


def test_a_folder_of_another_scenario_is_refused(tmp_path: Path, loader: Loader) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, loader, stop_after=1)
    plan = scenario().plan.model_copy(update={"rounds": 7})
    other = Simulation.of(scenario().model_copy(update={"plan": plan}), loader.root, loader=loader)
    with pytest.raises(ConfigError, match="of another scenario"):
        other.run(tmp_path, "small")


def test_metrics_that_no_client_would_report_are_refused_before_anything_runs(tmp_path: Path, loader: Loader) -> None:
    plan = scenario().plan.model_copy(update={"metrics": scenario().plan.metrics[:1]})
    with pytest.raises(
        ConfigError, match=r"plan\.metrics: .* write metrics = \[\{ name = \"loss\", low = 0\.0, high = 10\.0 \}, "
    ):
        Simulation.of(scenario().model_copy(update={"plan": plan}), loader.root, loader=loader)


def test_two_processes_cannot_run_one_folder(tmp_path: Path, loader: Loader) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, loader, stop_after=1)
    central = (tmp_path / evaluation.NAME).read_bytes()
    with Journal.open(tmp_path, lambda: 0.0), pytest.raises(EnvironmentFault, match="another process"):
        run(tmp_path, loader)
    assert (tmp_path / evaluation.NAME).read_bytes() == central


def test_the_seconds_of_a_round_leave_out_its_evaluation(
    tmp_path: Path, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("fedsus_simulations.running.simulation.time.time", lambda: now[0])

    def slow(self: evaluation.Central, model: Vector) -> dict[str, float]:
        now[0] += 1000.0
        return {}

    monkeypatch.setattr(evaluation.Central, "_measured", slow)
    run(tmp_path, loader)
    assert now[0] == 1000.0 * (ROUNDS + 1)
    assert max(entry.seconds for entry in summary(tmp_path).rounds) == 0.0


def test_the_same_task_and_clients_are_loaded_once(loader: Loader) -> None:
    first = loader.load(scenario())
    assert loader.load(scenario(masks="real"))[1] is first[1]
    assert loader.load(scenario().model_copy(update={"seed": 4}))[1] is not first[1]


def test_a_changed_journal_is_refused(tmp_path: Path, loader: Loader) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, loader, stop_after=1)
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes().replace(b'"cohort":3', b'"cohort":2', 1))
    with pytest.raises(CorruptionError):
        run(tmp_path, loader)


def test_virtual_time_goes_on_where_it_stood(whole: Path) -> None:
    times = [entry.virtual for entry in read(whole) if isinstance(entry, RoundReleased)]
    assert times == sorted(times)
    assert np.all(np.diff(np.array(times, dtype=np.float64)) > 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:1] + lines[2:], "the line of round 1 is missing"),
        (lambda lines: lines[:1], "the line of round 1 is missing"),
        (lambda lines: [], "the line of round 0 is missing"),
        (lambda lines: [*lines, b'{"metrics": {}, "round": 5}\n'], "has round 5, and the journal ends with round 3"),
        (lambda lines: [*lines, b'{"metrics": {}, "round": Infinity}\n'], "line 5: not a round and its metrics"),
        (lambda lines: [*lines, b"[" * 100_000 + b"\n"], "line 5: not a round and its metrics"),
    ],
)
def test_changed_evaluations_are_refused(
    tmp_path: Path, loader: Loader, change: Callable[[list[bytes]], list[bytes]], message: str
) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, loader, stop_after=3)
    path = tmp_path / evaluation.NAME
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(CorruptionError, match=message):
        run(tmp_path, loader)
