"""The lines of a receipt that say what a run spent of privacy, and what its masked sums withstood."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedsus.reporting.figures import Count, Text
from fedsus.strict import Strict

Epsilon = Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["infinite"]


class Loss(Strict):
    """What the run spent of one unit against one adversary.

    Attributes:
        unit: who is protected: one example, one patient, all of a client.
        adversary: from whom; see `fedsus.privacy.adversaries`.
        epsilon: an upper bound at ``delta``, rounded up to five digits; "infinite": not protected.
        delta: None without differential privacy.
        goal: whether the run's noise was calibrated for this one.
        assumptions: under which it holds, in words.
    """

    unit: Literal["example", "patient", "client"]
    adversary: Literal["server", "clients", "recipients"]
    epsilon: Epsilon
    delta: Annotated[float, Field(gt=0, lt=1)] | None
    goal: bool
    assumptions: tuple[Text, ...]


class PrivacySpent(Strict):
    """Differential privacy.

    Attributes:
        unit: "none": a run without.
        placement: where noise is added; None without.
        asked_epsilon: what the operator asked for rounds and spare attempts together; None without.
        attempts: how many attempts were counted: all that were opened.
        losses: for each unit against each adversary.
    """

    unit: Literal["none", "example", "client"]
    placement: Literal["local", "distributed", "central"] | None
    asked_epsilon: float | None
    attempts: Count
    losses: tuple[Loss, ...]


class SecureSum(Strict):
    """What the masked sums withstood.

    Attributes:
        choice: how cohorts were chosen: the whole roster, drawn by its seed, or named by the server.
        colluders, dropouts: A and D.
        threshold: t, the shares that rebuild a secret.
        neighbours: k, the holders of each client's shares.
        rule: the graph.
        minimum: survivors below which nothing is released.
    """

    choice: Literal["whole", "drawn", "named"]
    colluders: Count
    dropouts: Count
    threshold: Count
    neighbours: Count
    rule: Literal["complete", "harary"]
    minimum: Count
