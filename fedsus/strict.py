"""What all that is configured or sent is made of: frozen models that take nothing for something else."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, le=1e9)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, le=1e9)]


class Strict(BaseModel):
    """Frozen, no unknown fields, no silent conversions, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
