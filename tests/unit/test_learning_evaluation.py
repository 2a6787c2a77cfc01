"""Metrics are bounded whatever the model says; the AUC is the probability of the right order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from torch import Tensor, nn

from fedsus.learning import evaluation
from fedsus.learning.evaluation import auc, auc_interval, owner_report, totals
from fedsus.tasks.task import Batch, DataSource, Forward, Shard


class Echo:
    """The metrics of an example are its inputs; its score the first of them times the model's weight."""

    Settings = BaseModel
    bounds = {"loss": (0.0, 10.0), "accuracy": (0.0, 1.0)}  # noqa: RUF012

    def model(self, seed: int) -> nn.Module:
        return nn.Linear(1, 1, bias=False)

    def load(self, source: DataSource) -> Shard:
        raise NotImplementedError

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        return batch[0][:, 0]

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        return batch[0]


class Ranking(Echo):
    def scores(self, model: Forward, batch: Batch) -> tuple[Tensor, Tensor]:
        return model(batch[0][:, :1])[:, 0], batch[1]


ONE = np.ones(1, np.float32)


def test_sums_are_clamped_for_each_example() -> None:
    batch = (torch.tensor([[3.0, 1.0], [50.0, 2.0], [-1.0, -5.0], [0.5, 0.25]]),)
    np.testing.assert_allclose(totals(Echo(), nn.Tanh(), batch), [13.5, 2.25])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_counts_as_the_worse_bound(bad: float) -> None:
    batch = (torch.tensor([[bad, bad], [1.0, 1.0]]),)
    np.testing.assert_array_equal(totals(Echo(), nn.Tanh(), batch), [11.0, 1.0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(width=32), st.floats(width=32)), min_size=1, max_size=20))
def test_sums_stay_within_count_times_bounds(rows: list[tuple[float, float]]) -> None:
    loss, accuracy = totals(Echo(), nn.Tanh(), (torch.tensor(rows),))
    assert 0 <= loss <= 10 * len(rows)
    assert 0 <= accuracy <= len(rows)


def test_in_chunks_and_in_eval_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool]] = []

    class Watched(Echo):
        def measure(self, model: Forward, batch: Batch) -> Tensor:
            seen.append((len(batch[0]), model.training))  # type: ignore[attr-defined]
            return batch[0]

    monkeypatch.setattr(evaluation, "_CHUNK", 4)
    module = nn.Tanh().train()
    np.testing.assert_allclose(totals(Watched(), module, (torch.ones(10, 2),)), [10, 10])
    assert seen == [(4, False), (4, False), (2, False)]
    assert module.training


def test_no_examples() -> None:
    np.testing.assert_array_equal(totals(Echo(), nn.Tanh(), (torch.ones(0, 2),)), [0, 0])
    assert owner_report(Echo(), ONE, (torch.ones(0, 2),)) == {}


def test_report_of_an_owner() -> None:
    inputs = torch.tensor([[float(i), 0.5] for i in range(10)])
    labels = (torch.arange(10) >= 5).float()
    assert owner_report(Echo(), ONE, (inputs, labels)) == {"loss": 4.5, "accuracy": 0.5}
    assert owner_report(Ranking(), ONE, (inputs, labels)) == {"loss": 4.5, "accuracy": 0.5, "auc": 1.0}
    assert owner_report(Ranking(), -ONE, (inputs, labels))["auc"] == 0.0


def test_no_auc_from_few_examples_or_broken_scores() -> None:
    inputs = torch.tensor([[float(i), 0.5] for i in range(10)])
    few = (torch.arange(10) >= 6).float()
    assert "auc" not in owner_report(Ranking(), ONE, (inputs, few))
    labels = (torch.arange(10) >= 5).float()
    assert "auc" not in owner_report(Ranking(), ONE * np.float32(math.nan), (inputs, labels))


def by_pairs(scores: np.ndarray, labels: np.ndarray) -> float:  # type: ignore[type-arg]
    pairs = scores[labels][:, None] - scores[~labels][None, :]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_auc_counts_pairs_and_halves_ties(rows: list[tuple[int, bool]]) -> None:
    scores, labels = np.array([s for s, _ in rows], float), np.array([label for _, label in rows])
    if labels.all() or not labels.any():
        assert math.isnan(auc(scores, labels))
    else:
        assert auc(scores, labels) == pytest.approx(by_pairs(scores, labels))


def delong_by_definition(scores: np.ndarray, labels: np.ndarray) -> float:  # type: ignore[type-arg]
    """Standard deviation from the placement matrix itself."""
    pairs = scores[labels][:, None] - scores[~labels][None, :]
    wins = (pairs > 0) + 0.5 * (pairs == 0)
    return float(np.sqrt(wins.mean(1).var(ddof=1) / wins.shape[0] + wins.mean(0).var(ddof=1) / wins.shape[1]))


def test_interval_is_delongs() -> None:
    generator = np.random.default_rng(0)
    labels = generator.random(80) < 0.4
    scores = np.round(generator.normal(size=80) + labels, 1)
    area, low, high = auc_interval(scores, labels)
    deviation = delong_by_definition(scores, labels)
    assert area == pytest.approx(by_pairs(scores, labels))
    assert (high - low) / 2 == pytest.approx(1.959964 * deviation, rel=1e-6)
    assert auc_interval(scores, labels, 0.5)[1] > low


def test_interval_covers_as_often_as_it_says() -> None:
    """Normal scores one apart: the true AUC is Phi(1 / sqrt 2) = 0.7602."""
    generator = np.random.default_rng(1)
    labels = np.arange(120) < 50
    covered = 0
    for _ in range(200):
        _, low, high = auc_interval(generator.normal(size=120) + labels, labels)
        covered += low <= 0.76025 <= high
    assert 0.9 * 200 <= covered <= 0.99 * 200


def test_interval_needs_two_of_each_class() -> None:
    area, low, high = auc_interval([1.0, 2.0, 3.0], [0, 0, 1])
    assert area == 1.0
    assert math.isnan(low)
    assert math.isnan(high)
    assert auc_interval([1, 2, 3, 4], [0, 0, 1, 1]) == (1.0, 1.0, 1.0)
