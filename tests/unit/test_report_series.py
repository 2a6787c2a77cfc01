"""Numbers and series of reports: units that fit, hours that add up, points that stay few."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsus.reporting.figures import Absent, Figure, exact
from fedsus.reporting.pages import charts, series, words


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.0, "J", "0 J"),
        (3.0, "J", "3.00 J"),
        (3599.0, "J", "3,599 J"),
        (7200.0, "J", "2.00 Wh"),
        (3.6e6, "J", "1.00 kWh"),
        (3.6e9, "J", "1,000 kWh"),
        (0.000333, "g CO2e", "0.333 mg CO2e"),
        (2e-5, "g CO2e", "20.0 µg CO2e"),
        (0.25, "g CO2e", "0.250 g CO2e"),
        (1234.0, "g CO2e", "1.23 kg CO2e"),
        (0.025, "g CO2e/round", "25.0 mg CO2e per round"),
        (999.0, "B", "999 bytes"),
        (57_000.0, "B", "57.0 kB"),
        (90.0, "s", "90.0 seconds"),
        (9000.0, "s", "2.50 hours"),
        (0.8, "1", "0.800 1"),
        (0.99999, "1", "1.00 1"),
    ],
)
def test_amounts(value: float, unit: str, shown: str) -> None:
    assert words.amount(value, unit) == shown


@given(st.floats(min_value=1e-4, max_value=1e12))
def test_digits_are_within_half_a_percent_of_the_value_and_need_no_exponent(value: float) -> None:
    shown = words.digits(value)
    assert "e" not in shown
    assert float(shown.replace(",", "")) == pytest.approx(value, rel=0.0051)


def test_figures_without_a_range_say_whether_they_are_exact() -> None:
    assert words.span(exact(3.0, "B", "x")) == "exact"
    assert words.span(exact(3.0, "J", "x", "assumed")) == "range not known"
    ranged = Figure(value=7200.0, low=3600.0, high=9000.0, unit="J", method="modelled", source="x")
    unknown, small = Absent(absent="no meter"), exact(36.0, "J", "y")
    assert words.rows([("Server", ranged), ("Devices", unknown), ("Small", small)]) == (
        ("Server", "2.00 Wh", "1.00 to 2.50 Wh", "modelled", "x"),
        ("Devices", "not known", "-", "-", "no meter"),
        ("Small", "0.0100 Wh", "exact", "counted exactly", "y"),
    )


def test_a_sum_is_of_what_is_known_and_as_good_as_its_worst_part() -> None:
    parts = [exact(3.0, "J", "a", "counter"), Absent(absent="b"), exact(4.0, "J", "c", "assumed")]
    found = words.total(parts, "both")
    assert found == exact(7.0, "J", "both", "assumed")
    assert words.total([Absent(absent="b"), Absent(absent="b")], "both") == Absent(absent="b")


def test_texts_of_others_are_one_short_line() -> None:
    assert words.cleaned("a\nb\x1b[31m\u202ec") == "a b?[31m?c"
    assert len(words.cleaned("x" * 10_000)) == words.LONGEST


@given(st.integers(1, 3000), st.integers(1, 300))
def test_bins_hold_every_item_once_in_few_bins(count: int, most: int) -> None:
    items = list(range(count))
    found = series.bins(items, most)
    assert [one for some in found for one in some] == items
    assert len(found) <= most
    shown = series.thinned(items)
    assert (shown[0], shown[-1], len(shown)) == (0, count - 1, min(count, series.MOST_ROWS))


@given(st.floats(min_value=1e9, max_value=2e9), st.floats(min_value=0, max_value=40 * 86_400))
def test_an_interval_is_spread_over_its_hours_and_nothing_is_lost(end: float, seconds: float) -> None:
    found = series.parts(end, seconds)
    assert math.fsum(share for _, share in found) == pytest.approx(1.0)
    for hour, share in found:
        assert 0 <= hour < 24
        assert share > 0
        if seconds < 3600:
            assert hour in {int((end - seconds) // 3600) % 24, int(end // 3600) % 24}


def test_hours_by_hand() -> None:
    noon = 1_767_268_800.0  # 2026-01-01, 12:00 UTC
    assert series.parts(noon + 900, 1800) == [(11, 0.5), (12, 0.5)]
    assert series.parts(noon + 900, 0.0) == [(12, 1.0)]
    assert dict(series.parts(noon, 86_400)) == pytest.approx(dict.fromkeys(range(24), 1 / 24))
    quarter = dict(series.parts(noon + 21_600, 2 * 86_400 + 21_600))
    assert quarter[15] == pytest.approx(3 / 54)
    assert quarter[9] == pytest.approx(2 / 54)


def test_pictures_take_the_pages_colours_and_leave_others_text_alone() -> None:
    name = '#0072b2 id="x" <b>$y_2$</b>'
    svg = charts.drawn("one", lambda axis: axis.set_title(name))
    assert '#0072b2 id="x" &lt;b&gt;$y_2$&lt;/b&gt;' in svg
    assert "var(--ink)" in svg
    assert "#1a1b1c" not in svg
    assert "http" not in svg
    assert 'id="one-figure_1"' in svg
    assert svg == charts.drawn("one", lambda axis: axis.set_title(name))
