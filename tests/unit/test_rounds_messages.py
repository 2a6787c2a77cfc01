"""The wire: strict, versioned, bounded."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus import plan as plans
from fedsus.errors import ProtocolViolation
from fedsus.plan import Cohort, Encoding, NoPrivacy, Plan, TaskPart, Training
from fedsus.rounds.messages import REFUSAL, decode_answer, decode_request, encode_answer, encode_request, model_hash

MODEL = np.array([0.5, -1.25, 3.0], dtype=np.float32)


def make_plan(model: np.ndarray = MODEL, **changes: object) -> Plan:
    fields: dict[str, object] = {
        "run": "r1",
        "round": 1,
        "attempt": 1,
        "rounds": 3,
        "spare_attempts": 2,
        "model": model_hash(model),
        "dimension": len(model),
        "task": TaskPart(name="heart"),
        "training": Training(),
        "privacy": NoPrivacy(),
        "encoding": Encoding(),
        "cohort": Cohort(size=3, minimum=2),
        "deadline": 5.0,
    }
    return Plan(**(fields | changes))  # type: ignore[arg-type]


def test_a_request_arrives_as_it_was_sent() -> None:
    plan = make_plan()
    request = decode_request(encode_request(plan, MODEL))
    assert request.plan == plan
    assert request.raw_plan == plans.encode(plan)
    assert np.array_equal(request.model, MODEL)


@given(cut=st.integers(0, 10_000), flip=st.integers(0, 10_000), bit=st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_no_changed_request_is_taken(cut: int, flip: int, bit: int) -> None:
    raw = encode_request(make_plan(), MODEL)
    with pytest.raises(ProtocolViolation):
        decode_request(raw[: cut % len(raw)])
    changed = bytearray(raw)
    changed[flip % len(raw)] ^= 1 << bit
    try:
        request = decode_request(bytes(changed))
    except ProtocolViolation:
        return
    # A flipped digit of a number can make another valid plan: then its bytes, and so its hash, must differ.
    assert plans.digest(request.raw_plan) != plans.digest(plans.encode(make_plan()))
    assert np.array_equal(request.model, MODEL)


def test_a_model_that_the_plan_does_not_name_is_refused() -> None:
    raw = encode_request(make_plan(), MODEL + 1)
    with pytest.raises(ProtocolViolation, match="not the one that the plan names"):
        decode_request(raw)


def test_a_model_with_nan_is_refused() -> None:
    broken = np.array([1.0, np.nan, 0.0], dtype=np.float32)
    with pytest.raises(ProtocolViolation, match="NaN or infinity"):
        decode_request(encode_request(make_plan(broken), broken))


def test_announced_lengths_allocate_nothing() -> None:
    raw = struct.pack("<4sBIQ", b"fdsQ", 1, 10, 2**60)
    with pytest.raises(ProtocolViolation, match="lengths"):
        decode_request(raw)


def test_answers_and_refusals() -> None:
    assert bytes(decode_answer(encode_answer(b"abcd"), 4) or b"") == b"abcd"
    assert decode_answer(REFUSAL, 4) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"fdsA",
        encode_answer(b"abc"),
        encode_answer(b"abcde"),
        encode_answer(b"abcd")[:-1],
        encode_answer(b"abcd") + b"x",
        b"XdsA" + encode_answer(b"abcd")[4:],
        b"fdsA\x02" + encode_answer(b"abcd")[5:],
        b"fdsA\x01\x07" + encode_answer(b"abcd")[6:],
        REFUSAL[:-8] + struct.pack("<Q", 1) + b"x",
    ],
)
def test_malformed_answers_are_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_answer(raw, 4)


def test_plans_with_unknown_fields_or_another_form_are_refused() -> None:
    raw = plans.encode(make_plan())
    with pytest.raises(ProtocolViolation, match="Extra"):
        plans.decode(raw[:-1] + b',"zz":1}')
    with pytest.raises(ProtocolViolation, match="canonical"):
        plans.decode(raw.replace(b'{"attempt"', b'{ "attempt"'))
    with pytest.raises(ProtocolViolation, match="deadline"):
        plans.decode(raw.replace(b'"deadline":5.0', b'"deadline":"5"'))
    with pytest.raises(ProtocolViolation, match="at most"):
        plans.decode(b" " * 70_000)


def test_each_field_of_a_plan_changes_its_hash() -> None:
    base = plans.digest(plans.encode(make_plan()))
    changes: dict[str, object] = {
        "run": "r2",
        "round": 2,
        "attempt": 2,
        "rounds": 4,
        "spare_attempts": 3,
        "task": TaskPart(name="other"),
        "training": Training(local_epochs=2),
        "encoding": Encoding(bits=31),
        "cohort": Cohort(size=4, minimum=2),
        "deadline": 6.0,
        "purpose": "evaluate",
    }
    hashes = {plans.digest(plans.encode(make_plan(**{name: value}))) for name, value in changes.items()}
    assert len(hashes) == len(changes)
    assert base not in hashes


@pytest.mark.parametrize(("round_", "expected"), [(1, 1.0), (6, 0.5), (11, 0.0)])
def test_cosine_schedule(round_: int, expected: float) -> None:
    training = make_plan().training.model_copy(
        update={
            "optimizer": plans.Optimizer(learning_rate=1.0),
            "schedule": plans.Schedule(name="cosine"),
        }
    )
    assert plans.learning_rate(training, round_, 11) == pytest.approx(expected, abs=1e-12)


def test_a_name_in_a_message_writes_no_line_into_the_owners_log() -> None:
    evil = "evil\nline\x1b[31m" + "x" * 5000
    for message in ({evil: 1}, {"privacy": {"unit": evil}}):
        with pytest.raises(ProtocolViolation) as refused:
            plans.decode(plans.canonical(message))
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 400
