"""Nine accounts of each data set: who is charged what, by which rule, and what a filter or a whole run leaves."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from charges import CLEAR, DELTA, banded_charge, central_charge, charge, client_charge, gaussian, made, policy
from noised_plans import banded, client_central, client_distributed, example_distributed, plan_of

from fedsus.errors import BudgetExhausted, CorruptionError, Refusal
from fedsus.owner import filters
from fedsus.owner.accounts import exact
from fedsus.owner.caps import KEYS, Account, Cap, PrivacyPolicy, accounts
from fedsus.owner.charges import Charge, events_of, goal_of, released_once, turns_of
from fedsus.owner.feasible import KINDS, obstacles
from fedsus.owner.ledger import Ledger
from fedsus.owner.verification import verified
from fedsus.privacy import accounting
from fedsus.privacy.events import SkellamDpEvent, to_json
from fedsus.protection import ExamplePrivacy

OLD = Path(__file__).parent.parent / "data" / "ledger_v1.sql"
SERVER = Account("clinic", "example", "server")


def now() -> float:
    return 1.7e9


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger(None, now)
    yield made
    assert all(holds for _, holds in verified(made.export()))
    made.close()


def attempt(ledger: Ledger, run: str, charge: Charge, policy: PrivacyPolicy, number: int = 1, round: int = 1) -> None:
    ledger.open_run("clinic", run, charge, policy)
    ledger.reserve("clinic", run, number, round, b"", charge, policy)


def divergences(events: Any, order: int = 8) -> dict[str, float]:
    return {key: filters.divergence({event: 1}, order) for key, event in events.items()}


def test_with_noise_in_shares_the_server_learns_most_and_recipients_least() -> None:
    for made_of in (client_distributed, example_distributed):
        plan = plan_of(made_of(30, variance=4000.0), 30)
        found = divergences(events_of(plan, 2))
        for unit in ("example", "patient", "client"):
            if unit == "client" and made_of is example_distributed:
                assert all(
                    math.isinf(found[f"client/{adversary}"]) for adversary in ("server", "clients", "recipients")
                )
                continue
            assert found[f"{unit}/server"] >= found[f"{unit}/clients"] >= found[f"{unit}/recipients"] > 0
            assert found[f"{unit}/server"] > found[f"{unit}/recipients"]
        more = divergences(events_of(plan, 2, survivors=6))
        assert all(more[key] < found[key] for key in KEYS if math.isfinite(found[key]))
        with pytest.raises(Refusal, match="3 survivors: the noise was calibrated for 4 or more"):
            events_of(plan, 2, survivors=3)


def test_noise_of_the_server_protects_nobody_from_it() -> None:
    found = divergences(events_of(plan_of(client_central(noise=2.0), 30), None))
    for key, one in found.items():
        assert math.isinf(one) == key.endswith("/server"), key
    assert found["example/clients"] == found["patient/clients"] > found["client/clients"]


@pytest.mark.parametrize("rows", [None, 1, 3])
def test_a_patient_is_protected_by_noise_for_examples_as_far_as_rows_are_bounded(rows: int | None) -> None:
    found = divergences(events_of(plan_of(example_distributed(30, variance=4000.0), 30), rows))
    patient, example = found["patient/server"], found["example/server"]
    assert math.isinf(patient) if rows is None else patient >= example
    assert (patient == example) == (rows == 1)


@pytest.mark.parametrize("rows", [None, 2])
def test_what_a_policy_always_refuses_is_what_would_be_infinite(rows: int | None) -> None:
    """`obstacles` says beforehand what the events of plans say."""
    local = {"unit": "example", "clip": 1.0, "sampling_rate": 0.1, "steps": 10, "denominator": 9.0}
    plans = {
        ("example", "local"): ExamplePrivacy(**local, epsilon=3.0, delta=DELTA, noise_multiplier=2.0),  # type: ignore[arg-type]
        ("example", "distributed"): example_distributed(30, variance=1e5),
        ("client", "distributed"): client_distributed(30, variance=1e5),
        ("client", "central"): client_central(noise=5.0),
    }
    assert set(plans) == set(KINDS)
    for (unit, placement), privacy in plans.items():
        events = events_of(plan_of(privacy, 30), rows)
        for protected in ("example", "patient", "client"):
            units = sorted({unit, protected})
            granted = policy(30.0, 0.5, units=units, placements=[placement], rows_per_patient=rows)
            infinite = [key for key, event in events.items() if key.split("/")[0] in units and "non_private" in event]
            why = obstacles(granted, "clinic")[unit, placement]
            assert (why is not None) == bool(infinite), (unit, placement, units)
            if why is not None:
                assert why.startswith("data 'clinic', " + infinite[0].replace("/", " against "))


def test_the_goal_of_each_placement() -> None:
    assert goal_of(plan_of(client_central(), 30)) == "client/recipients"
    assert goal_of(plan_of(client_distributed(30), 30)) == "client/server"
    assert goal_of(plan_of(example_distributed(30), 30)) == "example/server"
    plan = plan_of(banded(bands=4, participations=3), 30)
    turns = turns_of(plan)
    assert turns is not None
    assert (released_once(plan), turns.bands, turns.participations) == (True, 4, 3)


def test_runs_of_all_placements_debit_the_same_accounts(ledger: Ledger) -> None:
    granted = policy(
        20.0, units=["client", "example"], trusted=["server"], caps=[{"unit": "client", "unlimited": True}]
    )
    for run, one in (("a", charge(9.0)), ("b", client_charge(9.0)), ("c", central_charge(9.0))):
        attempt(ledger, run, one, granted)
    found = {account.key: ledger.standing(account) for account in accounts("clinic")}
    assert [run.name for run in found["client/recipients"].outside] == ["a"]
    assert [run.name for run in found["client/server"].outside] == ["a", "c"]
    assert [run.name for run in found["example/server"].outside] == ["c"]
    tally = found["example/recipients"].tally
    assert tally == {gaussian(9.0): 1, gaussian(4.5): 2}
    assert found["client/recipients"].used == {gaussian(9.0): 2}


def test_infinity_is_refused_where_a_unit_is_protected_and_each_has_its_way_out(ledger: Ledger) -> None:
    for asked, units, way in (
        (central_charge(), ["client"], r'client against server: .* infinite; .* trusted = \["server"\]'),
        (charge(), ["example", "patient"], r"patient against server: .* infinite; .* rows_per_patient"),
        (charge(), ["example", "client"], r"client against server: .*leave \'client\' out of \[privacy\] units"),
    ):
        for composition in ("renyi", "runs"):
            with pytest.raises(BudgetExhausted, match=way):
                ledger.open_run("clinic", "r", asked, policy(units=units, composition=composition))
    attempt(ledger, "central", central_charge(), policy(units=["client"], trusted=["server"]))
    attempt(ledger, "examples", charge(), policy(caps=[{"unit": "client", "unlimited": True}]))


def test_a_device_takes_turns_where_noise_is_correlated_over_rounds(ledger: Ledger) -> None:
    granted, run = policy(units=["client"], trusted=["server"]), banded_charge(bands=3, participations=2)
    account = Account("clinic", "client", "recipients")
    ledger.open_run("clinic", "r", run, granted)
    assert not ledger.standing(account).tally
    ledger.reserve("clinic", "r", 1, 4, b"", run, granted)
    charged = ledger.standing(account).tally
    assert charged == {gaussian(5.0): 1}
    ledger.reserve("clinic", "r", 2, 4, b"", run, granted)  # the same round again: the first attempt was abandoned
    for number, round in ((3, 5), (3, 6), (3, 2), (3, 3)):
        with pytest.raises(Refusal, match=f"took part in round 4, .* over 3 rounds: round {round} is too near"):
            ledger.reserve("clinic", "r", number, round, b"", run, granted)
    ledger.reserve("clinic", "r", 3, 7, b"", run, granted)
    with pytest.raises(BudgetExhausted, match="round 10 would be this device's part 3 of 2"):
        ledger.reserve("clinic", "r", 4, 10, b"", run, granted)
    assert ledger.standing(account).tally == charged, "charged whole, once"


def test_a_turn_that_was_refunded_is_none(ledger: Ledger) -> None:
    granted, run = policy(units=["client"], trusted=["server"]), banded_charge(bands=3, participations=1)
    ledger.open_run("clinic", "r", run, granted)
    ledger.reserve("clinic", "r", 1, 4, b"", run, granted)
    ledger.refund("clinic", "r", 1)
    assert not any(ledger.standing(Account("clinic", "client", "recipients")).tally.values())
    ledger.reserve("clinic", "r", 2, 5, b"", run, granted)


def test_the_order_is_fixed_by_the_first_run_whatever_comes_later(ledger: Ledger) -> None:
    large, small = charge(noise=30.0, attempts=2), charge(noise=1.6, attempts=1)
    attempt(ledger, "r1", large, policy(3.0))
    order = ledger.standing(SERVER).order
    assert order == filters.best_order(Cap(3.0, 1e-4), large.events[SERVER.key])
    attempt(ledger, "r2", small, policy(9.0))
    assert (ledger.standing(SERVER).order, ledger.granted(SERVER).cap) == (order, Cap(9.0, 1e-4))
    assert order != filters.best_order(Cap(9.0, 1e-4), small.events[SERVER.key])
    kinds = [entry["type"] for entry in ledger.export()]
    assert kinds == ["granted", "opened", "reserved", "granted", "opened", "reserved"]


def test_from_runs_charged_whole_to_a_filter_and_not_back(ledger: Ledger) -> None:
    """What whole runs left of the cap is the filter's; a filter has no epsilon to which runs could be added."""
    whole = charge(noise=8.0)
    attempt(ledger, "r1", whole, policy(3.0, composition="runs"))
    assert ledger.standing(SERVER).order is None
    small = charge(noise=30.0, attempts=1)
    with pytest.raises(BudgetExhausted, match="nothing of it fits"):
        ledger.open_run("clinic", "r2", small, policy(whole.epsilon, composition="renyi"))
    attempt(ledger, "r2", small, policy(3.0))
    standing = ledger.standing(SERVER)
    assert (standing.epsilon, standing.delta) == (exact([whole.epsilon]), exact([DELTA]))
    rest = Cap(3.0 - whole.epsilon, 1e-4 - DELTA)
    left = standing.left_to_filter(Cap(3.0, 1e-4))
    assert left == pytest.approx(rest)
    assert left <= rest
    assert standing.tally == {gaussian(30.0): 1}
    ledger.reserve("clinic", "r1", 2, 2, b"", whole, policy(3.0))  # charged already
    assert ledger.standing(SERVER).tally == standing.tally
    for again in ("r1", "r3"):
        if again == "r3":
            with pytest.raises(Refusal, match=r'set \[privacy\] composition = "renyi" again'):
                ledger.open_run("clinic", again, small, policy(3.0, composition="runs"))


