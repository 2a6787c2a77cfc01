"""Fashion-MNIST: the simulator's curves are a plain loop's, in what the docs show and, slow, in new runs."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accuracy_pairs import Verdict
from fashion_curves import SERIES

ROOT = Path(__file__).resolve().parents[2]
STRATEGIES = ("FedAvg", "FedAdam")


@pytest.fixture(scope="module")
def script() -> Any:
    place = importlib.util.spec_from_file_location("accuracy_script", ROOT / "scripts" / "accuracy.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def curves(script: Any) -> dict[str, dict[str, list[float]]]:
    return dict(script.kept())


def test_every_run_is_there(curves: dict[str, dict[str, list[float]]]) -> None:
    assert set(curves) == set(SERIES)
    for name, series in SERIES.items():
        assert sorted(curves[name]) == sorted(map(str, series.seeds))
        assert {len(curve) for curve in curves[name].values()} == {series.asked.rounds}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_kept_curves_equal_a_plain_loops(strategy: str, script: Any, curves: Any) -> None:
    ours = script.ordered(curves, f"reference: {strategy}, simulator")
    assert Verdict.of(ours, script.ordered(curves, f"reference: {strategy}, plain loop")).equal
    control = script.ordered(curves, f"control: {strategy}, plain loop at half the server's rate")
    wrong = Verdict.of(ours[: len(control)], control)
    assert wrong.apart
    assert not wrong.equal


def test_the_page_says_what_was_kept(script: Any, curves: Any) -> None:
    page = (ROOT / "docs" / "simulation-data.md").read_text(encoding="utf-8")
    for table in (script.reference(curves), script.skew(curves)):
        assert len(table) > 4
        assert "\n".join(table) in page


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fashion_mnist_anew(strategy: str, tmp_path: Path) -> None:
    """Other seeds than the docs': nothing was chosen by them."""
    data = Path(os.environ.get("FEDSUS_DATA", "data"))
    if not (data / "fashion-mnist").is_dir():
        pytest.skip(f"{data}/fashion-mnist: no such folder; fedsus data get fashion-mnist, or set FEDSUS_DATA")
    name = f"reference: {strategy}, simulator"
    simulated = SERIES[name]
    wrong = replace(simulated.asked, server_rate=simulated.asked.server_rate / 2)
    seeds = range(11, 21)
    found = [
        [series.curve(seed, data, tmp_path / f"{number}-{seed}") for seed in seeds]
        for number, series in enumerate(
            (simulated, replace(simulated, done=simulated.asked), replace(simulated, done=wrong))
        )
    ]
    assert Verdict.of(found[0], found[1]).equal
    assert not Verdict.of(found[0], found[2]).equal
    assert min(curve[-1] for curve in found[0]) > 0.7
