"""The noise of a whole run: it spends what was asked for and hardly less, whatever the unit and the placement."""

from __future__ import annotations

import math
from typing import Any

import dp_accounting as dpa
import pytest

from fedsus.config import RunConfig
from fedsus.owner.admission import MOST_NOISE
from fedsus.privacy import accounting
from fedsus.privacy.adversaries import spent
from fedsus.privacy.calibration import LARGEST_LOCAL, most_attempts, smallest_noise
from fedsus.privacy.events import leaves
from fedsus.protection import ClientCentral, ClientDistributed, Distributed, ExamplePrivacy, Private
from fedsus.rounds.planning.specification import Specification, specified

DIMENSION = 1000
METRICS = [{"name": "loss", "low": 0.0, "high": 10.0}, {"name": "accuracy", "low": 0.0, "high": 1.0}]
PARTS: dict[str, dict[str, Any]] = {
    "example local": {"unit": "example", "denominator": 20.0},
    "example distributed": {"unit": "example", "placement": "distributed", "denominator": 200.0},
    "client distributed": {"unit": "client", "placement": "distributed"},
    "client distributed, with metrics": {"unit": "client", "metrics_share": 0.2},
    "client central": {"unit": "client", "placement": "central"},
    "client central, with metrics": {"unit": "client", "placement": "central", "metrics_share": 0.2},
    "client central, adaptive": {"unit": "client", "placement": "central", "adaptive": {"noise": 20.0}},
    "client central, banded": {"unit": "client", "placement": "central", "bands": 4},
    "client central, banded, with metrics": {
        "unit": "client",
        "placement": "central",
        "bands": 4,
        "metrics_share": 0.2,
    },
}
SLOW = ("example local",)
IN_SHARES = [name for name in PARTS if "client distributed" in name or name == "example distributed"]


def run(name: str, *, rounds: int = 20, epsilon: float = 3.0, colluders: int = 2, minimum: int = 18) -> Specification:
    """Of 20 clients a round, summed in clear: a simulation's, which needs no roster."""
    privacy = {"epsilon": epsilon, "delta": 1e-5} | PARTS[name]
    plan: dict[str, Any] = {
        "rounds": rounds,
        "exchange": "clear_sum",
        "cohort": {"size": 20, "minimum": minimum},
        "secure_sum": {"colluders": colluders},
        "privacy": privacy,
        "metrics": METRICS if "metrics_share" in privacy else [],
    }
    return specified("one", RunConfig.model_validate({"task": {"name": "heart"}, "plan": plan}), DIMENSION)


def quieter(privacy: Private, factor: float) -> Private:
    """The same with ``factor`` times the noise on updates and metrics."""
    if isinstance(privacy, Distributed):
        shares, square = privacy.shares, factor**2
        changes = {"variance": shares.variance * square, "metrics": shares.metrics and shares.metrics * square}
        return privacy.model_copy(update={"shares": shares.model_copy(update=changes)})
    changes = {"noise_multiplier": privacy.noise_multiplier * factor}
    if isinstance(privacy, ClientCentral):
        changes["metrics"] = privacy.metrics and privacy.metrics * factor
    return privacy.model_copy(update=changes)


def noise(specification: Specification) -> float:
    """Standard deviation, in any unit."""
    privacy = specification.privacy
    if isinstance(privacy, Distributed):
        return math.sqrt(privacy.shares.variance)
    assert isinstance(privacy, ExamplePrivacy | ClientCentral)
    return privacy.noise_multiplier


@pytest.mark.parametrize("name", PARTS)
def test_spends_what_was_asked_for_and_hardly_less(name: str) -> None:
    specification = run(name)
    assert specification.privacy.unit != "none"
    assert 0.99 * 3.0 < specification.epsilon(specification.attempts) <= 3.0
    less = Specification("one", specification.config, quieter(specification.privacy, 0.99), dimension=DIMENSION)
    assert less.epsilon(less.attempts) > 3.0


@pytest.mark.parametrize("name", [name for name in PARTS if name not in SLOW and "banded" not in name])
def test_more_rounds_take_more_noise(name: str) -> None:
    assert noise(run(name, rounds=20)) < noise(run(name, rounds=40)) < noise(run(name, rounds=200))


@pytest.mark.parametrize("name", IN_SHARES)
def test_more_colluders_and_dropouts_take_larger_shares(name: str) -> None:
    assert noise(run(name, colluders=1)) < noise(run(name, colluders=2)) < noise(run(name, colluders=9))
    assert noise(run(name, minimum=20)) < noise(run(name, minimum=18)) < noise(run(name, minimum=4))


@pytest.mark.parametrize("name", IN_SHARES)
def test_shares_add_up_whoever_is_not_counted(name: str) -> None:
    """What the honest ones add does not depend on how many they are."""
    several = [run(name, colluders=a, minimum=n).privacy for a, n in ((1, 20), (2, 18), (9, 12))]
    assert all(isinstance(privacy, Distributed) for privacy in several)
    sums = [p.shares.variance * (p.shares.survivors - p.shares.colluders) for p in several]  # type: ignore[union-attr]
    assert sums == pytest.approx([sums[0]] * 3, rel=1e-9)


