"""Seconds a round of a simulation, convolutional network; against pfl-research, a bare loop and Flower's engine."""

from __future__ import annotations

from typing import Any, Final

from fedsus_simulations.benchmarks import simulate_images
from fedsus_simulations.benchmarks.simulate_images import Case
from fedsus_simulations.benchmarks.simulate_peers import Places

_CASE: Final = Case(network="cnn", rounds=5, most=0.30, times=3.0)


def run(quick: bool, places: Places | None = None) -> dict[str, Any]:
    """As `simulate_images.measure`."""
    return simulate_images.measure(_CASE, quick, places or Places())
