"""The roster: strict, canonical, and worth the signatures of the pinned keys alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedsus.errors import ProtocolViolation, Refusal
from fedsus.plan import canonical
from fedsus.secagg import keys, points
from fedsus.secagg.keys import Identity
from fedsus.secagg.roster import (
    MAX_BYTES,
    Pins,
    Roster,
    RosterMember,
    SignedRoster,
    decode,
    digest,
    encode,
    fingerprint,
    majority,
    statement,
)

OWNERS = [Identity.generate() for _ in range(3)]
CLIENTS = [Identity.generate() for _ in range(4)]
STRANGER = Identity.generate()
FEDERATION = "heart"


def hexed(*identities: Identity) -> tuple[str, ...]:
    return tuple(sorted(identity.public.hex() for identity in identities))


PINS = Pins(FEDERATION, frozenset(hexed(*OWNERS)), 2)


def members(*identities: Identity) -> tuple[RosterMember, ...]:
    return tuple(
        RosterMember(name=f"site-{i}", key=identity.public.hex()) for i, identity in enumerate(identities or CLIENTS)
    )


def roster(**changes: Any) -> Roster:
    values = {
        "federation": FEDERATION,
        "number": 1,
        "previous": None,
        "signers": hexed(*OWNERS),
        "needed": 2,
        "seed": "5e" * 32,
        "members": members(),
    }
    return Roster.model_validate({**values, **changes})


def signed(by: list[Identity], found: Roster | None = None) -> SignedRoster:
    result = SignedRoster(roster=found or roster())
    for identity in by:
        result = result.signed(identity)
    return result


SIGNED = encode(signed(OWNERS))


def test_enough_pinned_keys_make_a_roster() -> None:
    assert signed(OWNERS[:2]).verified(PINS) == roster()
    assert signed(OWNERS).verified(PINS) == roster()
    assert signed(OWNERS[:2]).valid_signatures() == set(hexed(*OWNERS[:2]))


@pytest.mark.parametrize(
    "by", [[], OWNERS[:1], [OWNERS[0], OWNERS[0]], [STRANGER], [OWNERS[0], STRANGER], [OWNERS[0], *CLIENTS]]
)
def test_too_few_pinned_keys_make_none(by: list[Identity]) -> None:
    with pytest.raises(Refusal, match="pinned keys signed it, 2 must"):
        signed(by).verified(PINS)


def test_a_rosters_own_signers_count_for_nothing() -> None:
    """The attack: the roster names other signers, or says that one is enough."""
    taken_over = roster(signers=hexed(STRANGER), needed=1)
    # A weaker client, which believes the roster about its signers, would take it for complete.
    assert len(signed([STRANGER], taken_over).valid_signatures()) >= taken_over.needed
    for by in ([STRANGER], [STRANGER, OWNERS[0]]):
        with pytest.raises(Refusal, match="2 must"):
            signed(by, taken_over).verified(PINS)
    with pytest.raises(Refusal, match="1 of the 3 pinned keys"):
        signed(OWNERS[:1], roster(needed=1)).verified(PINS)


def test_owners_hand_over_to_new_signers() -> None:
    """What the pinned keys signed counts, also where the roster lists their successors."""
    assert signed(OWNERS[:2], roster(signers=hexed(STRANGER), needed=1)).verified(PINS).signers == hexed(STRANGER)


def test_a_pinned_key_is_no_members() -> None:
    """Also where the roster does not list it as a signer: a key has one purpose."""
    both = roster(signers=hexed(*OWNERS[:2]), members=members(OWNERS[2]))
    with pytest.raises(Refusal, match="the key of member 'site-0' is a pinned signer's"):
        signed(OWNERS[:2], both).verified(PINS)


def test_a_foreign_federation_is_refused() -> None:
    with pytest.raises(Refusal, match="'lung': 'heart' is pinned"):
        signed(OWNERS, roster(federation="lung")).verified(PINS)


@pytest.mark.parametrize("needed", [0, -1, 4])
def test_impossible_pins_admit_nothing(needed: int) -> None:
    with pytest.raises(Refusal):
        signed(OWNERS).verified(Pins(FEDERATION, PINS.keys, needed))
    with pytest.raises(Refusal):
        signed(OWNERS).verified(Pins(FEDERATION, frozenset(), 0))


def test_a_signature_is_for_one_version_and_one_purpose() -> None:
    first, second = roster(), roster(seed="5f" * 32)
    moved = SignedRoster(roster=second, signatures=signed(OWNERS, first).signatures)
    assert moved.valid_signatures() == frozenset()
    assert statement(first) != statement(second)
    # A signature of the protocol's own statements, under the same key, is none of a roster.
    other = OWNERS[0].sign(keys.statement(0, digest(first), 0, b"")).hex()
    wrong = SignedRoster(roster=first, signatures={OWNERS[0].public.hex(): other})
    assert wrong.valid_signatures() == frozenset()
    assert not statement(first).startswith(keys.statement(0, digest(first), 0, b"")[:14])


FIELDS: dict[str, Any] = {
    "federation": "lung",
    "number": 2,
    "previous": "00" * 32,
    "signers": hexed(*OWNERS[:2]),
    "needed": 1,
    "seed": "00" * 32,
    "members": members(*CLIENTS[:3]),
    "revoked": ("00" * 32,),
}


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_signed(field: str) -> None:
    assert set(FIELDS) == set(Roster.model_fields) - {"version"}
    changes = {field: FIELDS[field]}
    if field in ("number", "previous"):
        changes = {"number": 2, "previous": "00" * 32}
    assert digest(roster(**changes)) != digest(roster())
    if field == "previous":
        assert digest(roster(number=2, previous="00" * 32)) != digest(roster(number=2, previous="11" * 32))


def test_the_file_and_back() -> None:
    file = signed(OWNERS)
    assert decode(encode(file)) == file
    assert decode(encode(SignedRoster(roster=roster(members=())))).roster.members == ()


LOW = [y.to_bytes(32, "little").hex() for y in sorted(points.LOW_ORDER)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"number": 2}, "no previous"),
        ({"previous": "00" * 32}, "no previous"),
        ({"number": 0}, "greater than or equal to 1"),
        ({"needed": 4}, "expected 1 to 3"),
        ({"needed": 0}, "greater than or equal to 1"),
        ({"signers": ()}, "at least 1 item"),
        ({"signers": hexed(*OWNERS)[::-1]}, "sorted"),
        ({"signers": hexed(OWNERS[0], OWNERS[0])}, "each once"),
        ({"signers": (LOW[0],), "needed": 1}, "low order"),
        ({"seed": "5E" * 32}, "pattern"),
        ({"federation": "Hôpital"}, "pattern"),
        ({"members": members()[::-1]}, "sorted"),
        ({"members": (*members(), members()[-1])}, "sorted, each once"),
        ({"members": (RosterMember(name="SITE-0", key=STRANGER.public.hex()), *members())}, "two are the same"),
        ({"members": (*members(), RosterMember(name="site-9", key=members()[0].key))}, "two are the same"),
        ({"members": members(OWNERS[0])}, "also a signer's"),
        ({"revoked": (members()[1].key,)}, "'site-1': its key is revoked"),
        ({"revoked": ("ff" * 32, "00" * 32)}, "sorted"),
        *[({"members": (RosterMember(name="a", key=key),)}, "low order") for key in LOW],
        ({"members": (RosterMember(name="a", key="ff" * 32),)}, "canonical"),
        ({"members": (RosterMember(name="a", key="02" + "00" * 31),)}, "not a point"),
        ({"surprise": 1}, "Extra inputs"),
    ],
)
def test_what_no_roster_may_be(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        roster(**changes)


@pytest.mark.parametrize("name", ["", "a b", "../a", "a\n", "Zürich", "a" * 65, "\u202ea", "-a"])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(ValidationError):
        RosterMember(name=name, key=STRANGER.public.hex())


def test_the_points_of_low_order_are_those_whose_eightfold_is_neutral() -> None:
    """Independently of the table: three doublings (RFC 8032, section 5.1.4) of the point with that y."""
    assert all(_eightfold(y) == (0, 1) for y in points.LOW_ORDER)
    for identity in CLIENTS:
        assert _eightfold(int.from_bytes(identity.public, "little") & (2**255 - 1)) != (0, 1)
    assert {y for y in range(20) if y in points.LOW_ORDER} == {0, 1}


def _eightfold(y: int) -> tuple[int, int]:
    p = points.FIELD
    d = -121665 * pow(121666, -1, p) % p
    square = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
    x = pow(square, (p + 3) // 8, p)
    x = x if x * x % p == square else x * pow(2, (p - 1) // 4, p) % p
    assert x * x % p == square
    for _ in range(3):
        both = d * x * x * y * y
        x, y = 2 * x * y * pow(1 + both, -1, p) % p, (y * y + x * x) * pow(1 - both, -1, p) % p
    return x, y


def test_a_key_of_low_order_would_sign_for_anybody() -> None:
    """Why they are refused: what OpenSSL says of the neutral point and one constant signature."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    neutral = (1).to_bytes(32, "little")
    Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + bytes(32), b"whatever was never signed")
    assert points.fault(neutral)


