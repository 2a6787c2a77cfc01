"""The record of what a device used: durable, read while it is written, and short."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from energy_hands import RANGES, UNCAPPED, Hands, warnings
from fake_meter import stated

from fedsus.errors import CorruptionError, EnvironmentFault
from fedsus.owner import folding
from fedsus.owner.consumption import BUSY_SECONDS, IDLE_SECONDS
from fedsus.owner.energy_record import Attempt, history
from fedsus.owner.note_file import NoteFile
from fedsus_client.energy_views import Book


def test_a_kill_loses_no_more_than_what_was_not_due_and_an_unfinished_line_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hands = Hands(tmp_path)
    hands.work(1.0)
    hands.consumption.tick()
    hands.now += BUSY_SECONDS
    hands.meter.use("train", 2.0)
    hands.consumption.tick()
    hands.meter.use("train", 4.0)
    hands.consumption.take()
    hands.killed()
    assert hands.path is not None
    raw = hands.path.read_bytes()
    for cut in (1, len(raw) // 2, len(raw) - 1):
        hands.path.write_bytes(raw + raw[:cut].rstrip(b"\n"))
        hands.start()
        assert hands.today() == 3.0
        assert hands.path.read_bytes() == raw
        hands.killed()
    assert "an unfinished last line was cut off" in warnings(caplog)[0]


def test_what_waits_is_written_seldom(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    assert hands.path is not None
    for _ in range(int(IDLE_SECONDS) // 10 * 3):
        hands.now += 10
        hands.meter.use("wait", 1.0)
        hands.consumption.tick()
    assert [one.used.total for one in history(hands.path)] == [60.0, 60.0, 60.0]
    hands.consumption.close()
    assert hands.today() == hands.meter.taken


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b'{"prev":"0","seq":1,"type":"used","v":1}\n',
        json.dumps({"type": "used"}).encode() + b"\n",
    ],
)
def test_anything_else_that_is_broken_is_an_error(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "energy.jsonl").write_bytes(line)
    with pytest.raises(CorruptionError, match="energy.jsonl: line 1"):
        Hands(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "spent"},
        {"type": "used", "time": "today", "run": None},
        {"type": "used", "time": 1.0, "run": None, "round": None, "attempt": None, "used": {"joules": {"train": -1.0}}},
        {"type": "used", "time": 1.0, "run": None, "round": None, "attempt": None, "used": {"watts": 1.0}},
    ],
)
def test_a_chained_line_that_says_something_else_is_an_error(tmp_path: Path, entry: dict[str, Any]) -> None:
    notes = NoteFile(tmp_path / "energy.jsonl")
    notes.append(entry)
    notes.close()
    with pytest.raises(CorruptionError, match="energy.jsonl: line 1: not of this version"):
        Hands(tmp_path)


def test_the_record_is_read_while_it_is_written(tmp_path: Path) -> None:
    hands = Hands(tmp_path, price=stated)
    hands.work(3.0)
    hands.report()
    assert hands.path is not None
    with hands.path.open("ab") as file:
        file.write(b'{"half')
    (line,) = history(hands.path)
    assert (line.attempt, line.used.total, line.used.grams["average"].value) == (Attempt("r", 1, 1), 3.0, 3.0)
    assert history(tmp_path / "none") == []


def test_a_full_disk_fails_no_round_and_tells_nothing_that_it_could_tell_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands = Hands(tmp_path)
    hands.work(1.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert hands.consumption.report(Attempt("r", 1, 1), RANGES).size == 0
        hands.consumption.join(UNCAPPED, "r")
    assert warnings(caplog) == [f"energy is not recorded: {hands.path}: No space left on device"]
    assert hands.report(attempt=2)["joules"] == 1.0
    hands.again()
    assert hands.today() == 1.0


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


def long_record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Hands, Path]:
    """A record of five days and two runs."""
    hands = Hands(folder, price=stated)
    assert hands.path is not None
    with monkeypatch.context() as quick:
        quick.setattr(os, "fsync", lambda _: None)
        for number in range(1, 121):
            hands.now += 600 if number % 24 else 86_400 - 23 * 600
            run = "ab"[number % 2]
            hands.work(float(number), run, round=number, attempt=number)
            hands.report(run, round=number, attempt=number)
            if number not in (50, 119, 120):
                hands.consumption.certified(run, number)
            hands.meter.use("crypto", 0.5)
            hands.consumption.rest()
        hands.consumption.write()
    return hands, hands.path


def test_a_long_record_is_folded_at_the_start_and_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands, path = long_record(tmp_path, monkeypatch)
    before = Book(path, UNCAPPED, lambda: hands.now)
    told = hands.consumption._reports
    hands.killed()
    monkeypatch.setattr(folding, "_LONG", 20)
    long = path.read_bytes()
    hands.start()
    hands.again()  # what was folded is read
    short = path.read_bytes()
    assert len(short) < 0.9 * len(long)
    after = Book(path, UNCAPPED, lambda: hands.now)
    assert after.days(30) == before.days(30)
    assert after.standing == before.standing
    assert hands.consumption._reports == told
    assert hands.consumption.standing(UNCAPPED).expected == before.standing.expected
    hands.again()
    assert path.read_bytes() == short, "it is not folded again"
    hands.work(1.0)
    assert hands.report()["joules"] == 1.0


def test_a_folded_record_knows_what_was_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a server that goes on asking is told it a third time after a restart."""
    hands = Hands(tmp_path)
    for attempt in (1, 2):
        hands.work(4.0, "c", attempt=attempt)
        hands.report("c", attempt=attempt)
    hands.consumption.withdrawn("c", 2)
    hands.killed()
    long_record(tmp_path, monkeypatch)[0].killed()
    before = Hands(tmp_path)
    assert before.consumption._reports.repeated == {"c"}
    before.killed()
    monkeypatch.setattr(folding, "_LONG", 20)
    hands.start()
    hands.again()  # what was folded is read
    assert hands.consumption._reports == before.consumption._reports


