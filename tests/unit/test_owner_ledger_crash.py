"""The ledger under kill -9: what was promised before the kill is there after it, and the file opens.

A child process does the writes. It is killed once at each line of code of the chain, and then at arbitrary moments.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedsus

SCRIPT = '''
import os, resource, signal, sys
from pathlib import Path
from fedsus.errors import EnvironmentFault, ProtocolViolation, Refusal
from fedsus.owner import chain, filters
from fedsus.owner.caps import KEYS, accounts
from fedsus.owner.charges import Charge
from fedsus.owner.ledger import Ledger
from fedsus.owner.policy import PrivacyPolicy

# The arithmetic of the filter is elsewhere tested, and what it imports makes each of hundreds of forks slow.
filters.best_order = lambda cap, event: 8
filters.allowance = lambda cap, order: filters.Allowance(1.0, 0, 1e-5)
filters._divergence = lambda event, order: 1e-4
filters._releases = lambda event: 0

WORST, BETTER = dict.fromkeys(KEYS, "worst"), dict.fromkeys(KEYS, "better")
CHARGE, POLICY = Charge("spec", "example/server", 3.0, 1e-6, 9000, WORST), PrivacyPolicy(epsilon=8.0, delta=1e-5)


def opened(ledger):
    ledger.open_run("clinic", "r1", CHARGE, POLICY)


def reserve(ledger, attempt):
    ledger.reserve("clinic", "r1", attempt, attempt, b"", CHARGE, POLICY)


def work(path, report):
    ledger = Ledger(path, lambda: 1.0)
    opened(ledger)
    report(b"o")
    reserve(ledger, 1)
    report(b"1")
    ledger.release("clinic", "r1", 1)
    report(b"r")
    reserve(ledger, 2)
    report(b"2")
    ledger.commit("clinic", "r1", 1, 7, BETTER)
    report(b"c")


def forked(action):
    """Status and output of a child that runs `action(report)`."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        action(lambda word: os.write(writer, word))
        os._exit(0)
    os.close(writer)
    return child, reader


def killed_at(path, line):
    seen = 0

    def trace(frame, event, argument):
        nonlocal seen
        if frame.f_code.co_filename != chain.__file__:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    def action(report):
        sys.settrace(trace)
        work(path, report)

    child, reader = forked(action)
    reported = os.read(reader, 100)
    while more := os.read(reader, 100):
        reported += more
    os.close(reader)
    return os.waitpid(child, 0)[1], reported


def check(path, reported, line):
    """What was promised counts, at no less than what may have left; whatever was not, may."""
    ledger = Ledger(path, lambda: 2.0)
    runs = ledger.runs("clinic")
    used, released = (runs[0].used, runs[0].released) if runs else (0, 0)
    assert bool(runs) >= (b"o" in reported), (line, reported)
    promised = (b"1" in reported) + (b"2" in reported)
    assert promised <= used <= promised + 1, (line, reported, used)
    assert released >= (b"r" in reported), (line, reported, released)
    tally = ledger.standing(accounts("clinic")[0]).tally
    assert tally["worst"] + tally["better"] == used, (line, tally)
    assert tally["better"] <= (b"2" in reported), (line, tally)
    for attempt in range(1, used + 1):
        give_back = [
            lambda: reserve(ledger, attempt),
            lambda: ledger.refund("clinic", "r1", attempt),
            lambda: ledger.commit("clinic", "r1", attempt, 9, BETTER),
        ]
        for again in give_back:
            try:
                again()
            except (Refusal, ProtocolViolation):
                continue
            raise SystemExit(f"line {line}: attempt {attempt} was given back")
    opened(ledger)
    reserve(ledger, 3)
    assert sum(ledger.standing(accounts("clinic")[0]).tally.values()) == used + 1
    ledger.close()


def each_line(folder):
    line, outcomes = 0, set()
    while True:
        line += 1
        path = folder / f"line{line}" / "ledger.sqlite"
        status, reported = killed_at(path, line)
        check(path, reported, line)
        outcomes.add(reported)
        if status == 0:
            break
    assert outcomes == {b"", b"o", b"o1", b"o1r", b"o1r2", b"o1r2c"}, outcomes
    print(line)


def any_moment(folder):
    def action(report, path):
        ledger = Ledger(path, lambda: 1.0)
        opened(ledger)
        for attempt in range(1, 9000):
            reserve(ledger, attempt)
            report(b".")

    for wanted in range(1, 11):
        path = folder / f"moment{wanted}" / "ledger.sqlite"
        child, reader = forked(lambda report: action(report, path))
        promised = 0
        while promised < wanted:
            promised += len(os.read(reader, 100))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while more := os.read(reader, 100):
            promised += len(more)
        os.close(reader)
        ledger = Ledger(path, lambda: 2.0)
        assert promised <= ledger.runs("clinic")[0].used <= promised + 1
        ledger.close()
    print(10)


def full_disk(folder):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = folder / "ledger.sqlite"
    ledger = Ledger(path, lambda: 1.0)
    opened(ledger)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 32768, resource.RLIM_INFINITY))
    granted = 0
    try:
        for attempt in range(1, 9000):
            reserve(ledger, attempt)
            granted += 1
    except EnvironmentFault as fault:
        assert str(path) in str(fault) and "disk" in str(fault), fault
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    reserve(ledger, 9000)
    ledger.close()
    assert granted <= Ledger(path, lambda: 2.0).runs("clinic")[0].used - 1 <= granted + 1
    print(granted)


globals()[sys.argv[1]](Path(sys.argv[2]))
'''


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where the machine has that: a kill, unlike a power cut, does not tell it from a disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as made:
        yield Path(made)


def _run(name: str, folder: Path) -> int:
    root = Path(fedsus.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, str(folder)],
        capture_output=True,
        text=True,
        cwd=root,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_killed_at_each_line_of_a_write(folder: Path) -> None:
    assert _run("each_line", folder) > 200, "points"


def test_killed_at_any_moment(folder: Path) -> None:
    assert _run("any_moment", folder) == 10


def test_a_full_disk_grants_nothing_and_loses_nothing(folder: Path) -> None:
    assert 0 < _run("full_disk", folder) < 8000
