"""What a time series of carbon intensity forecasts: its own, then what stands for it where that ends."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from series_files_made import T0, at, loaded, steps, table

from fedsus.energy.grid.days_alike import ages
from fedsus.energy.grid.series import Series
from fedsus.errors import ConfigError
from fedsus.settings.carbon import SeriesSettings


def foretold(folder: Path, **settings: Any) -> Series:
    days = [f"{at(60 * hour)},{hour},{1000 + hour},{2000 + hour}" for hour in range(30)]
    return loaded(folder, table(*days, header="time,moer,f1,f2"), forecast="f", **settings)


def test_forecasts_are_those_of_the_last_row_then_of_yesterday(tmp_path: Path) -> None:
    series = foretold(tmp_path)
    hour = 3600.0
    now = T0 + 26.5 * hour
    steps = series.forecast(now, now + 24 * hour)
    assert steps[0].start == now and steps[-1].end == now + 24 * hour
    assert all(one.end == two.start for one, two in itertools.pairwise(steps))
    assert [step.rate.value for step in steps[:5]] == [26, 1026, 2026, 5, 6]
    assert [step.rate.method for step in steps[:5]] == ["modelled"] * 3 + ["assumed"] * 2
    # Hours that have not come yet when the forecast is made are taken from the day before; none is looked up.
    assert max(step.rate.value for step in steps[3:]) == 26
    assert series.forecast(series.end, series.end + 1) == ()
    assert series.forecast(now, now) == ()


def test_forecasts_end_where_nothing_is_known(tmp_path: Path) -> None:
    now = T0 + 26.5 * 3600
    assert len(foretold(tmp_path, beyond="nothing").forecast(now, now + 86_400)) == 3
    early = foretold(tmp_path).forecast(T0 + 3600, T0 + 86_400)
    assert [step.rate.value for step in early] == [1, 1001, 2001]
    holes = loaded(
        tmp_path,
        table(f"{at(0)},1,,3", f"{at(5)},2,4,nan", header="time,moer,f1,f2"),
        forecast="f",
    )
    assert [step.rate.value for step in holes.forecast(T0, T0 + 3600)] == [1]
    assert [step.rate.value for step in holes.forecast(T0 + 300, T0 + 3600)] == [2, 4]
    with pytest.raises(ConfigError, match="column 'g1' is missing"):
        loaded(tmp_path, steps(1, 2), forecast="g")


@pytest.mark.parametrize("gaps", ["previous", "linear"])
def test_a_forecast_within_a_gap_knows_nothing_of_what_follows_it(tmp_path: Path, gaps: str) -> None:
    hour, now = 3600.0, T0 + 26.5 * 3600

    def forecast(after: int) -> list[float]:
        days = [f"{at(60 * h)},{h if h < 25 else after},{1000 + h},{2000 + h}" for h in (*range(25), 29, 30)]
        series = loaded(tmp_path, table(*days, header="time,moer,f1,f2"), forecast="f", gaps=gaps, longest_gap=86_400.0)
        steps = series.forecast(now, now + 20 * hour)
        assert steps[0].start == now and steps[-1].end == now + 20 * hour
        return [step.rate.value for step in steps]

    assert forecast(50) == forecast(2900)
    assert forecast(50)[:3] == [2024, 3, 4], "the second hour that the row before the gap foretold, then yesterday's"


def test_several_days_stand_for_a_forecast_the_newer_the_more(tmp_path: Path) -> None:
    """Each day counts 0.7 of the one after it; of days that were not seen, none counts."""
    levels = {0: 100, 1: 200, 2: 400, 3: 50}
    rows = [f"{at(60 * hour)},{levels[hour // 24] + hour % 24}" for hour in range(24 * 4)]
    series = loaded(tmp_path, table(*rows), beyond="days", days=3)
    now = T0 + (3 * 24 + 5) * 3600.0
    steps = series.forecast(now, now + 40 * 3600)
    found = {round((step.start - T0) / 3600): step.rate for step in steps}
    weights = (1, 0.7, 0.49)
    tomorrow_at_3 = sum(w * (levels[day] + 3) for w, day in zip(weights, (3, 2, 1), strict=True)) / sum(weights)
    today_at_9 = sum(w * (levels[day] + 9) for w, day in zip(weights, (2, 1, 0), strict=True)) / sum(weights)
    after_at_9 = found[4 * 24 + 9]
    assert found[4 * 24 + 3].value == pytest.approx(tomorrow_at_3)
    assert found[3 * 24 + 9].value == pytest.approx(today_at_9) == after_at_9.value
    assert (after_at_9.method, found[3 * 24 + 5].method) == ("assumed", "modelled")
    assert "the same hour of the last 3 days, the newer the more" in after_at_9.source
    assert after_at_9.low == pytest.approx(0.9 * after_at_9.value)
    young = series.forecast(T0 + 30 * 3600, T0 + 40 * 3600)
    assert [step.rate.value for step in young] == [206, *(100 + hour for hour in range(7, 16))]
    assert len(series.forecast(T0 + 3 * 3600, T0 + 40 * 3600)) == 1, "nothing was seen of any day before"


def test_one_day_of_several_is_yesterday(tmp_path: Path) -> None:
    now = T0 + 26.5 * 3600
    several = foretold(tmp_path, beyond="days", days=9).forecast(now, now + 20 * 3600)
    yesterday = foretold(tmp_path).forecast(now, now + 20 * 3600)
    assert [step.rate.value for step in several] == [step.rate.value for step in yesterday]


def test_days_of_a_kind_are_told_apart_by_the_calendar_of_the_grid(tmp_path: Path) -> None:
    """Monday 1 March 2021 is day 0 of the rows, in UTC; in Los Angeles a day begins at 8:00 UTC."""
    rows = [f"{at(60 * hour)},{10 * (hour // 24) + 1}" for hour in range(24 * 12)]
    series = loaded(tmp_path, table(*rows), beyond="days", days=2, calendar="America/Los_Angeles")
    now = T0 + (11 * 24 + 12) * 3600.0  # Friday the 12th, 4:00 there
    found = {round((step.start - T0) / 3600): step.rate for step in series.forecast(now, now + 40 * 3600)}

    def mean(newer: int, older: int) -> float:
        return pytest.approx(((10 * newer + 1) + 0.7 * (10 * older + 1)) / 1.7)  # type: ignore[return-value]

    assert found[11 * 24 + 20].value == mean(10, 9), "Friday: Thursday and Wednesday"
    assert found[12 * 24 + 7].value == mean(11, 10), "still Friday there: that of the last night, and of the one before"
    assert found[12 * 24 + 20].value == mean(6, 5), "Saturday: Sunday and Saturday a week ago"
    assert "last 2 days, working days or weekends as the day itself" in found[12 * 24 + 20].source
    assert "series.calendar = 'Mars/Crater'" in refused_settings(tmp_path, table(*rows), calendar="Mars/Crater")


def refused_settings(folder: Path, text: str, **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text, beyond="days", days=2, **settings)
    return str(caught.value)


@pytest.mark.parametrize("newest", [1, 2, 3])
@pytest.mark.parametrize("weekday", range(7))
def test_days_alike_are_all_of_the_last_that_are_alike(newest: int, weekday: int) -> None:
    found = ages(newest, weekday, 7)
    kinds = [(weekday - age) % 7 >= 5 for age in range(found[-1] + 1)]
    assert list(found) == [age for age in range(newest, found[-1] + 1) if kinds[age] == kinds[0]]
    assert len(found) == 7
    assert ages(newest, None, 7) == tuple(range(newest, newest + 7))


@pytest.mark.parametrize(
    "wrong",
    [
        {"calendar": "Europe/Berlin"},
        {"beyond": "days"},
        {"days": 3},
        {"beyond": "nothing", "days": 3},
        {"beyond": "days", "days": 1},
    ],
)
def test_days_are_said_where_they_count(wrong: dict[str, Any]) -> None:
    said = "'days' and beyond = \"days\" belong together|'calendar' needs beyond|greater than or equal to 2"
    with pytest.raises(ValueError, match=said):
        SeriesSettings(files="a.csv", value="v", unit="g/kWh", **wrong)
