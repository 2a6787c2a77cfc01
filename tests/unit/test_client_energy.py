"""What an owner reads of the device's energy: figures with method, range and source, the budget, one clear line."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from threading import Event

import pytest
from click.testing import CliRunner, Result
from fake_meter import FakeMeter, stated

from fedsus.config import load
from fedsus.errors import ConfigError, CorruptionError, EnvironmentFault
from fedsus.owner.consumption import Consumption
from fedsus.owner.policy import DayBudget, Policy
from fedsus_client.cli import client
from fedsus_client.config import load_agent
from fedsus_client.energy_findings import energy as findings
from fedsus_client.energy_views import COLUMNS, Book
from fedsus_client.findings import Finding
from fedsus_client.metering import Metering

pytestmark = pytest.mark.filterwarnings("ignore:.*will be removed in Click:DeprecationWarning")

NOON = time.time() - time.time() % 86_400 + 43_200
"""Of today, UTC. The commands read the machine's clock, which stands there: in Tokyo it is the same day."""

Run = Callable[..., Result]
AGENT = '[server]\naddress = "localhost:1"\n[tasks]\n[data]\n'


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(time, "time", lambda: NOON)
    (tmp_path / "agent.toml").write_text(AGENT)
    (tmp_path / "policy.toml").write_text("")

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(client, arguments, catch_exceptions=False)

    return call


def write(*used: tuple[float, str, float], priced: bool = True) -> None:
    """A record in this folder: (days ago, phase, joules) each of an attempt of its own."""
    meter, now = FakeMeter(), [NOON]
    options = {"price": stated} if priced else {}
    path = load_agent(Path("agent.toml")).energy_record
    consumption = Consumption(meter, path, lambda: now[0], **options)
    for number, (ago, phase, joules) in enumerate(used, 1):
        now[0] = NOON - ago * 86_400
        consumption.working("run-1", number, number)
        meter.use(phase, joules)  # type: ignore[arg-type]
        consumption.rest()
        consumption.write()
    consumption.close()


def test_days_phases_and_where_the_figures_are_from(run: Run) -> None:
    write((1, "train", 300.0), (0, "train", 90.0), (0, "crypto", 10.0))
    text = run("energy").output
    lines = [" ".join(line.split()) for line in text.splitlines()]
    today = time.strftime("%Y-%m-%d", time.gmtime(NOON))
    assert f"{today} 100 50 to 200 100 50 to 200 counter" in lines
    assert "train 390 97.5%" in lines
    assert "crypto 10 2.5%" in lines
    assert "source: a fake" in lines
    assert "boundary: nothing" in lines
    assert "carbon: average, assumed: a number" in lines
    assert "joules [" not in text, "nothing is capped"
    assert "train 90 90.0%" in [" ".join(line.split()) for line in run("energy", "--days", "1").output.splitlines()]


def test_the_budget_is_shown_and_why_rounds_are_sat_out(run: Run) -> None:
    write((0, "train", 60.0), priced=False)
    Path("policy.toml").write_text("[budget]\njoules = 240\ngrams = 1\n")
    text = run("energy").output
    assert "joules [######..................] 60 J of 240 J today (25%), a round takes 60 J" in text
    assert "carbon of 60 J is not known: [carbon] of agent.toml gave none at the time" in text
    assert "sits rounds out" not in text
    assert "energy:       60 J of 240 J (25%); " in run("status").output
    Path("policy.toml").write_text('[budget]\njoules = 100\nzone = "Asia/Tokyo"\n')
    assert "sits rounds out: [budget] joules: 60 J of 100 J of today are used" in run("energy").output
    status = run("status").output
    assert "sits out:     [budget] joules: 60 J of 100 J of today are used, and a round takes 60 J" in status
    assert "00:00 (Asia/Tokyo)" in status
    found = json.loads(run("status", "--json").output)
    assert found["sits_out"].startswith("[budget] joules")
    plain = json.loads(run("energy", "--json").output)
    assert plain["zone"] == "Asia/Tokyo"
    assert plain["budget"] == [
        {"name": "joules", "cap": 100.0, "used": 60.0, "left": 40.0, "round": 60.0, "largest_round": 60.0}
    ]
    (day,) = plain["days"]
    assert (day["total"], day["joules"], day["method"], day["sources"]) == (
        60.0,
        {"train": 60.0},
        "counter",
        ["a fake"],
    )


