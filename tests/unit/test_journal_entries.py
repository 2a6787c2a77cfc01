"""The journal's lines: what is written can be read, and what is not exactly so is refused with file and line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fedsus.errors import ConfigError, CorruptionError, EnvironmentFault, ProtocolViolation
from fedsus.journal import (
    NAME,
    AttemptAbandoned,
    AttemptOpened,
    Journal,
    RoundReleased,
    RunClosed,
    RunOpened,
    fold,
)
from fedsus.journal.entries import decode, encode
from fedsus.plan import canonical

A, B = "a" * 64, "b" * 64
DATA = Path(__file__).parent.parent / "data"


def opened(**changes):
    fields = {"run": "r1", "config": {"plan": {"rounds": 3}}, "model_hash": A, "checkpoint": B, "fedsus_version": "0"}
    return RunOpened(**(fields | changes))


def attempt(round, number):
    return AttemptOpened(round=round, attempt=number, plan_digest=A, cohort=4)


def released(round, number, **changes):
    fields = {
        "round": round,
        "attempt": number,
        "survivors": 3,
        "refused": 1,
        "lost": 0,
        "weight": 300.0,
        "metrics": {"loss": 0.1 + 0.2, "accuracy": 1.0},
        "held_out": 80,
        "saturated": 2,
        "checkpoint": f"{round:064x}",
        "bytes_sent": 100,
        "bytes_received": 90,
        "seconds": 0.5,
    }
    return RoundReleased(**(fields | changes))


ENTRIES = [
    opened(),
    attempt(1, 1),
    released(1, 1),
    attempt(2, 2),
    AttemptAbandoned(round=2, attempt=2, reason="2 survivors; the plan asks for 3"),
    attempt(2, 3),
    attempt(2, 4),
    released(2, 4, metrics=None, saturated=None, held_out=0),
    RunClosed(reason="completed", model=f"{2:064x}"),
]


class Ticks:
    """A clock that moves by one second a look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def write(folder, entries):
    with Journal.create(folder, Ticks()) as journal:
        return [journal.append(entry) for entry in entries]


def test_entries_come_back_with_their_times(tmp_path):
    written = write(tmp_path / "run", ENTRIES)
    assert [entry.time for entry in written] == [float(n) for n in range(1, len(ENTRIES) + 1)]
    with Journal.open(tmp_path / "run", Ticks()) as journal:
        assert journal.entries == written
        assert journal.dropped == 0
        assert journal.state == fold(written)


def test_lines_are_canonical_and_chained(tmp_path):
    write(tmp_path, ENTRIES)
    lines = (tmp_path / NAME).read_bytes().splitlines()
    for seq, line in enumerate(lines):
        data = json.loads(line)
        assert canonical(data) == line
        assert (data["v"], data["seq"], data["type"]) == (1, seq, type(ENTRIES[seq]).__name__)


def test_state_says_where_to_go_on():
    assert fold([]).opened is None
    first = fold(ENTRIES[:1])
    assert (first.next_round, first.attempts, first.checkpoint) == (1, 0, B)
    crashed = fold(ENTRIES[:6])
    assert (crashed.next_round, crashed.attempts, crashed.attempt.attempt) == (2, 3, 3)
    assert crashed.checkpoint == crashed.released.checkpoint == f"{1:064x}"
    done = fold(ENTRIES)
    assert (done.next_round, done.attempts, done.attempt, done.closed.reason) == (3, 4, None, "completed")


@pytest.mark.parametrize(
    "bad",
    [
        [attempt(1, 1)],
        [opened(), opened()],
        [opened(), attempt(2, 1)],
        [opened(), attempt(1, 2)],
        [opened(), released(1, 1)],
        [opened(), attempt(1, 1), released(1, 2)],
        [opened(), attempt(1, 1), AttemptAbandoned(round=2, attempt=1, reason="r")],
        [opened(), RunClosed(reason="stopped", model=None), attempt(1, 1)],
    ],
)
def test_entries_that_cannot_follow_are_refused_and_not_written(tmp_path, bad):
    with Journal.create(tmp_path, Ticks()) as journal:
        for entry in bad[:-1]:
            journal.append(entry)
        before = (tmp_path / NAME).read_bytes()
        with pytest.raises(CorruptionError):
            journal.append(bad[-1])
        assert (tmp_path / NAME).read_bytes() == before


@pytest.mark.parametrize(
    "bad", [{"config": {"x": float("nan")}}, {"config": {"x": object()}}, {"model_hash": "A"}, {"run": "../x"}]
)
def test_entries_that_could_not_be_read_are_not_written(tmp_path, bad):
    with Journal.create(tmp_path, Ticks()) as journal, pytest.raises(ProtocolViolation, match="RunOpened"):
        journal.append(opened(**bad))
    assert (tmp_path / NAME).read_bytes() == b""


