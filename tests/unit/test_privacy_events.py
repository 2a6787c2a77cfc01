"""An event has one text, the text has one event, and anything else is refused."""

import copy
import json
import math
import pickle

import dp_accounting as dpa
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsus.errors import Refusal
from fedsus.privacy.events import DEEPEST, LONGEST, SkellamDpEvent, from_json, leaves, to_json

positive = st.floats(1e-300, 1e300)
gaussians = st.builds(dpa.GaussianDpEvent, st.floats(0, 1e300))
skellams = st.tuples(positive, positive, positive).map(lambda t: SkellamDpEvent(max(t[:2]), min(t[:2]), t[2]))
releases = st.one_of(
    gaussians,
    skellams,
    st.builds(dpa.PoissonSampledDpEvent, st.floats(0, 1), st.one_of(gaussians, skellams)),
    st.just(dpa.NoOpDpEvent()),
    st.just(dpa.NonPrivateDpEvent()),
)
events = st.recursive(
    releases,
    lambda inner: st.one_of(
        st.builds(dpa.SelfComposedDpEvent, inner, st.integers(0, 2**53)),
        st.builds(dpa.ComposedDpEvent, st.lists(inner, max_size=4)),
    ),
    max_leaves=6,
).filter(lambda event: nested(event) <= DEEPEST)

SAMPLED = dpa.PoissonSampledDpEvent(0.25, SkellamDpEvent(12.0, 3.5, 40.0))
TEXT = (
    '{"events":[{"count":7,"event":{"event":{"kind":"skellam","l1":12.0,"l2":3.5,"variance":40.0},'
    '"kind":"poisson_sampled","rate":0.25},"kind":"self_composed"},{"kind":"gaussian","noise_multiplier":1.5},'
    '{"kind":"non_private"},{"kind":"no_op"}],"kind":"composed"}'
)


def nested(event):
    parts = event.events if isinstance(event, dpa.ComposedDpEvent) else [getattr(event, "event", None)]
    return 1 + max((nested(part) for part in parts if part is not None), default=0)


@given(events)
def test_text_and_back(event):
    text = to_json(event)
    assert from_json(text) == event
    assert to_json(from_json(text)) == text


def test_the_text_is_what_ledgers_hold():
    """A changed spelling would make every ledger in the field unreadable."""
    parts = [dpa.SelfComposedDpEvent(SAMPLED, 7), dpa.GaussianDpEvent(1.5), dpa.NonPrivateDpEvent(), dpa.NoOpDpEvent()]
    assert to_json(dpa.ComposedDpEvent(parts)) == TEXT
    assert from_json(TEXT) == dpa.ComposedDpEvent(parts)


def test_equal_events_have_equal_texts():
    assert to_json(SkellamDpEvent(4, 2, 9)) == to_json(SkellamDpEvent(4.0, 2.0, np.float64(9)))
    assert to_json(dpa.GaussianDpEvent(-0.0)) == to_json(dpa.GaussianDpEvent(0))


def test_the_event_is_a_frozen_value():
    event = SkellamDpEvent(4.0, 2.0, 9.0)
    assert event == SkellamDpEvent(4, 2, 9) != SkellamDpEvent(4, 2, 9.5)
    assert hash(event) == hash(copy.copy(event)) == hash(pickle.loads(pickle.dumps(event)))
    assert dpa.DpEvent.from_named_tuple(event.to_named_tuple()) == event
    with pytest.raises(AttributeError):
        event.variance = 1e9


