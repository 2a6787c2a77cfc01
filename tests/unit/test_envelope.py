"""The envelope: what was signed is what is read, and no byte of a file is free."""

import base64
import json

import pytest
from securesystemslib.dsse import Envelope as Dsse
from securesystemslib.signer import SSlibKey

from fedsus.envelope import PAYLOAD_TYPE, Envelope, decode
from fedsus.errors import ProtocolViolation
from fedsus.secagg.keys import Identity

ALICE, BOB, CAROL = (Identity.load(bytes([number]) * 32) for number in (1, 2, 3))
PAYLOAD = b'{"a":1}'


def sealed(*identities):
    envelope = Envelope(PAYLOAD, {})
    for identity in identities:
        envelope = envelope.signed(identity)
    return envelope


def test_another_implementation_reads_and_verifies_it():
    raw = sealed(ALICE, BOB).encode()
    read = Dsse.from_dict(json.loads(raw))
    keys = [SSlibKey(i.public.hex(), "ed25519", "ed25519", {"public": i.public.hex()}) for i in (ALICE, BOB)]
    assert set(read.verify(keys, 2)) == {ALICE.public.hex(), BOB.public.hex()}
    assert (read.payload, read.payload_type) == (PAYLOAD, PAYLOAD_TYPE)


def test_what_is_signed_is_the_encoding_that_dsse_states():
    """The protocol's own example of pre-authentication encoding, with our type and payload."""
    stated = b"DSSEv1 28 application/vnd.in-toto+json 7 " + PAYLOAD
    assert sealed(ALICE).signatures[ALICE.public.hex()] == ALICE.sign(stated)


def test_the_author_stays_first_and_others_have_one_order():
    one, other = sealed(ALICE, BOB, CAROL), sealed(ALICE, CAROL, BOB)
    assert one.encode() == other.encode()
    assert one.author == ALICE.public.hex()
    assert set(one.others) == {BOB.public.hex(), CAROL.public.hex()}
    assert one.signed(BOB) == one
    assert decode(one.encode()) == one
    assert one.invalid() is None


def test_each_signature_must_fit():
    whole = sealed(ALICE, BOB, CAROL)
    for key in whole.signatures:
        wrong = {**whole.signatures, key: ALICE.sign(b"something else")}
        assert Envelope(PAYLOAD, wrong).invalid() == key
    assert Envelope(b'{"a":2}', whole.signatures).invalid() == ALICE.public.hex()


def test_a_key_of_low_order_signs_nothing():
    """The neutral element as a key and as R, and S = 0: many implementations take that for any message."""
    neutral = bytes([1]) + bytes(31)
    assert Envelope(PAYLOAD, {neutral.hex(): neutral + bytes(32)}).invalid() == neutral.hex()


def test_no_single_byte_can_be_changed():
    """Every byte of a file, to three others: either it is no envelope any more, or a signature does not fit."""
    raw = sealed(ALICE, BOB).encode()
    for at in range(len(raw)):
        for flip in (1, 2, 0x20):
            changed = raw[:at] + bytes([raw[at] ^ flip]) + raw[at + 1 :]
            try:
                found = decode(changed)
            except ProtocolViolation:
                continue
            assert found.invalid() is not None, (at, flip)


def _with(**changed):
    return json.dumps({**json.loads(sealed(ALICE).encode()), **changed}, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "Invalid JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'{"payload":"","payload":""}', "Field required"),
        (sealed(ALICE).encode() + b"\n", "not the canonical encoding"),
        (b" " + sealed(ALICE).encode(), "not the canonical encoding"),
        (sealed(ALICE).encode().replace(b'"payload":', b'"payload":"","payload":', 1), "not the canonical encoding"),
        (_with(payload=base64.b64encode(b"ab").decode()[:-2] + "J="), "not the canonical base64"),
        (_with(payloadType="text/plain"), "payloadType"),
        (_with(signatures=[]), "signatures"),
        (_with(signatures=2 * json.loads(sealed(ALICE).encode())["signatures"]), "two signatures of one key"),
        (_with(more=1), "more: Extra"),
        (_with(payload=10**400), "payload"),
    ],
)
def test_what_is_no_envelope_is_one_clear_line(raw, why):
    with pytest.raises(ProtocolViolation, match=why) as caught:
        decode(raw)
    assert "\n" not in str(caught.value)


def test_a_huge_file_is_refused_before_it_is_read():
    with pytest.raises(ProtocolViolation, match="at most 67108864 are allowed"):
        decode(bytes(64 * 2**20 + 1))