def test_what_was_spent_before_a_unit_was_protected_counts_when_it_is(ledger: Ledger) -> None:
    run = client_charge(noise=6.0)
    attempt(ledger, "r1", run, policy(4.0, units=["client"]))
    assert ledger.cap(SERVER, policy(4.0, units=["client"])) is None
    both = policy(4.0, units=["client", "example"])
    with pytest.raises(BudgetExhausted, match="example against server"):
        ledger.open_run("clinic", "r2", charge(noise=9.0), both)
    generous = policy(12.0, units=["example"])
    attempt(ledger, "r2", charge(noise=9.0), generous)
    standing = ledger.standing(SERVER)
    twice = accounting.epsilon(filters_event(run, SERVER.key), DELTA)
    assert float(standing.epsilon) == twice > run.epsilon


def filters_event(run: Charge, key: str) -> Any:
    import dp_accounting as dpa

    from fedsus.privacy.events import from_json

    return dpa.SelfComposedDpEvent(from_json(run.events[key]), run.attempts)


def skellam(attempts: int, variance: float = 1e6) -> Charge:
    event = to_json(SkellamDpEvent(20.0, 10.0, variance))
    return made(dict.fromkeys(KEYS, event), "example/server", attempts, "spec")


def test_samplers_of_skellam_noise_take_their_part_of_delta(ledger: Ledger) -> None:
    cap = Cap(8.0, 1e-4)
    allowed = filters.allowance(cap, 8)
    assert allowed.releases == filters.MOST_RELEASES
    assert 0.9e-4 <= allowed.delta < 1e-4
    assert allowed.delta == 1e-4 - accounting.held_back(8.0, allowed.releases)
    attempt(ledger, "r1", skellam(5), policy())
    with pytest.raises(
        BudgetExhausted, match=r"\d+ releases with Skellam noise in all; of the cap 8 .* allow 1048576: more than"
    ):
        ledger.open_run("clinic", "r2", skellam(filters.MOST_RELEASES, 1e14), policy())


