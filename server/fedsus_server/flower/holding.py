"""Held polls: a question for messages waits at the door until there is one, instead of being asked again and again.

Flower's protocol has polls alone, and each costs the SuperLink 10-20 ms. Both doors live in one event loop, so
what arrives through one can wake who waits at the other. A poll is forwarded at once; if the answer is empty it is
held, and forwarded once more when a message for it is complete. Where it is known that nothing waits (the last
answer was empty or took the last message), the first of the two is left out: the poll is held at once and forwarded
when a message is complete or the time is over. No poll is ever answered without being forwarded, so that Flower
authenticates each. Nothing is decided here: a poll that is woken in vain gets an empty answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Final, TypeAlias

from flwr.proto import fleet_pb2, message_pb2, runtime_pb2
from google.protobuf.message import DecodeError, Message

Scope: TypeAlias = MutableMapping[str, Any]
Event: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

FLEET_SECONDS: Final = 15.0
RUNTIME_SECONDS: Final = 1.0
_TASK: Final = "task"
_TASK_HOLDS: Final = 15  # a server without runs asks for one once in so many holds
_ANNOUNCED: Final = 100_000
_SMALL: Final = 4096


class Mailbox:
    """Who waits for what. Used from one event loop alone.

    A message is announced when its envelope is pushed, and arrives when the object of that name is complete. ``key``
    says who waits for it: a node's number, or the identifier of the message that it answers.

    For a key that was seen empty it also counts what arrived since and was not delivered. What was seen is forgotten
    whenever in doubt: a poll is then forwarded first, which costs a request and nothing else.
    """

    def __init__(self) -> None:
        self._announced: OrderedDict[str, str] = OrderedDict()
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._pending: OrderedDict[str, int] = OrderedDict()

    def announce(self, name: str, key: str) -> None:
        """The object ``name`` will complete a message for ``key``; the oldest of very many is forgotten."""
        self._announced[name] = key
        if len(self._announced) > _ANNOUNCED:
            self._announced.popitem(last=False)

    def arrived(self, name: str) -> None:
        """An object is complete: wake who waits for its message."""
        key = self._announced.pop(name, "")
        if key in self._pending:
            self._pending[key] += 1
        self.wake(key)

    def seen_empty(self, keys: Iterable[str]) -> None:
        """Nothing waits for any of these; the oldest of very many is forgotten."""
        for key in keys:
            self._pending[key] = 0
            self._pending.move_to_end(key)
        while len(self._pending) > _ANNOUNCED:
            self._pending.popitem(last=False)

    def delivered(self, key: str) -> None:
        """One message for ``key`` was taken; one that had not arrived yet leaves the count in doubt."""
        left = self._pending.pop(key, 0) - 1
        if left >= 0:
            self._pending[key] = left

    def forget(self, keys: Iterable[str]) -> None:
        """It is not known what waits for these."""
        for key in keys:
            self._pending.pop(key, None)

    def quiet(self, keys: Iterable[str]) -> bool:
        """Whether it is known that nothing waits for any of these, and nobody asks for them yet."""
        return all(self._pending.get(key) == 0 and key not in self._waiting for key in keys)

    def wake(self, key: str) -> None:
        """Wake who waits for ``key``."""
        for event in self._waiting.get(key, ()):
            event.set()

    @contextlib.contextmanager
    def waiter(self, keys: Iterable[str]) -> Iterator[asyncio.Event]:
        """An event that is set when a message for any of ``keys`` arrives, from now on."""
        event, mine = asyncio.Event(), set(keys)
        for key in mine:
            self._waiting.setdefault(key, set()).add(event)
        try:
            yield event
        finally:
            for key in mine:
                waiting = self._waiting[key]
                waiting.discard(event)
                if not waiting:
                    del self._waiting[key]


class Holding:
    """ASGI middleware of one door.

    Args:
        app: Flower's application.
        mailbox: shared by both doors.
        seconds: how long an empty poll is held.
    """

    def __init__(self, app: App, mailbox: Mailbox, seconds: float) -> None:
        self._app, self._mailbox, self._seconds = app, mailbox, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold polls, watch pushes, pass everything else through."""
        watch = _WATCHED.get(scope["path"]) if scope["type"] == "http" else None
        if watch is None:
            await self._app(scope, receive, send)
            return
        body = await _body(receive)
        if body is None:
            return
        if scope["path"] in _POLLS:
            await self._poll(scope, receive, send, body)
            return
        status = 0

        async def note(event: Event) -> None:
            nonlocal status
            status = event.get("status", status)
            await send(event)

        await self._app(dict(scope), _replay(body, receive), note)
        if status == 200:
            with contextlib.suppress(DecodeError):
                watch(self._mailbox, body)

    async def _poll(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        try:
            keys = list(_POLLS[scope["path"]](body))
        except DecodeError:
            keys = []
        quiet = bool(keys) and self._mailbox.quiet(keys)
        with self._mailbox.waiter(keys) as arrived:
            if not quiet:
                events = await self._look(scope, receive, body, keys, arrived)
            if quiet or (keys and _empty(scope["path"], events)):
                seconds = self._seconds * (_TASK_HOLDS if keys == [_TASK] else 1)
                woken = await self._wait(arrived, receive, seconds)
                if woken is None:
                    return
                if woken or quiet:
                    arrived.clear()
                    events = await self._look(scope, receive, body, keys, arrived)
        for event in events:
            await send(event)

    async def _look(
        self, scope: Scope, receive: Receive, body: bytes, keys: Sequence[str], arrived: asyncio.Event
    ) -> list[Event]:
        """Forward a poll, and note what its answer says about the keys."""
        events = await self._collect(scope, receive, body)
        if scope["path"] != _FLEET_POLL or not keys:
            return events
        found = _delivered(events)
        if found is None:
            self._mailbox.forget(keys)
        elif found:
            for key in keys:
                self._mailbox.delivered(key)
        elif not arrived.is_set():
            self._mailbox.seen_empty(keys)
        return events

    async def _wait(self, arrived: asyncio.Event, receive: Receive, seconds: float) -> bool | None:
        """Whether a message arrived before the time was over; None when the asker went away."""
        gone = asyncio.ensure_future(receive())
        came = asyncio.ensure_future(arrived.wait())
        try:
            await asyncio.wait({gone, came}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return None if gone.done() else arrived.is_set()
        finally:
            gone.cancel()
            came.cancel()

    async def _collect(self, scope: Scope, receive: Receive, body: bytes) -> list[Event]:
        events: list[Event] = []

        async def keep(event: Event) -> None:
            events.append(event)

        # A fresh scope each time: Flower's middleware keeps the parsed request in its state.
        await self._app({**scope, "state": dict(scope.get("state", {}))}, _replay(body, receive), keep)
        return events


def _fleet_pull(body: bytes) -> Iterable[str]:
    return [f"node {_parse(fleet_pb2.PullMessagesRequest(), body).node.node_id}"]


def _runtime_pull(body: bytes) -> Iterable[str]:
    return [f"reply {name}" for name in _parse(runtime_pb2.PullAppMessagesRequest(), body).message_ids]


def _runtime_push(mailbox: Mailbox, body: bytes) -> None:
    for message in _parse(runtime_pb2.PushAppMessagesRequest(), body).messages_list:
        mailbox.announce(message.metadata.message_id, f"node {message.metadata.dst_node_id}")


def _fleet_push(mailbox: Mailbox, body: bytes) -> None:
    for message in _parse(fleet_pb2.PushMessagesRequest(), body).messages_list:
        mailbox.announce(message.metadata.message_id, f"reply {message.metadata.reply_to_message_id}")


def _push_object(mailbox: Mailbox, body: bytes) -> None:
    mailbox.arrived(_parse(message_pb2.PushObjectRequest(), body).object_id)


def _start_run(mailbox: Mailbox, body: bytes) -> None:
    del body
    mailbox.wake(_TASK)


def _nothing(mailbox: Mailbox, body: bytes) -> None:
    del mailbox, body


_FLEET_POLL: Final = "/v1/fleet/pull-messages"
_POLLS: Final[Mapping[str, Callable[[bytes], Iterable[str]]]] = {
    _FLEET_POLL: _fleet_pull,
    "/v1/runtime/pull-messages": _runtime_pull,
    "/v1/runtime/acquire-task": lambda _: [_TASK],
}
_WATCHED: Final[Mapping[str, Callable[[Mailbox, bytes], None]]] = {
    **dict.fromkeys(_POLLS, _nothing),
    "/v1/runtime/push-messages": _runtime_push,
    "/v1/fleet/push-messages": _fleet_push,
    "/v1/runtime/push-object": _push_object,
    "/v1/fleet/push-object": _push_object,
    "/v1/control/start-run": _start_run,
}
_EMPTY: Final[Mapping[str, Callable[[bytes], bool]]] = {
    "/v1/fleet/pull-messages": lambda body: not _parse(fleet_pb2.PullMessagesResponse(), body).messages_list,
    "/v1/runtime/pull-messages": lambda body: not _parse(runtime_pb2.PullAppMessagesResponse(), body).messages_list,
    "/v1/runtime/acquire-task": lambda body: not body,
}


def _empty(path: str, events: list[Event]) -> bool:
    """Whether a collected answer is a good one without messages."""
    if not events or events[0].get("status") != 200:
        return False
    body = b"".join(event.get("body", b"") for event in events)
    if len(body) > _SMALL:
        return False
    try:
        return _EMPTY[path](body)
    except DecodeError:
        return False


def _delivered(events: list[Event]) -> int | None:
    """How many messages a device's poll was answered with; None where that is not known."""
    body = b"".join(event.get("body", b"") for event in events)
    if not events or events[0].get("status") != 200 or len(body) > _SMALL:
        return None
    try:
        return len(_parse(fleet_pb2.PullMessagesResponse(), body).messages_list)
    except DecodeError:
        return None


def _parse(message: Any, body: bytes) -> Any:
    if not isinstance(message, Message):
        raise TypeError(f"{type(message).__name__} is no protobuf message")
    message.ParseFromString(body)
    return message


async def _body(receive: Receive) -> bytes | None:
    """The whole request; None when the asker went away before its end."""
    parts: list[bytes] = []
    while True:
        event = await receive()
        if event["type"] != "http.request":
            return None
        parts.append(event.get("body", b""))
        if not event.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The request once more, then whatever comes after it."""
    given = False

    async def replayed() -> Event:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed
