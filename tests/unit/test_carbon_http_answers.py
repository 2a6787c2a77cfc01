"""What a source of carbon intensity over HTTP says: forms that are understood, and lies that are one clear line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from carbon_service import NOW, Clock, Reply, Source, asked, iso, raw, says, serving, values
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.energy.grid.fetching import Answer
from fedsus.energy.grid.http_answers import understood
from fedsus.errors import EnvironmentFault
from fedsus.settings.carbon import HttpSettings


@pytest.fixture
def source() -> Iterator[Source]:
    with serving() as source:
        yield source


LIES: list[tuple[Any, str]] = [
    (raw(b"<html>hello</html>", content="text/html"), "the answer is HTML, not JSON"),
    (raw(b"<!doctype html>"), "the answer is HTML, not JSON"),
    (raw(b"{"), "the answer is no JSON"),
    (raw(b"[" * 100_000), "the answer is no JSON"),
    (raw(b'{"values": NaN}'), "the answer is no JSON"),
    (raw(b"\xff\xfe"), "the answer is no JSON"),
    (
        raw(b"", 302, Location="http://127.0.0.2/else?key=secret"),
        "redirects to 'http://127.0.0.2/else', which is not followed",
    ),
    (raw(b"no", 403), "has status 403 instead of 200; is the token right?"),
    (raw(b"no", 500), "has status 500 instead of 200"),
    (raw(b" " * 1_000_001), "is longer than largest = 1000000 bytes"),
    (says([]), "has no 'values'"),
    (says({"values": []}), "holds no value"),
    (says({"values": [7]}), "holds 7 where a value with its time is expected"),
    (says({"values": [{"time": iso(0)}]}), "without 'value'"),
    (says({"values": [{"value": 3}]}), "its 'time': None is no time"),
    (says({"values": [{"time": "2026-03-01T12:00:00", "value": 3}]}), "has no zone"),
    (says({"values": [{"time": iso(0), "value": "much"}]}), "its 'value': 'much' is no number"),
    (says({"values": [{"time": iso(0), "value": 10**400}]}), "is no number"),
    (says({"values": [{"time": iso(0), "value": True}]}), "its 'value': True is no number"),
    (says({"values": [{"time": iso(0), "value": 5, "low": 6, "high": 7}]}), "outside its own range"),
    (says({"values": [{"time": iso(0), "value": 5, "low": 4}]}), "outside its own range"),
    (says(values((0, -1))), "an intensity is not negative"),
    (says(values((0, 3001))), "is the unit right?"),
    (says(values((0, 0))), "no grid's average is 0"),
    (says(values((0, 5), (0, 6))), "has two values of 2026-03-01 12:00:00+00:00"),
    (says(values((301, 5))), "which is still to come; forecasts belong into 'forecast'"),
    (says(values((1e9, 5))), "which is still to come"),
    (says(values((-7201, 5))), "is stale: its newest value is of 2026-03-01 09:59:59+00:00"),
    (says(values((-1.7e9, 5))), "is stale"),
    (says(values((0, 5), zone="FR")), "says zone 'FR', where 'DE' is expected"),
    (says(values((0, 5), unit="kg/kWh")), "says unit 'kg/kWh', where 'g/kWh' is expected"),
    (says(values((0, 5), kind="marginal")), "says kind 'marginal', where 'average' is expected"),
    (says(values((0, 5), forecast=values((2e6, 5))["values"])), "over 14 days ahead"),
    (raw(b"{}", **{"X-Long": "y" * 200_000}), "broke off"),
]


@pytest.mark.parametrize(("lie", "said"), LIES, ids=[said[:40] for _, said in LIES])
def test_lies_are_one_clear_line(source: Source, tmp_path: Path, lie: Reply, said: str) -> None:
    intensity = asked(source, Clock(), tmp_path, zone="DE")
    source.reply = lie
    with pytest.raises(EnvironmentFault) as caught:
        intensity.over(NOW, NOW)
    line = str(caught.value)
    assert line.startswith("127.0.0.1/ci: ") and said in line
    assert "\n" not in line and "secret" not in line
    assert len(source.seen) == 1


ODD = (
    st.sampled_from(
        [None, True, -0.0, 0, 5, 5.5, 1e308, 10**400, "", "7", "DE", "g/kWh", "average", "\n", "\ud800", [], {}]
    )
    | st.sampled_from([iso(0), iso(-300), iso(300), iso(1e9), "0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00"])
    | st.floats(allow_nan=True)
)
VALUE = st.dictionaries(st.sampled_from(["time", "value", "low", "high"]), ODD, min_size=2)
ANSWER = st.dictionaries(
    st.sampled_from(["values", "forecast", "zone", "unit", "kind"]), st.lists(VALUE | ODD, max_size=3) | VALUE | ODD
)


@settings(max_examples=50, deadline=None)
@given(ANSWER | ODD)
def test_any_answer_is_understood_or_refused_with_one_line(found: Any) -> None:
    answer = Answer(status=200, content="", body=json.dumps(found).encode())
    said, values, ahead = "", [], []
    try:
        values, ahead = understood(answer, HttpSettings(url="https://grid.example", zone="DE"), "average", NOW)
    except EnvironmentFault as fault:
        said = str(fault)
    assert len(said) < 300 and said.isprintable() and bool(said) != bool(values)
    assert all(0 < point.value <= 3000 and abs(point.time - NOW) <= 7200 for point in values)
    assert all(0 <= point.value <= 3000 for point in ahead)


def test_forecasts(source: Source, tmp_path: Path) -> None:
    source.reply = says(values((-300, 100), forecast=values((3600, 50), (0, 90), (1800, 70))["values"]))
    steps = asked(source, Clock(), tmp_path).forecast(NOW + 600, NOW + 4000)
    assert [(step.start - NOW, step.end - NOW, step.rate.value) for step in steps] == [
        (600, 1800, 90),
        (1800, 3600, 70),
        (3600, 4000, 50),
    ]


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        (
            {"values": "", "time": "datetime", "value": "carbonIntensity"},
            {"zone": "DE", "carbonIntensity": 302, "datetime": iso(-60)},
        ),
        (
            {"values": "data", "forecast": "data", "time": "from", "value": "intensity.forecast"},
            {"data": [{"from": iso(60 * k), "intensity": {"forecast": 300 + k}} for k in (-28, 2, 32)]},
        ),
    ],
)
def test_other_forms_are_read_by_naming_their_fields(
    source: Source, tmp_path: Path, fields: dict[str, str], answer: Any
) -> None:
    source.reply = says(answer)
    assert asked(source, Clock(), tmp_path, fields=fields).over(NOW, NOW).value in (302, 272)


def test_what_is_to_come_in_one_list_is_a_forecast(source: Source, tmp_path: Path) -> None:
    source.reply = says(values((-1800, 300), (0, 310), (1800, 320), (3600, 330)))
    intensity = asked(source, Clock(), tmp_path, fields={"forecast": "values"})
    assert intensity.over(NOW, NOW).value == 310
    assert [step.rate.value for step in intensity.forecast(NOW, NOW + 7200)] == [310, 320, 330]
