"""Noise of what is told is drawn apart from that of the update: an audit adds the two up, and would not see it.

Were it the same draws, a difference of the two blocks would have next to no noise, and each alone would look right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from audited_plans import PLANS
from numpy.typing import NDArray

from fedsus.encoding import residues
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.privacy.noise import SeededNoise, SystemNoise
from fedsus.types import LocalUpdate, Noise

ROWS = 500
LARGEST = 7 / np.sqrt(ROWS)
"""Correlations of independent draws are larger less than once in 1e9 tests of 66 pairs."""

BLOCKS = pytest.mark.parametrize("name", ["example distributed, metrics, costs", "client distributed, metrics, costs"])


class Rewound:
    """A source that begins anew for each block that is drawn: what must never happen."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __getattr__(self, name: str) -> Any:
        return getattr(SeededNoise(self._seed), name)


def correlation(name: str, sources: list[Noise]) -> float:
    """The largest between two coordinates of a client that tells nothing, or between their absolute values."""
    plan = PLANS[name]
    mechanism, none = mechanism_of(plan), LocalUpdate(np.zeros(plan.dimension, np.float32), 1.0, np.zeros(0), 0, None)
    rings = np.stack([mechanism.encode(none, source) for source in sources])
    whole: NDArray[np.float64] = residues.signed(rings, mechanism.bits).astype(np.float64)
    whole -= np.rint(whole.mean(axis=0))
    assert mechanism.size == 12 and (whole.std(axis=0) > 1).all()
    found = [np.corrcoef(values, rowvar=False) - np.eye(mechanism.size) for values in (whole, np.abs(whole))]
    return float(np.abs(found).max())


@BLOCKS
def test_noise_of_each_coordinate_is_drawn_by_itself(name: str) -> None:
    assert correlation(name, [SystemNoise()] * ROWS) < LARGEST


@BLOCKS
def test_blocks_that_share_their_draws_are_found(name: str) -> None:
    assert correlation(name, [Rewound(seed) for seed in range(ROWS)]) > 2 * LARGEST
