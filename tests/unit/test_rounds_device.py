"""The device half of a round: what is charged and refunded, kept for the owner, and what leaves."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import odd_tasks
import pytest
from owned_devices import METRICS, PRIVATE, Owned, a_plan, initial, owned_devices

from fedsus.encoding.layout import Layout
from fedsus.encoding.mechanism import FixedPoint
from fedsus.encoding.packing import packed_size, unpack
from fedsus.errors import Cancelled
from fedsus.learning.parameters import flatten
from fedsus.plan import Plan
from fedsus.rounds.device_half.device import Answer
from fedsus.rounds.device_half.seeds import seeded, system_seed
from fedsus.rounds.messages import REFUSAL, decode_answer
from fedsus.tasks import heart, registry
from fedsus_client.evaluations import FILE


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield from owned_devices(tmp_path, monkeypatch)


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
