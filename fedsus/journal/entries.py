"""What a journal's lines say. Nothing here is about one client; keys and seeds never enter.

A line is canonical JSON (as a plan's) of ``{"v", "seq", "prev", "type", "time", ...}``: ``v`` 1; ``seq`` 0, 1, ...;
``prev`` the SHA-256 of the line before without its line break, 64 zeros first; ``type`` a class name below.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from fedsus.costs import MOST_AMOUNT, Amount, Usage
from fedsus.errors import CorruptionError, ProtocolViolation
from fedsus.plan import Hash, Name, canonical

VERSION: Final = 1
GENESIS: Final = "0" * 64

Count = Annotated[int, Field(ge=0)]
Ordinal = Annotated[int, Field(ge=1)]
Signed = Annotated[float, Field(ge=-MOST_AMOUNT, le=MOST_AMOUNT)]
"""What noise may have made negative."""

Moment = Annotated[float, Field(ge=0, le=253_402_214_400.0)]
"""Seconds since the epoch, to the year 9999: later ones have no date."""
_STRICT: Final = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOpened:
    """The first entry.

    Attributes:
        run: the run's identifier.
        config: the operator's ``run.toml`` as plain data.
        model_hash: SHA-256 of the initial model, as plans name it.
        checkpoint: blob of the strategy's first state, which holds that model.
        fedsus_version: version that opened the run.
        software: what ran on the server: distribution -> version, and "code", "lock": SHA-256 of the installed sources
            and of the list of all installed versions. None in journals from before it was noted.
        time: seconds since the epoch, set by the journal.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    run: Name
    config: dict[str, Any]
    model_hash: Hash
    checkpoint: Hash
    fedsus_version: str
    software: dict[str, str] | None = None
    time: Moment = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOpened:
    """Written before anyone is asked: a crash counts as an attempt spent.

    Attributes:
        round: 1-based; evaluation after the last round counts as one more.
        attempt: 1-based over the whole run; never repeats.
        plan_digest: hash of the plan's bytes, as clients see it.
        cohort: how many are asked.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    round: Ordinal
    attempt: Ordinal
    plan_digest: Hash
    cohort: Ordinal
    time: Moment = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReleased:
    """A round's sum was decoded and the next state is on disk.

    Attributes:
        survivors, refused, lost: how many clients of the cohort.
        weight: sum of the weights, in examples; survivors under DP.
        metrics: means over all held-out examples; None under DP or when there were none.
        held_out: examples behind ``metrics``.
        saturated: clamped coordinates over all survivors; with noise in shares, coordinates of the sum so large that
            some may have wrapped around; None where no such number leaves a device.
        checkpoint: blob of the strategy's state after this round.
        bytes_sent, bytes_received: between server and clients.
        seconds: from asking to release.
        virtual: the clock of a simulation at the release, in its seconds since the run's start; None in a deployment.
        traffic: bytes sent and received in each phase of the exchange; None in journals from before it was noted.
        server: what the server's machine used since the entry before; None where it has no meter.
        costs: sums of the devices' reports, as `fedsus.costs.Costs.ranges` names them; None where none were asked for.
        waited: seconds that the round was put off for a cleaner hour.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    round: Ordinal
    attempt: Ordinal
    survivors: Count
    refused: Count
    lost: Count
    weight: Amount
    metrics: dict[str, float] | None
    held_out: Count
    saturated: Count | None
    checkpoint: Hash
    bytes_sent: Count
    bytes_received: Count
    seconds: Amount
    virtual: Amount | None = None
    traffic: dict[str, tuple[Count, Count]] | None = None
    server: Usage | None = None
    costs: dict[str, Signed] | None = None
    waited: Amount = 0.0
    time: Moment = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptAbandoned:
    """An attempt that released nothing, and why in one line, never about one client; the rest is as above.

    ``traffic`` and ``server`` are what it cost all the same.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    round: Ordinal
    attempt: Ordinal
    reason: str
    virtual: Amount | None = None
    traffic: dict[str, tuple[Count, Count]] | None = None
    server: Usage | None = None
    time: Moment = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunClosed:
    """The last entry.

    Attributes:
        model: the blob that holds the run's model; None when nothing was released.
        model_hash: SHA-256 of that model, as plans name it; None likewise, and in journals from before it was noted.
        because: what ended a run before its last round, in one line.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    reason: Literal["completed", "stopped", "failed"]
    model: Hash | None
    model_hash: Hash | None = None
    because: str | None = None
    time: Moment = 0.0


Entry: TypeAlias = RunOpened | AttemptOpened | RoundReleased | AttemptAbandoned | RunClosed

_TYPES: Final[dict[str, TypeAdapter[Entry]]] = {
    kind.__name__: TypeAdapter(kind) for kind in (RunOpened, AttemptOpened, RoundReleased, AttemptAbandoned, RunClosed)
}


def encode(entry: Entry, seq: int, prev: str) -> bytes:
    """The line of an entry, without its line break.

    Raises:
        ProtocolViolation: a field is out of range, not finite, or cannot be written as JSON.
    """
    head = {"v": VERSION, "seq": seq, "prev": prev, "type": type(entry).__name__}
    try:
        line = canonical(head | asdict(entry))
        decode(line, seq, prev)  # what is written must be what can be read
    except (TypeError, ValueError, CorruptionError) as error:
        raise ProtocolViolation(f"journal: {type(entry).__name__}: {error}") from error
    return line


def decode(line: bytes, seq: int, prev: str) -> Entry:
    """The entry of a line that must be number ``seq`` and follow the line with hash ``prev``.

    Raises:
        CorruptionError: not canonical JSON, unknown version, type or field, wrong place in the chain.
    """
    try:
        data = json.loads(line)
        if not isinstance(data, dict) or canonical(data) != line:
            raise CorruptionError("not the canonical form of a JSON object")
    except (ValueError, RecursionError) as error:
        raise CorruptionError("not JSON") from error
    version, number, kind = (data.pop(name, None) for name in ("v", "seq", "type"))
    if version != VERSION or type(version) is not int:
        raise CorruptionError(f"version {version!r}; this fedsus reads version {VERSION}")
    if number != seq or type(number) is not int:
        raise CorruptionError(f"not entry number {seq}")
    if data.pop("prev", None) != prev:
        raise CorruptionError("does not follow the line before: one of the two was changed")
    adapter = _TYPES.get(kind) if isinstance(kind, str) else None
    if adapter is None:
        raise CorruptionError(f"unknown type {kind!r}")
    if "time" not in data:
        raise CorruptionError(f"{kind}.time: missing")
    try:
        return adapter.validate_json(canonical(data))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CorruptionError(f"{'.'.join([kind, *map(str, first['loc'])])}: {first['msg']}") from error
