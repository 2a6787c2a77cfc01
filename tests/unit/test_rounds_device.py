"""The device half of a round: what is refused, charged, kept for the owner, and what leaves."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import odd_tasks
import pytest

import fedsus.learning
from fedsus.encoding.layout import Layout
from fedsus.encoding.mechanism import FixedPoint
from fedsus.encoding.packing import packed_size, unpack
from fedsus.errors import Cancelled
from fedsus.learning.parameters import flatten
from fedsus.learning.settings import Compute
from fedsus.owner.ledger import Ledger
from fedsus.owner.policy import Policy
from fedsus.plan import Plan
from fedsus.privacy.noise import SeededNoise
from fedsus.rounds.device import Answer, Device
from fedsus.rounds.messages import REFUSAL, decode_answer, encode_request, model_hash
from fedsus.rounds.seeds import seeded, system_seed
from fedsus.tasks import heart, registry
from fedsus.tasks.task import DataSource
from fedsus.types import Vector
from fedsus_client.evaluations import FILE, Evaluations

HEART = Path(heart.__file__).parent / "data" / "heart"
METRICS = [{"name": "loss", "low": 0.0, "high": 10.0}, {"name": "accuracy", "low": 0.0, "high": 1.0}]
PRIVATE = {
    "unit": "example",
    "placement": "local",
    "epsilon": 20.0,
    "delta": 1e-5,
    "clip": 1.0,
    "sampling_rate": 0.1,
    "steps": 10,
    "denominator": 20.0,
    "noise_multiplier": 1.0,
}
GRANTS: dict[str, Any] = {
    "privacy": {"epsilon": 25.0, "delta": 1e-4, "without_dp": True},
    "cohort": {"minimum": 3},
    "exchange": {"clear_sum": True},
    "tasks": {name: {"data": "mine"} for name in ("heart", "odd")},
}


def a_plan(model: Vector, **changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "run": "run",
        "round": 1,
        "attempt": 1,
        "rounds": 2,
        "spare_attempts": 2,
        "model": model_hash(model),
        "dimension": len(model),
        "task": {"name": "heart"},
        "training": {},
        "privacy": {"unit": "none"},
        "encoding": {},
        "metrics": METRICS,
        "cohort": {"size": 4, "minimum": 3},
        "deadline": 60.0,
    }
    return Plan.model_validate_json(json.dumps(fields | changes))


def initial(task: str = "heart") -> Vector:
    return flatten(registry.build(registry.resolve(task), {}).model(0))


@dataclass
class Owned:
    """A device with what its owner sees, and whether anything was trained."""

    folder: Path
    device: Device
    ledger: Ledger
    trained: list[str] = field(default_factory=list)

    def ask(self, model: Vector, stop: bool = False, **changes: Any) -> Answer:
        return self.device.answer(encode_request(a_plan(model, **changes), model), lambda: stop)

    def entries(self) -> list[tuple[str, int]]:
        return [(entry["type"], entry["attempt"]) for entry in self.ledger.export() if "attempt" in entry]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which trainers were made."""
    made, original = [], fedsus.learning.trainer_for

    def noted(task: Any, unit: Any, *rest: Any) -> Any:
        made.append(unit)
        return original(task, unit, *rest)

    monkeypatch.setattr(fedsus.learning, "trainer_for", noted)
    return made


@pytest.fixture
def make(tmp_path: Path, trained: list[str]) -> Iterator[Any]:
    ledgers = []

    def owned(task: str = "Sound", data: Path | None = None, **grants: Any) -> Owned:
        ledger = Ledger(None, lambda: 0.0)
        ledgers.append(ledger)
        device = Device(
            policy=Policy.model_validate(GRANTS | grants),
            ledger=ledger,
            tasks={"heart": "heart", "odd": f"odd_tasks:{task}"},
            sources={"mine": DataSource(data or HEART / "va.csv")},
            compute=Compute("cpu", 1),
            noise=SeededNoise(1),
            seeds=seeded(7, "va"),
            report=Evaluations(tmp_path, lambda: 5.0),
        )
        return Owned(tmp_path, device, ledger, trained)

    yield owned
    for ledger in ledgers:
        ledger.close()


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
        ({}, {"metrics": METRICS[:1]}, "the plan's metrics"),
        ({}, {"metrics": [METRICS[0] | {"high": 9.0}, METRICS[1]]}, "are not the task's"),
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

    monkeypatch.setattr("fedsus.rounds.device.admit", broken)
    owned = make()
    refused(owned, owned.ask(initial()), "OverflowError: int too large to convert", caplog)


def test_few_settings_are_kept_loaded(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value of a range that the policy allows would keep the data in memory once more."""
    loads, original = [], heart.HeartDisease.load
    monkeypatch.setattr(heart.HeartDisease, "load", lambda self, source: loads.append(1) or original(self, source))
    owned = make(tasks={"heart": {"data": "mine", "settings": {"hidden": {"min": 1, "max": 9}}}})
    for run, hidden in enumerate([1, 2, 3, 4, 5, 5, 1]):
        model = flatten(registry.build(registry.resolve("heart"), {"hidden": hidden}).model(0))
        answer = owned.ask(model, run=f"r{run}", task={"name": "heart", "settings": {"hidden": hidden}})
        assert answer.refusal is None
    assert len(loads) == 6, "five values, and the first again: four are kept"


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


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("FailsToTrain", f"ZeroDivisionError: {odd_tasks.SECRET} second line"),
        ("FailsToMeasure", f"ValueError: {odd_tasks.SECRET}"),
        ("Diverges", "training diverged to NaN or infinity"),
    ],
)
def test_user_code_that_fails_while_training_is_refunded(
    make: Any, caplog: pytest.LogCaptureFixture, task: str, reason: str
) -> None:
    owned, model = make(task), np.zeros(2, dtype=np.float32)
    answer = owned.ask(model, task={"name": "odd"}, metrics=METRICS[:1])
    assert (answer.body, answer.plan) == (REFUSAL, None)
    assert reason in (answer.refusal or "")
    line = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING][-1]
    assert line == f"refused: {answer.refusal}"
    assert "\n" not in line
    assert owned.entries() == [("reserved", 1), ("refunded", 1)]
    answer.sent()
    assert owned.entries() == [("reserved", 1), ("refunded", 1)]
    again = owned.ask(model, task={"name": "odd"}, metrics=METRICS[:1], attempt=2)
    assert again.body == REFUSAL  # and the device goes on


def test_stopped_work_is_not_answered_and_refunded(make: Any) -> None:
    owned = make()
    with pytest.raises(Cancelled):
        owned.ask(initial(), stop=True)
    assert owned.entries() == [("reserved", 1), ("refunded", 1)]


def test_an_answer_is_charged_before_training_and_released_when_sent(make: Any) -> None:
    owned, model = make(), initial()
    answer = owned.ask(model)
    assert owned.entries() == [("reserved", 1)]
    answer.sent()
    assert owned.entries() == [("reserved", 1), ("released", 1)]
    assert answer.refusal is None
    assert answer.plan == a_plan(model)
    assert owned.ask(model).body == REFUSAL  # the same attempt again
    assert owned.ask(model, attempt=2).refusal is None


def test_a_run_whose_plan_changes_is_refused(make: Any) -> None:
    owned, model = make(), initial()
    assert owned.ask(model).refusal is None
    changed = owned.ask(model, attempt=2, training={"local_epochs": 2})
    assert "its plan changed" in (changed.refusal or "")


def test_what_leaves_is_the_update_with_its_weight_and_metrics(make: Any) -> None:
    owned, model = make(), initial()
    plan, answer = a_plan(model), owned.ask(model)
    mechanism, ring = FixedPoint(plan), ring_of(plan, answer)
    mean = mechanism.decode(ring, 1)
    assert np.abs(mean.delta).max() > 0
    assert (mean.weight, mean.held_out, mean.saturated) == (153.0, 47, 0)
    loss, accuracy = mean.totals / 47
    (kept,) = evaluations(owned)
    assert kept["loss"] == pytest.approx(loss, abs=1e-4)
    assert kept["accuracy"] == pytest.approx(accuracy, abs=1e-4)


def ring_of(plan: Plan, answer: Answer) -> Any:
    layout = Layout.of(plan)
    body = decode_answer(answer.body, packed_size(layout.size, plan.encoding.bits))
    assert body is not None
    return unpack(body, layout.size, plan.encoding.bits)


def evaluations(owned: Owned) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (owned.folder / FILE).read_text(encoding="utf-8").splitlines()]


def test_no_metric_leaves_in_a_private_run_and_the_owner_keeps_them(make: Any) -> None:
    owned, model = make(), initial()
    changes = {"privacy": PRIVATE, "metrics": []}
    plan, answer = a_plan(model, **changes), owned.ask(model, **changes)
    assert answer.refusal is None, answer.refusal
    layout = Layout.of(plan)
    assert layout.size == len(model)
    for segment in (layout.weight, layout.saturated, layout.totals, layout.held_out):
        assert segment.stop == segment.start
    assert len(answer.body) == len(REFUSAL) + packed_size(len(model), 32)
    assert FixedPoint(plan).decode(ring_of(plan, answer), 1).totals.size == 0
    (kept,) = evaluations(owned)
    assert kept.keys() == {"time", "run", "round", "loss", "accuracy", "auc"}
    assert (kept["run"], kept["round"], kept["time"]) == ("run", 1, 5.0)
    assert 0 <= kept["auc"] <= 1


def test_a_failing_report_to_the_owner_changes_no_private_answer(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    owned, model = make("FailsToMeasure"), np.zeros(2, dtype=np.float32)
    answer = owned.ask(model, task={"name": "odd"}, privacy=PRIVATE, metrics=[])
    assert answer.refusal is None, answer.refusal
    assert f"no evaluation for the owner: ValueError: {odd_tasks.SECRET}" in caplog.text


def test_private_gradients_that_are_not_finite_are_answered_like_any_others(make: Any) -> None:
    """Whether a device answers must not depend on its data; such a gradient counts as zero, and the noise is added."""
    owned, model = make("Diverges"), np.zeros(2, dtype=np.float32)
    changes = {"task": {"name": "odd"}, "privacy": PRIVATE | {"noise_multiplier": 1.0}, "metrics": []}
    plan, answer = a_plan(model, **changes), owned.ask(model, **changes)
    assert answer.refusal is None, answer.refusal
    assert np.isfinite(FixedPoint(plan).decode(ring_of(plan, answer), 1).delta).all()
    assert owned.entries() == [("reserved", 1)]


def test_private_training_at_which_the_tasks_code_fails_is_answered_like_any_other(make: Any) -> None:
    owned, model = make("FailsToTrain"), np.zeros(2, dtype=np.float32)
    answer = owned.ask(model, task={"name": "odd"}, privacy=PRIVATE, metrics=[])
    assert answer.refusal is None
    assert owned.entries() == [("reserved", 1)]


def test_a_run_without_metrics_takes_none(make: Any) -> None:
    owned, model = make(), initial()
    plan, answer = a_plan(model, metrics=[]), owned.ask(model, metrics=[])
    mean = FixedPoint(plan).decode(ring_of(plan, answer), 1)
    assert (mean.totals.size, mean.held_out) == (0, 0)


def test_evaluation_measures_and_changes_nothing(make: Any) -> None:
    owned, model = make(), initial()
    changes = {"purpose": "evaluate", "round": 3, "attempt": 3}
    plan, answer = a_plan(model, **changes), owned.ask(model, **changes)
    mean = FixedPoint(plan).decode(ring_of(plan, answer), 1)
    assert (mean.held_out, mean.totals.shape) == (47, (2,))
    assert math.isclose(mean.totals[0] / 47, evaluations(owned)[0]["loss"], abs_tol=1e-4)
    assert owned.trained == []


def test_seeds_depend_on_client_and_round_and_not_on_the_attempt() -> None:
    model = np.zeros(2, dtype=np.float32)
    one = a_plan(model)
    draws = [
        seeded(seed, name)(plan)
        for seed in (7, 8)
        for name in ("va", "hungary")
        for plan in (one, a_plan(model, round=2))
    ]
    assert len(set(draws)) == len(draws)
    assert seeded(7, "va")(one) == seeded(7, "va")(a_plan(model, attempt=2))
    assert system_seed(one) != system_seed(one)
