"""What joules-of-privacy makes of runs: sums by hand, ratios, what it refuses; and one tiny run of whole devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fedsus.costs import METHODS, Method, Usage
from fedsus.errors import DataError, RunFailed
from fedsus.journal import Entry, RoundReleased, RunOpened
from fedsus.owner.consumed import NOTHING, Consumed
from fedsus.owner.energy_record import Attempt, Interval
from fedsus_simulations.benchmarks import (
    joules_hospitals,
    joules_of_privacy,
    joules_plot,
    joules_tables,
    simulate_data,
    tables,
)
from fedsus_simulations.benchmarks.joules_images import Images
from fedsus_simulations.benchmarks.joules_memory import SERVER, Seat, Shared
from fedsus_simulations.benchmarks.joules_of_privacy import HOSPITALS, IMAGES, told
from fedsus_simulations.benchmarks.joules_spent import Spent, of_run, ratios
from fedsus_simulations.benchmarks.joules_variants import AGAIN, BOTH, BY_PHASE, PLAIN, VARIANTS
from fedsus_simulations.benchmarks.result import Result, complete

HASH = "0" * 64


def usage(joules: float, method: Method = "modelled", source: str = "a model", boundary: str = "all") -> Usage:
    return Usage(
        seconds=1.0,
        joules={"train": joules},
        low=joules / 2,
        high=3 * joules,
        idle=1.0,
        method=method,
        source=source,
        boundary=boundary,
    )


def used(joules: float, method: Method = "modelled", source: str = "a model") -> Consumed:
    return Consumed.of(usage(joules, method, source))


def spent(joules: float, method: Method = "modelled", source: str = "a model") -> Spent:
    """Two rounds; a quarter is the server's."""
    return Spent(
        devices=used(1.5 * joules, method, source),
        server=used(0.5 * joules, method, source),
        first=7.0,
        seconds=(1.0, 3.0),
        sent=2000,
        received=600,
        processor={"devices": 4.0, "server": 1.0},
        accuracy=80.0,
    )


def released(number: int, server: Usage | None, survivors: int = 2) -> RoundReleased:
    return RoundReleased(
        round=number,
        attempt=number,
        survivors=survivors,
        refused=0,
        lost=0,
        weight=2.0,
        metrics=None,
        held_out=0,
        saturated=None,
        checkpoint=HASH,
        bytes_sent=100 * number,
        bytes_received=number,
        seconds=float(number),
        server=server,
    )


def journal(*rounds: Entry) -> list[Entry]:
    return [RunOpened(run="r", config={}, model_hash=HASH, checkpoint=HASH, fedsus_version="0"), *rounds]


def record(*joules: float, run: str = "r") -> list[Interval]:
    """A round each, and what belongs to no run."""
    rounds = [Interval(float(i), Attempt(run, i, i), used(one)) for i, one in enumerate(joules, 1)]
    return [*rounds, Interval(9.0, None, used(50.0))]


def test_a_run_is_its_own_rounds_alone_and_the_first_is_told_apart() -> None:
    entries = journal(*(released(number, usage(0.5)) for number in (1, 2, 3)))
    other = [Interval(5.0, Attempt("another", 2, 2), used(1000.0))]
    found = of_run(entries, {"a": record(10.0, 1.0, 2.0), "b": [*record(20.0, 3.0, 4.0), *other]}, 3)
    assert found.first == pytest.approx(10 + 20 + 0.5)
    assert found.devices.total == pytest.approx(1 + 2 + 3 + 4)
    assert found.server.total == pytest.approx(1.0)
    assert found.joules == pytest.approx(11 / 2)
    assert (found.both.low, found.both.high) == (pytest.approx(11 / 2), pytest.approx(33))
    assert (found.sent, found.received, found.seconds) == (500, 5, (2.0, 3.0))
    assert found.octets == pytest.approx(505 / 2)
    assert found.phases("devices") == {"train": pytest.approx(5.0)}


