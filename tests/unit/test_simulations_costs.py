"""Costs in a whole run: the journal has their sums over the survivors, with masks and without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from simulated import Places, run, scenario

from fedsus.costs import Costs
from fedsus.encoding.costs import CostBlock
from fedsus.encoding.layout import Layout
from fedsus.journal.entries import RoundReleased
from fedsus.reporting import read
from fedsus.rounds.messages import Request
from fedsus_simulations.clients import attempts
from fedsus_simulations.clients.blocks import Block, Encoded

BOUNDS = {"joules": 500.0, "grams": 0.25}
ASKED = {"costs": BOUNDS, "secure_sum": {"colluders": 1}, "rounds": 2, "spare_attempts": 9}


class Reporting(Places):
    """Client n reports n + 1 joules, and one device."""

    def rings(self, request: Request, blocks: Sequence[Block]) -> Iterator[Encoded]:
        layout, coder = Layout.of(request.plan), CostBlock(request.plan)
        for block, encoded in zip(blocks, super().rings(request, blocks), strict=True):
            costs = np.zeros((len(block), coder.size))
            costs[:, 0], costs[:, list(request.plan.cost_ranges).index("devices")] = np.array(block) + 1.0, 1.0
            encoded.rings[:, layout.costs] = coder.whole(costs, len(block))[0]
            yield encoded


def released(folder: Path) -> list[RoundReleased]:
    return [entry for entry in read(folder) if isinstance(entry, RoundReleased)]


def test_sums_over_the_survivors_are_in_the_journal_with_masks_and_without(tmp_path: Path) -> None:
    told = {}
    for masks in ("none", "real"):
        folder = tmp_path / masks
        run(folder, scenario(8, masks, traces={"dropout": 0.15}, plan=ASKED), 8, Reporting())
        told[masks] = [entry.costs for entry in released(folder)]
        answered = {(one.round, one.attempt): one.answered for one in attempts.read(folder)}
        for entry in released(folder):
            assert entry.costs is not None and entry.costs.keys() == Costs(**BOUNDS).ranges(private=False).keys()
            if masks == "real":  # who answered may have fallen out before the sum
                alive = answered[entry.round, entry.attempt]
                assert entry.costs["joules"] == pytest.approx(sum(at + 1.0 for at in alive), abs=1e-4)
            assert entry.costs["devices"] == entry.survivors and entry.costs["grams"] == 0.0
    assert told["none"] == told["real"]


def test_clients_that_report_nothing_add_nothing_and_are_not_counted(tmp_path: Path) -> None:
    run(tmp_path / "silent", scenario(6, "none", plan=ASKED), 6)
    for entry in released(tmp_path / "silent"):
        assert entry.costs is not None and set(entry.costs.values()) == {0.0}
    run(tmp_path / "unasked", scenario(6, "none", plan=ASKED | {"costs": None}), 6)
    assert [entry.costs for entry in released(tmp_path / "unasked")] == [None, None]
