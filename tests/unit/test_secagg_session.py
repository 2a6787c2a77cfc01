"""Sessions: what is in them, what is refused, and that a large bad one takes little memory."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsus.errors import ProtocolViolation
from fedsus.plan import canonical
from fedsus.secagg import session as sessions
from fedsus.secagg.session import Session
from fedsus_simulations.whole.secure_clients import federation

FIELDS = federation(5, 1, 1).session().model_dump(mode="json")
OTHERS: dict[str, Any] = {
    "federation": "another",
    "roster": "1" * 64,
    "number": 2,
    "server": "2" * 64,
    "nonce": "3" * 64,
    "run": "other",
    "specification": "4" * 64,
    "round": 2,
    "attempt": 2,
    "previous": "5" * 64,
    "cohort": [0, 1, 2, 3, 5],
    "choice": "named",
    "colluders": 2,
    "dropouts": 0,
    "threshold": 5,
    "sigma": 129,
    "minimum": 2,
    "expires": 1001,
}
"""Another good value of each field; rule and neighbours have none of their own for this cohort."""


def raw(**changes: Any) -> bytes:
    return canonical(FIELDS | changes)


def refusal(message: bytes) -> str:
    with pytest.raises(ProtocolViolation) as caught:
        sessions.decode(message)
    return str(caught.value)


def test_a_session_is_its_canonical_bytes() -> None:
    session = sessions.decode(raw())
    assert sessions.encode(session) == raw()
    assert json.loads(raw()) == FIELDS


@pytest.mark.parametrize("field", sorted(FIELDS.keys() - {"version", "rule", "neighbours"}))
def test_every_field_changes_the_sid(field: str) -> None:
    changed = raw(**{field: OTHERS[field]})
    assert sessions.encode(sessions.decode(changed)) == changed
    assert sessions.session_id(changed) != sessions.session_id(raw())


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_a_field_cannot_be_missing_or_of_another_type(field: str) -> None:
    assert refusal(canonical({name: value for name, value in FIELDS.items() if name != field})).startswith("session: ")
    for value in ([[]], {"a": 1}, 1.5, True, "?", -1, 10**30, "\x1b[31m"):
        refusal(raw(**{field: value}))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"version": 2}, "session: version: Input should be 1"),
        ({"also": 1}, "session: also: Extra inputs are not permitted"),
        ({"cohort": [0, 1, 3, 2, 4]}, "session: session: Value error, the cohort is not a rising list of positions"),
        ({"cohort": [0, 1, 2, 3, 3]}, "session: session: Value error, the cohort is not a rising list of positions"),
        ({"cohort": [0, 1]}, "session: cohort: Value should have at least 3 items after validation, not 2"),
        ({"cohort": [0, 1, 2, 3, 100_000]}, "session: cohort.4: Input should be less than 100000"),
        ({"threshold": 6}, "session: session: Value error, 5 neighbours and threshold 6 do not fit a cohort of 5"),
        ({"neighbours": 4}, "session: session: Value error, 4 neighbours and threshold 4 do not fit a cohort of 5"),
        ({"rule": "harary"}, "session: session: Value error, 5 neighbours and threshold 4 do not fit a cohort of 5"),
        (
            {"threshold": 3},
            "session: session: Value error, threshold 3 lets 1 colluders open both secrets of a client",
        ),
        (
            {"colluders": 4, "threshold": 5},
            "session: session: Value error, 4 colluders and 1 dropouts leave nobody of 5",
        ),
        ({"dropouts": 3}, "session: session: Value error, 1 colluders and 3 dropouts leave nobody of 5"),
        ({"sigma": 39}, "session: sigma: Input should be greater than or equal to 40"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], text: str) -> None:
    assert refusal(raw(**changes)) == text


@pytest.mark.parametrize(
    "message",
    [b" " + raw(), raw() + b"\n", raw().replace(b":5", b":5.0"), raw().replace(b",", b", "), raw()[:-1], b"", b"[]"],
)
def test_other_bytes_of_the_same_session_are_refused(message: bytes) -> None:
    refusal(message)


@pytest.mark.parametrize(
    ("colluders", "dropouts", "minimum", "floor"),
    [(1, 0, 1, 8), (1, 3, 1, 5), (1, 3, 7, 7), (5, 1, 1, 7), (1, 2, 8, 8)],
)
def test_the_floor(colluders: int, dropouts: int, minimum: int, floor: int) -> None:
    session = federation(8, colluders, dropouts).session(minimum=minimum)
    assert session.floor == floor == max(3, colluders + 2, 8 - dropouts, minimum)
    sessions.check_set(session, floor, "adverts")
    with pytest.raises(ProtocolViolation, match=rf"^adverts: {floor - 1} of 8 clients; at least {floor} are needed$"):
        sessions.check_set(session, floor - 1, "adverts")


def test_a_quorum_is_more_than_half_of_the_cohort_and_its_colluders() -> None:
    """Two quorums share an honest client: 2 * quorum - N > A."""
    for size in range(3, 40):
        for colluders in range(1, size - 1):
            quorum = Session.model_validate(
                FIELDS
                | {"cohort": list(range(size)), "neighbours": size, "threshold": size}
                | {"colluders": colluders, "dropouts": 0}
            ).quorum
            assert 2 * quorum - size > colluders >= 2 * (quorum - 1) - size


def test_hashes_of_different_things_differ() -> None:
    """sid, root, tid, hash of b: each has a label of its own, whatever goes in."""
    one = bytes(32)
    found = [
        sessions.session_id(one),
        sessions.root(one, b""),
        sessions.root(one, one),
        sessions.transcript(one),
        sessions.secret_hash(one, 0, one),
        sessions.secret_hash(one, 1, one),
        sessions.secret_hash(bytes(31) + b"\1", 0, one),
    ]
    assert len(set(found)) == len(found)
    assert all(len(each) == 32 for each in found)


@given(st.binary(max_size=200))
def test_noise_is_refused(message: bytes) -> None:
    refusal(message)


def lists(item: bytes, count: int) -> bytes:
    return raw().replace(b"[0,1,2,3,4]", b"[" + b",".join([item] * count) + b"]")


LARGE = {
    "many numbers": lists(b"-1", 300_000),
    "many words": lists(b'"a"', 240_000),
    "many lists": lists(b"[]", 300_000),
    "nothing but a list": b'{"cohort":[' + b"1," * 300_000 + b"1]}",
    "many fields": b"{" + b",".join(b'"%d":1' % place for place in range(80_000)) + b"}",
    "deep": b"[" * 500_000,
    "a long number": lists(b"1" * 900_000, 1),
    "a long word": raw(federation="a" * 900_000),
}


@pytest.mark.parametrize("large", LARGE)
def test_a_large_bad_session_takes_little_memory(large: str) -> None:
    """Of 1 MB; collected faults would take 100 to 900 MB."""
    assert len(LARGE[large]) < sessions.MAX_BYTES
    tracemalloc.start()
    try:
        assert len(refusal(LARGE[large])) < 400
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_a_session_beyond_the_largest_is_not_read() -> None:
    assert refusal(b"[" * (sessions.MAX_BYTES + 1)) == "session: 1048577 bytes; at most 1048576 are allowed"
