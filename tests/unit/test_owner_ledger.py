"""The ledger counts what was spent, never grants beyond a cap, and notices when its file was changed."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import dp_accounting as dpa
import numpy as np
import pytest
from charges import CLEAR, DELTA, charge, client_charge, gaussian, policy

from fedsus.errors import BudgetExhausted, CorruptionError, EnvironmentFault, ProtocolViolation, Refusal
from fedsus.owner.accounts import exact
from fedsus.owner.caps import Account, PrivacyPolicy, accounts
from fedsus.owner.chain import Chain
from fedsus.owner.charges import Charge
from fedsus.owner.ledger import Ledger
from fedsus.privacy import rdp
from fedsus.privacy.accounting import epsilon

POLICY = policy()
RUNS = policy(3.0, 3e-5, composition="runs")
CHARGE = charge()
SERVER = Account("clinic", "example", "server")
DIGEST = b"\x01" * 32


def now() -> float:
    return 1_700_000_000.0


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger(None, now)
    yield made
    made.close()


def reserve(
    ledger: Ledger, run: str, attempt: int, charge: Charge = CHARGE, policy: PrivacyPolicy = POLICY, round: int = 1
) -> None:
    ledger.reserve("clinic", run, attempt, round, DIGEST, charge, policy)


def fill(path: Path) -> None:
    """A ledger with one run, two attempts: five rows."""
    made = Ledger(path, now)
    made.open_run("clinic", "r1", CHARGE, POLICY)
    reserve(made, "r1", 1)
    made.release("clinic", "r1", 1)
    reserve(made, "r1", 2)
    made.close()


def spent(ledger: Ledger, account: Account = SERVER, policy: PrivacyPolicy = POLICY) -> float:
    cap = ledger.cap(account, policy)
    assert cap is not None
    return ledger.standing(account).spent(cap)


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
    ):
        ledger.open_run("clinic", "r2", large, POLICY)
    assert [entry["type"] for entry in ledger.export()][:2] == ["granted", "opened"]
    assert [entry["run"] for entry in ledger.export() if entry["type"] == "opened"] == ["r1"]
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


def test_it_outlives_a_restart_where_a_reservation_counts_as_spent(tmp_path: Path) -> None:
    path = tmp_path / "state" / "ledger.sqlite"
    fill(path)
    again = Ledger(path, now)
    for step in (again.refund, again.release):
        with pytest.raises(ProtocolViolation):
            step("clinic", "r1", 2)
    with pytest.raises(ProtocolViolation):
        again.commit("clinic", "r1", 1, 6, CHARGE.events)
    with pytest.raises(Refusal):
        reserve(again, "r1", 2)
    assert (again.runs("clinic")[0].used, again.standing(SERVER).tally) == (2, {gaussian(5.0): 2})
    assert [entry["type"] for entry in again.export()] == ["granted", "opened", "reserved", "released", "reserved"]
    assert json.loads(json.dumps(again.export())) == again.export()
    again.close()


def test_its_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    fill(tmp_path / "state" / "ledger.sqlite")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "state").iterdir()}
    assert modes == {"ledger.sqlite": 0o600, "ledger.sqlite.head": 0o600, "ledger.sqlite.lock": 0o600}


def test_two_agents_cannot_share_it_but_its_owner_can_look(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    fill(path)
    first = Ledger(path, now)
    with pytest.raises(EnvironmentFault, match="in use by another agent"):
        Ledger(path, now)
    looking = Ledger(path, now, read_only=True)
    assert looking.runs("clinic")[0].used == 2
    with pytest.raises(EnvironmentFault, match="reading only"):
        reserve(looking, "r1", 3)
    looking.close()
    first.close()
    Ledger(path, now).close()


def test_threads_are_granted_each_attempt_once(tmp_path: Path) -> None:
    made = Ledger(tmp_path / "ledger.sqlite", now)
    many = charge(attempts=20)
    made.open_run("clinic", "r1", many, POLICY)
    granted: list[int] = []

    def greedy() -> None:
        for attempt in range(1, 30):
            try:
                reserve(made, "r1", attempt, many)
            except Refusal:
                continue
            granted.append(attempt)

    threads = [threading.Thread(target=greedy) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(granted) == list(range(1, 21))
    made.close()
    assert Ledger(tmp_path / "ledger.sqlite", now, read_only=True).runs("clinic")[0].used == 20


def test_threads_share_one_cap(tmp_path: Path) -> None:
    made, run = Ledger(tmp_path / "ledger.sqlite", now), charge(noise=2.0, attempts=8)
    granted: list[str] = []

    def greedy(name: str) -> None:
        try:
            made.open_run("clinic", name, run, POLICY)
            for attempt in range(1, 9):
                reserve(made, name, attempt, run)
                granted.append(name)
        except BudgetExhausted:
            return

    threads = [threading.Thread(target=greedy, args=(f"r{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tally = made.standing(SERVER).tally
    assert sum(tally.values()) == len(granted)
    assert spent(made) <= 8.0
    made.close()


def cut_last(path: Path) -> None:
    _sql(path, "DELETE FROM entries WHERE seq = 5")


def _sql(path: Path, statement: str, *values: object) -> None:
    database = sqlite3.connect(path)
    database.execute(statement, values)
    database.commit()
    database.close()


def _cheaper(path: Path) -> None:
    _sql(path, "UPDATE entries SET body = CAST(replace(body, '5.0', '9.0') AS BLOB) WHERE seq = 2")


def _gone(path: Path) -> None:
    path.unlink()


def _headless(path: Path) -> None:
    path.with_name(path.name + ".head").unlink()


def _overwritten(path: Path) -> None:
    path.write_bytes(b"not a database, whatever its name says" * 40)


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


TAMPERING: list[tuple[Callable[[Path], None], str]] = [
    (cut_last, "row 5"),
    (lambda path: _sql(path, "DELETE FROM entries WHERE seq = 2"), "row 2"),
    (lambda path: _sql(path, "UPDATE entries SET hash = ? WHERE seq = 3", "0" * 64), "row 3"),
    (lambda path: _sql(path, "UPDATE entries SET body = ? WHERE seq = 3", b"[]"), "row 3"),
    (_cheaper, "row 2"),
    (_gone, "row 5"),
    (_emptied, "row 5"),
    (_headless, "head"),
    (_overwritten, "row 1"),
]


@pytest.mark.parametrize(("tamper", "where"), TAMPERING)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_changed_file_is_refused_and_left_as_it_is(
    tmp_path: Path, tamper: Callable[[Path], None], where: str, read_only: bool
) -> None:
    path = tmp_path / "ledger.sqlite"
    fill(path)
    tamper(path)
    for _ in range(2):
        with pytest.raises(CorruptionError, match=where) as caught:
            Ledger(path, now, read_only=read_only)
        assert str(path) in str(caught.value)


def test_an_older_copy_that_was_put_back_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    fill(path)
    shutil.copy(path, tmp_path / "old")
    made = Ledger(path, now)
    made.open_run("clinic", "r2", CHARGE, POLICY)
    made.close()
    shutil.copy(tmp_path / "old", path)
    with pytest.raises(CorruptionError, match="an older copy was put back"):
        Ledger(path, now)


def test_an_entry_of_a_later_version_is_refused(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "ledger.sqlite")
    chain.append({"type": "novelty", "data": "clinic", "run": "r1"}, lambda entry: None)
    chain.close()
    with pytest.raises(CorruptionError, match="row 1: unknown entry 'novelty'"):
        Ledger(tmp_path / "ledger.sqlite", now)


def test_a_head_that_cannot_be_written_does_not_free_the_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Ledger(tmp_path / "ledger.sqlite", now)
    made.open_run("clinic", "r1", CHARGE, POLICY)

    def full(_: Chain) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Chain, "_write_head", full)
        with pytest.raises(EnvironmentFault, match="No space left"):
            reserve(made, "r1", 1)
    with pytest.raises(Refusal, match="new attempt"):
        reserve(made, "r1", 1)
    reserve(made, "r1", 2)
    made.close()
    assert Ledger(tmp_path / "ledger.sqlite", now, read_only=True).runs("clinic")[0].used == 2
