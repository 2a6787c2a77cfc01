"""The simulator's curves are those of a plain loop, within what another seed does; a wrong server is found.

The plain loop (tests/support/plain_reference.py) shares no code with fedsus. Clients, their data and the initial model
are the same in a pair; who is asked, and in which order a client sees its examples, are each side's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from accuracy_pairs import Verdict, plain, scenario, simulated
from plain_reference import Recipe

if TYPE_CHECKING:
    from pathlib import Path

SEEDS = range(8)
TASK = {"name": "blobs", "settings": {}}
REFERENCE = "accuracy_pairs:Blobs"


@dataclass(frozen=True)
class Case:
    """What the simulator is asked, and a loop that does something else."""

    recipe: Recipe
    population: dict[str, Any]
    wrong: Recipe


_FEDAVG = Recipe(rounds=10, cohort=10, batch=10, rate=0.3)
_FEDADAM = replace(_FEDAVG, server="fedadam", server_rate=0.05)
_EVEN = {"data": ".", "partition": "dirichlet", "clients": 100, "alpha": 0.5}
CASES = {
    "fedavg": Case(_FEDAVG, _EVEN, replace(_FEDAVG, server_rate=0.6)),
    "fedadam": Case(_FEDADAM, _EVEN, replace(_FEDADAM, server_rate=0.02)),
    "uneven clients": Case(_FEDAVG, {"data": ".", "partition": "groups"}, replace(_FEDAVG, weighted=False)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def curves(case: Case, tmp_path_factory: pytest.TempPathFactory) -> list[list[float]]:
    """The simulator's, one for each seed."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("runs")
    return [simulated(_scenario(case, seed), root, root / str(seed), REFERENCE) for seed in SEEDS]


def _scenario(case: Case, seed: int) -> Any:
    return scenario(TASK, case.population, case.recipe, seed)


def _plain(case: Case, recipe: Recipe, root: Path) -> list[list[float]]:
    return [plain(_scenario(case, seed), recipe, root, REFERENCE) for seed in SEEDS]


def test_curves_equal_a_plain_loops(case: Case, curves: list[list[float]], tmp_path: Path) -> None:
    verdict = Verdict.of(curves, _plain(case, case.recipe, tmp_path))
    assert verdict.equal, verdict
    assert min(one[-1] - one[0] for one in curves) > 0.1, "nothing was learned"


def test_a_wrong_loop_is_found(case: Case, curves: list[list[float]], tmp_path: Path) -> None:
    verdict = Verdict.of(curves, _plain(case, case.wrong, tmp_path))
    assert verdict.apart, verdict
    assert not verdict.equal, verdict