@pytest.mark.parametrize(
    ("entries", "intervals", "complaint"),
    [
        (journal(released(1, usage(1.0)), released(2, None)), record(1.0, 1.0), "no figure of round 2"),
        (journal(released(1, usage(1.0))), record(1.0, 1.0), "1 of 2 rounds"),
        (journal(released(1, usage(1.0)), released(2, usage(1.0), 1)), record(1.0, 1.0), "1 of 2 rounds"),
        (journal(released(1, usage(1.0)), released(2, usage(1.0))), record(1.0), "record of a lacks round 2"),
        (journal(released(1, usage(1.0)), released(2, usage(1.0))), record(1.0, 1.0, run="s"), "lacks round 1"),
        (
            journal(released(1, usage(1.0)), released(2, usage(1.0))),
            [*record(1.0, 1.0), Interval(9.5, Attempt("r", 2, 2), Consumed(unmeasured=1.0))],
            "lacks round 2, or a part",
        ),
    ],
)
def test_what_was_not_measured_is_refused(entries: list[Entry], intervals: list[Interval], complaint: str) -> None:
    with pytest.raises(RunFailed, match=complaint):
        of_run(entries, {"a": intervals, "b": record(1.0, 1.0)}, 2)


def test_a_ratio_is_plain_over_private_repetition_by_repetition() -> None:
    assert ratios([spent(1.0), spent(3.0)], [spent(2.0), spent(4.0)]) == [pytest.approx(0.5), pytest.approx(0.75)]
    with pytest.raises(RunFailed, match="no joules"):
        ratios([spent(1.0)], [replace(spent(1.0), devices=used(0.0), server=used(0.0))])


@pytest.mark.parametrize("method", [method for method in METHODS if method != "modelled"])
def test_methods_are_never_mixed(method: Method) -> None:
    with pytest.raises(RunFailed, match=f"different methods, .*{method}"):
        ratios([spent(1.0)], [spent(1.0, method)])
    # Also where one repetition of many differs, or one side alone.
    with pytest.raises(RunFailed, match="different methods"):
        ratios([spent(1.0), spent(1.0, method)], [spent(2.0), spent(2.0, method)])
    with pytest.raises(RunFailed, match="the server were measured by different methods"):
        ratios([spent(1.0)], [replace(spent(1.0), server=used(1.0, method))])


def test_two_models_and_two_boundaries_are_never_compared() -> None:
    with pytest.raises(RunFailed, match="different sources"):
        ratios([spent(1.0)], [spent(1.0, source="another model")])
    whole = replace(spent(1.0), server=Consumed.of(usage(1.0, boundary="with the SuperLink")))
    with pytest.raises(RunFailed, match="different boundaries"):
        ratios([spent(1.0)], [whole])


def test_variants_differ_in_what_they_say_alone() -> None:
    plans = {variant.name: joules_hospitals.asked(variant, 4, "x")["plan"] for variant in VARIANTS}
    for name, plan in plans.items():
        assert (plan["exchange"] == "secure_sum") == ("secure sum" in name or BOTH in name)
        assert ("privacy" in plan) == ("DP" in name or BOTH in name)
        assert ({"downlink", "encoding"} <= plan.keys()) == ("compressed" in name)
        assert not {"metrics", "costs"} & plan.keys()
    for name in (PLAIN, "DP", "secure sum", BOTH):
        smaller = plans[f"{name}, compressed"]
        assert {key: smaller[key] for key in smaller if key not in ("downlink", "encoding")} == plans[name]
    assert plans[PLAIN] | {"exchange": "secure_sum"} == plans["secure sum"]
    assert plans["DP"] | {"exchange": "secure_sum"} == plans[BOTH]
    assert plans[AGAIN] == plans[PLAIN]
    assert len({str(sorted(plan.items())) for plan in plans.values()}) == len(VARIANTS) - 1 == 8


FACTORS = dict(zip((variant.name for variant in VARIANTS), (1.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0), strict=True))


@pytest.fixture
def result() -> Result:
    part = {name: [spent(factor), spent(3 * factor)] for name, factor in FACTORS.items()}
    return complete("joules-of-privacy", True, told({HOSPITALS: part, IMAGES: part}, 2.0, ["a note"]))


