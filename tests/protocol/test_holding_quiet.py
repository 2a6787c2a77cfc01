"""Polls that are known to be vain, as an ASGI application in memory: held at once, and each forwarded once more."""

from __future__ import annotations

import hashlib

import pytest
from held_polls import (
    FLEET_PULL,
    LONG,
    MESSAGE,
    NAME,
    NODE,
    NOTHING,
    OBJECT,
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

from fedsus_server.flower import holding
from fedsus_server.flower.holding import Holding, Mailbox


async def quiet_node(door: Holding, fleet: Behind) -> None:
    """Let a node ask in vain once, so that it is known that nothing waits for it."""
    poll = Asker(door, FLEET_PULL, question())
    await fleet.reached.wait()
    await settle()
    poll.go()
    await poll.task
    assert len(fleet.asked) == 1


def test_a_poll_that_is_known_to_be_vain_is_held_at_once_and_forwarded_when_its_message_is_there() -> None:
    async def scene() -> None:
        fleet, mailbox = Behind((200, NOTHING), (200, MESSAGE)), Mailbox()
        outer, inner = Holding(fleet, mailbox, LONG), Holding(Behind(), mailbox, LONG)
        await quiet_node(outer, fleet)
        poll = Asker(outer, FLEET_PULL, question())
        await settle()
        assert len(fleet.asked) == 1
        await ask(inner, RUNTIME_PUSH, envelope())
        await settle()
        assert not poll.task.done()
        await ask(inner, OBJECT, completed())
        assert await poll.answer() == (200, MESSAGE)
        again = Asker(outer, FLEET_PULL, question())  # its only message was delivered: held at once
        await settle()
        assert len(fleet.asked) == 2
        again.go()
        await again.task
        assert len(fleet.asked) == 2

    play(scene())


@pytest.mark.parametrize(("status", "body"), [(200, NOTHING), (401, b"")])
def test_no_poll_is_answered_without_being_forwarded(status: int, body: bytes) -> None:
    """What was held on the word of a node's earlier poll is authenticated before its answer."""

    async def scene() -> None:
        fleet, mailbox = Behind((200, NOTHING), (status, body)), Mailbox()
        await quiet_node(Holding(fleet, mailbox, LONG), fleet)
        assert await ask(Holding(fleet, mailbox, 0.0), FLEET_PULL, question()) == (status, body)
        assert len(fleet.asked) == 2
        assert mailbox.quiet([f"node {NODE}"]) == (status == 200)

    play(scene())


def test_a_message_that_arrived_while_nobody_asked_is_looked_for_at_once() -> None:
    async def scene() -> None:
        fleet, mailbox = Behind((200, NOTHING), (200, MESSAGE), (200, MESSAGE)), Mailbox()
        outer, inner = Holding(fleet, mailbox, LONG), Holding(Behind(), mailbox, LONG)
        await quiet_node(outer, fleet)
        for name in (NAME, hashlib.sha256(b"second").hexdigest()):
            await ask(inner, RUNTIME_PUSH, envelope(name))
            await ask(inner, OBJECT, completed(name))
        for _ in range(2):
            assert await ask(outer, FLEET_PULL, question()) == (200, MESSAGE)

    play(scene())


def test_a_message_that_was_taken_before_it_was_complete_leaves_nothing_known() -> None:
    """Flower hands out messages whose objects are under way."""

    async def scene() -> None:
        fleet, mailbox = Behind((200, NOTHING), (200, MESSAGE), (200, MESSAGE)), Mailbox()
        outer, inner = Holding(fleet, mailbox, 0.0), Holding(Behind(), mailbox, LONG)
        await quiet_node(Holding(fleet, mailbox, LONG), fleet)
        await ask(inner, RUNTIME_PUSH, envelope())
        assert await ask(outer, FLEET_PULL, question()) == (200, MESSAGE)
        await ask(inner, OBJECT, completed())
        long = Holding(fleet, mailbox, LONG)
        assert await ask(long, FLEET_PULL, question()) == (200, MESSAGE), "forwarded first"

    play(scene())


def test_one_who_asks_beside_another_is_forwarded_first() -> None:
    """So that whoever is held unseen is at most one a node."""

    async def scene() -> None:
        fleet, mailbox = Behind((200, NOTHING), (401, b"")), Mailbox()
        outer = Holding(fleet, mailbox, LONG)
        await quiet_node(outer, fleet)
        held = Asker(outer, FLEET_PULL, question())
        await settle()
        assert await ask(outer, FLEET_PULL, question()) == (401, b"")
        held.go()
        await held.task
        assert not mailbox.quiet([f"node {NODE}"])

    play(scene())


def test_who_is_known_to_be_quiet_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding, "_ANNOUNCED", 3)
    mailbox = Mailbox()
    for number in range(10):
        mailbox.seen_empty([f"node {number}"])
    assert [number for number in range(10) if mailbox.quiet([f"node {number}"])] == [7, 8, 9]
