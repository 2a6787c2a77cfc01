"""Reporting reads journals and checkpoints, whole or growing, and says plainly when there is nothing."""

import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from fedsus.errors import ConfigError, CorruptionError
from fedsus.journal import NAME, AttemptOpened, Journal, RoundReleased, RunClosed, RunOpened, get, prune, put
from fedsus.reporting import follow, read, released_model, runs, summary

LINES = (Path(__file__).parent.parent / "data" / "journal_v1.jsonl").read_bytes()
A = "a" * 64


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(LINES)
    return folder


def make_run(folder, rounds, close=None, at=1.0):
    """A run whose model after round n is all n."""

    def checkpoint(n):
        return put(folder, {"model": np.full(3, n, np.float32), "steps": np.array(n)})

    with Journal.create(folder, lambda: at) as journal:
        journal.append(
            RunOpened(run=folder.name, config={}, model_hash=A, checkpoint=checkpoint(0), fedsus_version="0")
        )
        for n in range(1, rounds + 1):
            journal.append(AttemptOpened(round=n, attempt=n, plan_digest=A, cohort=4))
            journal.append(
                RoundReleased(
                    round=n,
                    attempt=n,
                    survivors=4 - n % 2,
                    refused=0,
                    lost=n % 2,
                    weight=1.0,
                    metrics={"loss": 1 / n} if n > 1 else None,
                    held_out=10,
                    saturated=0,
                    checkpoint=checkpoint(n),
                    bytes_sent=100,
                    bytes_received=10,
                    seconds=0.5,
                )
            )
        if close:
            journal.append(RunClosed(reason=close, model=journal.state.checkpoint))


def test_summary_adds_up(tmp_path):
    make_run(tmp_path / "r", 3)
    one = summary(tmp_path / "r")
    assert (one.run, one.status, one.attempts) == ("r", "open", 3)
    assert one.survivors == (3, 4, 3)
    assert one.metrics == {2: {"loss": 0.5}, 3: {"loss": 1 / 3}}
    assert (one.bytes_sent, one.bytes_received, one.seconds) == (300, 30, 1.5)


def test_a_run_that_goes_on_between_its_journal_and_its_model_is_read_again(tmp_path, monkeypatch):
    asked = []
    make_run(tmp_path / "r", 2)
    make_run(tmp_path / "later", 6)
    newest = summary(tmp_path / "r").model

    def slow(folder, name):
        asked.append(name)
        if len(asked) == 1:
            for path in (tmp_path / "r" / "blobs").iterdir():
                path.unlink()
            shutil.copytree(tmp_path / "later", folder, dirs_exist_ok=True)
            prune(folder, read(folder))
        return get(folder, name)

    monkeypatch.setattr(import_module("fedsus.reporting.summary"), "get", slow)  # a function has that name too
    assert released_model(tmp_path / "r").tolist() == [6, 6, 6]
    assert asked[0] == newest
    (tmp_path / "r" / "blobs" / f"{asked[1]}.safetensors").unlink()
    with pytest.raises(CorruptionError, match="no such file; the journal needs it"):
        released_model(tmp_path / "r")


def test_released_model_is_the_newest(tmp_path):
    make_run(tmp_path / "open", 2)
    make_run(tmp_path / "done", 3, "completed")
    assert released_model(tmp_path / "open").tolist() == [2, 2, 2]
    assert released_model(tmp_path / "done").tolist() == [3, 3, 3]
    assert released_model(tmp_path / "done").dtype == np.float32
    make_run(tmp_path / "young", 0)
    with pytest.raises(ConfigError, match="no round was released yet"):
        released_model(tmp_path / "young")


def test_runs_are_listed_by_age(tmp_path):
    make_run(tmp_path / "b", 1, at=1.0)
    make_run(tmp_path / "a", 1, "stopped", at=2.0)
    Journal.create(tmp_path / "c", lambda: 0.0).close()
    (tmp_path / "no run").mkdir()
    assert [(one.run, one.status) for one in runs(tmp_path)] == [("b", "open"), ("a", "stopped"), ("c", "new")]
    assert runs(tmp_path / "nowhere") == []


def test_a_broken_run_does_not_hide_the_others(tmp_path, run_dir):
    (run_dir / NAME).write_bytes(LINES[1:])
    make_run(run_dir.parent / "two", 1)
    good, bad = runs(run_dir.parent)
    assert (good.run, good.fault) == ("two", None)
    assert (bad.run, bad.status) == ("one", "broken")
    assert "journal.jsonl: line 1: not JSON" in bad.fault


def test_reading_leaves_an_unfinished_line_and_changes_nothing(run_dir):
    path = run_dir / NAME
    assert len(read(run_dir)) == 9
    path.write_bytes(LINES[:-1])
    assert len(read(run_dir)) == 8
    assert path.read_bytes() == LINES[:-1]


def test_a_missing_or_broken_journal_is_named(run_dir):
    with pytest.raises(ConfigError, match=r"is .* the folder of a run"):
        read(run_dir.parent)
    (run_dir / NAME).write_bytes(LINES.replace(b'"lost":0', b'"lost":1', 1))
    with pytest.raises(CorruptionError, match="line 4"):
        summary(run_dir)
    with pytest.raises(CorruptionError, match="line 4"):
        list(follow(run_dir, lambda: False))


def test_following_sees_a_journal_grow_byte_by_byte(tmp_path):
    """Each wait adds a piece of the file, which is not there at first: no piece is seen before its line is whole."""
    folder = tmp_path / "later"
    path = folder / NAME
    pieces = [LINES[start : start + 97] for start in range(0, len(LINES), 97)]
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            folder.mkdir()
        elif len(waits) > 3:
            with path.open("ab") as file:
                file.write(pieces.pop(0))

    seen = []
    for entry in follow(folder, lambda: False, 0.25, wait):
        seen.append(entry)
        assert len(seen) <= path.read_bytes().count(b"\n")
    assert seen == read(folder)
    assert isinstance(seen[-1], RunClosed)
    assert set(waits) == {0.25}
    assert not pieces


def test_following_survives_the_recovery_of_a_torn_line(tmp_path):
    path = tmp_path / NAME
    whole = LINES.splitlines(keepends=True)
    states = [b"".join(whole[:2]) + whole[2][:40], b"".join(whole[:2]), LINES]
    path.write_bytes(whole[0])

    def wait(_):
        path.write_bytes(states.pop(0))

    assert len(list(follow(tmp_path, lambda: False, 0.0, wait))) == 9


def test_following_stops_when_told(run_dir):
    (run_dir / NAME).write_bytes(b"".join(LINES.splitlines(keepends=True)[:3]))
    looks = iter([False, False, True])
    assert len(list(follow(run_dir, lambda: next(looks), 0.0, lambda _: None))) == 3