def cells(result: Result, title: str, **wanted: str) -> dict[str, str | int | float]:
    """The first row of a table whose cells are as wanted."""
    table = next(table for table in result.tables if title in table.title)
    rows = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    return next(row for row in rows if all(row[name] == value for name, value in wanted.items()))


def test_the_tables_say_what_was_found(result: Result) -> None:
    assert result.ratio == pytest.approx(1 / 5)
    assert result.figures[f"{IMAGES}: DP"].ratio == pytest.approx(1 / 2)
    both = cells(result, HOSPITALS, run=BOTH)
    assert (both["J, devices"], both["J, server"]) == (pytest.approx(5 * 1.5), pytest.approx(5 * 0.5))
    assert both["plain / it: median (95 %)"] == "0.2 (0.2 to 0.2)"
    assert (both["s"], both["bytes down"], both["bytes up"], both["epsilon"]) == (2.0, 1000, 300, "no DP")
    assert cells(result, HOSPITALS, run=AGAIN)["plain / it: median (95 %)"] == "1 (1 to 1)"
    plain = cells(result, "processor", run=PLAIN)
    assert plain["s a round, devices"] == pytest.approx(1.5 / 2.0)
    assert plain["% of a run's s in its rounds' joules"] == round(100 * (7 + (2 + 6) / 2) / 5 / 2)
    network = cells(result, "networks", run=PLAIN)
    assert (network["bytes a round"], network["plain / it"]) == (1300, 1.0)
    assert network["J, networks"] == pytest.approx(1300 / 1e9 * 0.0065 * 3.6e6)
    assert "modelled, 0.5 to 3 times" in result.notes[0] and "boundary: all" in result.notes[0]
    assert any("do not depend on the watts" in note for note in result.notes)
    assert "0.2 (0.2 to 0.2)" in tables.markdown(result)


def test_where_the_joules_go_and_what_is_paid_more(result: Result) -> None:
    train = cells(result, BY_PHASE, run="DP", who="devices")
    assert (train["train"], train["% of the round"]) == (pytest.approx(2 * 2 * 1.5 / 2), "75")
    more = cells(result, joules_tables.MORE, run="DP", who="devices")
    assert (more["train"], more["crypto"]) == ("+1.500", "0")  # 0.75 in one block, 2.25 in the other
    assert more["all: median (95 %)"] == "1.5 (0.75 to 2.25)"


def test_sides_are_told_apart_and_differ_where_one_pays_alone() -> None:
    part = {name: [spent(1.0)] for name in FACTORS}
    part[BOTH] = [replace(spent(1.0), server=used(5.0))]
    row = next(row for row in joules_tables.side_table({HOSPITALS: part})["rows"] if row[1] == BOTH)
    assert row[2:5] == (f"{2 / 6.5:.3g}", "1", "0.1")


@pytest.mark.parametrize("watts", [0.01, 3.1, 700.0])
def test_ratios_do_not_depend_on_the_watts(watts: float) -> None:
    """The processor seconds of two runs, by any watts a core: the same ratio, of all and of each side."""

    def by(watts: float) -> tuple[list[Spent], list[Spent]]:
        plain, private = ((0.3, 0.1), (0.4, 0.9)), ((0.7, 0.2), (0.8, 1.1))
        return tuple(  # type: ignore[return-value]
            [replace(spent(1.0), devices=used(d * watts), server=used(s * watts)) for d, s in run]
            for run in (plain, private)
        )

    for who in ("both", "devices", "server"):
        assert ratios(*by(watts), who) == pytest.approx(ratios(*by(1.0), who))  # type: ignore[arg-type]


def test_counted_joules_give_no_processor_seconds() -> None:
    part = {variant.name: [spent(1.0, "counter")] for variant in VARIANTS}
    found = joules_tables.processor_table({HOSPITALS: part}, None)
    assert found["rows"][0][2:4] == ("", "")
    assert found["rows"][0][-1] == ""
    notes = told({HOSPITALS: part}, None, [])["notes"]
    assert not any("do not depend on the watts" in note for note in notes), "several parts draw differently"


