"""Keys of secure aggregation: published vectors, golden values, what is refused, and what never shows.

Vectors: RFC 7748 (X25519), RFC 5869 (HKDF), and test cases 13 and 14 of McGrew and Viega, "The Galois/Counter Mode of
Operation (GCM)".
"""

from __future__ import annotations

import copy
import hashlib
import hmac
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from shown_secrets import MARK, details, flipped, h, traces

from fedsus.errors import ProtocolViolation
from fedsus.secagg.keys import (
    Agreement,
    commitment,
    derive,
    fingerprint,
    open_sealed,
    seal,
)
from fedsus.secagg.secret import Secret

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P  # of the twisted Edwards curve, RFC 8032, section 5.1
ALICE = h("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")  # RFC 7748, section 6.1
BOB = h("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
ALICE_PUBLIC = h("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
BOB_PUBLIC = h("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SHARED = h("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
# u of the points of order 1, 2, 4 and 8 of the curve and of its twist (https://cr.yp.to/ecdh.html#validate).
ORDER_8 = 325606250916557431795983626356110631294008115727848805560023387167927233504
OTHER_ORDER_8 = 39382357235489614581723060781553021112529911719440698176882885853963445705823
REDUCED = [0, 1, ORDER_8, OTHER_ORDER_8, P - 1]
LOW_ORDER = [*REDUCED, P, P + 1, *(u + 2**255 for u in [*REDUCED, P, P + 1])]
GOLDEN_SELF = "26a35330d4d8bca51ec28aefd222d58949287fb0dcab8927b483a558dd890ba0"
GOLDEN_PAIR = "f2f0fb6044b38db5f577e77dd27d98ad7d89d3666385e8ef4e67e0a57dd9b5dc"


def hkdf(secret: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 without salt, from its sections 2.2 and 2.3: the oracle."""
    key = hmac.digest(bytes(32), secret, "sha256")
    block, out = b"", b""
    for count in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([count]), "sha256")
        out += block
    return out[:length]


def length_prefixed(*parts: bytes) -> bytes:
    return b"fedsus secagg\x01" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


class TestSecret:
    def test_it_gives_back_what_it_was_given(self) -> None:
        given_bytes = bytearray(MARK)
        secret = Secret(given_bytes)
        given_bytes[0] = 0
        assert secret.reveal() == MARK and secret.size == 32
        assert Secret(memoryview(MARK)).reveal() == MARK

    def test_a_number_is_not_that_many_zeros(self) -> None:
        with pytest.raises(TypeError):
            Secret(32)  # type: ignore[arg-type]

    def test_wiping_zeroes_the_bytes_and_ends_it(self) -> None:
        secret = Secret(MARK)
        held = secret._data
        secret.wipe()
        assert held == bytearray(32), "the buffer itself, not only the reference to it"
        assert secret.size == 0
        with pytest.raises(ProtocolViolation, match="wiped"):
            secret.reveal()
        secret.wipe()

    @pytest.mark.parametrize("show", [repr, str, format, "{:>20}".format, "{!r:s}".format, "%s".__mod__, ascii])
    def test_it_prints_as_secret(self, show: Callable[[Secret], str]) -> None:
        for holder in (Secret(MARK), [Secret(MARK)], {"key": Secret(MARK)}):
            text = show(holder) if isinstance(holder, Secret) else str(holder)
            assert "<secret>" in text and not traces(text)
        assert traces(str(MARK)) and traces(MARK.hex()) and traces(str(list(MARK))), "the search finds them"

    @pytest.mark.parametrize(
        "copying",
        [
            *(partial(pickle.dumps, protocol=protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)),
            *(copy.copy, copy.deepcopy, lambda secret: secret.__getstate__(), lambda secret: secret.__reduce__()),
        ],
    )
    def test_it_is_not_copied(self, copying: Callable[[Secret], object]) -> None:
        with pytest.raises(TypeError) as caught:
            copying(Secret(MARK))
        assert not traces(str(caught.value))

    def test_a_dataclass_that_holds_one_keeps_it(self) -> None:
        @dataclass(frozen=True)
        class Holder:
            key: Secret

        assert repr(Holder(Secret(MARK))).endswith("Holder(key=<secret>)")
        with pytest.raises(TypeError):
            asdict(Holder(Secret(MARK)))

    def test_comparison_tells_nothing_of_the_bytes(self) -> None:
        one, other = Secret(MARK), Secret(MARK)
        assert one != other and one != MARK and one == one
        assert len({one, other}) == 2
        assert not hasattr(one, "__len__") and not hasattr(one, "__bytes__") and not hasattr(one, "__dict__")
        with pytest.raises(TypeError):
            memoryview(one)  # type: ignore[arg-type]


class TestAgreement:
    def test_published_vector(self) -> None:
        alice, bob = Agreement.rebuild(ALICE, ALICE_PUBLIC), Agreement.rebuild(Secret(BOB), BOB_PUBLIC)
        expected = hkdf(SHARED, length_prefixed(b"agreement", ALICE_PUBLIC, BOB_PUBLIC), 32)
        assert alice.exchange(BOB_PUBLIC).reveal() == bob.exchange(ALICE_PUBLIC).reveal() == expected
        assert alice.secret().reveal() == ALICE

    def test_fresh_ones_agree_pair_by_pair(self) -> None:
        a, b, c = (Agreement.generate() for _ in range(3))
        assert a.exchange(b.public).reveal() == b.exchange(a.public).reveal()
        assert a.exchange(b.public).reveal() != a.exchange(c.public).reveal()
        assert Agreement.rebuild(a.secret(), a.public).exchange(b.public).reveal() == a.exchange(b.public).reveal()

    @pytest.mark.parametrize("u", LOW_ORDER)
    def test_points_of_low_order_are_refused_in_every_encoding(self, u: int) -> None:
        with pytest.raises(ProtocolViolation, match="advertised key"):
            Agreement.generate().exchange(u.to_bytes(32, "little"))

    @pytest.mark.parametrize("u", [*REDUCED, P, P + 1])
    def test_the_library_refuses_their_output_itself(self, u: int) -> None:
        with pytest.raises(ValueError, match="shared key"):
            X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(u.to_bytes(32, "little")))

    @pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
    def test_other_lengths_are_refused(self, length: int) -> None:
        with pytest.raises(ProtocolViolation, match="canonical"):
            Agreement.generate().exchange(b"\x09" * length)
        with pytest.raises(ProtocolViolation, match="not 32 bytes"):
            Agreement.rebuild(b"\x09" * length, ALICE_PUBLIC)

    @pytest.mark.parametrize("times", range(1, 8))
    def test_a_copied_key_in_other_bytes_copies_no_secret(self, times: int) -> None:
        """Public keys that differ by a point of order 8 have the same X25519 output; masks must not cancel by that."""
        target, honest = X25519PrivateKey.generate(), Agreement.generate()
        copied = with_torsion(honest.public, times)
        assert copied != honest.public
        raw = target.exchange(X25519PublicKey.from_public_bytes(honest.public))
        assert target.exchange(X25519PublicKey.from_public_bytes(copied)) == raw, "the attack is real"
        agreement = Agreement(target)
        assert agreement.exchange(copied).reveal() != agreement.exchange(honest.public).reveal()

    def test_another_encoding_of_a_key_is_refused(self) -> None:
        one, other = Agreement.generate(), Agreement.generate()
        with pytest.raises(ProtocolViolation, match="canonical"):
            one.exchange(flipped(other.public, 255))
        for u in (P + 9, 2**255 - 1):
            with pytest.raises(ProtocolViolation, match="canonical"):
                one.exchange(u.to_bytes(32, "little"))

    def test_a_rebuilt_secret_must_belong_to_the_advertised_key(self) -> None:
        for raw in (MARK, Secret(MARK)):
            with pytest.raises(ProtocolViolation, match="does not belong") as caught:
                Agreement.rebuild(raw, ALICE_PUBLIC)
            assert not traces(details(caught.value, __file__))
        with pytest.raises(ProtocolViolation, match="does not belong"):
            Agreement.rebuild(ALICE, flipped(ALICE_PUBLIC, 255))

    def test_wiped_it_answers_nothing_but_its_public_key(self) -> None:
        agreement = Agreement.rebuild(ALICE, ALICE_PUBLIC)
        agreement.wipe()
        agreement.wipe()
        for use in (agreement.secret, lambda: agreement.exchange(BOB_PUBLIC)):
            with pytest.raises(ProtocolViolation, match="wiped"):
                use()
        assert agreement.public == ALICE_PUBLIC and agreement._key is None and "wiped" in repr(agreement)

    def test_it_shows_its_fingerprint_only_and_is_not_copied(self) -> None:
        public = X25519PrivateKey.from_private_bytes(MARK).public_key().public_bytes_raw()
        agreement = Agreement.rebuild(MARK, public)
        assert repr(agreement) == f"Agreement({fingerprint(public)})" and not traces(repr(agreement))
        for copying in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                copying(agreement)


class TestDerive:
    def test_the_oracle_is_rfc_5869(self) -> None:
        """Appendix A.3: no salt, no info."""
        expected = h("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8")
        assert hkdf(b"\x0b" * 22, b"", 42) == expected

    @pytest.mark.parametrize("length", [16, 32, 64, 100])
    def test_it_is_hkdf_over_tag_version_and_length_prefixed_parts(self, length: int) -> None:
        expected = hkdf(MARK, length_prefixed(b"pair", b"t" * 32, b""), length)
        assert derive(Secret(MARK), "pair", b"t" * 32, b"", length=length).reveal() == expected
        assert derive(MARK, "pair", b"t" * 32, b"", length=length).reveal() == expected

    def test_golden_values_of_version_1(self) -> None:
        assert derive(bytes(32), "self").reveal().hex() == GOLDEN_SELF
        assert derive(bytes(range(32)), "pair", b"\x01" * 32, b"\x02" * 32).reveal().hex() == GOLDEN_PAIR

    def test_nothing_runs_into_its_neighbour(self) -> None:
        asked = [("ab", ()), ("a", (b"b",)), ("ab", (b"",)), ("ab", (b"", b"")), ("a", (b"", b"b")), ("", (b"ab",))]
        assert len({derive(MARK, label, *parts).reveal() for label, parts in asked}) == len(asked)
        assert len({commitment(label, *parts) for label, parts in asked}) == len(asked)

    def test_a_wiped_secret_gives_nothing(self) -> None:
        secret = Secret(MARK)
        secret.wipe()
        with pytest.raises(ProtocolViolation, match="wiped"):
            derive(secret, "pair")


class TestCommitment:
    @given(st.text(max_size=5), st.lists(st.binary(max_size=5), max_size=4))
    def test_it_is_sha_256_over_length_prefixed_parts(self, label: str, parts: list[bytes]) -> None:
        expected = hashlib.sha256(length_prefixed(label.encode(), *parts)).digest()
        assert commitment(label, *parts) == expected


class TestSeal:
    def test_published_vectors(self) -> None:
        """Test cases 13 and 14: AES-256, a zero key and a zero nonce, nothing bound."""
        key = Secret(bytes(32))
        assert seal(key, b"", b"") == h("530f8afbc74536b9a963b4f1c4cb738b")
        assert seal(key, bytes(16), b"") == h("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919")

    @given(st.binary(max_size=100), st.binary(max_size=40))
    def test_round_trip(self, plain: bytes, bound: bytes) -> None:
        sealed = seal(Secret(MARK), plain, bound)
        assert len(sealed) == len(plain) + 16
        assert open_sealed(Secret(MARK), sealed, bound) == plain

    def test_every_change_is_refused(self) -> None:
        key, bound = Secret(MARK), b"tid, from, to"
        sealed = seal(key, b"shares", bound)
        changed = [flipped(sealed, bit) for bit in range(8 * len(sealed))]
        for bad in (*changed, b"", sealed[:15], sealed[:-1], sealed + b"\0"):
            with pytest.raises(ProtocolViolation, match="sealed message"):
                open_sealed(key, bad, bound)
        for other, place in ((Secret(MARK), b"tid, to, from"), (Secret(bytes(32)), bound)):
            with pytest.raises(ProtocolViolation, match="sealed message") as caught:
                open_sealed(other, sealed, place)
            assert not traces(details(caught.value, __file__))

    @pytest.mark.parametrize("length", [0, 16, 24, 31, 33])
    def test_no_shorter_aes(self, length: int) -> None:
        with pytest.raises(ProtocolViolation, match="expected 32"):
            seal(Secret(bytes(length)), b"", b"")
        with pytest.raises(ProtocolViolation, match="expected 32"):
            open_sealed(Secret(bytes(length)), bytes(16), b"")


def with_torsion(public: bytes, times: int) -> bytes:
    """The X25519 key u(Q + times T), where Q has the key ``public`` and T has order 8."""
    u = int.from_bytes(public, "little")
    point = on_edwards((u - 1) * pow(u + 1, -1, P) % P)
    torsion = on_edwards((ORDER_8 - 1) * pow(ORDER_8 + 1, -1, P) % P)
    for _ in range(times):
        point = added(point, torsion)
    return ((1 + point[1]) * pow(1 - point[1], -1, P) % P).to_bytes(32, "little")


def on_edwards(y: int) -> tuple[int, int]:
    """A point with this y (RFC 8032, section 5.1.3)."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    assert x * x % P == square
    return x, y


def added(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """The complete addition of the twisted Edwards curve (RFC 8032, section 5.1.4)."""
    (a, b), (c, d) = one, other
    k = D * a * b * c * d % P
    return (a * d + b * c) * pow(1 + k, -1, P) % P, (b * d + a * c) * pow(1 - k, -1, P) % P