@pytest.mark.parametrize(
    "event",
    [
        "not an event",
        dpa.UnsupportedDpEvent(),
        dpa.LaplaceDpEvent(1.0),
        dpa.ZCDpEvent(0.1),
        dpa.PoissonSampledDpEvent(0.1, dpa.NonPrivateDpEvent()),
        dpa.PoissonSampledDpEvent(0.1, dpa.ComposedDpEvent([dpa.GaussianDpEvent(1.0)])),
        dpa.PoissonSampledDpEvent(0.1, dpa.PoissonSampledDpEvent(0.1, dpa.GaussianDpEvent(1.0))),
        dpa.PoissonSampledDpEvent(1.1, dpa.GaussianDpEvent(1.0)),
        dpa.PoissonSampledDpEvent(-0.1, dpa.GaussianDpEvent(1.0)),
        dpa.PoissonSampledDpEvent(math.nan, dpa.GaussianDpEvent(1.0)),
        dpa.GaussianDpEvent(-1.0),
        dpa.GaussianDpEvent(math.inf),
        dpa.GaussianDpEvent(math.nan),
        dpa.GaussianDpEvent(True),
        dpa.GaussianDpEvent("1.0"),
        dpa.ComposedDpEvent(None),
        dpa.ComposedDpEvent([None]),
        dpa.SelfComposedDpEvent(SAMPLED, -1),
        dpa.SelfComposedDpEvent(SAMPLED, 1.0),
        dpa.SelfComposedDpEvent(SAMPLED, True),
        dpa.SelfComposedDpEvent(SAMPLED, 2**53 + 1),
        SkellamDpEvent(1.0, 2.0, 9.0),
        SkellamDpEvent(-1.0, -2.0, 9.0),
        SkellamDpEvent(2.0, 1.0, 0.0),
        SkellamDpEvent(2.0, 1.0, -1.0),
        SkellamDpEvent(2.0, 1.0, math.nan),
        SkellamDpEvent(2.0, 1.0, math.inf),
        SkellamDpEvent(math.inf, 1.0, 1.0),
        SkellamDpEvent(math.nan, 1.0, 1.0),
    ],
    ids=str,
)
def test_what_is_unknown_or_out_of_range_is_refused(event):
    with pytest.raises(Refusal):
        to_json(event)
    with pytest.raises(Refusal):
        to_json(dpa.ComposedDpEvent([SAMPLED, event]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '"gaussian"',
        '{"kind":"laplace","noise_multiplier":1.0}',
        '{"kind":["gaussian"],"noise_multiplier":1.0}',
        '{"kind":"gaussian"}',
        '{"kind":"gaussian","noise_multiplier":1.0,"clip":1.0}',
        '{"depth":0,"event":{"kind":"no_op"},"count":1,"kind":"self_composed"}',
        '{"kind":"no_op","rate":1.0}',
        '{"kind":"gaussian","noise_multiplier":NaN}',
        '{"kind":"gaussian","noise_multiplier":Infinity}',
        '{"kind":"gaussian","noise_multiplier":1e999}',
        '{"kind":"gaussian","noise_multiplier":-1.0}',
        '{"kind":"gaussian","noise_multiplier":"1.0"}',
        '{"kind":"gaussian","noise_multiplier":true}',
        '{"kind":"gaussian","noise_multiplier":null}',
        '{"kind":"gaussian","noise_multiplier":' + "9" * 5000 + "}",
        '{"kind":"gaussian","noise_multiplier":' + "9" * 400 + "}",
        '{"kind":"skellam","l1":1.0,"l2":2.0,"variance":3.0}',
        '{"kind":"skellam","l1":2.0,"l2":1.0,"variance":0.0}',
        '{"events":{"kind":"no_op"},"kind":"composed"}',
        '{"events":[null],"kind":"composed"}',
        '{"count":1.0,"event":{"kind":"no_op"},"kind":"self_composed"}',
        '{"count":-1,"event":{"kind":"no_op"},"kind":"self_composed"}',
        '{"event":{"kind":"no_op"},"kind":"poisson_sampled","rate":0.5}',
        '{"event":{"kind":"gaussian","noise_multiplier":1.0},"kind":"poisson_sampled","rate":1.5}',
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(Refusal):
        from_json(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"kind":"gaussian","noise_multiplier":1}',
        '{"kind":"gaussian","noise_multiplier":1.50}',
        '{"kind":"gaussian","noise_multiplier":-0.0}',
        '{"kind": "gaussian","noise_multiplier":1.0}',
        '{"noise_multiplier":1.0,"kind":"gaussian"}',
        '{"kind":"gaussian","noise_multiplier":9.0,"noise_multiplier":1.0}',
        '{"kind":"gaussian","noise_multiplier":1.0}\n',
        '{"kind":"g\\u0061ussian","noise_multiplier":1.0}',
    ],
)
def test_other_spellings_are_refused(text):
    with pytest.raises(Refusal, match="canonical"):
        from_json(text)


def test_depth_and_length_are_bounded():
    event = dpa.NoOpDpEvent()
    for _ in range(DEEPEST - 1):
        event = dpa.SelfComposedDpEvent(event, 2)
    assert from_json(to_json(event)) == event
    deep = {"count": 2, "event": json.loads(to_json(event)), "kind": "self_composed"}
    for attempt in (lambda: to_json(dpa.SelfComposedDpEvent(event, 2)), lambda: from_json(json.dumps(deep))):
        with pytest.raises(Refusal, match="within"):
            attempt()
    long = dpa.ComposedDpEvent([dpa.GaussianDpEvent(1.0)] * 3000)
    for attempt in (lambda: to_json(long), lambda: from_json(" " * (LONGEST + 1))):
        with pytest.raises(Refusal, match="characters"):
            attempt()
    with pytest.raises(Refusal, match="JSON"):
        from_json('{"events":[' * 5000)


def test_leaves_are_counted_and_merged():
    twice = dpa.SelfComposedDpEvent(dpa.ComposedDpEvent([SAMPLED, dpa.GaussianDpEvent(1.0)]), 2)
    nothing = [dpa.NoOpDpEvent(), dpa.PoissonSampledDpEvent(0.0, dpa.GaussianDpEvent(1.0)), dpa.ComposedDpEvent(())]
    counts = leaves(
        dpa.ComposedDpEvent([twice, dpa.SelfComposedDpEvent(dpa.NonPrivateDpEvent(), 0), SAMPLED, *nothing])
    )
    assert counts == {SAMPLED: 3, dpa.GaussianDpEvent(1.0): 2}


def test_leaves_are_bounded():
    many = SAMPLED
    for _ in range(30):
        many = dpa.SelfComposedDpEvent(many, 2**53)
    with pytest.raises(Refusal, match="times"):
        leaves(many)
    for _ in range(30):
        many = dpa.ComposedDpEvent([many])
    with pytest.raises(Refusal, match="within"):
        leaves(many)
