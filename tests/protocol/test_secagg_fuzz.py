"""100,000 spoilt messages to clients, devices, server and decoders: named refusals come out, nothing grows.

The mutator is seeded, so that each run sends the same; hypothesis sends its own beside it.
"""

from __future__ import annotations

import gc
import logging
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any

import pytest
from fuzzed_device import device
from hypothesis import given
from hypothesis import strategies as st
from recorded_round import Asked, N, decoders, others, server_steps
from secagg_mutations import spoil, spoil_frames

from fedsus.errors import ProtocolViolation, Refusal
from fedsus.rounds.device_half import sessions as device_sessions
from fedsus.rounds.device_half.answers import Answer, refused
from fedsus.secagg import wire
from fedsus.secagg.exchange import Taker, _Taking
from fedsus.types import Answered

DECODED, TAKEN, ASKED, DEVICE = 30_000, 30_000, 25_000, 15_000
"""How many go to pure decoders, to the server, to clients in memory and to a whole device."""
PARTS = 5
"""Of each, tests of their own: workers share them out."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """100,000 refusals are not logged."""
    for name in ("fedsus.server", "fedsus.device"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    yield
    for name in ("fedsus.server", "fedsus.device"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def survived(run: Callable[[bytes], object], message: bytes, said: Counter[str]) -> bool:
    """Whether a message was taken; what else than a named refusal comes out is shown with the message."""
    try:
        run(message)
    except (ProtocolViolation, Refusal) as error:
        said[str(error).split(":")[0]] += 1
        return False
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__}: {error}: {message.hex()}") from error
    return True


@pytest.mark.parametrize("part", range(PARTS))
def test_decoders(part: int) -> None:
    rng, said, taken, spare = Random(f"decoders {part}"), Counter(), 0, others()
    found = decoders()
    for turn in range(DECODED // PARTS):
        run, good = found[turn % len(found)]
        strange = spoil_frames if run is wire.frames else spoil
        taken += survived(run, strange(rng, good, spare), said)
    words = "message session advert adverts shares sealed certificate openings contribute survivors"
    assert set(words.split()) <= said.keys()
    assert said.total() > DECODED // PARTS // 4 and taken > DECODED // PARTS // 20


def test_the_server_takes_the_good_ones() -> None:
    for _, taker, good in server_steps():
        taker()(0, good)


def noted(took: set[bytes], step: Callable[[int, Any], None], index: int, body: Any) -> None:
    """Take an answer, and say that it was taken."""
    step(index, body)
    took.add(bytes(body))


@pytest.mark.parametrize("part", range(PARTS))
def test_server(part: int) -> None:
    """Each answer is signed: what is taken is what was sent, bit for bit."""
    rng, said, spare = Random(f"server {part}"), Counter(), others()
    steps = server_steps()
    for turn in range(TAKEN // PARTS):
        kind, taker, good = steps[turn % len(steps)]
        if turn % 10 < 5:
            message = spoil(rng, good, spare)
            assert not survived(partial(taker(), 0), message, said) or message == good
        else:
            message, took, step = spoil_frames(rng, wire.frame(kind, good), spare), set(), taker()
            taking = _Taking({kind: Taker({"0": 0}, partial(noted, took, step), set())})
            assert survived(lambda raw, taking=taking: taking.take(iter([Answered("0", raw)]), {"0"}), message, said)
            assert took <= {good}, message.hex()
    assert {"client 0", "advert", "shares", "answer"} <= said.keys()


def test_the_client_answers_the_good_ones() -> None:
    asked = Asked()
    for exchange, message in enumerate(asked.tape.asked):
        assert not any(frame.refused for frame in asked.answer(exchange, message))


@pytest.mark.parametrize("part", range(PARTS))
def test_client(part: int) -> None:
    rng, said, spare, asked = Random(f"client {part}"), Counter(), others(), Asked()
    for turn in range(ASKED // PARTS):
        message = spoil_frames(rng, asked.tape.asked[turn % 5], spare)
        survived(partial(asked.answer, turn % 5), message, said)
    assert said["message"] > ASKED // PARTS // 20
    words = "session adverts certificate shares contribute survivors message"
    assert set(words.split()) <= asked.client.said.keys()


@pytest.mark.parametrize("part", range(PARTS))
def test_device(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device answers whatever it is asked; what it refuses has a named reason, which it keeps."""
    rng, found, said = Random(f"device {part}"), device(), Counter()

    def noted_refusal(error: Exception, *body: bytes) -> Answer:
        assert isinstance(error, ProtocolViolation | Refusal), repr(error)
        said[str(error).split(":")[0].split()[0]] += 1
        return refused(error, *body)

    monkeypatch.setattr(device_sessions, "refused", noted_refusal)
    for turn in range(DEVICE // PARTS):
        message = spoil_frames(rng, found.asked[turn % 5], found.asked)
        found.thaw(turn % 5)
        assert survived(found.answer, message, said)
    assert {"message", "session", "adverts", "certificate", "shares", "plan", "survivors"} <= said.keys()


@given(st.binary(max_size=400), st.integers(0, 4))
def test_noise(raw: bytes, exchange: int) -> None:
    """Of hypothesis, bare and in a frame of each kind."""
    for run, _ in decoders():
        survived(run, raw, Counter())
    for kind, taker, _ in server_steps():
        assert not survived(partial(taker(), 0), raw, Counter())
        device().thaw(exchange)
        assert survived(device().answer, wire.frame(kind, raw), Counter())
        sid = next(iter(device().frozen[exchange]), b"")
        assert survived(device().answer, wire.frame(kind, sid, raw), Counter())


def counts() -> Iterator[tuple[Callable[[bytes], object], bytes]]:
    """Good messages whose counts and lengths are as large as they can be."""
    huge, long = b"\xff" * 4, b"\xff" * 8
    for run, good in decoders():
        for place in (0, 96, 4 + 4 * 68, 8 + 4 * 68):
            yield run, good[:place] + huge + good[place + 4 :]
        for place in (7, 4 + N * 68, 12 + N * 68):
            yield run, good[:place] + long + good[place + 8 :]


def test_a_count_is_not_believed() -> None:
    """A count of 2**32 - 1 or a length of 2**64 - 1 takes no memory."""
    peak = 0
    for run, message in counts():
        survived(run, message, Counter())
        tracemalloc.start()
        try:
            survived(run, message, Counter())
            peak = max(peak, tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert 0 < peak < 100_000


def test_memory_does_not_grow() -> None:
    """The same 600 messages again and again, to everyone who takes any."""
    rng, spare, asked, found, said = Random("memory"), others(), Asked(), device(), Counter()
    here = [(run, (spoil_frames if run is wire.frames else spoil)(rng, good, spare)) for run, good in 4 * decoders()]
    messages = [(at % 5, spoil_frames(rng, found.asked[at % 5], found.asked)) for at in range(100)]
    steps = [(step, spoil(rng, step[2], spare)) for step in 20 * server_steps()]

    def everything() -> None:
        for run, message in here:
            survived(run, message, said)
        for exchange, message in messages:
            found.thaw(exchange)
            survived(found.answer, message, said)
        for at, message in enumerate(asked.tape.asked):
            survived(partial(asked.answer, at), spoil_frames(Random(at), message, spare), said)
        for (_, taker, _), message in steps:
            survived(partial(taker(), 0), message, said)

    everything()
    tracemalloc.start()
    try:
        everything()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(3):
            everything()
        gc.collect()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 30_000
    assert peak - before < 3_000_000
