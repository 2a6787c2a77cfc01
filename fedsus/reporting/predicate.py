"""What a receipt says: an in-toto Statement (version 1) whose predicate holds every cost of a run.

Each field is a function of the journal alone (`fedsus.reporting.statement.statement`), so that whoever has the journal
can recompute it. `docs/receipt.md` explains each one.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from fedsus.plan import Hash, Name
from fedsus.reporting.cost_lines import Carbon as Carbon
from fedsus.reporting.cost_lines import Directions as Directions
from fedsus.reporting.cost_lines import Energy as Energy
from fedsus.reporting.cost_lines import EnergySpent as EnergySpent
from fedsus.reporting.cost_lines import Operational as Operational
from fedsus.reporting.cost_lines import SoftwareCarbonIntensity as SoftwareCarbonIntensity
from fedsus.reporting.cost_lines import Traffic as Traffic
from fedsus.reporting.figures import Absent, Count, Figure, Quantity, Text
from fedsus.reporting.privacy_lines import Loss as Loss
from fedsus.reporting.privacy_lines import PrivacySpent as PrivacySpent
from fedsus.reporting.privacy_lines import SecureSum as SecureSum
from fedsus.strict import Strict

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:fedsus:receipt:2"
SIMULATED: Final = "a simulation: no device took part, and its noise may come from a seed that somebody knows"


class Digest(Strict):
    """SHA-256, hex."""

    sha256: Hash


class Subject(Strict):
    """What a receipt is of.

    Attributes:
        name: "model": the released model's float32 values, little-endian; "checkpoint": the file in ``blobs/`` that
            holds it; "journal": the journal's last line, of a run that released nothing.
        digest: its SHA-256.
    """

    name: Literal["model", "checkpoint", "journal"]
    digest: Digest


class Run(Strict):
    """Which run, and how it ended.

    Attributes:
        status: "open" only in reports: a receipt is of a run that is over.
        because: what ended it before its last round; None elsewhere.
        opened, closed: seconds since the epoch, by the server's clock.
    """

    name: Name
    status: Literal["open", "completed", "stopped", "failed"]
    because: str | None
    opened: float
    closed: float | None


class AskedPlan(Strict):
    """One attempt: the hash of the plan that its cohort was sent, as devices note it in their ledgers."""

    round: Annotated[int, Field(ge=1)]
    attempt: Annotated[int, Field(ge=1)]
    digest: Hash


class Asked(Strict):
    """What was asked of the devices.

    Attributes:
        configuration: run.toml without the operator's own files and speed settings.
        privacy: the privacy part of every plan, with the calibrated noise.
        specification: hash of all that is the same in every plan; None in journals from before dimensions were noted.
        initial_model: SHA-256 of the model that the first round was sent.
        plans: every attempt, those that released nothing included.
        fedsus: version that opened the run.
        software: distribution -> version, and the hashes "code" and "lock"; None where the journal has none.
    """

    configuration: dict[str, Any]
    privacy: dict[str, Any]
    specification: Hash | None
    initial_model: Hash
    plans: tuple[AskedPlan, ...]
    fedsus: str
    software: dict[str, str] | None


class RosterReference(Strict):
    """Which roster: the members themselves are in the journal and in the federation's file."""

    federation: Name
    number: Annotated[int, Field(ge=1)]
    digest: Hash
    members: Count


class Released(Strict):
    """One released round, counted over its cohort."""

    round: Annotated[int, Field(ge=1)]
    attempt: Annotated[int, Field(ge=1)]
    survivors: Count
    refused: Count
    lost: Count


class Participation(Strict):
    """Who took part, counted and never named.

    Attributes:
        roster: None where the sum is in clear: nobody pins its members.
        cohort: how many are asked in each attempt.
        rounds: released rounds; one after the last is the evaluation of the final model.
        survivors, refused, lost: over these rounds.
        attempts: all attempts.
        abandoned: attempts that released nothing and said why.
        cut_off: attempts that a crash ended; they count as spent.
    """

    roster: RosterReference | None
    cohort: Count
    rounds: tuple[Released, ...]
    survivors: Count
    refused: Count
    lost: Count
    attempts: Count
    abandoned: Count
    cut_off: Count


class Measured(Strict):
    """A metric's value in one release: of the model that its round was sent."""

    round: Annotated[int, Field(ge=1)]
    value: Figure


class Metric(Strict):
    """A metric over the run.

    Attributes:
        first, last, best: of the releases whose noise does not hide it.
        better: "lower" for losses and errors, else "higher".
    """

    first: Measured
    last: Measured
    best: Measured
    better: Literal["lower", "higher"]


class Time(Strict):
    """Seconds by the server's clock.

    Attributes:
        run: from the first entry to the last.
        rounds: of released rounds.
        waited: put off for cleaner hours.
        virtual: the clock of a simulation; absent in a deployment.
    """

    run: Figure
    rounds: Figure
    waited: Figure
    virtual: Quantity


class Budgets(Strict):
    """What the operator capped, and what ended the run.

    Attributes:
        caps: of ``[budget]`` of run.toml: joules, kwh, grams; empty without.
        counted: what counts towards them.
        epsilon: of the goal; None without differential privacy.
        attempts: rounds and spares.
        ended_by: in words.
    """

    caps: dict[str, float]
    counted: dict[Literal["joules", "grams"], Figure]
    epsilon: float | None
    attempts: Count
    ended_by: Text


class JournalReference(Strict):
    """The journal that all of this is recomputed from: its last line's SHA-256, and how many lines."""

    head: Hash
    entries: Annotated[int, Field(ge=1)]


class Model(Strict):
    """The released model.

    Attributes:
        hash: SHA-256 of its float32 values, as plans name it; None in journals from before it was noted.
        checkpoint: SHA-256 of the file in ``blobs/``.
        dimension: parameters; None in journals from before it was noted.
    """

    hash: Hash | None
    checkpoint: Hash
    dimension: Annotated[int, Field(ge=1)] | None


class Predicate(Strict):
    """All that a receipt says."""

    run: Run
    operator: Hash | None
    asked: Asked
    participation: Participation
    privacy: PrivacySpent
    secure_sum: SecureSum | Absent
    energy: EnergySpent
    carbon: Carbon
    traffic: Traffic
    sci: SoftwareCarbonIntensity
    metrics: dict[str, Metric | Absent] | Absent
    time: Time
    budgets: Budgets
    model: Model | Absent
    journal: JournalReference


class Statement(Strict):
    """An in-toto Statement (version 1); as JSON by `fedsus.reporting.statement.plain`."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_by_name=True, validate_by_alias=True
    )

    type: Literal["https://in-toto.io/Statement/v1"] = Field(default=STATEMENT_TYPE, alias="_type")
    subject: Annotated[tuple[Subject, ...], Field(min_length=1)]
    predicate_type: Literal["urn:fedsus:receipt:2"] = Field(default=PREDICATE_TYPE, alias="predicateType")
    predicate: Predicate


def simulated(payload: Any) -> bool:
    """Whether a receipt's plain data are of a simulation, which alone has a clock of its own."""
    return "value" in payload["predicate"]["time"]["virtual"]


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a statement, as receipts hold it."""
    found: dict[str, Any] = Statement.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": PREDICATE_TYPE, **found}
