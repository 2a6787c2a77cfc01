"""Seconds a round of a simulation, multilayer perceptron 784-64-10; against pfl-research, a bare loop and Flower's."""

from __future__ import annotations

from typing import Any, Final

from fedsus_simulations.benchmarks import simulate_images
from fedsus_simulations.benchmarks.simulate_images import Case
from fedsus_simulations.benchmarks.simulate_peers import Places

_CASE: Final = Case(network="mlp", rounds=10, most=0.05, times=5.0, masked=simulate_images.COHORT)


def run(quick: bool, places: Places | None = None) -> dict[str, Any]:
    """As `simulate_images.measure`."""
    return simulate_images.measure(_CASE, quick, places or Places())
