"""Grams by hand: yearly averages, stated numbers, ranges, manufacture, networks and the rate of ISO/IEC 21031."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.config import loads
from fedsus.costs import Grams, Usage
from fedsus.energy.embodied import PUBLISHED, YEAR, embodied
from fedsus.energy.figures import sci
from fedsus.energy.grid import yearly as yearly_module
from fedsus.energy.grid.carbon import make_intensity, priced
from fedsus.energy.grid.fetching import Answer, Request
from fedsus.energy.grid.intensity import Flat, Intensity, Rate, stated
from fedsus.energy.grid.yearly import WORLD, yearly
from fedsus.energy.network import network
from fedsus.errors import ConfigError, EnvironmentFault
from fedsus.settings.carbon import CarbonSettings, EmbodiedSettings, NetworkSettings

RATE = Rate(value=400, low=300, high=600, method="modelled", kind="marginal", source="a grid")


def used(**changes: Any) -> Usage:
    chosen: dict[str, Any] = {
        "seconds": 60.0,
        "joules": {"train": 3.0e6, "encode": 0.6e6},
        "low": 1.8e6,
        "high": 7.2e6,
        "idle": 1e6,
        "method": "counter",
        "source": "a meter",
        "boundary": "this process",
    }
    return Usage(**chosen | changes)


def test_grams_are_joules_times_intensity_and_so_are_their_ranges() -> None:
    grams = priced(used(), Flat(RATE), 0, 60).grams
    assert grams is not None
    assert (grams.value, grams.low, grams.high) == (400, 150, 1200)
    assert (grams.method, grams.kind, grams.source) == ("modelled", "marginal", "a grid")
    assert priced(used(), None, 0, 60).grams is None
    assert priced(used(), Flat(RATE), 0, 60).joules == used().joules


def test_the_method_is_the_worst_of_both() -> None:
    for joules, rate, both in (
        ("counter", "modelled", "modelled"),
        ("assumed", "modelled", "assumed"),
        ("counter", "assumed", "assumed"),
    ):
        flat = Flat(Rate(value=1, low=1, high=1, method=rate, kind="average", source=""))  # type: ignore[arg-type]
        found = priced(used(method=joules), flat, 0, 1).grams
        assert found is not None and found.method == both


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1e9), st.floats(0, 1), st.floats(1, 3), st.floats(0.1, 3000), st.floats(0, 1))
def test_a_range_always_holds_its_value(joules: float, less: float, more: float, value: float, spread: float) -> None:
    usage = used(joules={"train": joules}, low=joules * less, high=joules * more)
    grams = priced(usage, stated(value, spread, "average"), 0, 1).grams
    assert grams is not None and 0 <= grams.low <= grams.value <= grams.high


def made(text: str, clock: float = 0.0) -> Intensity | None:
    return make_intensity(loads(text, CarbonSettings), Path(), None, lambda: clock, "agent.toml")


def test_a_stated_number_and_none() -> None:
    assert made("") is None
    found = made("grams_per_kwh = 50.0\nkind = 'marginal'\nspread = 0.5")
    assert found is not None
    rate = found.over(0, 1)
    assert (rate.value, rate.low, rate.high, rate.method, rate.kind) == (50, 25, 75, "assumed", "marginal")
    (step,) = found.forecast(5, 9)
    assert (step.start, step.end, step.rate) == (5, 9, rate)
    assert found.forecast(9, 9) == ()
    with pytest.raises(EnvironmentFault, match="the clock says nan"):
        found.over(float("nan"), 1)


def table() -> dict[str, dict[str, Any]]:
    pytest.importorskip("codecarbon.data", reason="the extra 'energy' is not installed")
    spec = util.find_spec("codecarbon")
    assert spec is not None and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / "data/private_infra/global_energy_mix.json"
    found: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8"))
    return found


def test_every_country_of_the_table_has_its_average_or_a_line() -> None:
    refused = []
    for code, row in table().items():
        try:
            rate = yearly(code).over(0, 1)
        except ConfigError:
            refused.append(code)
            continue
        assert rate.value == row["carbon_intensity"] > 0
        assert (rate.low, rate.high) == (pytest.approx(0.3 * rate.value), pytest.approx(2.1 * rate.value))
        assert str(row["year"]) in rate.source and row["country_name"] in rate.source
        assert (rate.method, rate.kind) == ("assumed", "average")
    assert all(table()[code]["carbon_intensity"] == 0 for code in refused)
    assert len(refused) < 5


def test_averages_of_all_countries_lie_in_the_range_of_the_worlds() -> None:
    assert all(WORLD.low <= row["carbon_intensity"] <= WORLD.high for row in table().values())


@pytest.mark.parametrize(
    ("country", "said"),
    [
        ("GER", "did you mean"),
        ("Germany", "did you mean 'DEU' (Germany)?"),
        ("deu", "did you mean 'DEU' (Germany)?"),
        ("Germania", "did you mean 'DEU' (Germany)?"),
        ("Frankreich", "did you mean 'FRA' (France)?"),
        ("united states of america", "did you mean 'USA' (United States)?"),
        ("FR", "three letters of ISO 3166-1 are expected, such as DEU"),
        ("Untied Kingdom", "did you mean 'GBR' (United Kingdom)?"),
        ("QQQQQQ", "three letters of ISO 3166-1 are expected, such as DEU"),
        ("CAF", "0.0 g/kWh for Central African Republic, which no grid has; state a number in grams_per_kwh"),
    ],
)
def test_a_country_that_has_no_figure(country: str, said: str) -> None:
    table()
    with pytest.raises(ConfigError) as caught:
        made(f"country = '{country}'")
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("agent.toml: 'carbon.country': ")


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("country = 'GER'", "carbon.country"),
        ("series = { files = 'none.csv', value = 'v', unit = 'g/kWh' }", "carbon.series"),
        (
            "series = { files = 'a.csv', value = 'v', unit = 'g/kWh' }\nfallback.country = 'GER'",
            "carbon.fallback.country",
        ),
        ("http = { url = 'https://a.example/', token_file = 'none' }", "carbon.http"),
        ("http = { url = 'https://a.example/', ca = 'none.pem' }", "carbon.http"),
        ("http = { url = 'https://a.example/' }\nfallback.country = 'GER'", "carbon.fallback.country"),
    ],
)
def test_what_is_refused_says_of_which_file_and_setting(tmp_path: Path, text: str, setting: str) -> None:
    table()
    (tmp_path / "a.csv").write_text("time,v\n1970-01-01T00:00Z,100\n1970-01-01T01:00Z,200\n")

    def asks(request: Request) -> Answer:
        raise AssertionError(f"nothing is asked before it is needed, and {request} is")

    with pytest.raises(ConfigError) as caught:
        make_intensity(loads(text, CarbonSettings), tmp_path, asks, lambda: 0.0, "/etc/fedsus/agent.toml")
    assert str(caught.value).startswith(f"/etc/fedsus/agent.toml: '{setting}': ")


def test_without_the_extra_there_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yearly_module.util, "find_spec", lambda _: None)
    yearly_module._table.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'fedsus\[energy\]', or state grams_per_kwh"):
        yearly("DEU")
    yearly_module._table.cache_clear()


def test_codecarbon_itself_is_not_imported() -> None:
    table()
    code = (
        "import sys; from fedsus.energy.grid.yearly import yearly as y; y('FRA'); sys.exit('codecarbon' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_manufacture_is_borne_by_time_and_share() -> None:
    machine = embodied(EmbodiedSettings(kg=1000.0, years=4.0, share=0.5, spread=0.2))
    assert machine is not None
    figure = machine.over(YEAR)
    assert (figure.value, figure.low, figure.high) == (pytest.approx(125_000), pytest.approx(1e5), pytest.approx(1.5e5))
    assert (figure.unit, figure.method) == ("g CO2e", "assumed")
    assert embodied(None) is None
    with pytest.raises(EnvironmentFault, match="was the clock set back"):
        machine.over(-1)


@pytest.mark.parametrize("kind", sorted(PUBLISHED))
def test_published_machines_have_ranges_and_sources(kind: Any) -> None:
    machine = embodied(EmbodiedSettings(machine=kind))
    assert machine is not None and 0 < machine.low < machine.kg < machine.high and "Boavizta" in machine.source
    longer = embodied(EmbodiedSettings(machine=kind, years=10.0))
    assert longer is not None and longer.over(60).value < machine.over(60).value


def test_networks_by_bytes() -> None:
    published = network(NetworkSettings())
    assert published is not None
    figure = published.joules(2_000_000_000)
    assert figure.value == pytest.approx(2 * 0.0065 * 3.6e6)
    assert (figure.low, figure.high) == (0, pytest.approx(2 * 0.06 * 3.6e6))
    assert "Aslan" in figure.source
    grams = published.grams(1_000_000_000, RATE)
    assert (grams.value, grams.low, grams.high) == (pytest.approx(2.6), 0, pytest.approx(36))
    own = network(NetworkSettings(kwh_per_gb=1.0, low=0.5, high=2.0))
    assert own is not None and own.joules(1_000_000_000).value == pytest.approx(3.6e6)
    assert network(None) is None
    with pytest.raises(ConfigError, match="-1 bytes"):
        published.joules(-1)


def test_sci_is_energy_times_intensity_and_manufacture_by_unit() -> None:
    assert sci(2.0, 300.0, 400.0, 10.0) == 100.0
    assert sci(2.0, 300.0, 400.0, 0.0) is None
    assert sci(2.0, 300.0, 400.0, -0.1) is None
    with pytest.raises(ConfigError, match="SCI: I = -1"):
        sci(2.0, -1.0, 400.0, 10.0)


def test_a_clock_set_back_marks_the_figure(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time,v\n1970-01-01T00:00Z,100\n1970-01-01T01:00Z,200\n")
    settings = loads("series = { files = 'a.csv', value = 'v', unit = 'g/kWh' }", CarbonSettings)
    found = make_intensity(settings, tmp_path, None, lambda: 0.0, "agent.toml")
    assert found is not None
    rate = found.over(4000, 3700)
    assert (rate.value, rate.method) == (200, "assumed") and "clock was set back" in rate.source
    assert found.over(0, 7200).value == 150
    outside = found.over(0, 7201)
    assert (outside.value, outside.low, outside.high, outside.method) == (481, 0, 1400, "assumed")
    assert "instead of a source that failed: series a.csv: no value for" in outside.source


def test_a_series_that_has_ended_is_said_once_and_has_one_source_for_all_hours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.csv").write_text("time,v\n1970-01-01T00:00Z,100\n1970-01-01T01:00Z,200\n")
    settings = loads("series = { files = 'a.csv', value = 'v', unit = 'g/kWh' }", CarbonSettings)
    found = make_intensity(settings, tmp_path, None, lambda: 0.0, "agent.toml")
    assert found is not None
    sources = {found.over(start, start + 60).source for start in range(8000, 20_000, 60)}
    assert len(sources) == 1 and "no value for later times" in sources.pop()
    assert [record.getMessage() for record in caplog.records] == [
        "series a.csv: no value for later times; it covers 1970-01-01 00:00:00+00:00 to 1970-01-01 02:00:00+00:00; "
        "going on with an assumed carbon intensity"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("country = 'DEU'\ngrams_per_kwh = 3.0", "'country' and 'grams_per_kwh': one source of intensity at most"),
        ("country = 'DEU'\nkind = 'marginal'", "'country' is a yearly average"),
        ("grams_per_kwh = 0.0", "greater than 0"),
        ("grams_per_kwh = 3001.0", "less than or equal to 3000"),
        ("spread = 1.1", "less than or equal to 1"),
        ("fallback = { country = 'DEU' }", "'fallback' needs 'series' or 'http'"),
        ("fallback = { country = 'DEU', grams_per_kwh = 3.0 }", "either 'country' or 'grams_per_kwh'"),
        ("fallback = {}", "either 'country' or 'grams_per_kwh'"),
        ("series = { files = 'a.csv', value = 'v' }", "'series.unit' is missing"),
        ("series = { files = 'a.csv', value = 'v', unit = 't/MWh' }", "should be 'g/kWh', 'kg/kWh'"),
        ("series = { files = 'a', value = 'v', unit = 'g/kWh', gaps = 'zero' }", "should be 'refuse', 'previous'"),
        ("series = { files = 'a', value = 'v', unit = 'g/kWh', low = 'l' }", "'low' and 'high' belong together"),
        ("series = { files = 'a', value = 'v', unit = 'g/kWh', gap = 1 }", "did you mean 'gaps'?"),
        ("http = { url = 'http://grid.example/ci' }", "plain http to another machine"),
        ("http = { url = 'http://127.0.0.1.evil.example/ci' }", "plain http to another machine"),
        ("http = { url = 'https://user:hunter2@grid.example/ci' }", "put a token into 'token_file'"),
        ("http = { url = 'file:///etc/passwd' }", "an address such as 'https://HOST/PATH' is expected"),
        ("http = { url = 'https://' }", "an address such as"),
        ("http = { url = 'https://x:99999/' }", "an address such as"),
        ("http = { url = 'http://[::1]grid.example/' }", "an address such as"),
        ("http = { url = 'https://x/', timeout = 0.0 }", "greater than 0"),
        ("http = { url = 'https://x/', timeout = 15.1 }", "less than or equal to 15"),
        ("http = { url = 'https://x/', token = 'abc' }", "unknown field 'http.token'; did you mean 'token_file'?"),
        ("http = { url = 'https://x/', header = 'X: y' }", "'http.header'"),
        ("http = { url = 'https://x/', ca = '' }", "'http.ca'"),
        ("http = { url = 'http://localhost/', ca = 'ca.pem' }", "'ca' needs https"),
        ("embodied = {}", "either 'machine' or 'kg'"),
        ("embodied = { kg = 100.0 }", "'kg' needs 'years'"),
        ("embodied = { machine = 'toaster' }", "should be 'phone', 'laptop', 'desktop' or 'server'"),
        ("embodied = { machine = 'laptop', share = 1.5 }", "less than or equal to 1"),
        ("network = { kwh_per_gb = 1.0 }", "'kwh_per_gb', 'low' and 'high' together"),
        ("network = { kwh_per_gb = 1.0, low = 2.0, high = 3.0 }", "low <= kwh_per_gb <= high"),
    ],
)
def test_settings_that_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text, CarbonSettings, "agent.toml")
    line = str(caught.value)
    assert line.startswith("agent.toml: ") and said in line and "\n" not in line and "hunter2" not in line


@pytest.mark.parametrize(
    "url", ["http://localhost:8000/ci", "http://127.0.0.1/ci", "http://[::1]/ci", "https://grid.example/ci?zone=DE"]
)
def test_addresses_that_are_taken(url: str) -> None:
    assert loads(f"http = {{ url = '{url}' }}", CarbonSettings).http is not None


def test_grams_of_two_kinds_have_no_sum() -> None:
    one = Grams(value=1.0, low=0.5, high=2.0, method="counter", kind="average", source="a")
    assert one + replace(one, value=2.0, method="modelled", source="b") == Grams(
        value=3.0, low=1.0, high=4.0, method="modelled", kind="average", source="a; b"
    )
    with pytest.raises(ValueError, match="average and marginal grams have no sum"):
        one + replace(one, kind="marginal")
