"""How the model of a round travels: whole, or as a difference to the last one that a client has.

    plan without [plan.downlink]    model (float32)
    plan with it                    form u8 | form 0: model (float32) | form 1: hash of the base 32, difference

What clients train on is the *reference*: the server's model as far as differences have told of it. The plan names its
hash, and each client checks what it made against that: whom a server sends another difference refuses, whichever form.

Nobody is told of a client more than the server sees anyway: it knows whose answers came to which model, and sends these
alone a difference. A client keeps the last model in memory, so that one that was started again says that it lacks the
base, before it is charged and before it trains, and is asked again with the whole model in the same phase.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from fedsus.encoding.downlink import difference, moved
from fedsus.encoding.packing import Buffer
from fedsus.errors import ProtocolViolation, RunFailed
from fedsus.plan import Downlink, Plan
from fedsus.types import Forms, Vector

MOST: Final = 2
"""Runs of whose model a device keeps the last: 4 bytes a parameter each. The one that was used longest ago goes."""

_WHOLE, _CHANGED = b"\0", b"\1"
_HASH_BYTES: Final = 32


def model_hash(model: Vector) -> str:
    """SHA-256 of the model's little-endian float32 bytes, as hex."""
    return hashlib.sha256(_bytes(model)).hexdigest()


class Unheld(ProtocolViolation):
    """The difference is to a model that this device does not have, as after a restart: nobody's fault."""


@dataclass(slots=True)
class Held:
    """What a device keeps: the last model of a few runs, in memory alone."""

    _models: dict[str, tuple[str, Vector]] = field(default_factory=dict, init=False)

    def keep(self, plan: Plan, model: Vector) -> None:
        """Keep the model (d,) float32 of a plan whose later ones may come as differences."""
        if plan.downlink is None:
            return
        self._models.pop(plan.run, None)
        while len(self._models) >= MOST:
            del self._models[next(iter(self._models))]
        own = model if model.base is None else model.copy()  # no view, which would keep a whole message
        own.setflags(write=False)
        self._models[plan.run] = plan.model, own

    def find(self, run: str, digest: str) -> Vector:
        """The run's model of this hash.

        Raises:
            Unheld: it is not here.
        """
        held, model = self._models.get(run, ("", None))
        if held != digest or model is None:
            raise Unheld("a difference to a model that this device does not have: the whole one is asked for")
        return model


def read(plan: Plan, raw: Buffer, held: Held | None) -> Vector:
    """The model (d,) float32 that a request brings, which is the one that the plan names.

    Raises:
        ProtocolViolation: malformed, or another model.
        Unheld: it is a difference to a model that is not ``held``.
    """
    model = _float32(plan, raw) if plan.downlink is None else _read(plan, plan.downlink, memoryview(raw), held)
    if model_hash(model) != plan.model:
        raise ProtocolViolation("request: the model is not the one that the plan names")
    if not np.isfinite(model).all():
        raise ProtocolViolation("request: the model holds NaN or infinity")
    return model


def _read(plan: Plan, asked: Downlink, raw: memoryview, held: Held | None) -> Vector:
    form, body = bytes(raw[:1]), raw[1:]
    if form == _WHOLE:
        return _float32(plan, body)
    if form != _CHANGED or len(body) < _HASH_BYTES:
        raise ProtocolViolation("request: the model is neither whole nor a difference")
    base = (held or Held()).find(plan.run, bytes(body[:_HASH_BYTES]).hex())
    if len(base) != plan.dimension:
        raise ProtocolViolation(f"request: a difference to a model of {len(base)}, plan says {plan.dimension}")
    return moved(base, body[_HASH_BYTES:], asked)


def _float32(plan: Plan, raw: Buffer) -> Vector:
    if len(raw) != 4 * plan.dimension:
        raise ProtocolViolation(f"request: model of {len(raw)} bytes, plan says {4 * plan.dimension}")
    return np.frombuffer(raw, dtype="<f4").astype(np.float32, copy=False)


def whole(plan: Plan, model: Vector) -> Buffer:
    """A model (d,) float32 as everybody can read it; without a copy where the plan has no downlink."""
    return _bytes(model) if plan.downlink is None else _WHOLE + _bytes(model)


@dataclass(frozen=True, slots=True)
class Reference:
    """What the clients of an attempt train on.

    Attributes:
        model: (d,) float32.
        kept: the same where the next one is a difference to it; None where models travel whole.
        base: hash of the model that ``change`` starts from; empty where there is none.
        change: the difference.
    """

    model: Vector
    kept: Vector | None = None
    base: str = ""
    change: bytes = b""


def reference(model: Vector, last: Vector | None, asked: Downlink | None) -> Reference:
    """The reference for the server's ``model`` (d,) after the ``last`` one (d,), None before the first.

    Raises:
        RunFailed: NaN or infinity in the model.
    """
    if asked is None:
        return Reference(model)
    if last is None:
        return Reference(model, model)
    try:
        change = difference(model, last, asked)
        made = moved(last, change, asked)
    except ProtocolViolation as error:
        raise RunFailed(f"the model cannot be sent: {error}") from None
    return Reference(made, made, model_hash(last), change)


@dataclass(slots=True)
class Readers:
    """Which client has which model, as far as the server of a run has seen; forgotten when it ends."""

    _has: dict[str, str] = field(default_factory=dict, init=False)
    _asked: tuple[str, set[str]] = field(default=("", set()), init=False)

    def forms(self, plan: Plan, made: Reference, clients: Collection[str]) -> Forms:
        """The model for ``clients``. Who is asked counts as without any model until an answer of it is there."""
        digest, answered = self._asked
        self._has.update(dict.fromkeys(answered, digest))
        before = {client: self._has.pop(client, "") for client in clients}
        forms = self._forms(plan, made, before)
        self._asked = (plan.model, forms.read) if plan.downlink is not None else ("", set())
        return forms

    @staticmethod
    def _forms(plan: Plan, made: Reference, before: Mapping[str, str]) -> Forms:
        entire: Callable[[], Buffer] = partial(whole, plan, made.model)
        others = frozenset(client for client, digest in before.items() if digest != made.base)
        short = 1 + _HASH_BYTES + len(made.change) < 4 * plan.dimension
        if not made.change or not short or len(others) == len(before):
            return Forms(entire())
        return Forms(b"".join((_CHANGED, bytes.fromhex(made.base), made.change)), others, entire)


def _bytes(model: Vector) -> memoryview:
    """Little-endian float32, without a copy where it is."""
    return np.ascontiguousarray(model, dtype="<f4").data.cast("B")
