"""Processor time of parents: of those up to a named one, never going back, whatever happens to them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedsus.energy.meters.parents import PROC, Parents

TICKS = os.sysconf("SC_CLK_TCK")


class Processes:
    """A /proc of this process, its parent 50 ("exec", with a difficult name) and its grandparent 40 ("link")."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now, self.used = folder, 0.0, 0.0
        self.write(os.getpid(), 50, 0.0, "python")
        self.write(50, 40, 1.0, "exec")
        self.write(40, 30, 5.0, "python\0-m\0link\0settings.json")
        self.write(30, 1, 100.0, "shell")

    def write(self, pid: int, parent: int, seconds: float, command: str) -> None:
        (self.folder / str(pid)).mkdir(exist_ok=True)
        ticks = round(seconds * TICKS)
        text = f"{pid} (a) b (c) S {parent} 1 1 0 -1 4194304 9 9 9 9 {ticks - ticks // 3} {ticks // 3} 0 0 20 0 1"
        (self.folder / str(pid) / "stat").write_text(text)
        (self.folder / str(pid) / "cmdline").write_text(command + "\0")

    def parents(self, word: str = "link") -> Parents:
        return Parents(word, self.folder, lambda: self.used, lambda: self.now)


def test_all_parents_up_to_the_named_one_count_from_now_on(tmp_path: Path) -> None:
    here = Processes(tmp_path)
    found = here.parents()
    assert found.pids == (50, 40)
    assert found() == 0.0
    here.write(40, 30, 7.0, "link")
    here.write(50, 40, 1.5, "exec")
    here.write(30, 1, 900.0, "shell")
    here.used, here.now = 3.0, 1.0
    assert found() == pytest.approx(3.0 + 2.0 + 0.5)


def test_readings_are_a_quarter_of_a_second_old_at_most(tmp_path: Path) -> None:
    here = Processes(tmp_path)
    found = here.parents()
    here.write(40, 30, 6.0, "link")
    here.now = 0.2
    assert found() == 0.0
    here.now = 0.3
    assert found() == pytest.approx(1.0)


def test_a_parent_that_ends_or_whose_number_is_used_again_takes_nothing_back(tmp_path: Path) -> None:
    here = Processes(tmp_path)
    found, seen = here.parents(), []
    for now, seconds in ((1.0, 6.0), (2.0, None), (3.0, 0.5), (4.0, 0.75)):
        if seconds is None:
            (tmp_path / "40" / "stat").unlink()
        else:
            here.write(40, 30, seconds, "link")
        here.now = now
        seen.append(found())
    assert seen == pytest.approx([1.0, 1.0, 1.0, 1.25])


@pytest.mark.parametrize("missing", ["word", "proc"])
def test_without_the_named_parent_this_process_counts_alone(tmp_path: Path, missing: str) -> None:
    here = Processes(tmp_path)
    if missing == "proc":
        here.folder = tmp_path / "nowhere"
    found = here.parents("another" if missing == "word" else "link")
    here.used, here.now = 2.0, 5.0
    assert (found.pids, found()) == ((), 2.0)


def test_a_word_is_a_whole_argument(tmp_path: Path) -> None:
    assert Processes(tmp_path).parents("lin").pids == ()


@pytest.mark.skipif(not (PROC / "self" / "stat").exists(), reason="needs /proc")
def test_on_this_machine_the_numbers_are_those_of_the_system() -> None:
    found = Parents("no such word anywhere")
    assert found.pids == ()
    used = found._seconds(os.getpid())
    times = os.times()
    assert used == pytest.approx(times.user + times.system, abs=0.1)
