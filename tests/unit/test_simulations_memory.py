"""Runs in memory, their pictures, and the demo's table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from fedsus.config import RunConfig
from fedsus.errors import ConfigError
from fedsus.reporting import released_model, summary
from fedsus.tasks.heart import HOSPITALS, shipped
from fedsus.tasks.task import DataSource
from fedsus_simulations.commands import simulate as simulate_command
from fedsus_simulations.demo import picture, spread
from fedsus_simulations.demo.results import Answer, Results, Row, comparison, ordered, table
from fedsus_simulations.demo.study import ALONE, CLEAR, FEDERATED, POOLED, SECURE, Judged
from fedsus_simulations.demo.study import HOSPITALS as SHOWN
from fedsus_simulations.running import curves
from fedsus_simulations.whole.memory import simulate

START = np.zeros(34, dtype=np.float32)
TOML = """\
name = "small"

[task]
name = "heart"

[plan]
rounds = 2
metrics = [{ name = "loss", low = 0.0, high = 10.0 }, { name = "accuracy", low = 0.0, high = 1.0 }]

[plan.cohort]
size = 4
minimum = 3
"""


def sources() -> dict[str, DataSource]:
    return {hospital: DataSource(shipped(hospital)) for hospital in HOSPITALS}


def run(folder: Path, number: int, seed: int | None) -> bytes:
    config = FEDERATED[number].config(2)
    return simulate(config, folder, "r", START, sources(), seed=seed).tobytes()


def test_a_seed_repeats_a_run_and_another_does_not(tmp_path: Path) -> None:
    for number in (0, 1):
        cases = {"a": 1, "b": 1, "c": 2}
        first, again, other = (run(tmp_path / f"{number}{name}", number, seed) for name, seed in cases.items())
        assert first == again
        assert first != other


def test_without_a_seed_the_noise_is_fresh(tmp_path: Path) -> None:
    assert run(tmp_path / "a", 1, None) != run(tmp_path / "b", 1, None)


def test_a_private_run_reports_no_metric(tmp_path: Path) -> None:
    run(tmp_path / "private", 2, 1)
    assert summary(tmp_path / "private").metrics == {}
    run(tmp_path / "open", 0, 1)
    told = summary(tmp_path / "open").metrics
    assert sorted(told) == [1, 2, 3]
    assert told[3]["loss"] < told[1]["loss"]


def test_too_few_clients_are_named(tmp_path: Path) -> None:
    few = dict(list(sources().items())[:2])
    with pytest.raises(ConfigError, match=r"2 clients are given, plan\.cohort\.size = 4"):
        simulate(FEDERATED[0].config(2), tmp_path, "r", START, few)


def test_the_command_leaves_a_run_folder_with_a_picture(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(TOML, encoding="utf-8")
    shown = CliRunner().invoke(simulate_command, [str(tmp_path / "run.toml"), "--seed", "3", "--runs", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "round 2/2" in shown.output
    (folder,) = (entry for entry in tmp_path.iterdir() if entry.is_dir())
    assert {"journal.jsonl", "rounds.png", "rounds.svg"} <= {file.name for file in folder.iterdir()}
    assert (folder / "rounds.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_says_which_exchange_ran_and_its_bytes(tmp_path: Path) -> None:
    models, moved = set(), {}
    for exchange in ("secure_sum", "clear_sum"):
        folder = tmp_path / exchange
        folder.mkdir()
        text = (
            TOML.replace("rounds = 2\n", f'rounds = 2\nexchange = "{exchange}"\n') if exchange == "clear_sum" else TOML
        )
        (folder / "run.toml").write_text(text, encoding="utf-8")
        options = [str(folder / "run.toml"), "--seed", "3", "--runs", str(folder)]
        shown = CliRunner().invoke(simulate_command, options)
        assert shown.exit_code == 0, shown.output
        (run,) = (entry for entry in folder.iterdir() if entry.is_dir())
        told = summary(run)
        moved[exchange] = told.bytes_sent + told.bytes_received
        models.add(released_model(run).tobytes())
        assert f"exchange {exchange}: " in shown.output
        assert f"{exchange} ran 3 times: {moved[exchange] / 1000:.1f} kB, " in shown.output
    assert len(models) == 1
    assert moved["secure_sum"] > 2 * moved["clear_sum"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--client", "nowhere"], "expected NAME=PATH"),
        (["--client", "a=/no/such/file"], "no such file"),
        (["--client", "a=run.toml", "--client", "a=run.toml"], "given twice"),
    ],
)
def test_wrong_clients_are_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(TOML, encoding="utf-8")
    options = [option.replace("=run.toml", f"={file}") for option in options]
    shown = CliRunner().invoke(simulate_command, [str(file), *options])
    assert isinstance(shown.exception, ConfigError)
    assert message in str(shown.exception)


def test_a_run_without_metrics_has_a_picture_too(tmp_path: Path) -> None:
    run(tmp_path, 1, 1)
    drawn = curves.draw(tmp_path)
    assert drawn is not None
    assert drawn[1].read_text(encoding="utf-8").startswith("<?xml")


def results() -> Results:
    judged = Judged(0.85, 0.9, 0.81234, 0.97)
    lone = Judged(0.8, None, None, None)
    rows = {hospital: [judged if hospital != "switzerland" else lone] * 5 for hospital in SHOWN}
    seeds: spread.Spread = dict.fromkeys((ALONE, POOLED, *(answer.name for answer in FEDERATED)), rows)
    deployed = {
        answer.name: Answer(
            answer.name,
            answer.title,
            [Row(hospital, rows[hospital][0], [], answer.epsilon or float("inf")) for hospital in SHOWN],
            92_000,
            40.0,
            "runs/x",
            answer.exchange,
            0.25 if answer is CLEAR else 0.75,
            4_000 if answer is CLEAR else 18_200,
        )
        for answer in FEDERATED
    }
    return Results(20, 62_000, ordered(deployed, spread.Repetitions(seeds, 5)), 5, 5)


def test_the_demos_table_fits_a_terminal() -> None:
    console = Console(width=80, record=True, file=None, force_terminal=False)
    with console.capture() as shown:
        console.print(table(results()))
    text = shown.get()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for words in ("each hospital alone", "0.90 (.81-.97)", ".90-.90", "inf", "8.00", "92 kB moved", "62 kB moved"):
        assert words in text
    assert text.count("VA Long Beach") == 6


def test_what_secure_aggregation_costs_fits_a_terminal() -> None:
    console = Console(width=80, force_terminal=False)
    with console.capture() as shown:
        console.print(comparison(results()))
    text = shown.get()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    rows = {line[:16].strip(): line[16:].split() for line in text.splitlines()}
    assert rows["seconds a round"] == ["0.25", "0.75", "+0.50", "s"]
    assert rows["kB a round"] == ["4.0", "18.2", "+14.2", "kB"]
    assert rows["AUC"][:4] == ["0.90", "(.90-.90)"] * 2
    assert "5 of 5 seeds" in text


def test_secure_and_clear_differ_in_the_exchange_alone() -> None:
    """And in what no device tells in clear: its costs."""
    secure, clear = (answer.fields(20) for answer in (SECURE, CLEAR))
    assert secure["plan"].pop("costs") and "costs" not in clear["plan"]
    assert (secure["plan"].pop("exchange"), clear["plan"].pop("exchange")) == ("secure_sum", "clear_sum")
    assert secure | {"name": ""} == clear | {"name": ""}


def test_the_demos_picture_and_record(tmp_path: Path) -> None:
    found = results()
    for path in picture.draw(found, tmp_path):
        assert path.stat().st_size > 10_000
    found.write(tmp_path)
    assert '"infinite"' in (tmp_path / "demo.json").read_text(encoding="utf-8")


def test_repetitions_survive_writing_and_reading(tmp_path: Path) -> None:
    made = spread.Repetitions({ALONE: {"va": [Judged(0.5, None, None, None), Judged(0.6, 0.7, 0.6, 0.8)]}}, 4)
    spread.write(made, tmp_path / "spread.json")
    assert spread.read(tmp_path / "spread.json") == made


def test_the_demos_configurations_are_valid() -> None:
    for answer in FEDERATED:
        assert isinstance(answer.config(20), RunConfig)
