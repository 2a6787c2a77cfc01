"""The ledger counts what was spent, never grants beyond a cap, and notices when its file was changed."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.errors import BudgetExhausted, CorruptionError, EnvironmentFault, ProtocolViolation, Refusal
from fedsus.owner.chain import Chain
from fedsus.owner.ledger import Ledger
from fedsus.owner.policy import Cap
from fedsus.privacy.accounting import dp_sgd_event, epsilon

CAP = Cap(8.0, 3e-5)
EVENT = '{"noise_multiplier":2.0,"sampling_rate":0.1,"steps":10}'


def now() -> float:
    return 1_700_000_000.0


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger(None, now)
    yield made
    made.close()


def fill(path: Path) -> None:
    """A ledger with one run, two attempts."""
    made = Ledger(path, now)
    made.open_run("clinic", "r1", "spec", 3.0, 1e-5, 5, cap=CAP)
    made.reserve("clinic", "r1", 1, b"\x01", EVENT)
    made.release("clinic", "r1", 1)
    made.reserve("clinic", "r1", 2, b"\x02", EVENT)
    made.close()


def test_a_run_is_charged_whole_and_once(ledger: Ledger) -> None:
    for _ in range(3):
        ledger.open_run("clinic", "r1", "spec", 3.0, 1e-5, 5, cap=CAP)
    assert ledger.spent("clinic") == (3.0, 1e-5)
    assert ledger.spent("another") == (0.0, 0.0)
    assert ledger.data_ids() == ["clinic"]


def test_caps_hold_over_runs_and_per_data_set(ledger: Ledger) -> None:
    ledger.open_run("clinic", "r1", "spec", 6.0, 1e-5, 5, cap=CAP)
    with pytest.raises(BudgetExhausted, match=r"'clinic'.*asks epsilon 2\.1; 6 of the cap 8 is spent"):
        ledger.open_run("clinic", "r2", "spec", 2.1, 1e-5, 5, cap=CAP)
    with pytest.raises(BudgetExhausted, match="delta"):
        ledger.open_run("clinic", "r2", "spec", 1.0, 2.1e-5, 5, cap=CAP)
    ledger.open_run("clinic", "r2", "spec", 2.0, 2e-5, 5, cap=CAP)  # exactly the cap, as written in decimal
    ledger.open_run("another", "r2", "spec", 8.0, 3e-5, 5, cap=CAP)
    assert ledger.charged("clinic") == Cap(8.0, 3e-5)


def test_a_cap_that_the_owner_lowered_stops_a_run_that_is_open(ledger: Ledger) -> None:
    ledger.open_run("clinic", "r1", "spec", 6.0, 1e-5, 5, cap=CAP)
    with pytest.raises(BudgetExhausted):
        ledger.open_run("clinic", "r1", "spec", 6.0, 1e-5, 5, cap=Cap(5.0, 3e-5))


@pytest.mark.parametrize("charge", [(math.nan, 1e-5, 5), (-1.0, 1e-5, 5), (1.0, math.nan, 5), (1.0, 1e-5, 0)])
def test_a_charge_that_is_none_is_refused(ledger: Ledger, charge: tuple[float, float, int]) -> None:
    with pytest.raises(Refusal, match="no charge"):
        ledger.open_run("clinic", "r1", "spec", *charge, cap=CAP)


def test_another_specification_of_the_same_run_is_refused(ledger: Ledger) -> None:
    ledger.open_run("clinic", "r1", "spec", 3.0, 1e-5, 5, cap=CAP)
    with pytest.raises(Refusal, match="its plan changed"):
        ledger.open_run("clinic", "r1", "other", 3.0, 1e-5, 5, cap=CAP)


def test_attempts_rise_and_end(ledger: Ledger) -> None:
    with pytest.raises(Refusal, match="not admitted"):
        ledger.reserve("clinic", "r1", 1, b"", EVENT)
    ledger.open_run("clinic", "r1", "spec", 3.0, 1e-5, 5, cap=CAP)
    ledger.reserve("clinic", "r1", 3, b"", EVENT)
    for old in (3, 1):
        with pytest.raises(Refusal, match="only in a new attempt"):
            ledger.reserve("clinic", "r1", old, b"", EVENT)
    with pytest.raises(BudgetExhausted, match="attempt 6 of 5"):
        ledger.reserve("clinic", "r1", 6, b"", EVENT)


def test_a_refund_needs_a_reservation_that_never_left(ledger: Ledger) -> None:
    ledger.open_run("clinic", "r1", "spec", 3.0, 1e-5, 5, cap=CAP)
    for attempt in (1, 2, 3):
        ledger.reserve("clinic", "r1", attempt, b"", EVENT)
    ledger.release("clinic", "r1", 1)
    ledger.refund("clinic", "r1", 2)
    for attempt in (1, 2, 4):
        with pytest.raises(ProtocolViolation):
            ledger.refund("clinic", "r1", attempt)
    with pytest.raises(Refusal):
        ledger.reserve("clinic", "r1", 2, b"", EVENT)  # the number is gone, refunded or not
    (run,) = ledger.runs("clinic")
    assert (run.used, run.released, run.attempts) == (2, 1, 5)
    assert run.epsilon_so_far == epsilon(dp_sgd_event(2.0, 0.1, 20), 1e-5)
    assert ledger.spent("clinic") == (3.0, 1e-5)  # the charge of the run stands


def test_a_run_without_privacy_is_infinite_and_listed(ledger: Ledger) -> None:
    ledger.open_run("clinic", "clear", "spec", math.inf, 0.0, 5, cap=CAP)
    (run,) = ledger.runs("clinic")
    assert (run.epsilon, run.epsilon_so_far, ledger.spent("clinic")) == (math.inf, 0.0, (math.inf, 0.0))
    ledger.reserve("clinic", "clear", 1, b"", "null")
    assert ledger.runs("clinic")[0].epsilon_so_far == math.inf
    ledger.open_run("clinic", "private", "spec", 8.0, 1e-5, 5, cap=CAP)  # the owner granted the other one apart
    with pytest.raises(BudgetExhausted):
        ledger.open_run("clinic", "more", "spec", 0.1, 1e-5, 5, cap=CAP)


def test_it_outlives_a_restart_where_a_reservation_counts_as_spent(tmp_path: Path) -> None:
    path = tmp_path / "state" / "ledger.sqlite"
    fill(path)
    again = Ledger(path, now)
    with pytest.raises(ProtocolViolation):
        again.refund("clinic", "r1", 2)
    with pytest.raises(Refusal):
        again.reserve("clinic", "r1", 2, b"\x02", EVENT)
    assert (again.runs("clinic")[0].used, again.spent("clinic")) == (2, (3.0, 1e-5))
    assert [entry["type"] for entry in again.export()] == ["opened", "reserved", "released", "reserved"]
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
    assert looking.spent("clinic") == (3.0, 1e-5)
    with pytest.raises(EnvironmentFault, match="reading only"):
        looking.reserve("clinic", "r1", 3, b"", EVENT)
    looking.close()
    first.close()
    Ledger(path, now).close()


def test_threads_are_granted_each_attempt_once(tmp_path: Path) -> None:
    made = Ledger(tmp_path / "ledger.sqlite", now)
    made.open_run("clinic", "r1", "spec", 3.0, 1e-5, 20, cap=CAP)
    granted: list[int] = []

    def greedy() -> None:
        for attempt in range(1, 30):
            try:
                made.reserve("clinic", "r1", attempt, b"", EVENT)
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


def cut_last(path: Path) -> None:
    _sql(path, "DELETE FROM entries WHERE seq = 4")


def _sql(path: Path, statement: str, *values: object) -> None:
    database = sqlite3.connect(path)
    database.execute(statement, values)
    database.commit()
    database.close()


def _cheaper(path: Path) -> None:
    _sql(path, "UPDATE entries SET body = CAST(replace(body, '3.0', '0.1') AS BLOB) WHERE seq = 1")


def _gone(path: Path) -> None:
    path.unlink()


def _headless(path: Path) -> None:
    path.with_name(path.name + ".head").unlink()


def _overwritten(path: Path) -> None:
    path.write_bytes(b"not a database, whatever its name says" * 40)


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


TAMPERING: list[tuple[Callable[[Path], None], str]] = [
    (cut_last, "row 4"),
    (lambda path: _sql(path, "DELETE FROM entries WHERE seq = 2"), "row 2"),
    (lambda path: _sql(path, "UPDATE entries SET hash = ? WHERE seq = 3", "0" * 64), "row 3"),
    (lambda path: _sql(path, "UPDATE entries SET body = ? WHERE seq = 3", b"[]"), "row 3"),
    (_cheaper, "row 1"),
    (_gone, "row 4"),
    (_emptied, "row 4"),
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
    made.open_run("clinic", "r2", "spec", 3.0, 1e-5, 5, cap=CAP)
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
    made.open_run("clinic", "r1", "spec", 3.0, 1e-5, 5, cap=CAP)

    def full(_: Chain) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Chain, "_write_head", full)
        with pytest.raises(EnvironmentFault, match="No space left"):
            made.reserve("clinic", "r1", 1, b"", EVENT)
    with pytest.raises(Refusal, match="new attempt"):
        made.reserve("clinic", "r1", 1, b"", EVENT)
    made.reserve("clinic", "r1", 2, b"", EVENT)
    made.close()
    assert Ledger(tmp_path / "ledger.sqlite", now, read_only=True).runs("clinic")[0].used == 2


hundredths = st.integers(1, 500).map(lambda n: n / 100)
openings = st.tuples(
    st.sampled_from(["clinic", "ward"]),
    st.sampled_from(["r1", "r2", "r3", "r4", "r5", "r6"]),
    st.sampled_from(["s", "t"]),
    hundredths | st.floats(0, 10) | st.just(math.inf),
    st.sampled_from([0.0, 1e-6, 7e-6, 1e-5]),
    st.integers(1, 4),
)


@settings(deadline=None)
@given(st.lists(st.tuples(openings, st.lists(st.integers(1, 6), max_size=4)), max_size=12))
def test_no_sequence_of_grants_exceeds_a_cap(
    steps: list[tuple[tuple[str, str, str, float, float, int], list[int]]],
) -> None:
    made = Ledger(None, now)
    granted: dict[tuple[str, str], tuple[float, float]] = {}
    answered: dict[tuple[str, str], list[int]] = {}
    for (data, run, specification, asked, delta, attempts), tries in steps:
        try:
            made.open_run(data, run, specification, asked, delta, attempts, cap=CAP)
        except Refusal:
            continue
        granted.setdefault((data, run), (asked, delta))
        for attempt in tries:
            try:
                made.reserve(data, run, attempt, b"", "null")
            except Refusal:
                continue
            answered.setdefault((data, run), []).append(attempt)
    made.close()
    for data in ("clinic", "ward"):
        mine = [spends for key, spends in granted.items() if key[0] == data and math.isfinite(spends[0])]
        assert sum(Fraction(repr(spends)) for spends, _ in mine) <= Fraction(8)
        assert sum(Fraction(repr(delta)) for _, delta in mine) <= Fraction("3e-5")
        assert made.charged(data) == pytest.approx((sum(e for e, _ in mine), sum(d for _, d in mine)))
    for key, attempts_done in answered.items():
        limit = next(run.attempts for run in made.runs(key[0]) if run.run == key[1])
        assert attempts_done == sorted(set(attempts_done))
        assert attempts_done[-1] <= limit
