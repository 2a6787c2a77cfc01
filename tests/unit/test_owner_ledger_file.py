"""The ledger's file: one agent and any number of threads write it, and what changed it is noticed."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from charges import charge, gaussian
from ledgers import CHARGE, POLICY, SERVER, fill, now, reserve, spent

from fedsus.errors import BudgetExhausted, CorruptionError, EnvironmentFault, ProtocolViolation, Refusal
from fedsus.owner.chain import Chain
from fedsus.owner.ledger import Ledger


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