def test_mixed_parts_give_no_result() -> None:
    part = {variant.name: [spent(1.0)] for variant in VARIANTS}
    with pytest.raises(RunFailed, match="different methods"):
        told({HOSPITALS: part | {"DP": [spent(1.0, "counter")]}}, None, [])


def test_the_picture_holds_the_tables_bars_and_ratios(result: Result, tmp_path: Path) -> None:
    phases = next(table for table in result.tables if table.title == BY_PHASE)
    found = joules_plot.by_part(phases)
    assert found[HOSPITALS]["DP"]["devices"]["train"] == pytest.approx((2 * 1.5 + 6 * 1.5) / 2 / 2)
    assert joules_plot.ratios(result.tables[0])["DP"] == "0.5 (0.5 to 0.5)"
    png, svg = joules_of_privacy.draw(result, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in svg.read_text()


class Ticking:
    """A meter whose takes are 1 J, 2 J, 4 J, ...: each of them can be told in a sum."""

    def __init__(self) -> None:
        self.next = 1.0
        self.inside: list[str] = []

    def phase(self, name: str) -> Ticking:
        self.inside.append(name)
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def take(self) -> Usage:
        self.next *= 2
        return usage(self.next / 2)


def test_one_meter_is_handed_around_and_nothing_is_counted_twice() -> None:
    meter = Ticking()
    shared = Shared(meter)  # type: ignore[arg-type]
    server, device = Seat(shared, SERVER), Seat(shared, "device")
    with shared.turn("device"):  # 1 before it is the server's
        first = device.take()  # 2
    # 4 at its end is the device's too
    second, mine = device.take(), server.take()  # 8 and 16 are the server's
    assert [one.total for one in (first, second, mine) if one is not None] == [2.0, 4.0, 25.0]
    assert meter.inside == ["wait"]
    assert device.take() is None


def test_a_tiny_run_on_whole_devices(tmp_path: Path) -> None:
    files = simulate_data.generated(tmp_path / "images", (600, 50))
    with pytest.raises(DataError, match="600 images are too few: 7 devices have 100 each"):
        Images(tmp_path / "runs", files, 100, 2, clients=7)
    images = Images(tmp_path / "runs", files, 50, 2, clients=4)
    plain, secure = (images.run(variant, 0) for variant in (VARIANTS[0], VARIANTS[3]))
    assert [one.rounds for one in (plain, secure)] == [1, 1]
    assert plain.accuracy == secure.accuracy  # the order of training is the same, and masks change no sum
    assert plain.devices.joules["train"] > 0
    assert "crypto" not in plain.phases("devices")
    assert secure.phases("devices")["crypto"] > secure.phases("server")["crypto"] > 0
    assert secure.received > plain.received > 4 * 4 * 50_890  # signatures and shares, beside the updates
    (ratio,) = ratios([plain], [secure])
    assert 0 < ratio < 1
    # The joules of all rounds are of the processor time that was really spent, and not of more.
    watts = joules_of_privacy.core_watts()
    if watts is not None:
        for one in (plain, secure):
            seconds = (one.first + one.both.total) / watts
            assert 0.7 * sum(one.processor.values()) < seconds < 1.05 * sum(one.processor.values())


def test_nothing_at_all_is_no_method() -> None:
    empty: Sequence[Spent] = [replace(spent(1.0), devices=NOTHING)]
    with pytest.raises(RunFailed, match="different"):
        ratios([spent(1.0)], empty)


def test_the_documentation_shows_what_was_measured() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    kept = tables.read(docs / "energy-of-privacy" / "joules-of-privacy.json")
    assert not kept.quick
    text = (docs / "energy-of-privacy.md").read_text(encoding="utf-8")
    assert tables.replaced(text, "joules-of-privacy", tables.markdown(kept), "docs") == text
    runs = {str(row[0]) for row in kept.tables[0].rows}
    assert runs == {variant.name for variant in VARIANTS}
    for name in ("joules-of-privacy.png", "joules-of-privacy.svg"):
        assert (docs / "images" / name).is_file()
