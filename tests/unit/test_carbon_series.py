"""Time series of carbon intensity: what is read, what is refused and with which line, and means by hand."""

from __future__ import annotations

import gzip
from array import array
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from series_files_made import BEGIN, T0, at, loaded, steps, table

from fedsus.energy.grid.series import Series
from fedsus.energy.grid.series_files import Row
from fedsus.errors import ConfigError, EnvironmentFault
from fedsus.settings.carbon import SeriesSettings


def refused(folder: Path, text: str, kind: Any = "marginal", **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text, kind, **settings)
    line = str(caught.value)
    assert "\n" not in line and str(folder / "a.csv") in line
    return line


def test_means_are_weighted_by_time(tmp_path: Path) -> None:
    series = loaded(tmp_path, steps(100, 200, 400))
    assert series.step == 300
    assert series.over(T0, T0).value == 100
    assert series.over(T0 + 299, T0 + 299).value == 100
    assert series.over(T0 + 300, T0 + 300).value == 200
    rate = series.over(T0 + 150, T0 + 750)
    assert rate.value == pytest.approx((150 * 100 + 300 * 200 + 150 * 400) / 600)
    assert rate.low == pytest.approx(0.9 * rate.value) and rate.high == pytest.approx(1.1 * rate.value)
    assert (rate.method, rate.kind) == ("modelled", "marginal")
    assert "a.csv" in rate.source and "±10%" in rate.source


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0, 3000), min_size=2, max_size=12), st.floats(0, 1), st.floats(0, 1), st.integers(1, 2_000_000)
)
def test_a_mean_is_that_of_its_parts(values: list[float], one: float, two: float, begin: int) -> None:
    rows = [Row(begin * 300.0 + 300.0 * k, value, None, None, array("d"), "") for k, value in enumerate(values)]
    series = Series(rows, SeriesSettings(files="x", value="v", unit="g/kWh"), "marginal", 0.2, "x")
    start, end = series.start, series.end
    cut = start + (end - start) * min(one, two)
    stop = start + (end - start) * max(one, two)
    if cut <= start or stop <= cut:
        return
    whole, left, right = series.over(start, stop), series.over(start, cut), series.over(cut, stop)
    joined = (left.value * (cut - start) + right.value * (stop - cut)) / (stop - start)
    assert whole.value == pytest.approx(joined, abs=1e-6)
    assert 0 <= whole.low <= whole.value <= whole.high
    assert min(values) - 1e-9 <= whole.value <= max(values) + 1e-9


@pytest.mark.parametrize(
    ("unit", "grams"), [("g/kWh", 0.5), ("kg/kWh", 500.0), ("kg/MWh", 0.5), ("lb/MWh", 0.226796185)]
)
def test_units(tmp_path: Path, unit: str, grams: float) -> None:
    assert loaded(tmp_path, steps(0.5, 0.5), unit=unit).over(T0, T0).value == pytest.approx(grams)


def test_outside_is_a_fault_that_names_what_is_covered(tmp_path: Path) -> None:
    series = loaded(tmp_path, steps(100, 200))
    assert series.over(T0, T0 + 600).value == 150
    for start, end in ((T0 - 1, T0), (T0, T0 + 601), (T0 + 600, T0 + 600), (float("nan"), T0)):
        with pytest.raises(EnvironmentFault):
            series.over(start, end)
    with pytest.raises(EnvironmentFault, match=r"no value for .*; it covers 2021-03-01 00:00:00\+00:00 to"):
        series.over(T0 - 1, T0)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("2021-03-01 00:05:00,1", "line 3: time 2021-03-01 00:05:00 has no zone"),
        ("2021-03-01,1", "line 3: time 2021-03-01 00:00:00 has no zone"),
        ("1614557100,1", "line 3: '1614557100' is no time"),
        ("yesterday,1", "line 3: 'yesterday' is no time"),
        (f"{at(5)},", "line 3: '' is no number; an intensity in g/kWh is expected"),
        (f"{at(5)},NaN", "line 3: 'NaN' is no number"),
        (f"{at(5)},inf", "line 3: 'inf' is no number"),
        (f"{at(5)},-1", "line 3: '-1' g/kWh = -1 g/kWh: an intensity is not negative; 0 to 3,000 g/kWh are read"),
        (f"{at(5)},3000.1", "line 3: '3000.1' g/kWh = 3000.1 g/kWh: is the unit right?"),
        (f"{at(0)},1", "line 3: 2021-03-01 00:00:00+00:00 is there twice"),
        (f"{at(-5)},1", "line 3: 2021-02-28 23:55:00+00:00 comes after a later time"),
        (f"{at(5)},1,2", "line 3: 3 cells, the header has 2"),
    ],
)
def test_bad_rows_are_refused_with_their_line(tmp_path: Path, row: str, said: str) -> None:
    assert said in refused(tmp_path, table(f"{at(0)},1", row, f"{at(10)},1"))


def test_bad_files_are_refused(tmp_path: Path) -> None:
    assert "column 'moer' (series.value) is missing; there are: time, x" in refused(
        tmp_path, table(f"{at(0)},1", header="time,x")
    )
    assert "column 'moer' is there twice" in refused(tmp_path, table("a,1,1", header="time,moer,moer"))
    assert "no rows" in refused(tmp_path, table())
    assert "column 'time' (series.time) is missing" in refused(tmp_path, "")
    (tmp_path / "a.csv").write_bytes(b"time,moer\n\xff\xfe\n")
    with pytest.raises(ConfigError, match="not a CSV file in UTF-8"):
        loaded(tmp_path)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(steps(1, 2).encode())[:-9])
    for files, said in (
        ("b.csv.gz", "not a CSV file|cannot be read"),
        ("none.csv", "none.csv: cannot be read: no such file"),
        ("x/*.csv", "no files"),
        ("a.txt", "unknown kind of file"),
    ):
        with pytest.raises(ConfigError, match=said):
            loaded(tmp_path, files=files)
    with pytest.raises(ConfigError, match="at least 2 rows"):
        loaded(tmp_path, steps(1))