@given(st.binary(min_size=32, max_size=32))
@settings(max_examples=50, deadline=None)
def test_a_key_that_someone_holds_is_a_good_point(raw: bytes) -> None:
    assert points.fault(Identity.load(raw).public) == ""
    assert points.fault(raw[:31])


def edited(edit: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """Changes the data and encodes them canonically."""

    def change(raw: bytes) -> bytes:
        data = json.loads(raw)
        edit(data)
        return canonical(data)

    return change


def twice(raw: bytes) -> bytes:
    """One signer's entry a second time: JSON allows it, and readers differ in which one counts."""
    key, mark = next(iter(json.loads(raw)["signatures"].items()))
    return raw.replace(b'"signatures":{', f'"signatures":{{"{key}":"{mark}",'.encode())


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "white space": lambda raw: raw.replace(b",", b", ", 1),
    "a newline at the end": lambda raw: raw + b"\n",
    "a duplicate key": lambda raw: raw[:-1] + b',"signatures":{}}',
    "a duplicate signer": twice,
    "keys unsorted": lambda raw: raw.replace(b'"needed":2,"number":1', b'"number":1,"needed":2'),
    "an escaped letter": lambda raw: raw.replace(b"heart", b"\\u0068eart"),
    "a float": lambda raw: raw.replace(b'"number":1', b'"number":1.0'),
    "a text for a number": lambda raw: raw.replace(b'"number":1', b'"number":"1"'),
    "a short signature": edited(lambda data: data["signatures"].update({"00" * 32: "00"})),
    "too many signatures": edited(lambda data: data.update(signatures={f"{i:064x}": "00" * 64 for i in range(129)})),
    "version 2": edited(lambda data: data["roster"].update(version=2)),
    "no roster": edited(lambda data: data.pop("roster")),
    "not UTF-8": lambda raw: b"\xff" + raw,
    "nested": lambda raw: b"[" * 100_000,
    "empty": lambda raw: b"",
}


