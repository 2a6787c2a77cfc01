"""Held polls, as an ASGI application in memory: who is woken when, and what is passed on untouched."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from flwr.proto import fleet_pb2, message_pb2, runtime_pb2
from held_polls import (
    FLEET_PULL,
    FLEET_PUSH,
    LONG,
    MESSAGE,
    NAME,
    NODE,
    NOTHING,
    OBJECT,
    RUNTIME_PULL,
    RUNTIME_PUSH,
    Asker,
    Behind,
    ask,
    completed,
    envelope,
    play,
    question,
    settle,
)
from hypothesis import given
from hypothesis import strategies as st

from fedsus_server.flower import holding
from fedsus_server.flower.holding import Holding, Mailbox


def test_a_held_poll_is_answered_when_its_message_is_complete_and_not_before() -> None:
    async def scene() -> None:
        fleet, runtime, mailbox = Behind((200, NOTHING), (200, MESSAGE)), Behind(), Mailbox()
        outer, inner = Holding(fleet, mailbox, LONG), Holding(runtime, mailbox, LONG)
        poll = Asker(outer, FLEET_PULL, question())
        await fleet.reached.wait()
        await ask(inner, RUNTIME_PUSH, envelope())
        await ask(inner, OBJECT, completed(hashlib.sha256(b"another").hexdigest()))
        await settle()
        assert not poll.task.done()
        assert poll.events == []
        await ask(inner, OBJECT, completed())
        assert await poll.answer() == (200, MESSAGE)
        assert fleet.asked == [(FLEET_PULL, question())] * 2
        assert fleet.scopes[0] is not fleet.scopes[1]
        assert fleet.scopes[0]["state"] is not fleet.scopes[1]["state"]

    play(scene())


def test_a_poll_with_an_answer_is_not_held() -> None:
    async def scene() -> None:
        fleet = Behind((200, MESSAGE))
        assert await ask(Holding(fleet, Mailbox(), LONG), FLEET_PULL, question()) == (200, MESSAGE)
        assert len(fleet.asked) == 1

    play(scene())


def test_at_its_time_a_held_poll_is_answered_with_nothing() -> None:
    async def scene() -> None:
        fleet, mailbox = Behind(), Mailbox()
        assert await ask(Holding(fleet, mailbox, 0.0), FLEET_PULL, question()) == (200, NOTHING)
        assert len(fleet.asked) == 1
        assert mailbox._waiting == {}

    play(scene())


def test_who_goes_away_is_held_no_longer() -> None:
    async def scene() -> None:
        fleet, mailbox = Behind(), Mailbox()
        poll = Asker(Holding(fleet, mailbox, LONG), FLEET_PULL, question())
        await fleet.reached.wait()
        await settle()
        assert len(mailbox._waiting) == 1
        poll.go()
        await poll.task
        assert len(fleet.asked) == 1  # nothing is asked, so no message is marked as delivered, for nobody
        assert mailbox._waiting == {}

    play(scene())


def test_who_goes_away_within_its_request_reaches_nothing() -> None:
    async def scene() -> None:
        fleet = Behind()
        door = Holding(fleet, Mailbox(), LONG)
        events = iter([{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.disconnect"}])

        async def receive() -> Any:
            return next(events)

        await door({"type": "http", "path": FLEET_PULL}, receive, pytest.fail)
        assert fleet.asked == []

    play(scene())


def test_a_message_that_comes_while_the_first_answer_is_made_is_not_missed() -> None:
    async def scene() -> None:
        fleet, mailbox = Behind((200, NOTHING), (200, MESSAGE)), Mailbox()
        inner = Holding(Behind(), mailbox, LONG)

        async def meanwhile() -> None:
            await ask(inner, RUNTIME_PUSH, envelope())
            await ask(inner, OBJECT, completed())

        fleet.then = meanwhile  # after Flower looked, before the poll waits
        assert await ask(Holding(fleet, mailbox, LONG), FLEET_PULL, question()) == (200, MESSAGE)

    play(scene())


@pytest.mark.parametrize("status", [401, 404, 500])
def test_what_is_refused_is_not_held(status: int) -> None:
    async def scene() -> None:
        fleet = Behind((status, b""))
        assert await ask(Holding(fleet, Mailbox(), LONG), FLEET_PULL, question()) == (status, b"")
        assert len(fleet.asked) == 1

    play(scene())


@pytest.mark.parametrize("status", [401, 404, 500])
def test_what_is_refused_wakes_nobody(status: int) -> None:
    async def scene() -> None:
        fleet, mailbox = Behind(), Mailbox()
        poll = Asker(Holding(fleet, mailbox, LONG), FLEET_PULL, question())
        await fleet.reached.wait()
        inner = Holding(Behind((200, b""), (status, b"")), mailbox, LONG)
        await ask(inner, RUNTIME_PUSH, envelope())
        await ask(inner, OBJECT, completed())
        await settle()
        assert not poll.task.done()
        forged = Holding(Behind((status, b"")), mailbox, LONG)
        await ask(forged, RUNTIME_PUSH, envelope("forged"))
        assert "forged" not in mailbox._announced
        poll.go()
        await poll.task

    play(scene())


def test_two_who_wait_are_both_woken_and_a_third_is_not() -> None:
    async def scene() -> None:
        mailbox = Mailbox()
        fleets = [Behind((200, NOTHING), (200, MESSAGE)) for _ in range(3)]
        nodes = [NODE, NODE, NODE + 1]
        polls = [Asker(Holding(f, mailbox, LONG), FLEET_PULL, question(n)) for f, n in zip(fleets, nodes, strict=True)]
        for fleet in fleets:
            await fleet.reached.wait()
        inner = Holding(Behind(), mailbox, LONG)
        await ask(inner, RUNTIME_PUSH, envelope())
        await ask(inner, OBJECT, completed())
        assert await polls[0].answer() == await polls[1].answer() == (200, MESSAGE)
        await settle()
        assert not polls[2].task.done()
        polls[2].go()
        await polls[2].task
        assert mailbox._waiting == {}

    play(scene())


def test_the_round_loop_is_woken_by_the_answer_to_any_of_its_messages() -> None:
    async def scene() -> None:
        mailbox = Mailbox()
        found = runtime_pb2.PullAppMessagesResponse(messages_list=[message_pb2.Message()]).SerializeToString()
        runtime = Behind((200, b""), (200, found))
        asked = runtime_pb2.PullAppMessagesRequest(message_ids=["a", "b"]).SerializeToString()
        poll = Asker(Holding(runtime, mailbox, LONG), RUNTIME_PULL, asked)
        await runtime.reached.wait()
        metadata = message_pb2.Metadata(message_id=NAME, reply_to_message_id="b")
        answer = fleet_pb2.PushMessagesRequest(messages_list=[message_pb2.Message(metadata=metadata)])
        outer = Holding(Behind(), mailbox, LONG)
        await ask(outer, FLEET_PUSH, answer.SerializeToString())
        await ask(outer, "/v1/fleet/push-object", completed())
        assert await poll.answer() == (200, found)
        assert mailbox._waiting == {}

    play(scene())


def test_what_is_announced_is_bounded_and_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "_ANNOUNCED", 3)
    mailbox = Mailbox()
    for number in range(10):
        mailbox.announce(f"object {number}", "node 1")
    assert list(mailbox._announced) == ["object 7", "object 8", "object 9"]
    with mailbox.waiter(["node 1"]) as event:
        mailbox.arrived("object 0")
        assert not event.is_set()
        mailbox.arrived("object 9")
        assert event.is_set()
    assert list(mailbox._announced) == ["object 7", "object 8"]
    assert mailbox._waiting == {}


@given(st.binary(max_size=40))
def test_any_body_reaches_the_application_as_it_came(body: bytes) -> None:
    async def scene() -> None:
        for path in (FLEET_PULL, RUNTIME_PULL, FLEET_PUSH, RUNTIME_PUSH, OBJECT, "/v1/fleet/activate-node"):
            behind = Behind((400, b"what?"))
            mailbox = Mailbox()
            asker = Asker(Holding(behind, mailbox, LONG), path, body, parts=3 if path in holding._WATCHED else 1)
            assert await asker.answer() == (400, b"what?")
            assert behind.asked == [(path, body)]
            assert mailbox._waiting == {}
            assert mailbox._announced == {}

    play(scene())


@given(st.binary(min_size=1, max_size=40))
def test_bodies_that_are_not_the_protocol_are_never_held(body: bytes) -> None:
    async def scene() -> None:
        try:
            fleet_pb2.PullMessagesRequest().ParseFromString(body)
        except holding.DecodeError:
            behind = Behind((200, NOTHING))
            assert await ask(Holding(behind, Mailbox(), LONG), FLEET_PULL, body) == (200, NOTHING)

    play(scene())


def test_polls_leave_nothing_behind() -> None:
    async def scene() -> None:
        mailbox = Mailbox()
        inner = Holding(Behind(), mailbox, LONG)
        for number in range(200):
            name = hashlib.sha256(bytes([number])).hexdigest()
            fleet = Behind((200, NOTHING), (200, MESSAGE))
            poll = Asker(Holding(fleet, mailbox, LONG), FLEET_PULL, question(number))
            await fleet.reached.wait()
            await ask(inner, RUNTIME_PUSH, envelope(name, number))
            await ask(inner, OBJECT, completed(name))
            await poll.task
        assert mailbox._waiting == {}
        assert mailbox._announced == {}

    play(scene())


def test_long_answers_are_not_parsed_a_second_time() -> None:
    async def scene() -> None:
        long = fleet_pb2.PullMessagesResponse(messages_list=[message_pb2.Message()] * 4096).SerializeToString()
        assert len(long) > holding._SMALL
        assert await ask(Holding(Behind((200, long)), Mailbox(), LONG), FLEET_PULL, question()) == (200, long)

    play(scene())


def test_what_is_not_http_is_passed_through() -> None:
    async def scene() -> None:
        seen: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["type"])

        door = Holding(app, Mailbox(), LONG)
        await door({"type": "lifespan", "path": FLEET_PULL}, pytest.fail, pytest.fail)
        assert seen == ["lifespan"]

    play(scene())
