"""The mechanism of a plan: one line for each unit and placement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fedsus.encoding.mechanism import FixedPoint
from fedsus.errors import ConfigError
from fedsus.protection import ClientCentral, ClientDistributed, ExampleDistributed

if TYPE_CHECKING:
    from fedsus.encoding.mechanism import Mechanism
    from fedsus.plan import Plan

CANCELLED: Final = (
    "plan.encoding.uplink with plan.privacy.bands: noise of one round is cancelled at the same coordinates in the next "
    "ones, and each round sends others; leave one of the two out"
)


def mechanism_of(plan: Plan) -> Mechanism:
    """What encodes updates and decodes sums under ``plan``, the same on both sides.

    Raises:
        ConfigError: the plan's numbers cannot carry its cohort, or its noise is cancelled in later rounds and its
            coordinates are others in each.
    """
    if plan.encoding.uplink is not None:
        from fedsus.encoding.reduction import Reduced, Reduction

        reduction = Reduction.of(plan)
        whole = plan.encoding.model_copy(update={"uplink": None})
        inner = plan.model_copy(
            update={"encoding": whole, "dimension": plan.coordinates if reduction else plan.dimension}
        )
        if reduction is None:
            return mechanism_of(inner)
        if (
            isinstance(plan.privacy, ClientCentral)
            and plan.privacy.banded is not None
            and plan.privacy.banded.bands > 1
        ):
            raise ConfigError(CANCELLED)
        return Reduced(reduction, mechanism_of(inner))
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
