"""What one round asks: the only configuration that crosses the wire.

A plan is encoded as canonical JSON (sorted keys, no white space, shortest round-trip numbers), so that equal
plans have equal bytes and one hash. Decoding is strict: unknown fields, wrong types, infinities and bytes
that are not the canonical form are refused. Nothing in a plan differs between clients.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, model_validator

from fedsus.costs import Costs
from fedsus.errors import ProtocolViolation
from fedsus.protection import ClientCentral as ClientCentral
from fedsus.protection import ExamplePrivacy as ExamplePrivacy
from fedsus.protection import NoPrivacy as NoPrivacy
from fedsus.protection import Privacy as Privacy
from fedsus.protection import measured
from fedsus.settings.downlink import Downlink as Downlink
from fedsus.settings.training import Optimizer as Optimizer
from fedsus.settings.training import Schedule as Schedule
from fedsus.settings.training import Training as Training
from fedsus.settings.training import learning_rate as learning_rate
from fedsus.strict import Hash as Hash
from fedsus.strict import Name as Name
from fedsus.strict import NonNegative as NonNegative
from fedsus.strict import Positive as Positive
from fedsus.strict import Strict as Strict

VERSION = 1
MAX_BYTES = 64 * 1024
_TAG = b"fedsus plan"
_CHANGES = ("round", "attempt", "model", "purpose", "session", "clip")

Scalar = bool | int | float | str
Exchange = Literal["clear_sum", "secure_sum"]
M = TypeVar("M", bound=BaseModel)


def _later() -> Any:
    """A field that plans did not always have: left out where it is None, so that older plans keep bytes and hash."""
    return Field(default=None, exclude_if=lambda value: value is None)


class TaskPart(Strict):
    """Which installed task: a key into the device's own table, never an import path."""

    name: Name
    settings: dict[Name, Scalar] = Field(default={})


class Uplink(Strict):
    """Fewer coordinates on the way up, the same on all clients in a round (`fedsus.encoding.reduction`).

    ``rand_k`` sends a random ``share`` of an update's coordinates, ``projection`` of its rotation's.
    """

    name: Literal["rand_k", "projection"]
    share: Annotated[float, Field(gt=0, le=1)]


class Encoding(Strict):
    """How an update becomes integers mod 2**bits.

    ``value_range``: a coordinate of the update outside [-value_range, value_range] is clamped, and counted.
    ``weight_cap``: a client counts as at most so many examples (runs without DP). ``uplink``: None sends all of it.
    """

    bits: Annotated[int, Field(ge=16, le=32)] = 32
    value_range: Annotated[float, Field(gt=0, le=1e6)] = 4.0
    weight_cap: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    uplink: Uplink | None = _later()

    def coordinates(self, dimension: int) -> int:
        """How many coordinates of an update of ``dimension`` are sent: at least one."""
        return dimension if self.uplink is None else min(dimension, math.ceil(self.uplink.share * dimension))


class Metric(Strict):
    """One metric of the task that clients may report, and the public range of its value for one example.

    Each device checks it against its own task's bounds; a total is encoded on this scale.
    """

    name: Name
    low: Annotated[float, Field(ge=-1e6, le=1e6)]
    high: Annotated[float, Field(ge=-1e6, le=1e6)]

    @model_validator(mode="after")
    def _ordered(self) -> Metric:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        return self


def _as_tuple(value: Any) -> Any:
    """TOML has arrays, and strict validation takes tuples alone."""
    return tuple(value) if isinstance(value, list) else value


