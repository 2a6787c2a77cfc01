"""Signatures of secure aggregation: identities and what they sign, what is refused, and checks that are done once.

Vectors: RFC 8032 (Ed25519).
"""

from __future__ import annotations

import copy
import hashlib
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from shown_secrets import MARK, details, flipped, h, traces

from fedsus.errors import ConfigError, ProtocolViolation
from fedsus.secagg.keys import (
    Identity,
    Signatures,
    fingerprint,
    statement,
    verify,
)
from fedsus.secagg.secret import Secret

RFC_8032 = [  # section 7.1, tests 1 and 2: private, public, message, signature
    (
        h("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"),
        h("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"),
        b"",
        h(
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        h("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"),
        h("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"),
        b"\x72",
        h(
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
]


class TestIdentity:
    @pytest.mark.parametrize(("private", "public", "message", "signature"), RFC_8032)
    def test_published_vectors(self, private: bytes, public: bytes, message: bytes, signature: bytes) -> None:
        identity = Identity.load(private)
        assert identity.public == public
        assert identity.sign(message) == signature
        assert identity.private_bytes().reveal() == private
        assert verify(public, message, signature)

    def test_fresh_ones_differ_and_survive_storage(self) -> None:
        one, other = Identity.generate(), Identity.generate()
        assert one.public != other.public
        assert Identity.load(one.private_bytes()).public == one.public
        pem = Ed25519PrivateKey.from_private_bytes(one.private_bytes().reveal()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        assert Identity.load(pem).public == one.public

    @pytest.mark.parametrize("form", ["short", "text", "other kind", "encrypted", "public"])
    def test_other_files_are_refused_in_one_line_that_shows_none_of_them(self, form: str) -> None:
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        key = Ed25519PrivateKey.from_private_bytes(MARK)
        stored = {
            "short": MARK[:31],
            "text": b"-----BEGIN PRIVATE KEY-----\n" + MARK + b"\n-----END PRIVATE KEY-----\n",
            "other kind": generate_private_key(SECP256R1()).private_bytes(pem, pkcs8, serialization.NoEncryption()),
            "encrypted": key.private_bytes(pem, pkcs8, serialization.BestAvailableEncryption(b"password")),
            "public": key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo),
        }[form]
        for given_as in (stored, Secret(stored)):
            with pytest.raises(ConfigError, match="not an Ed25519 private key") as caught:
                Identity.load(given_as)
            assert "\n" not in str(caught.value)
            assert not traces(details(caught.value, __file__))

    def test_it_shows_its_fingerprint_only_and_is_not_copied(self) -> None:
        identity = Identity.load(MARK)
        digits = hashlib.sha256(identity.public).hexdigest()
        assert fingerprint(identity.public) == ":".join(digits[at : at + 4] for at in range(0, 32, 4))
        assert repr(identity) == f"Identity({fingerprint(identity.public)})"
        assert fingerprint(identity.public) in str(identity) and not traces(str(identity))
        for copying in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                copying(identity)


class TestVerify:
    def test_every_changed_bit_is_found(self) -> None:
        identity, message = Identity.generate(), b"a message"
        signature = identity.sign(message)
        assert verify(identity.public, message, signature)
        for bit in range(512):
            assert not verify(identity.public, message, flipped(signature, bit))
        for bit in range(256):
            assert not verify(flipped(identity.public, bit), message, signature)
        assert not verify(identity.public, message + b"\0", signature)

    @given(st.binary(max_size=70), st.binary(max_size=40), st.binary(max_size=70))
    def test_malformed_ones_are_false_rather_than_an_error(self, public: bytes, message: bytes, mark: bytes) -> None:
        assert not verify(public, message, mark)

    def test_a_signature_has_one_encoding(self) -> None:
        """S + L verifies as S does unless S < L is checked (RFC 8032, section 5.1.7)."""
        _, public, message, signature = RFC_8032[1]
        order = 2**252 + 27742317777372353535851937790883648493
        above = (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
        assert verify(public, message, signature)
        assert not verify(public, message, signature[:32] + above)

    def test_a_key_of_low_order_vouches_for_nothing(self) -> None:
        """Under the neutral element, R = neutral and S = 0 sign whatever one likes."""
        neutral = (1).to_bytes(32, "little")
        forged = neutral + bytes(32)
        Ed25519PublicKey.from_public_bytes(neutral).verify(forged, b"anything")  # the library says yes
        assert not verify(neutral, b"anything", forged)


class TestSignatures:
    def test_without_a_cache_every_check_is_computed(self) -> None:
        identity, signatures = Identity.generate(), Signatures()
        signature = identity.sign(b"m")
        assert all(signatures.check(identity.public, b"m", signature) for _ in range(3))
        assert (signatures.verified, signatures.cached) == (3, 0)

    def test_an_identical_check_is_remembered_and_no_other(self) -> None:
        identity, other, signatures = Identity.generate(), Identity.generate(), Signatures(cache=10)
        signature = identity.sign(b"m")
        assert signatures.check(identity.public, b"m", signature)
        assert signatures.check(identity.public, b"m", signature)
        assert (signatures.verified, signatures.cached) == (1, 1)
        assert not signatures.check(identity.public, b"n", signature)
        assert not signatures.check(other.public, b"m", signature)
        assert not signatures.check(identity.public, b"m", flipped(signature, 3))
        assert (signatures.verified, signatures.cached) == (4, 1)

    def test_bad_ones_are_not_kept_and_push_nothing_out(self) -> None:
        identity, signatures = Identity.generate(), Signatures(cache=1)
        signature = identity.sign(b"m")
        assert signatures.check(identity.public, b"m", signature)
        for bit in range(5):
            assert not signatures.check(identity.public, b"m", flipped(signature, bit))
        assert signatures.check(identity.public, b"m", signature)
        assert (signatures.verified, signatures.cached) == (6, 1)

    def test_the_cache_is_bounded_and_forgets_the_oldest(self) -> None:
        identity, signatures = Identity.generate(), Signatures(cache=2)
        signed = {message: identity.sign(message) for message in (b"1", b"2", b"3")}
        for message in (b"1", b"2", b"3", b"3", b"2", b"1"):
            assert signatures.check(identity.public, message, signed[message])
        assert (signatures.verified, signatures.cached) == (4, 2)
        assert len(signatures._good) == 2

    def test_threads_share_one(self) -> None:
        identity, signatures = Identity.generate(), Signatures(cache=4)
        signed = [(bytes([i]), identity.sign(bytes([i]))) for i in range(8)]
        start = threading.Barrier(4)

        def checks(_: int) -> bool:
            start.wait()
            return all(signatures.check(identity.public, *pair) for pair in signed * 5)

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(checks, range(4)))
        assert signatures.verified + signatures.cached == 4 * 5 * 8
        assert len(signatures._good) <= 4


class TestStatement:
    def test_layout(self) -> None:
        signed = statement(3, b"c" * 32, 258, b"payload")
        expected = b"fedsus secagg\x01" + b"\x03" + b"c" * 32 + b"\0\0\1\2" + hashlib.sha256(b"payload").digest()
        assert signed == expected

    def test_every_part_counts(self) -> None:
        parts = [(0, bytes(32), 0, b""), (1, bytes(32), 0, b""), (0, b"\1" * 32, 0, b"")]
        parts += [(0, bytes(32), 1, b""), (0, bytes(32), 0, b"\0")]
        made = {statement(*part) for part in parts}
        assert len(made) == len(parts) and {len(signed) for signed in made} == {83}

    @pytest.mark.parametrize(
        ("phase", "context", "sender"),
        [(-1, bytes(32), 0), (256, bytes(32), 0), (0, bytes(31), 0), (0, bytes(33), 0), (0, bytes(32), -1)],
    )
    def test_what_does_not_fit_is_refused(self, phase: int, context: bytes, sender: int) -> None:
        with pytest.raises(ProtocolViolation, match="statement"):
            statement(phase, context, sender, b"")
        with pytest.raises(ProtocolViolation, match="statement"):
            statement(0, bytes(32), 2**32, b"")
