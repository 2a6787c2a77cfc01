"""Messages of one place used in another: every field of session and plan, every phase, every order and length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import noised_plans
import numpy as np
import pytest
from adversaries import Cell
from pydantic import BaseModel
from secagg_devices import Devices, a_plan, refused

from fedsus import plan as plans
from fedsus.errors import ProtocolViolation
from fedsus.rounds.messages import REFUSAL
from fedsus.secagg import session as sessions
from fedsus.secagg import wire
from fedsus.secagg.session import Session
from fedsus.secagg.wire import Kind

HASH = "e" * 64
PRIVATE = {
    "unit": "example",
    "placement": "local",
    "epsilon": 2.0,
    "delta": 1e-5,
    "clip": 1.0,
    "sampling_rate": 0.1,
    "steps": 10,
    "denominator": 20.0,
    "noise_multiplier": 1.0,
}
SESSION = Cell(6, dropouts=1, colluders=2).session.model_copy(update={"previous": HASH})
PLANS = {
    "without privacy": a_plan(
        HASH,
        metrics=[{"name": "loss", "low": 0.0, "high": 1.0}],
        task={"name": "heart", "settings": {"a": 1, "b": 0.5, "c": "x", "d": True}},
        training={"gradient_clip": 1.0},
    ),
    "private": a_plan(HASH, privacy=PRIVATE),
    **{
        kind: noised_plans.plan_of(privacy, 8, metrics, exchange="secure_sum", session=HASH)
        for kind, privacy, metrics in (
            ("shares of clients", noised_plans.client_distributed(8, metrics=9.0, full_weight=2.0), True),
            ("shares of examples", noised_plans.example_distributed(8), False),
            ("adaptive", noised_plans.adaptive(), False),
            ("banded", noised_plans.banded(metrics=1.0), True),
        )
    },
}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every field, also of models within, by its path; a new one is found here without being named."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from leaves(getattr(value, name), (*path, name))
    elif isinstance(value, Mapping):
        for name in value:
            yield from leaves(value[name], (*path, name))
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        for place, one in enumerate(value):
            yield from leaves(one, (*path, place))
    else:
        yield path


TABLES = [{"joules": 1.0, "grams": 1.0}, {"bits": 4, "block": 64}, {"name": "rand_k", "share": 0.5}]
"""What fields may hold that are None elsewhere: costs, downlink, uplink."""


def options(annotation: Any) -> list[Any]:
    """The values of a Literal within an annotation."""
    if get_origin(annotation) in (UnionType, None):
        return [value for part in get_args(annotation) for value in options(part)]
    return list(get_args(annotation)) if str(get_origin(annotation)) == "typing.Literal" else []


def others(value: Any, annotation: Any) -> list[Any]:
    """Values that a field might have instead."""
    if named := [one for one in options(annotation) if one != value]:
        return named
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, value - 1, value + 2]
        case float():
            return [value * 0.5, value * 2, value + 1.0, value + 0.25] if value else [0.25, -0.25]
        case str():
            return [value[:-1] + ("0" if value[-1:] != "0" else "1"), "f" * 64]
        case tuple():
            return (
                [(*value[:-1], value[-1] + 1), value[:-1]] if value else [({"name": "loss", "low": 0.0, "high": 1.0},)]
            )
        case NoneType():
            return [1.0, HASH, *TABLES]
    raise AssertionError(f"no other value for {value!r}: say here how such a field is mutated")


def changed(dump: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of nested dicts and lists with one value changed."""
    head, *rest = path
    copy = dict(dump) if isinstance(dump, dict) else list(dump)
    copy[head] = changed(dump[head], tuple(rest), value) if rest else value
    return copy


def at(model: BaseModel, path: tuple[Any, ...]) -> tuple[Any, Any]:
    """Value and annotation of a path."""
    value: Any = model
    annotation: Any = None
    for part in path:
        if isinstance(value, BaseModel):
            annotation = type(value).model_fields[str(part)].annotation
            value = getattr(value, str(part))
        else:
            annotation, value = None, value[part]
    return value, annotation


def mutants(model: BaseModel, path: tuple[Any, ...]) -> list[bytes]:
    """Canonical bytes of all that differ from a model in this field alone."""
    value, annotation = at(model, path)
    dump = model.model_dump(mode="json")
    values = [list(one) if isinstance(one, tuple) else one for one in others(value, annotation)]
    return [plans.canonical(changed(dump, path, one)) for one in values]