def test_a_long_record_is_folded_on_a_new_day_while_the_agent_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands, path = long_record(tmp_path, monkeypatch)
    monkeypatch.setattr(folding, "_LONG", 20)
    long, before = path.read_bytes(), Book(path, UNCAPPED, lambda: hands.now)
    hands.consumption.rest()
    assert path.read_bytes() == long, "the same day"
    hands.now += 86_400
    hands.consumption.working("a", 121, 121)
    hands.consumption.tick()
    assert path.stat().st_size > 0.9 * len(long), "not while a round is worked on"
    hands.consumption.rest()
    short = path.read_bytes()
    assert len(short) < 0.9 * len(long)
    after = Book(path, UNCAPPED, lambda: hands.now)
    assert {day: used for day, used in after.days(30).items() if day in before.days(30)} == before.days(30)
    reports, expected = hands.consumption._reports, hands.consumption.standing(UNCAPPED).expected
    hands.work(8.0, "a", round=122, attempt=122)
    assert hands.report("a", round=122, attempt=122)["joules"] > 0
    assert path.read_bytes().startswith(short), "it goes on from there"
    hands.again()
    assert hands.consumption._reports == reports
    assert hands.consumption.standing(UNCAPPED, "b").expected.largest == expected.largest
    assert hands.consumption.standing(UNCAPPED, "b").expected.sure


@pytest.mark.parametrize("at", ["open", "write", "fsync", "replace"])
def test_a_kill_or_a_full_disk_while_a_running_agent_folds_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, at: str
) -> None:
    hands, path = long_record(tmp_path, monkeypatch)
    monkeypatch.setattr(folding, "_LONG", 20)
    hands.now += 86_400
    long, days = path.read_bytes(), Book(path, UNCAPPED, lambda: hands.now).days(30)
    real = os.open
    for error in (OSError(28, "No space left on device"), Killed()):
        with monkeypatch.context() as fails:

            def fail(*given: Any, error: BaseException = error) -> Any:
                raise error

            def fail_new(name: Any, *rest: Any) -> int:
                return fail() if str(name).endswith(".new") else real(name, *rest)

            if at == "open":
                fails.setattr(os, "open", fail_new)
            elif at == "replace":
                fails.setattr(Path, "replace", fail)
            else:
                fails.setattr(os, at, fail)
            with contextlib.nullcontext() if isinstance(error, OSError) else pytest.raises(Killed):
                hands.consumption._shorten()
        assert path.read_bytes() == long
        hands.consumption._day -= 1
    assert "energy's record stays long: " in warnings(caplog)[0]
    hands.again()
    assert Book(path, UNCAPPED, lambda: hands.now).days(30) == days
    assert len(path.read_bytes()) < 0.9 * len(long), "the next start, or day, folds it"


def test_a_record_that_was_changed_under_a_running_agent_is_not_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hands, path = long_record(tmp_path, monkeypatch)
    monkeypatch.setattr(folding, "_LONG", 20)
    raw = path.read_bytes()
    path.write_bytes(changed := raw.replace(b'"train":7.0', b'"train":6.0', 1))
    hands.now += 86_400
    hands.consumption._shorten()
    assert path.read_bytes() == changed
    assert warnings(caplog)[-1].endswith("not the next note; the file was changed")


def test_a_crash_while_a_record_is_folded_leaves_it_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = NoteFile(tmp_path / "energy.jsonl")
    notes.append({"type": "told", "run": "r", "attempt": 1})
    before = (tmp_path / "energy.jsonl").read_bytes()
    with monkeypatch.context() as crash:
        crash.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(EnvironmentFault, match="Input/output error"):
            notes.replace([])
    assert (tmp_path / "energy.jsonl").read_bytes() == before
    notes.append({"type": "told", "run": "r", "attempt": 2})
    notes.close()
    assert len(NoteFile.read_only(tmp_path / "energy.jsonl")) == 2
