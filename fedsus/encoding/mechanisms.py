"""The mechanism of a plan: one line for each unit and placement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsus.encoding.mechanism import FixedPoint
from fedsus.protection import ClientCentral, ClientDistributed, ExampleDistributed

if TYPE_CHECKING:
    from fedsus.encoding.mechanism import Mechanism
    from fedsus.plan import Plan


def mechanism_of(plan: Plan) -> Mechanism:
    """What encodes updates and decodes sums under ``plan``, the same on both sides.

    Raises:
        ConfigError: the plan's numbers cannot carry its cohort.
    """
    match plan.privacy:
        case ClientDistributed() as privacy:
            from fedsus.encoding.skellam import ClientSkellam

            return ClientSkellam(plan, privacy)
        case ExampleDistributed() as privacy:
            from fedsus.encoding.skellam import ExampleSkellam

            return ExampleSkellam(plan, privacy)
        case ClientCentral() as privacy:
            from fedsus.encoding.central import ClientGaussian

            return ClientGaussian(plan, privacy)
        case _:
            return FixedPoint(plan)
