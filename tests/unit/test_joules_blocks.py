"""Random orders of blocks, and the interval of a median over them: how often it holds what is true."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from fedsus.costs import Usage
from fedsus.errors import ConfigError, RunFailed
from fedsus.owner.consumed import Consumed
from fedsus_simulations.benchmarks import joules_kept
from fedsus_simulations.benchmarks.joules_blocks import Estimate, estimate, held, orders, words
from fedsus_simulations.benchmarks.joules_spent import Spent
from fedsus_simulations.benchmarks.utility_kept import Kept


@dataclass(frozen=True)
class Way:
    name: str


WAYS = [f"way {number}" for number in range(9)]
WAYS_OF = [Way(name) for name in WAYS[:4]]


def spent(joules: float) -> Spent:
    usage = Usage(
        seconds=1.0,
        joules={"train": joules},
        low=joules,
        high=joules,
        idle=0.0,
        method="assumed",
        source="a model",
        boundary="all",
    )
    used = Consumed.of(usage)
    return Spent(
        devices=used, server=used, first=1.0, seconds=(1.0, 2.0), sent=3, received=4, processor={"server": 1.0}
    )


def test_each_block_has_every_way_once_in_an_order_of_its_own() -> None:
    made = list(orders(WAYS, 50))
    assert all(sorted(order) == sorted(WAYS) for order in made)
    assert len({tuple(order) for order in made}) == 50
    assert list(orders(WAYS, 50)) == made
    assert list(islice(orders(WAYS, 99), 50)) == made, "more blocks begin alike"
    assert list(orders(WAYS, 50, seed=21)) != made


def test_every_way_is_at_every_place_about_as_often() -> None:
    """Chi-square over places, 3,600 blocks, 64 degrees of freedom: above 150 with chance 1e-8; the seed is fixed."""
    blocks = 3600
    counts = np.zeros((len(WAYS), len(WAYS)))
    for order in orders(WAYS, blocks):
        for place, way in enumerate(order):
            counts[place, WAYS.index(way)] += 1
    expected = blocks / len(WAYS)
    assert ((counts - expected) ** 2 / expected).sum() < 150
    rotated = np.array([[sum(1 for b in range(blocks) if (p + b) % 8 == w) for w in range(9)] for p in range(9)])
    assert ((rotated - expected) ** 2 / expected).sum() > 150, "a control: orders that never use one place"


def test_the_median_and_its_interval() -> None:
    found = estimate([3.0, 1.0, 2.0])
    assert (found.median, found.low, found.high, found.blocks) == (2.0, 1.0, 3.0, 3)
    assert str(found) == "2 (1 to 3)"
    assert str(estimate([0.25])) == "0.25"
    assert "no interval" in words(1)
    assert estimate([1.0] * 6 + [100.0]).high == 1.0, "one wild block moves neither"
    assert estimate([0.2, 0.3, 0.4]) == Estimate(0.3, 0.2, 0.4, 3)
    with pytest.raises(RunFailed, match="no block"):
        estimate([])


@pytest.mark.parametrize(("blocks", "least"), [(3, 0.75), (5, 0.9375), (7, 0.875)])
def test_how_often_the_interval_holds_the_truth_is_told(blocks: int, least: float) -> None:
    """By hand: 1 - 2 / 2**n from least to largest; seven blocks leave one out on each side, 1 - 2 (1 + 7) / 2**7."""
    assert held(blocks) == pytest.approx(least)
    assert f"{100 * least:.0f} of 100" in words(blocks)
    generator, trials = np.random.default_rng(1), 200
    inside = 0
    for _ in range(trials):
        found = estimate(list(generator.lognormal(0.0, 0.3, blocks)))
        inside += found.low <= 1.0 <= found.high
    # Five standard deviations: false alarms below 1e-6; the seed is fixed besides.
    assert abs(inside / trials - least) < 5 * (least * (1 - least) / trials) ** 0.5


def test_blocks_are_kept_whole_and_gone_on_with(tmp_path: Path) -> None:
    measured = []

    def measure(order: list[Way], block: int) -> dict[str, Spent]:
        measured.append((block, [way.name for way in order]))
        if block == 2 and len(measured) == 3:
            raise KeyboardInterrupt
        return {way.name: spent(float(block + 1)) for way in order}

    def run(asked: str = "x") -> tuple[dict[str, list[Spent]], list[float]]:
        return joules_kept.blocks(Kept(tmp_path / "runs.jsonl"), {"part": asked}, WAYS_OF, 3, measure, 20)

    with pytest.raises(KeyboardInterrupt):
        run()
    found, loads = run()
    assert [block for block, _ in measured] == [0, 1, 2, 2], "the block that was cut off is measured whole"
    assert [order for _, order in measured[:3]] == [[way.name for way in one] for one in orders(WAYS_OF, 3, 20)]
    assert found == {way.name: [spent(1.0), spent(2.0), spent(3.0)] for way in WAYS_OF}
    assert len(loads) == 3
    run("another")
    assert len(measured) == 7
    (tmp_path / "runs.jsonl").write_text((tmp_path / "runs.jsonl").read_text().replace('"train": 1.0', '"train": -1.0'))
    with pytest.raises(ConfigError, match="block 0 of .* cannot be read; remove its line"):
        run()