@pytest.mark.parametrize(
    "absurd",
    [
        {"waited": 1e308},
        {"waited": -1.0},
        {"seconds": 1e308},
        {"virtual": 1e308},
        {"costs": {"joules": 1e308}},
        {"costs": {"joules": -1e308}},
        {"time": 1e308},
    ],
)
def test_figures_whose_sums_would_not_be_finite_are_refused(absurd):
    """Reports and receipts add them up over a run."""
    line = encode(released(1, 1), 2, "0" * 64)
    data = json.loads(line)
    changed = canonical(data | absurd)
    with pytest.raises(CorruptionError, match=f"RoundReleased.{next(iter(absurd))}"):
        decode(changed, 2, "0" * 64)
    assert decode(canonical(data | {"costs": {"joules": -3.0}, "waited": 5.0}), 2, "0" * 64).waited == 5.0


def broken_files():
    """Name, how to break the lines, and the number of the line that must be named."""

    def edit(number, old, new):
        def change(lines):
            assert old in lines[number]
            lines[number] = lines[number].replace(old, new)

        return change

    yield "changed value", edit(2, b'"survivors":3', b'"survivors":4'), 4
    yield "unknown type", edit(8, b"RunClosed", b"RunOpener"), 9
    yield "unknown version", edit(0, b'"v":1', b'"v":2'), 1
    yield "version as float", edit(0, b'"v":1', b'"v":1.0'), 1
    yield "number as float", edit(8, b'"seq":8', b'"seq":8.0'), 9
    yield "unknown field", edit(8, b'"v":1', b'"v":1,"w":1'), 9
    yield "missing field", edit(8, b'"reason":"completed",', b""), 9
    yield "wrong type", edit(8, b'"reason":"completed"', b'"reason":1'), 9
    yield "not canonical", edit(4, b'"v":1', b'"v": 1'), 5
    yield "not JSON", edit(4, b"{", b"["), 5
    yield "not UTF-8", edit(4, b"plan", b"\xff"), 5
    yield "line removed", lambda lines: lines.pop(3), 4
    yield "lines swapped", lambda lines: lines.insert(3, lines.pop(4)), 4
    yield "empty line", lambda lines: lines.insert(3, b""), 4
    yield "first line removed", lambda lines: lines.pop(0), 1


@pytest.mark.parametrize(("change", "number"), [pytest.param(c, n, id=name) for name, c, n in broken_files()])
def test_a_broken_journal_is_refused_with_file_and_line_and_left_as_it_is(tmp_path, change, number):
    write(tmp_path, ENTRIES)
    path = tmp_path / NAME
    lines = path.read_bytes().split(b"\n")[:-1]
    change(lines)
    path.write_bytes(b"\n".join(lines) + b"\n")
    before = path.read_bytes()
    with pytest.raises(CorruptionError, match=f"journal.jsonl: line {number}: "):
        Journal.open(tmp_path, Ticks())
    assert path.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_one_unterminated_last_line_is_dropped_and_counted(tmp_path, cut):
    written = write(tmp_path, ENTRIES[:-1])
    path = tmp_path / NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with Journal.open(tmp_path, Ticks()) as journal:
        last = whole.split(b"\n")[-2]
        assert journal.dropped == len(last) + 1 - cut
        assert journal.entries == written[:-1]
        journal.append(ENTRIES[-2])
    with Journal.open(tmp_path, Ticks()) as journal:
        assert journal.dropped == 0
        assert journal.entries[-1] == replace(written[-1], time=1.0)


def test_there_is_one_writer(tmp_path):
    with Journal.create(tmp_path, Ticks()) as journal:
        journal.append(opened())
        with pytest.raises(EnvironmentFault, match="another process writes it"):
            Journal.open(tmp_path, Ticks())
    Journal.open(tmp_path, Ticks()).close()
    with pytest.raises(EnvironmentFault, match="closed"):
        journal.append(attempt(1, 1))


def test_a_run_is_made_once_and_found_where_it_is(tmp_path):
    write(tmp_path, ENTRIES)
    with pytest.raises(ConfigError, match="there is a run already"):
        Journal.create(tmp_path, Ticks())
    with pytest.raises(ConfigError, match="no such file"):
        Journal.open(tmp_path / "elsewhere", Ticks())


def test_the_first_version_can_still_be_read(tmp_path):
    old = DATA / "journal_v1.jsonl"
    (tmp_path / NAME).write_bytes(old.read_bytes())
    with Journal.open(tmp_path, Ticks()) as journal:
        assert [type(entry).__name__ for entry in journal.entries] == [type(entry).__name__ for entry in ENTRIES]
        assert (journal.state.next_round, journal.state.attempts) == (3, 4)
        assert journal.entries[2].metrics == {"loss": 0.1 + 0.2, "accuracy": 1.0}
    assert (tmp_path / NAME).read_bytes() == old.read_bytes()
