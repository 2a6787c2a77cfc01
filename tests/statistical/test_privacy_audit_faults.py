"""An audit finds each mechanism that breaks its promise: the negative controls of test_privacy_audit.py.

Draws come from fixed seeds, so that what is found here once is found always.
"""

from __future__ import annotations

import pytest
from audited_plans import PLANS

from fedsus.commands.audits import running
from fedsus.commands.audits.broken import FAULTS, broken
from fedsus.privacy.noise import SeededNoise

DRAWS = 100_000
FAULT_DRAWS = 20_000
FEW_DRAWS = 4_000
"""Of faults that are found by them, where a release is one draw."""

SHARES = {"missing-shares", "uncounted-colluder", "shared-seed"}
NEEDS_MANY = SHARES | {"two-thirds-of-the-noise", "all-examples"}
TOO_SMALL = {("example distributed", fault) for fault in SHARES} | {
    ("example distributed, most examples", fault) for fault in FAULTS if fault not in SHARES
}
"""Faults that spend less than the Renyi bound of a plan leaves, or that the other plan of its kind shows."""

TOLD = {"plain-metrics", "forgotten-costs", "half-the-range", "sampled-metrics"}
"""Of the plan whose gradients are those of another one."""

REDUCED = {"clip-before-upscale", "half-the-noise"}
"""Of plans that differ from another one by their uplink alone."""

CASES = [
    (name, fault)
    for name, plan in PLANS.items()
    for fault in FAULTS
    if FAULTS[fault].fits(plan) and "coarse" not in name and (name, fault) not in TOO_SMALL
    if "reduced" not in name or fault in REDUCED
    if name != "example distributed, metrics, costs" or fault in TOLD
]


@pytest.mark.parametrize(("name", "fault"), CASES)
def test_a_broken_promise_is_found(name: str, fault: str) -> None:
    plan = PLANS[name]
    trial = broken(fault, plan)
    count = FAULT_DRAWS
    if "adaptive" in name or (fault == "plain-weights" and "central" in name):
        count = FEW_DRAWS
    elif "distributed" in name and fault in NEEDS_MANY:
        count = DRAWS
    found = running.findings(trial, running.experiment(trial, count, SeededNoise(30)), (1,))
    assert any(finding.broken for finding in found), found


def test_every_fault_is_tried() -> None:
    assert {fault for _, fault in CASES} == set(FAULTS)


@pytest.mark.parametrize(
    ("name", "fault"),
    [("client distributed", "plain-metrics"), ("example distributed", "half-the-range")],
)
def test_a_block_without_its_noise_is_found_in_that_block_alone(name: str, fault: str) -> None:
    trial = broken(fault, PLANS[f"{name}, metrics, costs"])
    found = running.findings(trial, running.experiment(trial, 20_000, SeededNoise(31)), (1,))
    assert {finding.block for finding in found if finding.broken} - {"all"} == {"metrics"}
