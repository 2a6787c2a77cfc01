"""What the cohorts of a run withstand: how many may collude, how many may fall out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fedsus.errors import ConfigError
from fedsus.secagg import thresholds
from fedsus.secagg.cohort import SIGMA, Choice, least_colluders
from fedsus.secagg.session import NO_SERVER, Session
from fedsus.secagg.thresholds import Thresholds

if TYPE_CHECKING:
    from fedsus.config import PlanConfig
    from fedsus.secagg.roster import Roster

_NOTHING: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a run's sessions withstand.

    Attributes:
        choice: how cohorts are chosen: the whole roster, drawn by its seed, or by this server.
        colluders, dropouts: A and D.
        thresholds: graph, k and t.
    """

    choice: Choice
    colluders: int
    dropouts: int
    thresholds: Thresholds


def numbers(asked: PlanConfig, roster: Roster | int | None) -> Numbers:
    """The numbers of a plan's cohorts, as devices will recompute them.

    Args:
        roster: or how many members it is going to have.

    Raises:
        ConfigError: no roster, one that is too small, or numbers that do not work.
    """
    if roster is None:
        raise ConfigError(
            "exchange 'secure_sum' needs the federation's signed roster: [server] roster; "
            "make one: fedsus federation new"
        )
    size, members = asked.cohort.size, roster if isinstance(roster, int) else len(roster.members)
    if members < size:
        whose = "a roster" if isinstance(roster, int) else f"roster {roster.number} of '{roster.federation}'"
        raise ConfigError(
            f"plan.cohort.size = {size}: {whose} has {members} members; "
            "ask for fewer, or let its owners admit more: fedsus federation admit"
        )
    choice: Choice = "whole" if members == size else asked.secure_sum.choice
    colluders = asked.secure_sum.colluders
    if colluders is None:
        colluders = least_colluders(choice, size, members, None)
    dropouts = asked.secure_sum.dropouts
    if dropouts is None:
        tolerated = thresholds.least_tolerance(size, colluders)
        dropouts = min(tolerated, size // 3) if size < thresholds.SPARSE_FROM else math.floor(size / 10)
    return Numbers(choice, colluders, dropouts, thresholds.solve(size, colluders, dropouts))


def imagined(asked: PlanConfig, found: Numbers, run: str, federation: str) -> Session:
    """A session with these numbers and nobody in it: what owners' policies judge before there is one."""
    return Session(
        federation=federation,
        roster=_NOTHING,
        number=1,
        server=NO_SERVER,
        nonce=_NOTHING,
        run=run,
        specification=_NOTHING,
        round=1,
        attempt=1,
        cohort=tuple(range(asked.cohort.size)),
        choice=found.choice,
        colluders=found.colluders,
        dropouts=found.dropouts,
        rule=found.thresholds.rule,
        neighbours=found.thresholds.neighbours,
        threshold=found.thresholds.threshold,
        sigma=SIGMA,
        minimum=asked.cohort.minimum,
        expires=0,
    )
