"""The file of what happened to the clients in each attempt: goes on after any stop, and says each attempt once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedsus.errors import CorruptionError, EnvironmentFault
from fedsus_simulations.clients.attempts import NAME, Attempt, AttemptFile, Behaviour, participation, read

FIRST = Attempt(1, 1, 0.0, 1.5, 5, 2, 4, 0, 1, 0, (3, 1, 2))
SECOND = replace(FIRST, attempt=2, virtual=1.5, answered=(1,))
THIRD = replace(FIRST, round=2, attempt=3, answered=())


def test_what_was_appended_is_read_again(tmp_path: Path) -> None:
    assert read(tmp_path) == []
    with AttemptFile(tmp_path) as file:
        file.append(FIRST)
        assert read(tmp_path) == [FIRST]
        file.append(SECOND)
    assert read(tmp_path) == [FIRST, SECOND]


def test_a_resumed_run_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    with AttemptFile(tmp_path) as file:
        file.append(FIRST)
        file.append(SECOND)
    with AttemptFile(tmp_path) as file:
        file.append(SECOND)
        file.append(THIRD)
    assert read(tmp_path) == [FIRST, SECOND, THIRD]


def test_half_a_line_is_dropped(tmp_path: Path) -> None:
    with AttemptFile(tmp_path) as file:
        file.append(FIRST)
        file.append(SECOND)
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole[:-5])
    assert read(tmp_path) == [FIRST]
    with AttemptFile(tmp_path) as file:
        file.append(SECOND)
    assert (tmp_path / NAME).read_bytes() == whole


@pytest.mark.parametrize("line", [b"nonsense", b"{}", b"[1]", b'{"attempt": 1, "answered": []}'])
def test_a_line_that_is_none_is_named(tmp_path: Path, line: bytes) -> None:
    (tmp_path / NAME).write_bytes(line + b"\n")
    with pytest.raises(CorruptionError, match=r"simulation\.jsonl: line 1"):
        read(tmp_path)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        AttemptFile(tmp_path / "nowhere")


def test_participation_counts_what_each_client_answered() -> None:
    assert participation([FIRST, SECOND, THIRD]).tolist() == [0, 2, 1, 1, 0]
    assert participation([]).tolist() == []


def test_a_run_in_a_few_numbers() -> None:
    last = replace(THIRD, away=2, late=3, unavailable=0)
    assert Behaviour.of([FIRST, SECOND, last]) == Behaviour(12, 2, 3, 3, pytest.approx(0.8 / 3), 0, 1.0, 2)
    assert Behaviour.of([]) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"attempt":1', '"attempt":"x"'), "a number is none"),
        (('"asked":', '"asked":-'), "a number is none"),
        (('"registered":4', '"registered":0'), "a client that is not registered"),
        (('"registered":4', '"registered":100000000000000'), "a client that is not registered"),
        (("[0,", "[99,"), "a client that is not registered"),
        (("[0,", '["a",'), "a number is none"),
        (('"virtual":0.0', '"virtual":null'), "a time is none"),
    ],
)
def test_a_changed_line_is_told_by_its_number(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    line = Attempt(1, 1, 0.0, 1.0, 4, 0, 4, 0, 0, 0, (0, 1, 2, 3)).line()
    path = tmp_path / NAME
    path.write_bytes(line + b"\n")
    assert len(read(tmp_path)) == 1
    changed = line.decode().replace(*change)
    assert changed.encode() != line
    path.write_bytes(line + b"\n" + changed.encode() + b"\n")
    with pytest.raises(CorruptionError, match=f"line 2: no attempt of a simulation: {message}"):
        read(tmp_path)
