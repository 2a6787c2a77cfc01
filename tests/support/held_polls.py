"""Requests through the door that holds polls, for tests: what stands behind it answers from a script."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from flwr.proto import fleet_pb2, message_pb2, node_pb2, runtime_pb2

from fedsus_server.flower.holding import Holding

FLEET_PULL, RUNTIME_PULL = "/v1/fleet/pull-messages", "/v1/runtime/pull-messages"
FLEET_PUSH, RUNTIME_PUSH = "/v1/fleet/push-messages", "/v1/runtime/push-messages"
OBJECT = "/v1/runtime/push-object"
LONG = 3600.0
NODE = 7
NAME = hashlib.sha256(b"message").hexdigest()
NOTHING = fleet_pb2.PullMessagesResponse().SerializeToString()
MESSAGE = fleet_pb2.PullMessagesResponse(messages_list=[message_pb2.Message()]).SerializeToString()


def question(node: int = NODE) -> bytes:
    return fleet_pb2.PullMessagesRequest(node=node_pb2.Node(node_id=node)).SerializeToString()


def envelope(name: str = NAME, node: int = NODE) -> bytes:
    metadata = message_pb2.Metadata(message_id=name, dst_node_id=node)
    return runtime_pb2.PushAppMessagesRequest(
        messages_list=[message_pb2.Message(metadata=metadata)]
    ).SerializeToString()


def completed(name: str = NAME) -> bytes:
    return message_pb2.PushObjectRequest(object_id=name).SerializeToString()


class Behind:
    """Flower's application: answers from a script, then with nothing; counts what reached it."""

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, bytes]] = []
        self.scopes: list[Any] = []
        self.reached = asyncio.Event()
        self.then: Callable[[], Awaitable[None]] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        event = await receive()
        self.asked.append((scope["path"], event["body"]))
        self.scopes.append(scope)
        scope.setdefault("state", {})["parsed"] = True
        status, body = self.answers.pop(0) if self.answers else (200, NOTHING)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})
        if self.then is not None:
            then, self.then = self.then, None
            await then()
        self.reached.set()


class Asker:
    """One request and its answer; `go` hangs up."""

    def __init__(self, door: Holding, path: str, body: bytes, parts: int = 1) -> None:
        self.events: list[Any] = []
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        step = max(len(body) // parts, 1)
        cuts = [body[i : i + step] for i in range(0, len(body), step)] or [b""]
        for i, cut in enumerate(cuts):
            self._queue.put_nowait({"type": "http.request", "body": cut, "more_body": i + 1 < len(cuts)})
        scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        self.task = asyncio.ensure_future(door(scope, self._queue.get, self._send))

    async def _send(self, event: Any) -> None:
        self.events.append(event)

    def go(self) -> None:
        self._queue.put_nowait({"type": "http.disconnect"})

    async def answer(self) -> tuple[int, bytes]:
        await self.task
        body = b"".join(event.get("body", b"") for event in self.events)
        return self.events[0]["status"], body


def play(scene: Coroutine[Any, Any, None]) -> None:
    """Run a scene; one that hangs fails instead of waiting for the held poll's end."""

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scene

    asyncio.run(bounded())


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def ask(door: Holding, path: str, body: bytes) -> tuple[int, bytes]:
    return await Asker(door, path, body).answer()
