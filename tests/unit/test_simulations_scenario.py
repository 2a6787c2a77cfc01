"""Scenarios: options over a file, shipped ones by name, and the copy in a run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsus.config import loads
from fedsus.errors import ConfigError
from fedsus_simulations.running import saved
from fedsus_simulations.running.options import Options, scenario_of
from fedsus_simulations.running.saved import Origin
from fedsus_simulations.scenario import catalogue
from fedsus_simulations.scenario.config import Scenario
from fedsus_simulations.scenario.overriding import assignment, toml_values, with_changes

SCENARIO = """\
# Three lines about hospitals
name = "mine"
seed = 5
[task]
name = "heart"
[plan]
rounds = 4
metrics = [{ name = "loss", low = 0.0, high = 10.0 }, { name = "accuracy", low = 0.0, high = 1.0 }]
cohort = { size = 4, minimum = 3 }
[population]
data = "heart"
[traces]
dropout = 0.05
availability = "night"
[sweep]
seeds = [1, 2]
[sweep.settings]
"plan.strategy.name" = ["fedavg", "fedadam"]
"""
RUN = """\
[task]
name = "{task}"
[plan]
rounds = 2
cohort = {{ size = 3, minimum = 2 }}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(SCENARIO, encoding="utf-8")
    return path


def asked(path: Path, **options: Any) -> Scenario:
    return scenario_of(Options(scenario=str(path), **options))[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=fedadam", "fedadam"),
        ('a.b="fedadam"', "fedadam"),
        ("a.b=3", 3),
        ("a.b=1e-3", 1e-3),
        ("a.b = true", True),
        ("a.b=[1, 2]", [1, 2]),
        ("a.b={c = 1}", {"c": 1}),
        ("a.b=x=y", None),
        ("a.b=", None),
        ("=3", None),
        ("a.b", None),
        ("a.b=1 2", None),
        ("a.b=1\nseed = 7", None),
        ("a.b=1\n[plan]\nrounds = 9", None),
        (f"a.b={'[' * 5000}", None),
    ],
)
def test_values_are_typed_as_in_toml(text: str, value: object) -> None:
    if value is None:
        with pytest.raises(ConfigError, match="expected NAME=VALUE|not a TOML value"):
            assignment("--set", text)
    else:
        assert assignment("--set", text) == ("a.b", value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sweep": ("seed=1,2",)}, r"settings\.seed: seeds have a list of their own: \[sweep\] seeds, or --seeds"),
        ({"sweep": ("name=a,b",)}, "settings.name: it changes no result"),
        ({"sweep": ("sweep.seeds=[[1], [2]]",)}, "a sweep has no sweep in it"),
        ({"sweep": ("plan.rounds=[]",)}, "settings.plan.rounds: an empty list leaves nothing to run"),
        ({"sweep": ("plan.rounds=2,3,2",)}, "settings.plan.rounds: 2 is there twice"),
        ({"sweep": ("plan.rounds=2", "plan.rounds=3")}, "'plan.rounds' is given twice"),
        ({"seeds": "1,2,1"}, "seeds: 1 is there twice"),
        ({"seeds": "5\nx = 3"}, "not a TOML value"),
        ({"sweep": (f"plan.rounds={list(range(1, 10_002))}",)}, "20002 runs; at most 10000"),
    ],
)
def test_a_sweep_that_would_tell_a_wrong_table_is_refused(file: Path, options: Any, message: str) -> None:
    if "20002" in message:
        options |= {"seeds": "1,2", "single": False}
        file.write_text(SCENARIO.replace(', "fedadam"]', "]"), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        asked(file, **options)


def test_a_model_that_lies_beside_a_scenario_by_chance_is_not_taken(file: Path) -> None:
    (file.parent / "model.safetensors").write_bytes(b"exported from an earlier run")
    assert scenario_of(Options(scenario=str(file)))[1].model == ""
    run = file.parent / "run.toml"
    run.write_text(RUN.format(task="heart"), encoding="utf-8")
    assert scenario_of(Options(scenario=str(run)))[1].model == str(file.parent / "model.safetensors")


def test_an_origin_of_other_types_is_refused(file: Path, tmp_path: Path) -> None:
    saved.save(tmp_path / "run", asked(file), Origin("run", "data"))
    path = tmp_path / "run" / saved.ORIGIN
    path.write_text(path.read_text(encoding="utf-8").replace('"data": "data"', '"data": 5'), encoding="utf-8")
    with pytest.raises(ConfigError, match="not as it was written"):
        saved.saved(tmp_path / "run")


def test_lists_of_values() -> None:
    assert toml_values("--sweep", "0.1, 0.5,1") == [0.1, 0.5, 1]
    assert toml_values("--sweep", "fedavg,fedadam") == ["fedavg", "fedadam"]
    assert toml_values("--sweep", '["a,b", "c"]') == ["a,b", "c"]


NAMES = st.sampled_from(["a", "b", "c"])


@given(st.lists(st.tuples(st.lists(NAMES, min_size=2, max_size=2).map(".".join), st.integers()), max_size=6))
def test_the_last_change_counts_and_the_original_stays(changes: list[tuple[str, int]]) -> None:
    data = {"a": {"a": -1}, "b": {}}
    changed = with_changes(data, changes)
    assert data == {"a": {"a": -1}, "b": {}}
    for name, value in dict(changes).items():
        table, last = name.split(".")
        assert changed[table][last] == value


def test_options_go_over_the_file(file: Path) -> None:
    found = asked(file, seed=9, rounds=7, masks="none", workers=2, threads=2, changes=("plan.strategy.name=fedadam",))
    assert (found.seed, found.plan.rounds, found.plan.strategy.name) == (9, 7, "fedadam")
    simulation = found.simulation
    assert (simulation.masks, simulation.workers, simulation.threads) == ("none", 2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("plan.strategy.nam=fedadam", r"mine\.toml: unknown field 'plan\.strategy\.nam'; did you mean 'name'\?"),
        ("population.klients=4", "unknown field 'population.klients'; did you mean 'clients'"),
        ("plan.rounds=0", r"'plan\.rounds' = 0: should be greater than or equal to 1"),
        ("plan.rounds.of=3", "'plan.rounds.of': 'plan.rounds' is no table"),
        ("simulation.masks=some", "'simulation.masks' = 'some': should be 'real' or 'none'"),
        ("population.partition=iid", "'iid'"),
    ],
)
def test_a_wrong_setting_is_one_line(file: Path, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        asked(file, changes=(change,))
    assert "\n" not in str(raised.value)


def test_sweeps_of_the_file_and_of_the_command_line(file: Path) -> None:
    settings = {"plan.strategy.name": ["fedavg", "fedadam"]}
    found = asked(file).sweep
    assert found is not None and (found.seeds, found.settings) == ([1, 2], settings)
    found = asked(file, seeds="4,5", sweep=("plan.training.proximal=0.0,0.1",)).sweep
    assert found is not None and found.seeds == [4, 5]
    assert found.settings == settings | {"plan.training.proximal": [0.0, 0.1]}
    found = asked(file, seed=8).sweep
    assert found is not None and found.seeds == [8]
    assert asked(file, single=True).sweep is None


def test_a_run_toml_takes_its_clients_from_options_and_a_fresh_seed(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(RUN.format(task="heart"), encoding="utf-8")
    seeds = {asked(path).seed for _ in range(4)}
    assert len(seeds) > 1
    assert asked(path).population.data == "heart"
    found = asked(path, clients=(f"a={path}", f"b={path}", f"c={path}")).population
    assert found.files == dict.fromkeys("abc", str(path)) and found.partition == "files"
    path.write_text(RUN.format(task="fashion-mnist"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"needs data: give --client NAME=PATH for each client, or a table \[popul"):
        asked(path)


def test_a_copy_of_the_scenario_gives_the_same_scenario(file: Path, tmp_path: Path) -> None:
    scenario, origin = scenario_of(Options(scenario=str(file), changes=("plan.training.optimizer.momentum=0.5",)))
    saved.save(tmp_path / "run", scenario, origin)
    assert saved.saved(tmp_path / "run")[0] == scenario
    again, _ = scenario_of(Options(scenario=str(tmp_path / "run" / saved.SCENARIO)))
    assert again == scenario


def test_a_changed_copy_is_refused_with_the_way_out(file: Path, tmp_path: Path) -> None:
    saved.save(tmp_path / "run", *scenario_of(Options(scenario=str(file))))
    copy = tmp_path / "run" / saved.SCENARIO
    copy.write_text(copy.read_text(encoding="utf-8").replace("seed = 5", "seed = 6"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"changed since the run began; a new run of it: fedsus simulate .*scenario"):
        saved.saved(tmp_path / "run")


def test_a_folder_that_is_no_simulation_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is .* the folder of a simulation"):
        saved.saved(tmp_path)
    (tmp_path / saved.ORIGIN).write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="not as it was written"):
        saved.saved(tmp_path)


def test_a_second_run_does_not_take_a_folder(tmp_path: Path) -> None:
    scenario = loads(SCENARIO, Scenario)
    saved.save(tmp_path, scenario, Origin("a", "data"))
    with pytest.raises(ConfigError, match="there is a run already"):
        saved.save(tmp_path, scenario, Origin("b", "data"))


def test_shipped_scenarios_are_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "scenarios"
    folder.mkdir()
    (folder / "fashion-iid.toml").write_text("# Fashion, evenly\n", encoding="utf-8")
    assert catalogue.shipped(tmp_path / "package") == {}  # a folder of somebody else's
    (tmp_path / "pyproject.toml").touch()
    assert catalogue.shipped(tmp_path / "package") == catalogue.shipped(tmp_path)
    known = catalogue.shipped(tmp_path)
    assert list(known) == ["fashion-iid"]
    assert catalogue.described(known["fashion-iid"]) == "Fashion, evenly"
    monkeypatch.setattr(catalogue, "shipped", lambda: known)
    assert catalogue.find("fashion-iid") == known["fashion-iid"]
    assert catalogue.find(str(known["fashion-iid"])) == known["fashion-iid"]
    for asked_for, message in {
        "fashion-idd": "did you mean 'fashion-iid'",
        "zzz": "fedsus simulate list",
        "no/such.toml": "no/such.toml: no such file",
        str(tmp_path): "a folder; to go on with its run",
    }.items():
        with pytest.raises(ConfigError, match=message):
            catalogue.find(asked_for)


@pytest.mark.parametrize("file", catalogue.shipped().values(), ids=lambda path: path.stem)
def test_every_shipped_scenario_is_valid_and_says_what_it_is(file: Path) -> None:
    assert asked(file).name
    assert len(catalogue.described(file)) > 10