def test_a_cap_too_large_for_samplers_lets_gaussian_noise_pass(ledger: Ledger) -> None:
    assert filters.allowance(Cap(60.0, 1e-5), 2).releases == 0
    with pytest.raises(
        BudgetExhausted, match=r"lower the cap's epsilon to 29\.15, the largest that does, or raise its"
    ):
        ledger.open_run("clinic", "r1", skellam(5), policy(60.0, 1e-5))
    for epsilon, some in ((29.15, 8), (29.16, 4)):
        assert filters.allowance(Cap(epsilon, 1e-5), 2).releases == some
    for delta, releases in ((1e-5, 1), (1e-5, 22), (1e-9, 4096), (0.5, 3)):
        largest = filters.largest_epsilon(delta, releases)
        assert largest is not None
        assert [filters.allowance(Cap(largest + more, delta), 2).releases >= releases for more in (0.0, 0.011)] == [
            True,
            False,
        ]
    assert filters.largest_epsilon(2.0**-49, filters.MOST_RELEASES) is None
    assert filters.largest_epsilon(1e-5, filters.MOST_RELEASES + 1) is None
    why = obstacles(policy(60.0, 1e-5, placements=["local", "distributed"]), "clinic")
    assert why["example", "local"] is None
    assert str(why["example", "distributed"]).endswith("of its delta: 31.23 is the largest that lets one pass")
    ledger.open_run("clinic", "r1", charge(), policy(60.0, 1e-5))


