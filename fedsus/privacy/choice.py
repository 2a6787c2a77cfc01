"""How the clients of a round are chosen, as types: what may amplify privacy, and what may not.

Sampling amplifies where chance alone decides who takes part, and nobody learns its outcome (Poisson sampling: Abadi et
al. 2016; Zhu and Wang 2019). A client that is chosen for its grid takes part in a pattern that the grid decides, and
that everybody can look up: nothing is amplified. So the two are two types, and amplification takes one of them.

No deployment of fedsus amplifies by a choice of clients at all (see `fedsus.privacy.adversaries`): a server can ask
whom it likes, and no client could tell. `Drawn` is for simulations and for what-if figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, final

import numpy as np

from fedsus.errors import ConfigError, EnvironmentFault

if TYPE_CHECKING:
    from dp_accounting import DpEvent

_LEAST: Final = 1e-6
_ROUNDING: Final = 1e-9


@final
@dataclass(frozen=True, slots=True)
class Drawn:
    """Each client takes part with probability ``rate``, by a coin of its own; grids, data and history play no part.

    Raises:
        ConfigError: ``rate`` is outside (0, 1].
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ConfigError(f"drawn clients: rate = {self.rate}: above 0, at most 1")


@final
@dataclass(frozen=True, slots=True)
class ByGrid:
    """In each round the clients of one region, chosen by the carbon intensity of its grid; with a floor of fairness.

    Attributes:
        regions: their names.
        floor: after any number n of rounds, each region had at least floor(``floor`` * n) of them; 0 for none, else at
            least 1e-6.

    Raises:
        ConfigError: no regions, or one twice; ``floor`` is too small, or more than one over their number.
    """

    regions: tuple[str, ...]
    floor: float

    def __post_init__(self) -> None:
        if not self.regions or len(set(self.regions)) != len(self.regions):
            raise ConfigError(f"chosen by grid: regions {self.regions}: one or more, each once")
        most = 1 / len(self.regions)
        if self.floor != 0 and not _LEAST <= self.floor <= most + _ROUNDING:
            raise ConfigError(
                f"chosen by grid: floor = {self.floor}: 0, or from {_LEAST:g} to {most:.4g}, for {len(self.regions)} "
                "regions share the rounds"
            )

    def choose(self, rounds: Mapping[str, int], intensities: Mapping[str, float]) -> str:
        """The cleanest region for the next round that leaves each other one its floor; no chance in it.

        Rounds that are owed are jobs of one round each, due when the floor grows. One schedule that meets all due dates
        exists if and only if for each date no more rounds are due than there are until then (one machine, earliest due
        date first: Jackson 1955). The cleanest region after which that is still so is taken; of equally clean ones the
        one with fewest rounds, then the first.

        Args:
            rounds: that each region had so far, as this function chose them.
            intensities: g CO2e/kWh by region.

        Raises:
            EnvironmentFault: a region without an intensity, or one that is no number from 0 on.
            ConfigError: a region is already below its floor: somebody else chose.
        """
        had = {region: rounds.get(region, 0) for region in self.regions}
        for region in self.regions:
            value = intensities.get(region, math.nan)
            if not (math.isfinite(value) and value >= 0):
                raise EnvironmentFault(
                    f"region '{region}': no carbon intensity ({value}): the next round cannot choose"
                )
        order = sorted(self.regions, key=lambda region: (intensities[region], had[region]))
        for region in order:
            if self._fits(had | {region: had[region] + 1}):
                return region
        raise ConfigError(f"chosen by grid: rounds {had} are below the floor of {self.floor:g} already")

    def _fits(self, had: Mapping[str, int]) -> bool:
        """Whether all rounds that will ever be owed can be had in time; later ones than these follow by themselves."""
        now, counts = sum(had.values()), np.array(list(had.values()))
        if not self.floor:
            return True
        owed = np.arange(1, counts.max() + 2)
        due = np.ceil((owed - _ROUNDING) / self.floor)
        missing = np.maximum(owed[:, None] - counts, 0).sum(axis=1)
        return bool(np.all(missing <= np.maximum(due - now, 0)))


Choice: TypeAlias = Drawn | ByGrid


def amplified(event: DpEvent, choice: Drawn) -> DpEvent:
    """A round's event for clients that are drawn: of adding or removing one, where nobody learns who was drawn.

    Raises:
        TypeError: the clients are chosen otherwise. Type checkers refuse it before.
    """
    if type(choice) is not Drawn:
        raise TypeError(f"{type(choice).__name__} is no draw: who is chosen by a rule gains nothing by amplification")
    import dp_accounting as dpa

    return dpa.PoissonSampledDpEvent(choice.rate, event)


def composed(event: DpEvent, rounds: int, choice: Choice) -> DpEvent:
    """What ``rounds`` rounds with noise that is drawn anew spend: amplified if drawn; else as if each client took part
    in each of them. For noise that is correlated over rounds, `most_rounds` bounds how often one does.
    """
    import dp_accounting as dpa

    return dpa.SelfComposedDpEvent(amplified(event, choice) if isinstance(choice, Drawn) else event, rounds)


def most_rounds(rounds: int, bands: int = 1) -> int:
    """In how many rounds one client takes part at most, however it is chosen: each device refuses a round that comes
    sooner than ``bands`` after its last.
    """
    return -(-rounds // bands)
