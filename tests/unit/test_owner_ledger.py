"""The ledger counts what was spent, never grants beyond a cap, and notices when its file was changed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace

import dp_accounting as dpa
import numpy as np
import pytest
from charges import CLEAR, DELTA, charge, client_charge, gaussian, policy
from ledgers import CHARGE, DIGEST, POLICY, SERVER, now, reserve, spent

from fedsus.errors import BudgetExhausted, ProtocolViolation, Refusal
from fedsus.owner.accounts import exact
from fedsus.owner.caps import Account, accounts
from fedsus.owner.ledger import Ledger
from fedsus.privacy import rdp
from fedsus.privacy.accounting import epsilon

RUNS = policy(3.0, 3e-5, composition="runs")


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger(None, now)
    yield made
    made.close()


def test_runs_that_are_charged_whole_add_up_to_the_cap_and_no_further(ledger: Ledger) -> None:
    cheap = charge(noise=20.0)
    assert 0.3 < cheap.epsilon < 0.5
    for number in range(3):
        ledger.open_run("clinic", f"r{number}", cheap, RUNS)
        ledger.open_run("clinic", f"r{number}", cheap, RUNS)  # once
    standing = ledger.standing(SERVER)
    assert (standing.epsilon, standing.delta) == (exact([cheap.epsilon] * 3), exact([DELTA] * 3))
    with pytest.raises(
        BudgetExhausted, match=r"example against server: run 'r3' asks delta 1e-05; 3e-05 of the cap 3e-05"
    ):
        ledger.open_run("clinic", "r3", cheap, RUNS)
    with pytest.raises(
        BudgetExhausted, match=r"run 'r3' asks epsilon 8\.\d+; 1\.\d+ of the cap 3 is spent: .* up to 1\.\d+ would"
    ):
        ledger.open_run("clinic", "r3", charge(noise=1.3), RUNS)
    ledger.open_run("another", "r3", cheap, RUNS)
    assert ledger.data_ids() == ["another", "clinic"]


def test_a_filter_counts_attempts_as_they_come(ledger: Ledger) -> None:
    ledger.open_run("clinic", "r1", CHARGE, POLICY)
    order = ledger.standing(SERVER).order
    assert order is not None
    assert (spent(ledger), ledger.standing(SERVER).left(POLICY.cap)) == (0.0, 1.0)
    for attempt in (1, 2, 3):
        reserve(ledger, "r1", attempt)
        assert ledger.standing(SERVER).tally == {gaussian(5.0): attempt}
    divergence = order * 3 / (2 * 5.0**2)
    assert ledger.standing(SERVER).left(POLICY.cap) == pytest.approx(
        1 - divergence / rdp.budget(8.0, 1e-4, order), rel=1e-6
    )
    assert spent(ledger) == pytest.approx(rdp.epsilon_of(np.array([divergence]), (order,), 1e-4)[0], rel=1e-6)


def test_a_run_that_could_break_the_cap_is_refused_at_its_first_round(ledger: Ledger) -> None:
    """Whatever of it would fit: nobody knows beforehand which round would be the last."""
    ledger.open_run("clinic", "r1", CHARGE, POLICY)
    for attempt in range(1, 6):
        reserve(ledger, "r1", attempt)
    large = charge(noise=1.5, attempts=7)
    with pytest.raises(
        BudgetExhausted, match=r"asks epsilon [\d.]+, 1\d\d% of .* 7% is spent: 6 of 7 attempts would fit"
    ) as caught:
        ledger.open_run("clinic", "r2", large, POLICY)
    assert [entry["type"] for entry in ledger.export()][:2] == ["granted", "opened"]
    assert [entry["run"] for entry in ledger.export() if entry["type"] == "opened"] == ["r1"]
    found = re.search(r"ask for less epsilon, or grant a cap of epsilon ([\d.]+)$", str(caught.value))
    assert found is not None
    needed = float(found[1])
    with pytest.raises(BudgetExhausted):
        ledger.open_run("clinic", "r2", large, POLICY.model_copy(update={"epsilon": 0.998 * needed}))
    ledger.open_run("clinic", "r3", large, POLICY.model_copy(update={"epsilon": needed}))
    ledger.open_run("clinic", "r2", charge(noise=1.5, attempts=6), POLICY)


def test_another_run_may_take_what_an_open_one_counted_on(ledger: Ledger) -> None:
    """Who asks first: the other's next attempt is refused, and the cap holds."""
    half = charge(noise=1.5, attempts=4)
    for run in ("r1", "r2"):
        ledger.open_run("clinic", run, half, POLICY)
    granted = []
    for attempt in range(1, 5):
        for run in ("r1", "r2"):
            try:
                reserve(ledger, run, attempt, half)
            except BudgetExhausted:
                continue
            granted.append(run)
    assert 4 < len(granted) < 8
    assert spent(ledger) <= 8.0


