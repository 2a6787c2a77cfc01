"""The benchmark of models as differences: what it tells, and that the documentation shows it."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import pytest

from fedsus_simulations.benchmarks import compression_cases, downlink, tables
from fedsus_simulations.benchmarks.result import complete
from fedsus_simulations.scenario.config import Scenario


def row(score: float, down: float) -> dict[str, Any]:
    return {"score": score, "down": down}


def test_bytes_come_first_and_points_lost_are_of_the_means() -> None:
    found = {
        ("heart", inf, downlink.WHOLE): [row(90.0, 400.0), row(88.0, 400.0)],
        ("heart", inf, 8): [row(88.0, 100.0), row(89.0, 100.0)],
    }
    result = complete("downlink", False, downlink.told(found, downlink.codec(1, 1000), []))
    assert result.ratio == 4.0
    assert result.figures["heart, no DP: error"].ratio == pytest.approx(11 / 11.5)
    assert [line[-1] for line in result.tables[0].rows] == ["", "0.50"]
    fewer = [float(line[2]) for line in result.tables[1].rows]
    assert fewer[0] > 3 and fewer == sorted(fewer)


def test_each_way_is_a_scenario_that_can_run() -> None:
    for case in (compression_cases.heart(), compression_cases.fashion(Path("images"))):
        for bits in (downlink.WHOLE, *downlink.BITS):
            plan = Scenario.model_validate(downlink.scenario(case, bits, 8.0, 1)).plan
            assert (plan.downlink.bits if plan.downlink else downlink.WHOLE) == bits


def test_the_documentation_shows_what_was_measured() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    kept = tables.read(docs / "compression" / "downlink.json")
    assert not kept.quick
    text = (docs / "compression.md").read_text(encoding="utf-8")
    assert tables.replaced(text, "downlink", tables.markdown(kept), "docs") == text
