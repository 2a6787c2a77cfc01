"""The device half of a round refuses: without a reason on the wire, with one for the owner, and untrained."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import odd_tasks
import pytest
from owned_devices import HEART, METRICS, PRIVATE, Owned, a_plan, initial, owned_devices

from fedsus.rounds.device_half.device import Answer
from fedsus.rounds.messages import REFUSAL, encode_request


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield from owned_devices(tmp_path, monkeypatch)


def refused(owned: Owned, answer: Answer, reason: str, log: pytest.LogCaptureFixture) -> None:
    """The wire carries no reason, the owner's log has it in one line, and nothing was trained or charged."""
    assert answer.body == REFUSAL
    assert answer.plan is None
    assert answer.refusal is not None
    assert reason in answer.refusal
    lines = [record.getMessage() for record in log.records if record.levelno >= logging.WARNING]
    assert lines[-1] == f"refused: {answer.refusal}"
    assert "\n" not in lines[-1]
    assert owned.trained == []
    assert owned.entries() == []
    answer.sent()
    assert owned.entries() == []


@pytest.mark.parametrize(
    ("grants", "changes", "reason"),
    [
        ({}, {"task": {"name": "lungs"}}, "task 'lungs' is not installed here"),
        ({"tasks": {}}, {}, "task 'heart' is not allowed"),
        ({}, {"task": {"name": "heart", "settings": {"hidden": 9}}}, "setting 'hidden' = 9"),
        ({"exchange": {}}, {}, "[exchange] clear_sum is not granted"),
        ({}, {"cohort": {"size": 4, "minimum": 2}}, "cohort minimum 2: the policy needs at least 3"),
        ({"privacy": {}}, {}, "[privacy] without_dp is not granted"),
        ({"privacy": {"epsilon": 3.0, "delta": 1e-4}}, {"privacy": PRIVATE, "metrics": []}, "the cap 3 (delta 0.0001)"),
        (
            {"privacy": {"epsilon": 30.0, "delta": 1e-6, "composition": "runs"}},
            {"privacy": PRIVATE, "metrics": []},
            "asks delta 1e-05; 0 of the cap 1e-06 is spent",
        ),
        ({}, {"privacy": PRIVATE | {"epsilon": 1.0}, "metrics": []}, "the plan claims epsilon 1; its numbers spend"),
        ({"limits": {"rounds": 1}}, {}, "rounds 2: the policy allows at most 1"),
        (
            {},
            {"metrics": METRICS[:1]},
            "the plan's metrics (loss 0 to 10) are not the task's, in this order: it must name all of (loss 0 to 10, "
            "accuracy 0 to 1), or none",
        ),
        ({}, {"metrics": [METRICS[0] | {"high": 9.0}, METRICS[1]]}, "are not the task's"),
        ({}, {"metrics": METRICS[::-1]}, "in this order"),
        ({}, {"encoding": {"bits": 16}, "cohort": {"size": 9000, "minimum": 3}}, "bits"),
    ],
)
def test_what_the_owner_does_not_allow(
    make: Any, caplog: pytest.LogCaptureFixture, grants: dict[str, Any], changes: dict[str, Any], reason: str
) -> None:
    owned = make(**grants)
    refused(owned, owned.ask(initial(), **changes), reason, caplog)


def test_what_is_no_request(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    owned, model = make(), initial()
    good = encode_request(a_plan(model), model)
    for raw, reason in (
        (b"", "truncated"),
        (b"x" * 100, "not a fedsus request"),
        (good[:-1], "lengths do not add up"),
        (good[:-4] + b"\0\0\x80\x3f", "not the one that the plan names"),
    ):
        refused(owned, owned.device.answer(raw, lambda: False), reason, caplog)


def test_a_request_that_breaks_the_device_half_is_refused(
    make: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent goes on, whatever a server found to send: an error that nobody thought of is a refusal too."""

    def broken(*_: Any) -> Any:
        raise OverflowError("int too large to convert")

    monkeypatch.setattr("fedsus.rounds.device_half.device.admit", broken)
    owned = make()
    refused(owned, owned.ask(initial()), "OverflowError: int too large to convert", caplog)


def test_a_model_of_another_size(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    owned, other = make(), np.zeros(5, dtype=np.float32)
    refused(owned, owned.ask(other), f"the plan's model has 5 parameters, the task's {len(initial())}", caplog)


def test_data_that_are_not_in_the_owners_table(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    owned = make(tasks={"heart": {"data": "other"}})
    refused(owned, owned.ask(initial()), "data 'other' is not in agent.toml: add a table [data.other]", caplog)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["age,sex", "50,male"], "column"),
        (["{header}"], "row"),
        (None, "no such file"),
    ],
)
def test_data_that_fail_the_checks(
    make: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path, rows: list[str] | None, reason: str
) -> None:
    file = tmp_path / "patients.csv"
    header = (HEART / "va.csv").read_text(encoding="utf-8").splitlines()[0]
    if rows is not None:
        file.write_text("\n".join(rows).format(header=header), encoding="utf-8")
    owned = make(data=file)
    refused(owned, owned.ask(initial()), reason, caplog)


@pytest.mark.parametrize(("privacy", "answered"), [(PRIVATE, True), ({"unit": "none"}, False)])
def test_a_private_plans_batch_size_does_not_ask_for_the_number_of_rows(
    make: Any, privacy: dict[str, Any], answered: bool
) -> None:
    """A refusal is seen by the server: with one for "fewer rows than a batch" it could search for n, uncharged."""
    answer = make().ask(initial(), privacy=privacy, metrics=[], training={"batch_size": 1_000_000})
    assert (answer.body != REFUSAL) == answered, answer.refusal


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("Normalised", "keeps the running buffer 'running_mean'; use GroupNorm or LayerNorm in its place"),
        ("FailsToStart", f"task 'odd': OSError: {odd_tasks.SECRET}"),
        ("FailsToBuild", f"task 'odd': RuntimeError: {odd_tasks.SECRET}"),
        ("FailsToLoad", f"task 'odd': KeyError: '{odd_tasks.SECRET}'"),
        ("Missing", "has no 'Missing'"),
    ],
)
def test_a_task_that_cannot_be_prepared(make: Any, caplog: pytest.LogCaptureFixture, task: str, reason: str) -> None:
    owned, model = make(task), np.zeros(2, dtype=np.float32)
    answer = owned.ask(model, task={"name": "odd"}, metrics=METRICS[:1])
    refused(owned, answer, reason, caplog)