def test_an_epsilon_of_zero_grants_nothing_whatever_is_asked(ledger: Ledger) -> None:
    for epsilon, delta in ((0.0, 1e-5), (3.0, 0.0), (0.0, 0.0)):
        for composition in ("renyi", "runs"):
            with pytest.raises(BudgetExhausted, match="set .privacy. epsilon and delta"):
                ledger.open_run("clinic", "r", charge(noise=1e4), policy(epsilon, delta, composition=composition))


def test_a_grant_of_infinity_in_the_ledger_is_for_its_data_set(ledger: Ledger) -> None:
    ledger.grant(accounts("ward"), Cap(math.inf, 0.0))
    ledger.open_run("ward", "clear", CLEAR, policy())
    with pytest.raises(Refusal, match="without_dp is not granted"):
        ledger.open_run("clinic", "clear", CLEAR, policy())
    ledger.grant(accounts("ward")[:1], None)
    with pytest.raises(Refusal, match="without_dp is not granted"):
        ledger.open_run("ward", "more", CLEAR, policy())


def test_another_bound_on_rows_is_charged_from_then_on(ledger: Ledger) -> None:
    """The owner counted again: attempts before stay as they were charged."""
    few, many = charge(noise=9.0), charge(noise=9.0)
    few = made(dict(few.events) | dict.fromkeys(patients(), gaussian(9.0)), "example/server", 5, "spec")
    many = made(dict(many.events) | dict.fromkeys(patients(), gaussian(3.0)), "example/server", 5, "spec")
    granted = policy(units=["example", "patient"])
    attempt(ledger, "r1", few, granted)
    attempt(ledger, "r1", many, granted, 2)
    assert ledger.standing(Account("clinic", "patient", "server")).tally == {gaussian(9.0): 1, gaussian(3.0): 1}
    assert ledger.standing(SERVER).tally == {gaussian(9.0): 2}


