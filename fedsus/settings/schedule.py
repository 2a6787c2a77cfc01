"""``[schedule]`` of run.toml: when the rounds of a run start. Who is asked never depends on it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedsus.strict import Strict


class ScheduleSettings(Strict):
    """``[schedule]``.

    Attributes:
        policy: "immediate": a round starts once the one before is released; "cleanest": it may be put off, to the
            hours for which the least carbon is forecast.
        slack_hours: how much later than an immediate run the last round may be released, at most.
        duration: seconds that one round takes, until the run's own rounds tell; when not given, the first one is not
            put off.
        step_minutes: rounds are put off in such steps, and the forecast is looked at again after each.
    """

    policy: Literal["immediate", "cleanest"] = "immediate"
    slack_hours: Annotated[float, Field(ge=0, le=8784)] = 0.0
    duration: Annotated[float, Field(gt=0, le=1e6)] | None = None
    step_minutes: Annotated[float, Field(ge=1, le=1440)] = 5.0