@pytest.mark.parametrize("name", IN_SHARES)
def test_whoever_knows_more_gets_more(name: str) -> None:
    specification = run(name)
    unit, _ = specification.goal
    events = spent(specification.first_plan, specification.attempts)
    found = {who: accounting.epsilon(events[unit, who], 1e-5) for who in ("server", "clients", "recipients")}
    assert found["server"] >= found["clients"] >= found["recipients"] > 0
    assert found["server"] > found["recipients"]


@pytest.mark.parametrize("name", [name for name in PARTS if "central" in name])
def test_noise_of_the_server_protects_nobody_from_it(name: str) -> None:
    specification = run(name)
    events = spent(specification.first_plan, specification.attempts)
    assert accounting.epsilon(events["client", "server"], 1e-5) == math.inf
    assert accounting.epsilon(events["client", "clients"], 1e-5) == accounting.epsilon(
        events["client", "recipients"], 1e-5
    )
    assert specification.goal == ("client", "recipients")


def test_metrics_are_paid_for_in_each_round_of_a_client_also_where_updates_are_paid_for_once() -> None:
    specification = run("client central, banded, with metrics")
    privacy = specification.privacy
    assert isinstance(privacy, ClientCentral) and privacy.banded is not None and privacy.metrics is not None
    assert privacy.banded.participations == 5
    found = leaves(spent(specification.first_plan, specification.attempts)["client", "recipients"])
    assert found == {dpa.GaussianDpEvent(privacy.noise_multiplier): 1, dpa.GaussianDpEvent(privacy.metrics): 5}
    assert privacy.metrics == pytest.approx(privacy.noise_multiplier * math.sqrt(5 * 0.8 / 0.2))


@pytest.mark.parametrize("where", ["client distributed", "client central", "client central, banded"])
def test_metrics_take_their_share_of_the_budget(where: str) -> None:
    """Alone, updates and metrics spend less; neither is free."""
    both = run(f"{where}, with metrics")
    alone = run(where)
    assert noise(both) == pytest.approx(noise(alone) / math.sqrt(0.8), rel=2e-3)
    privacy = both.privacy
    assert isinstance(privacy, ClientDistributed | ClientCentral)
    if isinstance(privacy, ClientDistributed):
        silent: Private = privacy.model_copy(update={"shares": privacy.shares.model_copy(update={"metrics": None})})
    else:
        silent = privacy.model_copy(update={"metrics": None})
    updates = Specification("one", both.config, silent, dimension=DIMENSION)
    assert 2.0 < updates.epsilon(updates.attempts) < 2.9


def test_spare_attempts_are_paid_for() -> None:
    specification = run("client distributed", rounds=100)
    assert specification.attempts == 110
    assert specification.epsilon(100) < 2.95 < specification.epsilon(110) <= 3.0


@pytest.mark.parametrize("size", [3, 20, 10_000])
def test_the_count_of_an_adaptive_bound_takes_a_tenth_of_the_budget_at_most(size: int) -> None:
    asked = {"unit": "client", "placement": "central", "epsilon": 3.0, "delta": 1e-5, "adaptive": {}}
    cohort = {"size": size, "minimum": size}
    plan = {"rounds": 20, "exchange": "clear_sum", "cohort": cohort, "privacy": asked}
    found = specified("one", RunConfig.model_validate({"task": {"name": "heart"}, "plan": plan}), DIMENSION)
    privacy = found.privacy
    assert isinstance(privacy, ClientCentral) and privacy.adaptive is not None
    assert 0.99 * 3.0 < found.epsilon(found.attempts) <= 3.0
    spent_on_count = (privacy.noise_multiplier / (2 * privacy.adaptive.noise)) ** 2
    assert spent_on_count <= 0.1 + 1e-9
    assert privacy.adaptive.noise >= size / 20
    assert privacy.adaptive.noise == size / 20 or spent_on_count == pytest.approx(0.1)


def test_bands_let_a_client_take_part_in_every_so_many_rounds() -> None:
    for rounds, participations in ((20, 5), (21, 6), (3, 1)):
        privacy = run("client central, banded", rounds=rounds).privacy
        assert isinstance(privacy, ClientCentral) and privacy.banded is not None
        assert (privacy.banded.bands, privacy.banded.participations) == (4, participations)


def test_bands_need_the_noise_of_one_release() -> None:
    """It is the factorisation's sensitivity that grows with the rounds."""
    assert noise(run("client central, banded", rounds=20)) == noise(run("client central, banded", rounds=200))


def test_a_device_trains_with_the_most_noise_that_a_run_may_ask_for() -> None:
    assert LARGEST_LOCAL == MOST_NOISE


def test_the_search_stays_within_the_largest_noise() -> None:
    """Of a budget that the largest noise just meets, and of one that it just misses."""
    asked: list[float] = []

    def spends(noise: float) -> float:
        asked.append(noise)
        return 1 / noise

    assert smallest_noise(1 / 0.35, spends, 0.35) is None
    found = smallest_noise(1.00001 / 0.35, spends, 0.35)
    assert found == pytest.approx(0.35, rel=1e-4)
    assert max(asked) <= 0.35


@pytest.mark.parametrize(("budget", "expected"), [(0.5, 0), (1.0, 1), (9.99, 9), (10.0, 10), (99.0, 10)])
def test_the_most_attempts_within_a_budget(budget: float, expected: int) -> None:
    assert most_attempts(budget, float, 10) == expected
