"""The privacy part of a plan: who is protected (unit), where noise is added (placement), and how much.

What each spends against whom is `fedsus.privacy.adversaries`; nothing here is believed by a device.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from fedsus.strict import Positive, Strict

LEAST_RATE: Final = 1e-9
"""Of sampling: draws have 53 bits, and a chance near 2**-53 would not be the one that is accounted for."""

MOST_VARIANCE: Final = 8e10
"""Of one client's share, in steps squared: beyond it `fedsus.privacy.sampling.SkellamTable` would be too large."""


class NoPrivacy(Strict):
    """A run without differential privacy: epsilon is infinity, and each owner must have granted that."""

    unit: Literal["none"] = "none"


Epsilon = Annotated[float, Field(gt=0, le=1000)]
Delta = Annotated[float, Field(gt=0, lt=0.1)]
SamplingRate = Annotated[float, Field(ge=LEAST_RATE, le=1)]
NoiseMultiplier = Annotated[float, Field(gt=0, le=10_000)]


class ExamplePrivacy(Strict):
    """Example-level DP on the device: DP-SGD with Poisson batches (Abadi et al. 2016, Algorithm 1).

    Attributes:
        epsilon: what the whole run, spare attempts included, may spend; at ``delta``.
        clip: L2 bound C of one example's gradient.
        sampling_rate: q, the chance of each example to be in a batch.
        steps: batches a round: round(local_epochs / q); fixed, whatever the data.
        denominator: public constant that divides the noised sum of gradients. Not the shard's size: dividing
            by a private n would release it.
        noise_multiplier: z; each batch's sum gets Gaussian noise of standard deviation z * C. Calibrated once
            for rounds + spare attempts; each device recomputes what it spends and never trusts ``epsilon``.
    """

    unit: Literal["example"] = "example"
    placement: Literal["local"] = "local"
    epsilon: Epsilon
    delta: Delta
    clip: Positive
    sampling_rate: SamplingRate
    steps: Annotated[int, Field(ge=1, le=1_000_000)]
    denominator: Positive
    noise_multiplier: NoiseMultiplier


class Shares(Strict):
    """Skellam noise that nobody adds alone: each client of a secure sum adds its share to its integers.

    Attributes:
        scale: s, integer steps in one unit of the update.
        variance: of one client's share, in steps squared, for each coordinate of the update.
        bits: sums are taken mod 2**bits.
        colluders: A, clients whose shares are not counted against a server that works with them.
        survivors: least clients in a sum that is opened; the noise was calibrated for ``survivors - colluders`` shares.
        metrics: as ``variance``, for each metric and each cost; None where none are sent.
    """

    scale: Annotated[float, Field(gt=0, le=1e15)]
    variance: Annotated[float, Field(gt=0, le=MOST_VARIANCE)]
    bits: Annotated[int, Field(ge=16, le=32)]
    colluders: Annotated[int, Field(ge=0, le=1_000_000)]
    survivors: Annotated[int, Field(ge=1, le=1_000_000)]
    metrics: Annotated[float, Field(gt=0, le=MOST_VARIANCE)] | None = None

    @model_validator(mode="after")
    def _someone(self) -> Shares:
        if self.colluders >= self.survivors:
            raise ValueError(f"{self.colluders} colluders of {self.survivors} survivors: nobody's noise is left")
        return self


class ExampleDistributed(Strict):
    """Example-level DP across the federation: one gradient step a round, noise in shares, nobody trusted.

    The sum of all clients' clipped gradients, noised and divided by ``denominator``, times the learning rate of the
    round, is the update: DP-SGD over the union of the shards.

    Attributes:
        epsilon: against the server with its colluders, for the whole run with its spare attempts; at ``delta``.
        clip: L2 bound C of one example's gradient.
        sampling_rate: q, the chance of each example to be in a round's batch, drawn on its device.
        denominator: public constant that divides the noised sum: q times the public number of examples of all.
        shares: the noise; with ``metrics``, also of what each client tells beside its sum, of which one example may
            move everything (`fedsus.privacy.adversaries`).
    """

    unit: Literal["example"] = "example"
    placement: Literal["distributed"] = "distributed"
    epsilon: Epsilon
    delta: Delta
    clip: Positive
    sampling_rate: SamplingRate
    denominator: Positive
    shares: Shares