def test_a_cap_that_the_owner_lowered_stops_a_run_that_is_open(ledger: Ledger) -> None:
    for composition in ("renyi", "runs"):
        run, data = f"of {composition}", f"data-{composition}"
        generous, strict = policy(8.0, composition=composition), policy(0.5, composition=composition)
        ledger.open_run(data, run, CHARGE, generous)
        ledger.reserve(data, run, 1, 1, DIGEST, CHARGE, generous)
        with pytest.raises(BudgetExhausted, match=r"the cap 0\.5"):
            ledger.open_run(data, run, CHARGE, strict)
            ledger.reserve(data, run, 2, 2, DIGEST, CHARGE, strict)
        ledger.open_run(data, run, CHARGE, generous)
        ledger.reserve(data, run, 2, 2, DIGEST, CHARGE, generous)


@pytest.mark.parametrize(
    "wrong", [{"epsilon": math.nan}, {"epsilon": -1.0}, {"delta": math.nan}, {"delta": 1.0}, {"attempts": 0}]
)
def test_a_charge_that_is_none_is_refused(ledger: Ledger, wrong: dict[str, float]) -> None:
    with pytest.raises(Refusal, match="no charge"):
        ledger.open_run("clinic", "r1", replace(CHARGE, **wrong), POLICY)


def test_another_specification_of_the_same_run_is_refused(ledger: Ledger) -> None:
    ledger.open_run("clinic", "r1", CHARGE, POLICY)
    with pytest.raises(Refusal, match="its plan changed"):
        ledger.open_run("clinic", "r1", charge(specification="other"), POLICY)


def test_attempts_rise_and_end(ledger: Ledger) -> None:
    with pytest.raises(Refusal, match="not admitted"):
        reserve(ledger, "r1", 1)
    ledger.open_run("clinic", "r1", CHARGE, POLICY)
    reserve(ledger, "r1", 3)
    for old in (3, 1):
        with pytest.raises(Refusal, match="only in a new attempt"):
            reserve(ledger, "r1", old)
    with pytest.raises(BudgetExhausted, match="attempt 6 of 5"):
        reserve(ledger, "r1", 6)


def test_a_refund_needs_a_reservation_that_never_left(ledger: Ledger) -> None:
    ledger.open_run("clinic", "r1", CHARGE, POLICY)
    for attempt in (1, 2, 3):
        reserve(ledger, "r1", attempt)
    ledger.release("clinic", "r1", 1)
    ledger.refund("clinic", "r1", 2)
    for attempt in (1, 2, 4):
        with pytest.raises(ProtocolViolation):
            ledger.refund("clinic", "r1", attempt)
    with pytest.raises(Refusal):
        reserve(ledger, "r1", 2)  # the number is gone, refunded or not
    (run,) = ledger.runs("clinic")
    assert (run.used, run.released, run.attempts) == (2, 1, 5)
    assert run.epsilon_so_far == epsilon(dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(5.0), 2), DELTA)
    assert ledger.standing(SERVER).tally == {gaussian(5.0): 2}


def test_certified_survivors_lower_a_charge_once_and_it_is_then_settled(ledger: Ledger) -> None:
    worst, better = client_charge(5.0), client_charge(6.0)
    clients = policy(units=["client"])
    account = Account("clinic", "client", "server")
    ledger.open_run("clinic", "r1", worst, clients)
    for attempt in (1, 2):
        reserve(ledger, "r1", attempt, worst, clients)
        ledger.release("clinic", "r1", attempt)
    before = ledger.standing(account).left(clients.cap)
    ledger.commit("clinic", "r1", 1, 6, better.events)
    assert ledger.standing(account).tally == {worst.events[account.key]: 1, better.events[account.key]: 1}
    assert ledger.standing(account).left(clients.cap) > before
    for step in (lambda: ledger.commit("clinic", "r1", 1, 9, better.events), lambda: ledger.refund("clinic", "r1", 1)):
        with pytest.raises(ProtocolViolation):
            step()
    assert (ledger.runs("clinic")[0].used, ledger.runs("clinic")[0].released) == (2, 2)


def test_a_run_without_privacy_needs_a_grant_stands_outside_the_caps_and_is_listed(ledger: Ledger) -> None:
    with pytest.raises(Refusal, match="without_dp is not granted"):
        ledger.open_run("clinic", "clear", CLEAR, POLICY)
    ledger.open_run("clinic", "clear", CLEAR, policy(without_dp=True))
    (run,) = ledger.runs("clinic")
    assert (run.epsilon, run.epsilon_so_far, run.goal) == (math.inf, 0.0, None)
    reserve(ledger, "clear", 1, CLEAR, policy(without_dp=True))
    assert ledger.runs("clinic")[0].epsilon_so_far == math.inf
    assert all([run.name for run in ledger.standing(account).outside] == ["clear"] for account in accounts("clinic"))
    ledger.open_run("clinic", "private", CHARGE, POLICY)  # the owner granted the other one apart
    with pytest.raises(BudgetExhausted):
        ledger.open_run("clinic", "more", charge(noise=0.9), POLICY)
