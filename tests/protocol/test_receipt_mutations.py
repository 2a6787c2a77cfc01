"""10,000 changes of a receipt or its journal, one field or one byte each: every one is found."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from receipts import OPERATOR, clear_run, payload_of, private_run, roster, signed

from fedsus.envelope import Envelope, decode
from fedsus.errors import ConfigError, ReceiptFault
from fedsus.plan import canonical
from fedsus.reporting.verification import Evidence, verify

SEED = 20_240_607
EACH = {
    "a field of the payload, not signed anew": 700,
    "a field of the payload, signed anew": 600,
    "a byte of the receipt": 1700,
    "a byte of the journal": 1400,
    "a field of the journal": 300,
    "a field of the journal, chained anew": 300,
}
"""Of each of two runs: 10,000 together."""


Path = tuple[Any, ...]


def places(data: Any, path: Path = ()) -> Iterator[Path]:
    """Every place of a tree but its root."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for name, part in inner:
        yield (*path, name)
        yield from places(part, (*path, name))


def other(value: Any, draw: random.Random) -> Any:
    """Something else than ``value``, however little."""
    match value:
        case bool():
            return draw.choice([not value, int(value), None])
        case int():
            return draw.choice([value + 1, value - 1, -value - 1, float(value), value + 2**40, str(value), None])
        case float():
            near = [math.nextafter(value, math.inf), math.nextafter(value, -math.inf), value + 1.0, -value - 1.0]
            return draw.choice([*near, value * 1.001 + 1e-6, 1e300, str(value), None])
        case str():
            at = draw.randrange(len(value) + 1)
            return draw.choice([value[:at] + "0" + value[at:], value[:at] + value[at + 1 :] + "~", "", None, 0])
        case None:
            return draw.choice([0, 0.0, "", False, "0" * 64])
        case list():
            return draw.choice([[*value, 0], value[:-1] or [0], [value], None])
        case _:
            kept = dict(value)
            if kept and draw.random() < 0.5:
                del kept[draw.choice(sorted(kept))]
            else:
                kept["more"] = 0
            return kept


def replaced(data: Any, path: Path, value: Any) -> Any:
    """A copy of ``data``, as far as it changes, with ``value`` at ``path``."""
    if not path:
        return value
    copied = data.copy()
    copied[path[0]] = replaced(data[path[0]], path[1:], value)
    return copied


def changed(data: Any, where: list[Path], draw: random.Random) -> tuple[Any, Path]:
    """``data`` with one field changed, and which."""
    path = draw.choice(where)
    value = data
    for name in path:
        value = value[name]
    return replaced(data, path, other(value, draw)), path


def flipped(raw: bytes, draw: random.Random) -> bytes:
    """One byte is another one, is gone, or is there twice."""
    at = draw.randrange(len(raw))
    return draw.choice(
        [
            raw[:at] + bytes([(raw[at] + draw.randrange(1, 256)) % 256]) + raw[at + 1 :],
            raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :],
            raw[:at] + bytes([raw[at] ^ 32]) + raw[at + 1 :],
            raw[:at] + raw[at + 1 :],
            raw[: at + 1] + raw[at:],
        ]
    )


def chained(lines: list[dict[str, Any]]) -> bytes:
    """A journal whose every line names the one before."""
    prev, raw = "0" * 64, b""
    for line in lines:
        one = canonical(line | {"prev": prev})
        prev, raw = hashlib.sha256(one).hexdigest(), raw + one + b"\n"
    return raw


@dataclass
class Held:
    """A receipt that holds, its journal, and both as plain data."""

    raw: bytes
    journal: bytes
    evidence: Evidence
    payload: dict[str, Any] = field(init=False)
    lines: list[dict[str, Any]] = field(init=False)
    places: list[Path] = field(init=False)

    def __post_init__(self) -> None:
        self.payload = payload_of(self.raw)
        self.lines = [json.loads(line) for line in self.journal.splitlines()]
        self.places = list(places(self.payload))


Changed = tuple[bytes, bytes, Path]


def unsigned(held: Held, draw: random.Random) -> Changed:
    """The payload is another one, the signatures are the old ones."""
    payload, _ = changed(held.payload, held.places, draw)
    return Envelope(canonical(payload), decode(held.raw).signatures).encode(), held.journal, ()


def resigned(held: Held, draw: random.Random) -> Changed:
    """The operator signs another payload."""
    payload, path = changed(held.payload, held.places, draw)
    return signed(payload), held.journal, path


def receipt_byte(held: Held, draw: random.Random) -> Changed:
    return flipped(held.raw, draw), held.journal, ()


def journal_byte(held: Held, draw: random.Random) -> Changed:
    return held.raw, flipped(held.journal, draw), ()


def journal_field(held: Held, draw: random.Random) -> Changed:
    lines, at = held.journal.splitlines(), draw.randrange(len(held.lines))
    line, _ = changed(held.lines[at], list(places(held.lines[at])), draw)
    lines[at] = canonical(line)
    return held.raw, b"\n".join(lines) + b"\n", ()


def journal_rebuilt(held: Held, draw: random.Random) -> Changed:
    lines, at = list(held.lines), draw.randrange(len(held.lines))
    where = [path for path in places(lines[at]) if path != ("prev",)]  # which is written anew
    lines[at], _ = changed(lines[at], where, draw)
    return held.raw, chained(lines), ()


Mutation = Callable[[Held, random.Random], Changed]
MUTATIONS: dict[str, Mutation] = dict(
    zip(EACH, (unsigned, resigned, receipt_byte, journal_byte, journal_field, journal_rebuilt), strict=True)
)


@pytest.fixture(scope="module", params=[clear_run, private_run], ids=["clear", "private"])
def held(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Held:
    run = request.param(tmp_path_factory.mktemp("run"))
    members = roster() if request.param is private_run else None
    evidence = Evidence(run.journal, roster=members, operators=frozenset({OPERATOR.public.hex()}))
    found = Held(run.receipt(), run.journal, evidence)
    verify(found.raw, evidence)
    return found


def test_there_are_ten_thousand() -> None:
    assert 2 * sum(EACH.values()) == 10_000


@pytest.mark.parametrize("kind", EACH)
def test_every_change_is_found(held: Held, kind: str) -> None:
    draw, evidence = random.Random(f"{SEED} {kind}"), held.evidence
    for number in range(EACH[kind]):
        receipt, journal, path = MUTATIONS[kind](held, draw)
        if (receipt, journal) == (held.raw, held.journal):  # the same byte twice in a row, one of them left out
            receipt = held.raw + b" "
        with pytest.raises((ReceiptFault, ConfigError)) as found:
            verify(receipt, replace(evidence, journal=journal))
            pytest.fail(f"change {number} of {kind} at {path} was not found")
        assert "\n" not in str(found.value)
        if len(path) > 2 and path[1] not in ("operator", "journal"):
            assert str(found.value).startswith(".".join(map(str, path[:-1]))), path


def test_what_was_not_changed_holds(held: Held) -> None:
    """The negative control: all of the above are found because of what was changed."""
    assert chained(held.lines) == held.journal
    assert signed(held.payload) == held.raw
    assert verify(signed(held.payload), replace(held.evidence, journal=chained(held.lines))).payload == held.payload