def test_an_export_has_a_row_for_each_line_and_overwrites_nothing(run: Run) -> None:
    write((1, "train", 300.0), (0, "crypto", 10.0))
    assert run("energy", "--export", "all.csv").output == "all.csv: 3 lines\n"
    with Path("all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == set(COLUMNS)
    first = rows[0]
    assert (first["run"], first["joules"], first["joules_train"], first["low"], first["high"]) == (
        "run-1",
        "300.0",
        "300.0",
        "150.0",
        "600.0",
    )
    assert first["time"].endswith("+00:00")
    with pytest.raises(ConfigError, match=r"all\.csv: exists already"):
        run("energy", "--export", "all.csv")


def test_nothing_yet_and_a_record_that_was_changed(run: Run) -> None:
    assert run("energy").output == "nothing was used yet\n"
    assert "energy:       nothing was used today" in run("status").output
    write((0, "train", 1.0))
    record = load_agent(Path("agent.toml")).energy_record
    record.write_bytes(record.read_bytes().replace(b'"train":1.0', b'"train":0.5'))
    with pytest.raises(CorruptionError, match="energy.jsonl: line 2"):
        run("energy")
    assert "energy.jsonl: line 2" in run("status").output


def test_days_are_the_owners(run: Run) -> None:
    write((0, "train", 1.0), (0, "train", 2.0))
    record = load_agent(Path("agent.toml")).energy_record
    east = Book(record, DayBudget(zone="Pacific/Kiritimati"), lambda: NOON)
    west = Book(record, DayBudget(zone="UTC"), lambda: NOON)
    assert list(east.days(3)) > list(west.days(3))
    assert [used.total for used in east.days(1).values()] == [3.0]


def graded(text: str = "") -> list[str]:
    Path("policy.toml").write_text(text)
    policy = load(Path("policy.toml"), Policy)
    found = findings(load_agent(Path("agent.toml")), policy.budget, lambda: NOON)
    return [f"{one.grade} {one.name}: {one.text}" for one in found]


def test_check_says_what_the_meter_can_do_and_whether_the_budget_works(run: Run) -> None:
    del run
    Path("agent.toml").write_text(AGENT + '[energy]\nmeter = "off"\n')
    assert graded() == ["warn energy: [energy] meter = 'off': nothing is measured"]
    off = graded("[budget]\njoules = 50\n")
    assert off[1].startswith("warn budget: [budget]: energy is not measured here")
    assert off[2] == "fine budget: joules: 0 J of 50 J today; what a round takes is known after the first"
    assert graded('[budget]\njoules = 50\nmissing = "refuse"\n')[1].startswith("fail budget: [budget]: energy is not")
    Path("agent.toml").write_text(AGENT + '[energy]\nmeter = "model"\nwatts = 60\n[carbon]\ngrams_per_kwh = 300\n')
    write((1, "train", 60.0), (0, "train", 60.0))
    found = graded("[budget]\njoules = 50\n")
    assert found[0].startswith("warn energy: assumed: model: 60 W above idle as declared")
    assert found[1].startswith("fine carbon: 300 g CO2e/kWh now (240 to 360), average, assumed: stated by the owner")
    assert found[3].startswith(
        "fail budget: [budget] joules: 50 J a day are less than one round, for this run's last took 60 J"
    )
    assert graded("[budget]\njoules = 100\n")[3].startswith("warn budget: [budget] joules: 60 J of 100 J of today")
    assert graded("[budget]\ngrams = 1e6\n")[3].startswith("fine budget: grams: 60 g CO2e of 1e+06 g CO2e today")


def test_check_tells_declared_watts_and_carbon_that_stands_in_from_what_is_known(run: Run, tmp_path: Path) -> None:
    del run
    rows = "".join(f"2026-01-01T{hour:02}:00:00Z,300\n" for hour in range(24))
    (tmp_path / "grid.csv").write_text("time,g\n" + rows)
    series = '[carbon.series]\nfiles = "grid.csv"\nvalue = "g"\nunit = "g/kWh"\n'
    Path("agent.toml").write_text(AGENT + '[energy]\nmeter = "model"\nwatts = 60\n' + series)
    agent = load_agent(Path("agent.toml"))

    def told(day: str) -> list[Finding]:
        moment = datetime.fromisoformat(f"{day}T12:00:00+00:00").timestamp()
        return list(findings(agent, DayBudget(), lambda: moment))

    energy, carbon = told("2026-01-01")
    assert "watts that are declared stay assumed" in energy.fix
    assert (carbon.grade, carbon.text) == (
        "fine",
        "300 g CO2e/kWh now (240 to 360), average, modelled: series grid.csv, ±20%; it ends 2026-01-02 00:00 UTC",
    )
    late = told("2026-01-05")[1]
    assert late.grade == "warn" and "instead of a source that failed" in late.text
    assert "it ends" not in late.text, "why it failed says so"
    other = Path("other.toml")
    other.write_text(Path("agent.toml").read_text().replace("grid.csv", "none.csv"))
    assert next(one for one in findings(load_agent(other), DayBudget(), lambda: NOON) if one.grade == "fail").fix == (
        f"mend [carbon] of {other}"
    )


def test_check_warns_of_a_cap_that_waiting_alone_would_reach(run: Run) -> None:
    del run
    Path("agent.toml").write_text(AGENT + '[energy]\nmeter = "off"\n')
    meter, now = FakeMeter(seconds=600.0), [NOON - 3 * 3600]
    consumption = Consumption(meter, load_agent(Path("agent.toml")).energy_record, lambda: now[0])
    for _ in range(12):
        now[0] += 600
        meter.use("wait", 1.0)
        consumption.take()
    consumption.close()  # takes once more
    assert not any("waiting" in one for one in graded("[budget]\njoules = 140\n"))
    assert [one for one in graded("[budget]\njoules = 130\n") if "waiting" in one] == [
        "warn budget: [budget] joules: waiting alone takes 133 J a day, as it did until now"
    ]


def test_an_agents_meter_writes_its_record(run: Run) -> None:
    del run
    Path("agent.toml").write_text(AGENT + '[energy]\nmeter = "model"\nwatts = 60\n[carbon]\ngrams_per_kwh = 300\n')
    config = load_agent(Path("agent.toml"))
    metering = Metering(config, time.time)
    with metering.consumption.phase("train"):
        sum(range(200_000))
    metering.wait(Event())
    with pytest.raises(EnvironmentFault, match="in use by another agent"):
        Metering(config, time.time)
    metering.close()
    (used,) = Book(config.energy_record, DayBudget(), time.time).days(1).values()
    assert used.joules["train"] > 0
    assert used.grams["average"].value == pytest.approx(used.total / 3.6e6 * 300)


def test_paths_of_carbon_sources_are_beside_the_file(run: Run, tmp_path: Path) -> None:
    del run
    series = '[carbon.series]\nfiles = "trace/*.csv"\nvalue = "moer"\nunit = "lb/MWh"\n'
    Path("agent.toml").write_text(AGENT + series)
    found = load_agent(Path("agent.toml")).carbon.series
    assert found is not None
    assert found.files == str(tmp_path / "trace/*.csv")
