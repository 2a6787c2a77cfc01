"""Models that travel as differences, one by one: what arrives, what is kept, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from downlink_plans import LAST, NEXT, a_plan, changed, other_difference
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.errors import ProtocolViolation, RunFailed
from fedsus.plan import Downlink
from fedsus.rounds import models
from fedsus.rounds.messages import decode_request, encode_request, model_hash
from fedsus.rounds.models import MOST, Held, Readers, Unheld, reference
from fedsus.rounds.phases import phases_of
from fedsus.secagg import wire
from fedsus.secagg.wire import Kind
from fedsus.types import Forms, Vector


def test_a_difference_is_a_quarter_of_a_larger_model_and_only_who_lacks_the_base_gets_more() -> None:
    dimension, generator = 20_000, np.random.default_rng(0)
    model, last = (generator.normal(size=dimension).astype(np.float32) for _ in range(2))
    plan = a_plan(last)
    readers, names = Readers(), ["a", "b", "c"]
    assert len(readers.forms(plan, reference(last, None, plan.downlink), names).common) == 4 * dimension + 1
    readers.forms(plan, reference(last, None, plan.downlink), []).read.update(names)
    made = reference(model, last, plan.downlink)
    forms = readers.forms(plan.model_copy(update={"model": model_hash(made.model)}), made, [*names, "d"])
    assert forms.others == {"d"} and len(forms.common) < dimension * (1 + 2 / 32) + 100
    assert forms.whole is not None and len(forms.whole()) == 4 * dimension + 1


def holding(model: Vector, **changes: Any) -> Held:
    held = Held()
    held.keep(a_plan(model, **changes), model)
    return held


def test_a_difference_arrives_as_the_model_that_its_plan_names() -> None:
    plan, raw = changed(NEXT, LAST)
    assert model_hash(models.read(plan, raw, holding(LAST))) == plan.model
    whole = decode_request(encode_request(a_plan(NEXT), NEXT))
    assert np.array_equal(whole.model, NEXT)


@pytest.mark.parametrize("held", [None, Held(), holding(NEXT), holding(LAST, run="another")])
def test_without_the_base_the_whole_model_is_asked_for(held: Held | None) -> None:
    plan, raw = changed(NEXT, LAST)
    with pytest.raises(Unheld, match="does not have"):
        models.read(plan, raw, held)


BAD: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda raw: b"", "neither whole nor a difference"),
    "another form": (lambda raw: b"\2" + raw[1:], "neither whole nor a difference"),
    "half a hash": (lambda raw: raw[:20], "neither whole nor a difference"),
    "a truncated difference": (lambda raw: raw[:-3], "difference: "),
    "a difference with more behind it": (lambda raw: raw + b"\0", "difference: "),
    "another difference": (other_difference, "difference: |not the one that the plan names"),
    "a good difference to another model": (lambda raw: changed(NEXT * 2, LAST)[1], "not the one that the plan names"),
    "a difference called whole": (lambda raw: b"\0" + raw[1:], "model of .* bytes, plan says 136"),
    "a whole model of another length": (lambda raw: b"\0" + bytes(132), "model of 132 bytes, plan says 136"),
    "another whole model": (lambda raw: b"\0" + bytes(136), "not the one that the plan names"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_model_is_refused_with_a_reason(case: str) -> None:
    change, why = BAD[case]
    plan, raw = changed(NEXT, LAST)
    with pytest.raises(ProtocolViolation, match=why) as caught:
        models.read(plan, change(raw), holding(LAST))
    assert not isinstance(caught.value, Unheld) and "\n" not in str(caught.value)


def test_a_base_of_another_dimension_is_refused() -> None:
    plan, raw = changed(NEXT, LAST)
    other = plan.model_copy(update={"dimension": 33})
    with pytest.raises(ProtocolViolation, match="a difference to a model of 34, plan says 33"):
        models.read(other, raw, holding(LAST))


def test_a_plan_without_downlink_takes_whole_models_alone() -> None:
    _, raw = changed(NEXT, LAST)
    plan = a_plan(NEXT, downlink=None)
    assert np.array_equal(models.read(plan, NEXT.tobytes(), None), NEXT)
    with pytest.raises(ProtocolViolation, match="plan says 136"):
        models.read(plan, raw, holding(LAST))


def test_a_device_keeps_the_last_model_of_a_few_runs() -> None:
    held = Held()
    for run, model in itertools.product(("a", "b", "c"), (LAST, NEXT)):
        held.keep(a_plan(model, run=run), model)
    assert len(held._models) == MOST
    assert np.array_equal(held.find("c", model_hash(NEXT)), NEXT) and np.array_equal(
        held.find("b", model_hash(NEXT)), NEXT
    )
    for run, model in (("a", NEXT), ("b", LAST), ("c", LAST)):
        with pytest.raises(Unheld):
            held.find(run, model_hash(model))
    held = holding(LAST, downlink=None)
    assert not held._models, "nothing is kept for a run whose models travel whole"


def test_what_is_kept_holds_no_message() -> None:
    raw = bytearray(encode_request(a_plan(LAST), LAST))
    model = decode_request(bytes(raw)).model
    held = holding(model)
    assert held.find("run", model_hash(LAST)).base is None


def test_nobody_makes_the_server_send_a_whole_model_twice() -> None:
    """A client that got the whole one and says that it lacks the base lies."""
    forms = Forms(b"difference", frozenset({"new"}), lambda: b"whole")
    requests = dict.fromkeys(("old", "new"), b"")
    first = forms.ask(requests, 1.0)
    assert (first.request("old"), first.request("new")) == (b"difference", b"whole")
    again = forms.again(requests, 1.0)
    assert again is not None
    assert (dict(again.requests), again.request("old")) == ({"old": b""}, b"whole")
    assert forms.again({"new": b""}, 1.0) is None
    assert forms.again({}, 1.0) is None


def test_a_model_that_is_not_finite_ends_the_run_with_its_reason() -> None:
    broken = NEXT.copy()
    broken[3] = np.nan
    with pytest.raises(RunFailed, match="the model cannot be sent: .*NaN or infinity"):
        reference(broken, LAST, Downlink())


def test_only_the_answer_to_a_model_can_say_that_the_base_is_missing() -> None:
    (frame,) = wire.frames(wire.frame(Kind.CONTRIBUTE, wanting=True))
    assert frame.wanting and not frame.refused and not frame.body
    with pytest.raises(ProtocolViolation, match="asks nothing"):
        phases_of([frame])
    with pytest.raises(ProtocolViolation, match="status 2"):
        wire.frames(wire.frame(Kind.CONFIRM, wanting=True))
    with pytest.raises(ProtocolViolation, match="lengths do not add up"):
        wire.frames(wire.frame(Kind.CONTRIBUTE, b"x", wanting=True))


@settings(deadline=None, max_examples=100)
@given(tail=st.binary(max_size=80), form=st.sampled_from([b"", b"\0", b"\1", b"\2"]))
def test_any_bytes_are_the_model_of_the_plan_or_one_refusal(tail: bytes, form: bytes) -> None:
    plan, raw = changed(NEXT, LAST)
    for sent in (form + tail, raw[:33] + tail):
        with pytest.raises(ProtocolViolation) as caught:
            models.read(plan, sent, holding(LAST))
        assert "\n" not in str(caught.value)
