"""What metrics and costs cost a planned run of the example unit: the same run is calibrated without them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsus.privacy.adversaries import told_by_examples
from fedsus.protection import ExampleDistributed
from fedsus.rounds.planning.calibrated import calibrated
from fedsus.rounds.planning.specification import Specification

if TYPE_CHECKING:
    from fedsus.protection import Privacy


@dataclass(frozen=True, slots=True)
class Told:
    """What metrics and costs cost beside sums of gradients.

    Attributes:
        epsilon: that they alone spend.
        longer: the gradients' noise over what it would be without them.
        bits, alone: of each coordinate of a sum, with them and without.
    """

    epsilon: float
    longer: float
    bits: int
    alone: int


def told_beside(specification: Specification, members: int | None) -> Told | None:
    """None where nothing is told, or not beside sums of gradients."""
    import dp_accounting as dpa

    from fedsus.privacy.accounting import epsilon

    first, here, config = specification.first_plan, specification.privacy, specification.config
    if not isinstance(here, ExampleDistributed) or here.shares.metrics is None or not first.told:
        return None
    alone = config.plan.privacy.model_copy(update={"metrics_share": None})
    silent = config.model_copy(update={"plan": config.plan.model_copy(update={"privacy": alone})})

    def spends(privacy: Privacy, attempts: int) -> float:
        return Specification(config.name, silent, privacy, dimension=specification.dimension).epsilon(attempts)

    other = calibrated(silent, specification.dimension, members, spends)
    if not isinstance(other, ExampleDistributed):
        return None
    honest = here.shares.survivors - here.shares.colluders
    block = dpa.SelfComposedDpEvent(told_by_examples(first.told, here.shares.metrics * honest), specification.attempts)
    longer = math.sqrt(here.shares.variance / other.shares.variance)
    return Told(epsilon(block, here.delta), longer, here.shares.bits, other.shares.bits)
