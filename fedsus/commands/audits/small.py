"""A run's plan, made so small that it can be carried out a hundred thousand times: the same noise for what is moved."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from fedsus.errors import ConfigError
from fedsus.privacy.sensitivity import padded
from fedsus.protection import ClientCentral, ClientDistributed, ExampleDistributed, ExamplePrivacy, NoPrivacy

if TYPE_CHECKING:
    from fedsus.plan import Plan
    from fedsus.protection import Distributed

DIMENSION: Final = 8
"""Of an update whose noise is in shares: a power of two, so that nothing is padded."""

_SURVIVORS: Final = 8
_BANDS: Final = 8
_LEAST_SHARE: Final = 1 / 8
_TIMES: Final = 3


def small(plan: Plan) -> tuple[Plan, list[str]]:
    """The plan that is audited in place of ``plan``, and what differs, in words.

    Kept are: scale * clip / sqrt(dimension) and noise / (scale * clip) of noise in shares, the part of the shares that
    colluders know as nearly as few clients can have it, noise multipliers, sampling rate, steps and bits.

    Raises:
        ConfigError: the run has no privacy to audit.
    """
    match plan.privacy:
        case NoPrivacy():
            raise ConfigError("plan.privacy.unit = 'none': there is no claim to audit")
        case ExamplePrivacy():
            whole = plan.encoding.model_copy(update={"uplink": None})  # what follows the noise can only hide
            return plan.model_copy(update={"encoding": whole}), [
                "a linear model of plain steps, which shows the sum of all noised gradients"
            ]
        case ClientDistributed() | ExampleDistributed() as privacy:
            return _shares(plan, privacy)
        case ClientCentral() as privacy:
            return _central(plan, privacy)


def _shares(plan: Plan, privacy: Distributed) -> tuple[Plan, list[str]]:
    shares = privacy.shares
    survivors, colluders = _clients(shares.survivors, shares.colluders)
    fewer = (shares.survivors - shares.colluders) / (survivors - colluders)
    smaller = math.sqrt(DIMENSION / padded(plan.coordinates))
    made = shares.model_copy(
        update={
            "scale": shares.scale * smaller,
            "variance": shares.variance * smaller**2 * fewer,
            "metrics": None if shares.metrics is None else shares.metrics * fewer,
            "survivors": survivors,
            "colluders": colluders,
            "bits": 32,
        }
    )
    cohort = plan.cohort.model_copy(update={"size": survivors, "minimum": survivors})
    changes = {"privacy": privacy.model_copy(update={"shares": made}), "cohort": cohort}
    notes = [f"{DIMENSION} coordinates instead of {plan.coordinates}, as many steps in each"]
    if (survivors, colluders) != (shares.survivors, shares.colluders):
        notes.append(
            f"{survivors} survivors with {colluders} colluders instead of {shares.survivors} with {shares.colluders}, "
            "as much noise of honest clients in all"
        )
    return sending(plan, DIMENSION).model_copy(update=changes), notes


def sending(plan: Plan, coordinates: int) -> Plan:
    """The plan with so many parameters that ``coordinates`` are sent: reduced by about as much, at most eightfold."""
    uplink = plan.encoding.uplink
    if uplink is None or plan.coordinates == plan.dimension:
        whole = plan.encoding.model_copy(update={"uplink": None})
        return plan.model_copy(update={"dimension": coordinates, "encoding": whole})
    dimension = max(int(coordinates / max(uplink.share, _LEAST_SHARE)), coordinates + 1)
    share = uplink.model_copy(update={"share": (coordinates - 0.5) / dimension})
    return plan.model_copy(
        update={"dimension": dimension, "encoding": plan.encoding.model_copy(update={"uplink": share})}
    )


def _clients(survivors: int, colluders: int) -> tuple[int, int]:
    """Few clients of whom about the same part colludes, none only if none did, and two are honest besides."""
    if survivors <= _SURVIVORS:
        return survivors, colluders
    if not colluders:
        return 3, 0
    fewer = max(1, round(_SURVIVORS * colluders / survivors))
    return _SURVIVORS, min(fewer, _SURVIVORS - 3)


def _central(plan: Plan, privacy: ClientCentral) -> tuple[Plan, list[str]]:
    notes = ["128 coordinates and 64 clients, each with a coordinate of its own"]
    banded = privacy.banded
    if banded is None:
        return plan, notes
    fewer = banded.model_copy(
        update={"bands": min(banded.bands, _BANDS), "participations": min(banded.participations, _TIMES)}
    )
    if fewer != banded:
        notes.append(
            f"{fewer.bands} bands and {fewer.participations} rounds of one client instead of {banded.bands} and "
            f"{banded.participations}, with noise for so many"
        )
    return plan.model_copy(update={"privacy": privacy.model_copy(update={"banded": fewer})}), notes