def test_zero_is_marginal_alone(tmp_path: Path) -> None:
    assert loaded(tmp_path, steps(0, 2)).over(T0, T0).value == 0
    assert "no grid's average is 0" in refused(tmp_path, steps(0, 2), "average")


def test_gaps(tmp_path: Path) -> None:
    rows = [f"{at(minutes)},{value}" for minutes, value in ((0, 100), (5, 100), (10, 100), (25, 400), (30, 400))]
    text = table(*rows)
    assert "line 5: a gap of 900 s before 2021-03-01 00:25:00+00:00" in refused(tmp_path, text)
    assert "longest_gap = 600 s" in refused(tmp_path, text, gaps="linear", longest_gap=600.0)
    both = refused(tmp_path, text, longest_gap=600.0)
    assert both.endswith("set series.gaps = 'previous' or 'linear' to fill it, but series.longest_gap = 600 s is less")
    held = loaded(tmp_path, text, gaps="previous").over(T0 + 900, T0 + 1500)
    assert held.value == pytest.approx(100) and held.method == "assumed" and "gap" in held.source
    line = loaded(tmp_path, text, gaps="linear")
    assert line.over(T0 + 900, T0 + 1500).value == pytest.approx((200 + 300) / 2)
    assert line.over(T0 + 900, T0 + 1500).low == pytest.approx(90)
    assert line.over(T0 + 900, T0 + 1500).high == pytest.approx(440)
    assert line.over(T0, T0 + 900).method == "modelled"


def test_months_of_unequal_length_have_no_gaps(tmp_path: Path) -> None:
    text = table(*(f"2021-{month:02}-01T00:00Z,{month}" for month in range(1, 13)))
    assert loaded(tmp_path, text).over(T0, T0).value == 3


def test_the_hour_that_autumn_repeats_is_told_apart_by_its_zone(tmp_path: Path) -> None:
    local = ["02:00:00+02:00", "02:30:00+02:00", "02:00:00+01:00", "02:30:00+01:00", "03:00:00+01:00"]
    text = table(*(f"2021-10-31T{each},{100 * k}" for k, each in enumerate(local, start=1)))
    series = loaded(tmp_path, text)
    assert (series.step, series.end - series.start) == (1800, 5 * 1800)
    second = datetime.fromisoformat("2021-10-31T02:10:00+01:00").timestamp()
    assert series.over(second, second).value == 300
    bare = text.replace("+01:00", "").replace("+02:00", "")
    assert "has no zone" in refused(tmp_path, bare)


def test_zones(tmp_path: Path) -> None:
    text = table(f"{at(0)},1,DE", f"{at(5)},2,DE", header="time,moer,zone")
    assert " of DE" in loaded(tmp_path, text).over(T0, T0).source
    assert "line 2: zone 'DE', where 'FR' is expected" in refused(tmp_path, text, zone="FR")
    assert "line 3: zone 'AT'" in refused(tmp_path, text.replace("2,DE", "2,AT"))


def test_ranges_of_the_file_itself(tmp_path: Path) -> None:
    text = table(f"{at(0)},10,5,30", f"{at(5)},20,5,30", header="time,moer,lo,hi")
    rate = loaded(tmp_path, text, low="lo", high="hi").over(T0, T0 + 600)
    assert (rate.low, rate.value, rate.high) == (5, 15, 30)
    wrong = refused(tmp_path, text.replace("20,5", "20,25"), low="lo", high="hi")
    assert "line 3: 20 g/kWh lies outside its own range, 25 to 30" in wrong


def test_files_that_overlap_must_agree(tmp_path: Path) -> None:
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(steps(2, 3, 4, start=5).encode()))
    for files in (".", "*.csv*", str(tmp_path / "*.csv*")):
        series = loaded(tmp_path, steps(1, 2, 3), files=files)
        assert series.over(T0, T0 + 1200).value == 2.5
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(steps(2, 9, 4, start=5).encode()))
    with pytest.raises(ConfigError, match=r"b\.csv\.gz: line 3: .* has other values than at .*a\.csv: line 4"):
        loaded(tmp_path, files="*")


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    moments = [BEGIN + timedelta(minutes=5 * k) for k in range(3)]
    aware = pa.array(moments, pa.timestamp("us", tz="Europe/Berlin"))
    parquet.write_table(pa.table({"time": aware, "moer": [1.0, 2.0, 3.0]}), tmp_path / "a.parquet")
    assert loaded(tmp_path, files="a.parquet").over(T0, T0 + 900).value == 2
    parquet.write_table(pa.table({"time": aware, "moer": [1.0, None, 3.0]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet: row 2: None is no number"):
        loaded(tmp_path, files="a.parquet")
    naive = pa.array([moment.replace(tzinfo=None) for moment in moments], pa.timestamp("us"))
    parquet.write_table(pa.table({"time": naive, "moer": [1.0, 2.0, 3.0]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet: row 1: .* has no zone"):
        loaded(tmp_path, files="a.parquet")
    (tmp_path / "a.parquet").write_bytes(b"time,moer")
    with pytest.raises(ConfigError, match=r"a\.parquet: not a Parquet file"):
        loaded(tmp_path, files="a.parquet")