@pytest.mark.parametrize("change", BROKEN)
def test_bytes_that_are_no_roster(change: str) -> None:
    raw = encode(signed(OWNERS[:2]))
    assert BROKEN[change](raw) != raw
    with pytest.raises(ProtocolViolation, match="roster: "):
        decode(BROKEN[change](raw))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_is_changed_no_other_roster_is_accepted(data: st.DataObject) -> None:
    """A changed byte, a cut or a repetition: refused by name, or the very same roster (a third signature spoilt)."""
    raw = bytearray(SIGNED)
    place = data.draw(st.integers(0, len(raw) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "repeat"])):
        case "flip":
            raw[place] ^= data.draw(st.integers(1, 255))
        case "cut":
            del raw[place : place + data.draw(st.integers(1, 200))]
        case "repeat":
            raw[place:place] = raw[place : place + data.draw(st.integers(1, 200))]
    try:
        found = decode(bytes(raw)).verified(PINS)
    except (ProtocolViolation, Refusal):
        return
    assert found == roster()


def test_a_large_file_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ProtocolViolation, match="at most"):
        decode(b" " * (MAX_BYTES + 1))


def test_ten_thousand_members_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsus.secagg.roster.fault", lambda key: "")  # 10,000 checks of a curve take a second
    many = tuple(RosterMember(name=f"{i:05d}".ljust(64, "x"), key=f"{i:064x}") for i in range(10_000))
    raw = encode(signed(OWNERS, roster(members=many)))
    assert len(raw) < MAX_BYTES / 8
    found = decode(raw).verified(PINS)
    assert found.index(many[-1].name) == 9_999
    assert found.index("absent") is None


def test_looking_up() -> None:
    found = roster()
    assert [found.index(member.name) for member in found.members] == [0, 1, 2, 3]
    assert found.name_of(CLIENTS[2].public.hex()) == "site-2"
    assert found.name_of(STRANGER.public.hex()) is None
    assert [majority(n) for n in range(1, 6)] == [1, 2, 2, 3, 3]
    assert fingerprint(STRANGER.public.hex()) == keys.fingerprint(STRANGER.public)