class ClientDistributed(Strict):
    """Client-level DP with noise in shares: a clipped update of any local training.

    Adjacency is zero-out: one client's integers are replaced by zeros; who takes part is public.

    Attributes:
        epsilon: against the server with its colluders, for the whole run with its spare attempts; at ``delta``.
        clip: L2 bound c of one client's weighted update.
        full_weight: n_max; an update of a client with n examples counts min(n / n_max, 1), before it is clipped.
            None: each counts 1.
        shares: the noise.
    """

    unit: Literal["client"] = "client"
    placement: Literal["distributed"] = "distributed"
    epsilon: Epsilon
    delta: Delta
    clip: Positive
    full_weight: Positive | None = None
    shares: Shares


class Adaptive(Strict):
    """A clipping bound that follows a quantile of the updates' norms (Andrew et al. 2021, Algorithm 1).

    Attributes:
        quantile: gamma, share of the updates that are to be below the bound.
        learning_rate: eta_C; the bound is multiplied by exp(-eta_C (share below, noised - gamma)) after each round.
        noise: standard deviation of the noise on how many are below the bound.
    """

    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.2
    noise: Annotated[float, Field(gt=0, le=1e9)]


class Banded(Strict):
    """Noise that is correlated over rounds: banded square-root factorisation (Kalinin and Lampert 2024).

    Attributes:
        bands: b; noise of a round is cancelled in part in the b - 1 rounds after it. A client takes part at most
            every b-th round: it refuses sooner.
        participations: k, most rounds of one client.
    """

    bands: Annotated[int, Field(ge=1, le=4096)]
    participations: Annotated[int, Field(ge=1, le=100_000)]


class ClientCentral(Strict):
    """Client-level DP whose noise the server adds: protects from who receives the models, not from the server.

    Attributes:
        epsilon: against recipients of the models, for the whole run; at ``delta``.
        clip: L2 bound c of one client's weighted update; with ``adaptive`` the first round's, and ``Plan.clip`` counts.
        full_weight: as `ClientDistributed`.
        noise_multiplier: z; noise of standard deviation z c (times what ``banded`` says) on the sum of updates.
        metrics: as ``noise_multiplier``, for metrics and costs together; None where none are sent.
        adaptive: the bound follows the updates; None keeps it.
        banded: noise correlated over rounds; None: independent.
    """

    unit: Literal["client"] = "client"
    placement: Literal["central"] = "central"
    epsilon: Epsilon
    delta: Delta
    clip: Positive
    full_weight: Positive | None = None
    noise_multiplier: NoiseMultiplier
    metrics: NoiseMultiplier | None = None
    adaptive: Adaptive | None = None
    banded: Banded | None = None

    @model_validator(mode="after")
    def _one_at_a_time(self) -> ClientCentral:
        if self.adaptive is not None and self.banded is not None:
            raise ValueError("adaptive clipping needs noise that is independent over rounds: banded has another bound")
        return self


def _kind(value: Any) -> str:
    """Unit and placement, by which the parts differ."""
    unit, placement = (
        (value.get("unit", "none"), value.get("placement", "local" if value.get("unit") == "example" else ""))
        if isinstance(value, dict)
        else (getattr(value, "unit", "none"), getattr(value, "placement", ""))
    )
    return f"{unit} {placement}".strip()


Private = ExamplePrivacy | ExampleDistributed | ClientDistributed | ClientCentral
Distributed = ExampleDistributed | ClientDistributed
Privacy = Annotated[
    Annotated[NoPrivacy, Tag("none")]
    | Annotated[ExamplePrivacy, Tag("example local")]
    | Annotated[ExampleDistributed, Tag("example distributed")]
    | Annotated[ClientDistributed, Tag("client distributed")]
    | Annotated[ClientCentral, Tag("client central")],
    Discriminator(
        _kind,
        custom_error_type="privacy",
        custom_error_message="unit and placement: none, example local, example distributed, client distributed or "
        "client central",
    ),
]


def measured(privacy: Privacy) -> bool:
    """Whether metrics and costs leave devices: without privacy in exact sums, else noised, for a part of the budget."""
    match privacy:
        case NoPrivacy():
            return True
        case ClientDistributed() | ExampleDistributed():
            return privacy.shares.metrics is not None
        case ClientCentral():
            return privacy.metrics is not None
        case _:
            return False
