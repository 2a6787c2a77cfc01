"""``[plan.privacy]`` of run.toml: who is protected from whom, and what a run may spend."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedsus.strict import Positive, Strict


class AdaptiveConfig(Strict):
    """``[plan.privacy.adaptive]``: the clipping bound follows a quantile of the updates' norms (Andrew et al. 2021).

    Attributes:
        quantile: share of the updates that are to be below the bound.
        learning_rate: how quickly the bound follows.
        noise: standard deviation of the noise on how many are below. When not given a twentieth of the cohort, and
            more where that would spend over a tenth of the budget.
    """

    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.2
    noise: Annotated[float, Field(ge=0.05, le=1e6)] | None = None


class PrivacyConfig(Strict):
    """``[plan.privacy]``: who is protected, where noise is added, and what the run may spend; the noise is calibrated.

    Attributes:
        unit: "example": one row of a client's data; "client": all that a client has.
        placement: "local": on each device, from everyone; "distributed": in shares under a secure sum, from a server
            with few colluders; "central": at the server, from who receives the models. When not given "local" for
            examples and "distributed" for clients.
        epsilon, delta: for the whole run, spare attempts included; against the strongest adversary of the placement.
        clip: L2 bound of one example's gradient, or of one client's update; with ``adaptive`` the first round's.
        sampling_rate: q, examples alone: the chance of each to be in a batch.
        denominator: examples alone: public constant that divides the noised sum of gradients. Local: of one client's
            batch; distributed: of all clients' batches together.
        full_weight: clients alone: an update of a client with n examples is multiplied by min(n / full_weight, 1)
            before it is clipped; when not given all count 1. What divides the sum is the number of clients, for a
            divisor that depends on the data would need noise of its own.
        granularity: distributed alone: scale * clip / sqrt(dimension), dimension padded. More costs bits and gives
            accuracy: rounding lengthens an example's gradient by 1 / granularity.
        bits: distributed alone: sums are taken mod 2**bits; when not given, what the sum needs.
        metrics_share: clients, and examples distributed: share of the budget that is spent on what is told beside the
            update: metrics and costs; when not given none are sent. Of clients' updates and what is told, the share of
            the noise's inverse squares; for examples, what is told alone spends this share of epsilon.
        adaptive: central alone: the bound follows the updates.
        bands: central alone: noise is correlated over so many rounds, and a client takes part in every so many: at
            most rounds / bands times, rounded up, which the noise is calibrated for and devices enforce.
    """

    unit: Literal["none", "example", "client"] = "none"
    placement: Literal["local", "distributed", "central"] | None = None
    epsilon: Annotated[float, Field(gt=0, le=1000)] | None = None
    delta: Annotated[float, Field(gt=0, lt=0.1)] | None = None
    clip: Annotated[float, Field(ge=1e-9, le=1e9)] = 1.0
    sampling_rate: Annotated[float, Field(ge=1e-9, le=1)] = 0.1
    denominator: Positive | None = None
    full_weight: Positive | None = None
    granularity: Annotated[float, Field(ge=0.5, le=4096)] = 32.0
    bits: Annotated[int, Field(ge=16, le=32)] | None = None
    metrics_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    adaptive: AdaptiveConfig | None = None
    bands: Annotated[int, Field(ge=1, le=4096)] | None = None

    @property
    def where(self) -> str:
        """The placement, given or not."""
        return self.placement or ("distributed" if self.unit == "client" else "local")

    @model_validator(mode="after")
    def _complete(self) -> PrivacyConfig:
        if self.unit == "none":
            for name, field in type(self).model_fields.items():
                if field.default is None and getattr(self, name) is not None:
                    raise ValueError(
                        f"'{name}' and the like need unit = 'example' or 'client': with 'none' nobody is protected"
                    )
            return self
        needed = ("epsilon", "delta", "denominator") if self.unit == "example" else ("epsilon", "delta")
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"unit '{self.unit}' needs '{name}'")
        self._fits()
        return self

    def _fits(self) -> None:
        """What one unit or placement alone has."""
        if (self.unit, self.where) in (("example", "central"), ("client", "local")):
            choices = "'local' or 'distributed'" if self.unit == "example" else "'distributed' or 'central'"
            raise ValueError(f"placement '{self.where}' is not there for unit '{self.unit}': choose {choices}")
        for name, unit, where in (
            ("denominator", "example", None),
            ("full_weight", "client", None),
            ("bits", None, "distributed"),
            ("adaptive", None, "central"),
            ("bands", None, "central"),
        ):
            if getattr(self, name) is not None and (unit not in (None, self.unit) or where not in (None, self.where)):
                raise ValueError(f"'{name}' needs " + (f"unit = '{unit}'" if unit else f"placement = '{where}'"))
        if self.metrics_share is not None and (self.unit, self.where) == ("example", "local"):
            raise ValueError(
                "'metrics_share' needs placement = 'distributed', where noise in shares hides what is told, or "
                "unit = 'client'"
            )
        if self.adaptive is not None and self.bands is not None:
            raise ValueError(
                "'adaptive' and 'bands' exclude each other: correlated noise needs one bound for all rounds"
            )
