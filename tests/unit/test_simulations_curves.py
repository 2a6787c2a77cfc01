"""The picture of a run: what it shows, for few rounds and for thousands, and that it is the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedsus.config import RunConfig, validate
from fedsus.journal import AttemptAbandoned, AttemptOpened, Journal, RoundReleased, blobs
from fedsus.rounds.planning.specification import open_run
from fedsus_simulations.running import curves, evaluation

HASH = "0" * 64
PRIVATE = {"unit": "example", "epsilon": 4.0, "delta": 1e-5, "sampling_rate": 0.05, "denominator": 10.0}


def written(
    folder: Path, rounds: int, *, private: bool = False, virtual: bool = True, lost: int = 3, central: bool = True
) -> Path:
    """A run's folder, as a simulation of so many rounds leaves it."""
    plan = {"rounds": rounds, "cohort": {"size": 50, "minimum": 20}, "exchange": "clear_sum"}
    plan |= {"privacy": PRIVATE} if private else {}
    config = validate({"name": "picture", "task": {"name": "heart"}, "plan": plan}, RunConfig, "test")
    open_run(folder, "picture", config, np.zeros(3, dtype=np.float32), lambda: 0.0)
    checkpoint = blobs.put(folder, {"model": np.zeros(3, dtype=np.float32)})
    rng = np.random.default_rng(1)
    with Journal.open(folder, lambda: 0.0) as journal:
        attempt = 0
        for number in range(1, rounds + 1):
            attempt += 1
            if number == 2:
                journal.append(AttemptOpened(round=2, attempt=attempt, plan_digest=HASH, cohort=50))
                journal.append(AttemptAbandoned(round=2, attempt=attempt, reason="too few"))
                attempt += 1
            journal.append(AttemptOpened(round=number, attempt=attempt, plan_digest=HASH, cohort=50))
            missing = int(rng.integers(0, lost + 1))
            accuracy = float(0.9 - 0.8 * np.exp(-number / rounds * 5) + 0.02 * rng.standard_normal())
            journal.append(
                RoundReleased(
                    round=number,
                    attempt=attempt,
                    survivors=50 - missing,
                    refused=0,
                    lost=missing,
                    weight=500.0,
                    metrics=None if private else {"accuracy": accuracy, "loss": 1.0 - accuracy},
                    held_out=0 if private else 100,
                    saturated=None,
                    checkpoint=checkpoint,
                    bytes_sent=400_000,
                    bytes_received=380_000,
                    seconds=float(0.05 + 0.01 * rng.random()),
                    virtual=30.0 * number if virtual else None,
                )
            )
    if central:
        lines = (
            f'{{"metrics": {{"accuracy": {0.88 - 0.8 * np.exp(-n / rounds * 5):.4f}}}, "round": {n}}}\n'
            for n in range(rounds + 1)
        )
        (folder / evaluation.NAME).write_text("".join(lines), encoding="utf-8")
    return folder


def texts(svg: Path) -> str:
    """What is written in a picture: matplotlib leaves each text as a comment."""
    return svg.read_text(encoding="utf-8")


def test_the_picture_shows_each_cost_and_each_metric(tmp_path: Path) -> None:
    drawn = curves.draw(written(tmp_path, 5))
    assert drawn is not None
    assert drawn[0].read_bytes().startswith(b"\x89PNG")
    for words in ("accuracy", "loss", "MB so far", "seconds a round", "virtual", "clients asked", "lost", "test part"):
        assert f"<!-- {words} -->" in texts(drawn[1]), words
    assert "epsilon" not in texts(drawn[1])


def test_a_private_run_shows_its_epsilon_and_no_metric_of_clients(tmp_path: Path) -> None:
    drawn = curves.draw(written(tmp_path, 4, private=True, virtual=False))
    assert drawn is not None
    said = texts(drawn[1])
    assert "<!-- epsilon, planned -->" in said
    assert "<!-- clients' held-out parts -->" not in said
    assert "<!-- virtual -->" not in said


def test_epsilon_counts_the_attempts_that_were_abandoned(tmp_path: Path) -> None:
    from fedsus.reporting import summary
    from fedsus.rounds.planning.specification import specification_of
    from fedsus_server.progress import planned_epsilon

    run = summary(written(tmp_path, 3, private=True))
    found = curves.epsilons(run)
    assert found is not None and run.opened is not None
    assert found[0] == [1, 2, 3]
    specification = specification_of(run.opened)
    assert found[1] == [planned_epsilon(specification, attempts) for attempts in (1, 3, 4)]


def test_thousands_of_rounds_are_drawn_without_marks_and_to_the_last(tmp_path: Path) -> None:
    folder = written(tmp_path, 300)
    drawn = curves.draw(folder)
    assert drawn is not None
    assert drawn[1].stat().st_size < 400_000
    assert texts(drawn[1]).count("<use ") < 600  # ticks and letters; a mark for each point would be two thousand more


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = written(tmp_path, 6)
    first = [path.read_bytes() for path in curves.draw(folder) or ()]
    assert first
    assert first == [path.read_bytes() for path in curves.draw(folder) or ()]
    assert not list(folder.glob(".*"))


def test_a_run_without_a_round_has_no_picture(tmp_path: Path) -> None:
    assert curves.draw(_opened(tmp_path)) is None


def _opened(folder: Path) -> Path:
    config = validate(
        {
            "task": {"name": "heart"},
            "plan": {"rounds": 2, "exchange": "clear_sum", "cohort": {"size": 2, "minimum": 2}},
        },
        RunConfig,
        "test",
    )
    open_run(folder, "opened", config, np.zeros(3, dtype=np.float32), lambda: 0.0)
    return folder


@pytest.mark.parametrize("lines", ["nonsense\n", '{"round": 1}\n', '{"round": 1, "metrics": 3}\n', "[]\n"])
def test_a_broken_central_file_is_named(tmp_path: Path, lines: str) -> None:
    from fedsus.errors import CorruptionError

    (tmp_path / evaluation.NAME).write_text('{"metrics": {}, "round": 0}\n' + lines, encoding="utf-8")
    with pytest.raises(CorruptionError, match=r"central\.jsonl: line 2"):
        evaluation.read(tmp_path)