def _distinct(metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        raise ValueError(f"metric names must differ: {', '.join(names)}")
    return metrics


Metrics = Annotated[tuple[Metric, ...], BeforeValidator(_as_tuple), Field(max_length=32), AfterValidator(_distinct)]


class Cohort(Strict):
    """Who is asked: ``size`` clients; fewer than ``minimum`` survivors release nothing."""

    size: Annotated[int, Field(ge=1, le=1_000_000)]
    minimum: Annotated[int, Field(ge=1, le=1_000_000)]

    @model_validator(mode="after")
    def _ordered(self) -> Cohort:
        if self.minimum > self.size:
            raise ValueError(f"minimum {self.minimum} is larger than size {self.size}")
        return self


class Plan(Strict):
    """All that one round asks. See `encode`, `decode` and `digest`.

    ``attempt`` counts 1, 2, ... over the whole run, at most ``rounds + spare_attempts``; it never repeats, so a
    device answers one model once and is charged once for each attempt. ``purpose`` "evaluate" asks for metric
    totals alone, in runs without DP. ``session`` is the sid of `fedsus.secagg`: one plan a session. ``clip`` is the
    round's bound where clipping is adaptive, None elsewhere. ``costs`` None asks for nothing about energy and carbon.
    ``downlink`` None sends whole models.
    """

    version: Literal[1] = 1
    run: Name
    purpose: Literal["train", "evaluate"] = "train"
    round: Annotated[int, Field(ge=1, le=100_001)]
    attempt: Annotated[int, Field(ge=1, le=300_000)]
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    spare_attempts: Annotated[int, Field(ge=0, le=200_000)]
    model: Hash
    dimension: Annotated[int, Field(ge=1, le=2_000_000_000)]
    task: TaskPart
    training: Training
    privacy: Privacy
    encoding: Encoding
    metrics: Metrics = ()
    costs: Costs | None = _later()
    downlink: Downlink | None = _later()
    cohort: Cohort
    exchange: Exchange = "clear_sum"
    session: Hash | None = None
    clip: Positive | None = None
    deadline: Annotated[float, Field(gt=0, le=86_400)]

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        if self.attempt > self.rounds + self.spare_attempts + 1:
            raise ValueError(f"attempt {self.attempt} exceeds rounds + spare_attempts + 1")
        if self.purpose == "evaluate" and self.privacy.unit != "none":
            raise ValueError("purpose 'evaluate' releases metrics; a private run has none")
        if (self.session is None) != (self.exchange == "clear_sum"):
            raise ValueError(f"exchange '{self.exchange}' and session {self.session} do not fit: secure_sum has one")
        adaptive = isinstance(self.privacy, ClientCentral) and self.privacy.adaptive is not None
        if (self.clip is not None) != adaptive:
            raise ValueError(f"clip {self.clip}: a round has its own where clipping is adaptive, and nowhere else")
        if self.costs is not None and not measured(self.privacy):
            raise ValueError("costs: the run is private, and no noise is set aside for them")
        return self

    @property
    def private(self) -> bool:
        """Whether the run is differentially private."""
        return self.privacy.unit != "none"

    @property
    def cost_ranges(self) -> Mapping[str, tuple[float, float]]:
        """What each device tells of its costs, in order: name -> range; empty where the plan asks for none."""
        return {} if self.costs is None else self.costs.ranges(self.private)

    @property
    def told(self) -> int:
        """How many metrics and costs a client tells beside its update: in private runs one noised block."""
        return len(self.metrics) + len(self.cost_ranges)

    @property
    def coordinates(self) -> int:
        """How many coordinates of an update are sent, before any padding."""
        return self.encoding.coordinates(self.dimension)


def canonical(value: Any) -> bytes:
    """The one encoding of a JSON value: sorted keys, no white space, UTF-8, no NaN or infinity."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def encode(plan: Plan) -> bytes:
    """Canonical bytes of a plan."""
    return canonical(plan.model_dump(mode="json"))


def decode(raw: bytes) -> Plan:
    """The plan of canonical bytes.

    Raises:
        ProtocolViolation: too long, not JSON, unknown or missing fields, values out of range, or not canonical.
    """
    return strictly(raw, Plan, "plan", MAX_BYTES)


def strictly(raw: bytes, model: type[M], what: str, limit: int) -> M:
    """A frozen ``model`` of its canonical bytes, and of no others.

    Raises:
        ProtocolViolation: as `decode`; ``what`` names the message.
    """
    if len(raw) > limit:
        raise ProtocolViolation(f"{what}: {len(raw)} bytes; at most {limit} are allowed")
    _same_fields(raw, model, what)
    try:
        found = model.model_validate_json(raw, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or what
        raise ProtocolViolation(f"{what}: {_one_line(where, 80)}: {_one_line(first['msg'], 200)}") from error
    if canonical(found.model_dump(mode="json")) != raw:
        raise ProtocolViolation(f"{what}: the bytes are not the canonical encoding")
    return found


def _same_fields(raw: bytes, model: type[BaseModel], what: str) -> None:
    """Refuse an object without a required field, or with one too many.

    Pydantic would say the same, but it keeps a copy of the whole object for each such field: of 1 MB it makes 250.
    """
    try:
        found, fields = json.loads(raw), model.model_fields
    except (ValueError, RecursionError):
        return  # no JSON: pydantic says where
    if not isinstance(found, dict):
        return
    missing = [name for name in fields if fields[name].is_required() and name not in found]
    unknown = [name for name in found if name not in fields]
    if missing or unknown:
        why = "Field required" if missing else "Extra inputs are not permitted"
        raise ProtocolViolation(f"{what}: {_one_line((missing or unknown)[0], 80)}: {why}")


def _one_line(text: str, most: int) -> str:
    """Text that may be the sender's, cut and without control characters: it must not write into the owner's log."""
    return "".join(one if one.isprintable() else "?" for one in text[:most])


def digest(raw: bytes) -> bytes:
    """SHA-256 over tag, version and canonical plan bytes as received: 32 bytes."""
    return hashlib.sha256(_TAG + bytes([VERSION]) + raw).digest()


def specification(plan: Plan) -> str:
    """SHA-256 hex of all that must not change during a run: all but what a round or an attempt has of its own."""
    fixed = {key: value for key, value in plan.model_dump(mode="json").items() if key not in _CHANGES}
    return hashlib.sha256(b"fedsus run" + canonical(fixed)).hexdigest()
