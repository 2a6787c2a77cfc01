"""Who is chosen by a grid is not amplified: held by types, at run time, and by what the rounds then spend."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import dp_accounting as dpa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.errors import ConfigError, EnvironmentFault
from fedsus.privacy.choice import ByGrid, Drawn, amplified, composed, most_rounds

ROOT = Path(__file__).resolve().parents[2]
GRIDS = ByGrid(("north", "south"), 0.25)
ROUND = dpa.GaussianDpEvent(1.0)


def test_a_type_checker_refuses_to_amplify_what_is_chosen_by_grid(tmp_path: Path) -> None:
    """The same line with a draw is accepted, so that it is the choice that is refused."""
    head = "from fedsus.privacy.choice import ByGrid, Choice, Drawn, amplified\n"
    file = tmp_path / "snippet.py"
    file.write_text(
        head
        + "amplified(None, Drawn(0.1))\n"
        + "amplified(None, ByGrid(('a',), 0.0))\n"
        + "def f(choice: Choice) -> None:\n    amplified(None, choice)\n"
        + "def g() -> None:\n    class Sly(Drawn): ...\n"
    )
    options = ["--strict", "--no-incremental", "--follow-imports=silent", "--no-error-summary"]
    stubs = ["--ignore-missing-imports", "--python-version=3.11", "--no-site-packages"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", *options, *stubs, str(file)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    errors = [line.split(":", 2)[1:] for line in done.stdout.splitlines() if " error: " in line]
    assert [int(number) for number, _ in errors] == [3, 5, 7], done.stdout + done.stderr
    assert 'has incompatible type "ByGrid"; expected "Drawn"' in errors[0][1]
    assert 'has incompatible type "Drawn | ByGrid"; expected "Drawn"' in errors[1][1]


@pytest.mark.parametrize("choice", [GRIDS, 0.1, None, "Drawn"])
def test_so_does_the_function(choice: Any) -> None:
    with pytest.raises(TypeError, match="no draw"):
        amplified(ROUND, choice)


def epsilon(event: dpa.DpEvent) -> float:
    found: float = dpa.rdp.RdpAccountant().compose(event).get_epsilon(1e-5)
    return found


def test_what_is_chosen_by_grid_spends_as_if_all_took_part_each_time() -> None:
    everybody = epsilon(dpa.SelfComposedDpEvent(ROUND, 20))
    assert epsilon(composed(ROUND, 20, GRIDS)) == everybody
    assert epsilon(composed(ROUND, 20, ByGrid(("north", "south"), 0.0))) == everybody
    assert epsilon(composed(ROUND, 20, Drawn(0.05))) < 0.5 * everybody
    assert epsilon(composed(ROUND, 20, Drawn(1.0))) == pytest.approx(everybody)


@pytest.mark.parametrize(("rounds", "bands", "most"), [(20, 1, 20), (20, 4, 5), (21, 4, 6), (3, 4, 1)])
def test_turns_bound_how_often_a_client_takes_part(rounds: int, bands: int, most: int) -> None:
    assert most_rounds(rounds, bands) == most


def run(choice: ByGrid, intensities: list[dict[str, float]]) -> list[str]:
    """The regions of so many rounds; the floor holds after each of them."""
    had = dict.fromkeys(choice.regions, 0)
    chosen = []
    for number, now in enumerate(intensities, 1):
        region = choice.choose(had, now)
        had[region] += 1
        chosen.append(region)
        for name in choice.regions:
            assert had[name] >= math.floor(choice.floor * number + 1e-9), (name, number, chosen)
    return chosen


@st.composite
def worlds(draw: st.DrawFn) -> tuple[ByGrid, list[dict[str, float]]]:
    names = tuple("abcde"[: draw(st.integers(1, 5))])
    share = draw(st.one_of(st.sampled_from([0.0, 1.0, 0.5, 1e-5]), st.floats(1e-5, 1)))
    values = st.lists(st.integers(0, 3), min_size=len(names), max_size=len(names))
    rounds = draw(st.lists(values, min_size=1, max_size=60))
    return ByGrid(names, share / len(names)), [dict(zip(names, map(float, now), strict=True)) for now in rounds]


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_no_region_ever_has_less_than_its_share_of_rounds(world: tuple[ByGrid, list[dict[str, float]]]) -> None:
    choice, intensities = world
    assert run(choice, intensities) == run(choice, intensities)  # by no chance


@settings(max_examples=40, deadline=None)
@given(worlds())
def test_a_dirtier_region_is_chosen_only_where_the_floor_needs_it(
    world: tuple[ByGrid, list[dict[str, float]]],
) -> None:
    """Against brute force: had the cleaner one been taken, no way to go on would keep the floor for all."""
    choice, intensities = world
    had = dict.fromkeys(choice.regions, 0)
    for now in intensities[:12]:
        chosen = choice.choose(had, now)
        for cleaner in (name for name in choice.regions if now[name] < now[chosen]):
            assert not can_go_on(choice, had | {cleaner: had[cleaner] + 1})
        had[chosen] += 1


def can_go_on(choice: ByGrid, had: dict[str, int]) -> bool:
    """Earliest due date first, round by round, until nothing is ahead of its floor any more."""
    had, number = dict(had), sum(had.values())
    last = number + math.ceil((max(had.values()) + 2) / choice.floor) + len(had) if choice.floor else number
    while True:
        if any(had[name] < math.floor(choice.floor * number + 1e-9) for name in had):
            return False
        if number >= last:
            return True
        had[min(had, key=lambda name: had[name])] += 1
        number += 1


def test_the_cleanest_region_is_taken_but_for_the_floor() -> None:
    cleaner = {"north": 50.0, "south": 400.0}
    chosen = run(GRIDS, [cleaner] * 40)
    assert chosen.count("south") == 10
    assert run(ByGrid(("north", "south"), 0.0), [cleaner] * 40) == ["north"] * 40
    assert run(ByGrid(("north", "south"), 0.5), [cleaner] * 4).count("south") == 2
    assert chosen[:3] == ["north"] * 3  # the floor is due with the fourth round, not before


def test_equally_clean_regions_take_turns() -> None:
    chosen = run(ByGrid(("a", "b", "c"), 0.1), [dict.fromkeys("abc", 5.0)] * 9)
    assert chosen == list(itertools.islice(itertools.cycle("abc"), 9))


def test_rounds_that_somebody_else_chose_below_the_floor_are_refused() -> None:
    with pytest.raises(ConfigError, match="below the floor"):
        GRIDS.choose({"north": 40, "south": 0}, {"north": 1.0, "south": 1.0})


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, None])
def test_an_intensity_that_is_none_is_refused(value: float | None) -> None:
    intensities = {"north": 1.0} | ({} if value is None else {"south": value})
    with pytest.raises(EnvironmentFault, match="'south': no carbon intensity"):
        GRIDS.choose({}, intensities)


@pytest.mark.parametrize(
    ("regions", "floor"),
    [((), 0.0), (("a", "a"), 0.1), (("a", "b"), 0.6), (("a",), -0.1), (("a",), 1e-9), (("a",), math.nan)],
)
def test_floors_that_no_choice_can_hold_are_refused(regions: tuple[str, ...], floor: float) -> None:
    with pytest.raises(ConfigError, match="chosen by grid"):
        ByGrid(regions, floor)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
def test_rates_that_are_none_are_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="rate"):
        Drawn(rate)