def patients() -> list[str]:
    return [key for key in KEYS if key.startswith("patient/")]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A ledger of version 1: a run that was charged epsilon 2 whole, with two attempts, and one without privacy."""
    path, text = tmp_path / "ledger.sqlite", OLD.read_text()
    database = sqlite3.connect(path)
    database.executescript(text)
    database.close()
    path.with_name(path.name + ".head").write_text(text.split("\n", 1)[0].removeprefix("-- head: ") + "\n")
    return path


def test_an_old_ledger_opens_and_its_runs_count_as_they_were_charged(old: Path) -> None:
    ledger = Ledger(old, now)
    standing = ledger.standing(SERVER)
    assert (standing.epsilon, standing.delta, standing.order) == (exact([2.0]), exact([4e-6]), None)
    assert [run.name for run in standing.outside] == ["clear"]
    assert [run.name for run in ledger.standing(Account("clinic", "client", "server")).outside] == ["winter", "clear"]
    winter, clear = ledger.runs("clinic")
    assert (winter.used, winter.released, winter.attempts, winter.epsilon) == (2, 2, 12, 2.0)
    assert winter.epsilon_so_far == accounting.epsilon(accounting.dp_sgd_event(2.0, 0.1, 20), 4e-6)
    assert (clear.goal, clear.epsilon_so_far) == (None, math.inf)
    for composition in ("runs", "renyi"):
        with pytest.raises(BudgetExhausted, match="example against server"):
            ledger.open_run("clinic", "new", charge(noise=8.0), policy(2.5, composition=composition))
    ledger.open_run("clinic", "new", charge(noise=30.0), policy(3.0))
    left = ledger.standing(SERVER).left_to_filter(Cap(3.0, 1e-4))
    assert left == pytest.approx(Cap(1.0, 1e-4 - 4e-6))
    assert [entry["v"] for entry in ledger.export()][-2:] == [2, 2]
    assert all(holds for _, holds in verified(ledger.export()))
    ledger.close()
    assert Ledger(old, now, read_only=True).standing(SERVER).order is not None


def test_an_old_ledger_that_was_changed_is_refused(old: Path) -> None:
    database = sqlite3.connect(old)
    database.execute("UPDATE entries SET body = CAST(replace(body, '2.0', '0.1') AS BLOB) WHERE seq = 1")
    database.commit()
    database.close()
    with pytest.raises(CorruptionError, match="row 1"):
        Ledger(old, now)


Wrong = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda entry: entry.pop("goal"),
        lambda entry: entry["events"].pop("client/server"),
        lambda entry: entry.update(turns=[1]),
        lambda entry: entry.update(type="closed"),
    ],
)
def test_an_entry_that_is_none_is_refused(wrong: Wrong) -> None:
    from fedsus.owner.history import History

    ledger = Ledger(None, now)
    ledger.open_run("clinic", "r1", charge(), policy())
    granted, opened = ledger.export()
    opened = {**opened, "events": dict(opened["events"])}
    wrong(opened)
    history = History()
    history.take(granted)
    with pytest.raises(CorruptionError, match="row 2"):
        history.take(opened)
