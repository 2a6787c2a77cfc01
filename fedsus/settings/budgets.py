"""How much may be spent: ``[budget]`` of run.toml (the operator's, a run) and of policy.toml (the owner's, a day)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedsus.strict import Positive, Strict


class Budget(Strict):
    """Caps; what is not given is not capped. Several count at once: whichever is reached first.

    Attributes:
        joules, kwh, grams: energy above idle, and its carbon (g CO2e).
    """

    joules: Positive | None = None
    kwh: Positive | None = None
    grams: Positive | None = None

    @property
    def most_joules(self) -> float | None:
        """The smaller of ``joules`` and ``kwh``, in joules; None where neither is capped."""
        given = [each for each in (self.joules, None if self.kwh is None else self.kwh * 3.6e6) if each is not None]
        return min(given, default=None)


class RunBudget(Budget):
    """``[budget]`` of run.toml: the server's usage and the devices' reports of a whole run.

    Attributes:
        device_watts: what one device is assumed to draw above idle while an attempt lasts, where it reports nothing;
            when not given, what is not reported is not counted.
        device_grams_per_kwh: the carbon intensity that is assumed for that.
    """

    device_watts: Annotated[float, Field(gt=0, le=100_000)] | None = None
    device_grams_per_kwh: Annotated[float, Field(gt=0, le=3000)] | None = None

    @model_validator(mode="after")
    def _assumed_together(self) -> RunBudget:
        if self.device_grams_per_kwh is not None and self.device_watts is None:
            raise ValueError("'device_grams_per_kwh' needs 'device_watts': grams are assumed of assumed joules")
        return self

    @property
    def capped(self) -> bool:
        """Whether anything is capped."""
        return self.most_joules is not None or self.grams is not None

    def assumed(self, devices: int, seconds: float) -> dict[Literal["joules", "grams"], float | None]:
        """Of so many devices that report nothing, over so many seconds; None where nothing is assumed."""
        if self.device_watts is None:
            return {"joules": None, "grams": None}
        joules, rate = self.device_watts * devices * seconds, self.device_grams_per_kwh
        return {"joules": joules, "grams": None if rate is None else joules / 3.6e6 * rate}

    def check_one_round(self, devices: int, seconds: float) -> None:
        """Refuse caps that one round of so many devices and seconds exceeds, as far as is assumed of them.

        Raises:
            ValueError: the cap, and what one round is assumed to take.
        """
        assumed = self.assumed(devices, seconds)
        for name, cap, took, unit in (
            ("joules", self.most_joules, assumed["joules"], "J"),
            ("grams", self.grams, assumed["grams"], "g CO2e"),
        ):
            if cap is not None and took is not None and took > cap:
                raise ValueError(
                    f"budget: below one round: the cap of {name} is {cap:.4g} {unit}, and one round of {devices} "
                    f"devices is assumed to take {took:.4g} {unit}; raise it, or ask fewer devices"
                )
