"""``[plan.downlink]``: models travel to clients as quantized differences to the last one that they have."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedsus.strict import Strict


class Downlink(Strict):
    """``[plan.downlink]``; absent, each client receives the whole float32 model in each round.

    Attributes:
        bits: of one coordinate of a difference.
        block: coordinates with one scale of their own.
    """

    bits: Literal[2, 4, 8] = 8
    block: Annotated[int, Field(ge=16, le=1_048_576)] = 2048