def name(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


ONE_VALUE = {
    ("version",),
    ("privacy", "placement"),
    ("privacy", "adaptive"),
    ("privacy", "banded"),
    ("privacy", "shares", "metrics"),
}
"""Fields of one value: another is no message at all."""


@pytest.mark.parametrize("path", list(leaves(SESSION)), ids=name)
def test_every_field_of_a_session_changes_its_hash_and_nothing_signed_fits_the_other(path: tuple[Any, ...]) -> None:
    valid = 0
    for raw in mutants(SESSION, path):
        assert sessions.session_id(raw) != sessions.session_id(sessions.encode(SESSION))
        try:
            other = sessions.decode(raw)
        except ProtocolViolation:
            continue
        valid += 1
        if other.size == SESSION.size:
            crossed(other)
    # Numbers that hang together cannot be changed alone.
    assert valid or path in ONE_VALUE or path[0] in {"rule", "neighbours"}


def crossed(other: Session) -> None:
    """Adverts and certificate of one session, shown in the other."""
    fair, attacked = Cell(6, session=SESSION), Cell(6, session=other)
    fair.advertise()
    fair.share()
    attacked.advertise()
    own = dict(attacked.adverts)
    attacked.adverts = fair.adverts | {0: own[0]}
    attacked.share([0])
    assert "is not good" in attacked.refusals[0]
    attacked.adverts = own
    attacked.share([1])
    attacked.open(1, [], certificate=fair.certificate())
    assert "is over something else" in attacked.refusals[1] or "signatures; more than" in attacked.refusals[1]


@pytest.mark.parametrize(
    ("kind", "path"),
    [pytest.param(kind, path, id=f"{kind}-{name(path)}") for kind in PLANS for path in leaves(PLANS[kind])],
)
def test_every_field_of_a_plan_changes_its_hash(kind: str, path: tuple[Any, ...]) -> None:
    """Its hash is in both masks, the vector's signature and the survivors' (test_secagg_split_views: what follows)."""
    plan, valid = PLANS[kind], 0
    for raw in mutants(plan, path):
        try:
            assert plans.decode(raw) != plan
        except ProtocolViolation:
            continue
        valid += 1
        assert plans.digest(raw) != plans.digest(plans.encode(plan))
    # An exchange goes with its session, a unit with its numbers, costs with their noise, and a private run trains.
    bound = {"exchange", "purpose", "costs"} if plan.private else {"exchange"}
    if plan.clip is None:  # a round has a bound of its own where clipping is adaptive
        bound.add("clip")
    assert valid or path in ONE_VALUE or path[0] in bound or path == ("privacy", "unit")


def test_a_field_that_nobody_knows_is_refused() -> None:
    for model, decode in ((SESSION, sessions.decode), (PLANS["private"], plans.decode)):
        dump = model.model_dump(mode="json")
        for raw in (plans.canonical(dump | {"extra": 1}), plans.canonical({**dump, "training": {"extra": 1}})):
            with pytest.raises(ProtocolViolation):
                decode(raw)


def test_the_same_fields_in_other_bytes_are_refused() -> None:
    raw = sessions.encode(SESSION)
    for other in (raw + b" ", raw.replace(b",", b", ", 1), raw[:-1] + b',"version":1}', b" " + raw):
        with pytest.raises(ProtocolViolation):
            sessions.decode(other)


PHASES = (Kind.ADVERTISE, Kind.SHARE, Kind.CONTRIBUTE, Kind.CONFIRM, Kind.UNMASK)


def recorded(devices: Devices, **changes: Any) -> tuple[list[bytes], bytes]:
    """What one device was asked in a whole round, and the sum's first residue."""
    asked: list[bytes] = []
    real = devices.answer

    def noted(who: str, raw: bytes) -> Any:
        if who == "ada":
            asked.append(raw)
        return real(who, raw)

    devices.answer = noted  # type: ignore[method-assign]
    established = devices.establish(a_plan("0" * 64, **changes), nonce=f"{changes.get('attempt', 1)}" * 64)
    total = devices.sum(established, a_plan(established.sid.hex(), **changes)).summed.total
    devices.answer = real  # type: ignore[method-assign]
    assert np.array_equal(total, devices.summed(*devices.names))
    return asked, established.sid


def test_a_round_that_is_replayed_gives_the_same_bytes_or_nothing() -> None:
    devices = Devices()
    asked, _ = recorded(devices)
    given = {}
    for raw in asked:
        answer = devices.answer("ada", raw)
        given[wire.frames(raw)[-1].kind] = answer.body in devices.bodies[:-1]
        answer.sent()
    assert given[Kind.ADVERTISE]
    assert given[Kind.UNMASK]
    assert refused(devices.answer("ada", asked[2]))[Kind.CONTRIBUTE], "the vector is not kept once it arrived"


@pytest.mark.parametrize("first", range(1, 5))
def test_phases_of_another_session_get_nothing_in_any_order(first: int) -> None:
    """Messages of an older session of the same devices, with the name of this one."""
    devices = Devices()
    asked, old = recorded(devices)
    opening = devices.opening(a_plan("0" * 64, attempt=2), nonce="2" * 64)
    assert not refused(devices.answer("ada", opening.request()))[Kind.ADVERTISE]
    answer = devices.answer("ada", asked[first].replace(old, opening.sid))
    assert set(refused(answer).values()) == {True}
    for raw in asked[1:]:
        assert set(refused(devices.answer("ada", raw.replace(old, opening.sid))).values()) == {True}


@pytest.mark.parametrize("phase", range(1, 5))
@pytest.mark.parametrize("how", ["shorter", "longer", "twice", "another first"])
def test_a_message_that_is_cut_grown_doubled_or_led_by_another_gets_nothing(phase: int, how: str) -> None:
    devices = Devices()
    real, spoilt = devices.answer, []

    def spoil(who: str, raw: bytes) -> Any:
        kind = wire.frames(raw)[-1].kind
        if who == "ada" and kind == PHASES[phase]:
            changed = {
                "shorter": raw[:-1],
                "longer": raw + b"\0",
                "twice": raw + raw,
                "another first": wire.frame(Kind.SEALED, b"\0" * 36) + raw,
            }[how]
            answer = devices.at[who].answer(changed, None, None, lambda: False)  # type: ignore[arg-type]
            spoilt.append(answer.body == REFUSAL or all(refused(answer).values()))
        return real(who, raw)

    devices.answer = spoil  # type: ignore[method-assign]
    established = devices.establish(a_plan("0" * 64))
    total = devices.sum(established, a_plan(established.sid.hex())).summed.total
    assert spoilt == [True]
    assert np.array_equal(total, devices.summed(*devices.names)), "what cannot be read uses nothing up"
