"""The gateway: what the network may ask of the server.

An allow-list in front of the fleet routes: devices may connect, keep alive, and exchange messages. They may not
register themselves (the operator adds their keys), nor ask for a bundle (devices run installed code only).
Everything else answers 404 before any of Flower's code sees it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PATHS: Final = frozenset(
    f"/v1/fleet/{name}"
    for name in (
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "pull-object",
        "push-object",
        "confirm-message-received",
    )
)
MAX_BODY: Final = 2**31


class Gateway:
    """ASGI middleware that lets the fleet's paths through and nothing else."""

    def __init__(self, app: App, max_body: int = MAX_BODY) -> None:
        self._app = app
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward an allowed request; answer 404 to any other, 413 to one that is too long."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in PATHS:
            await _refuse(send, scope["type"], 404)
            return
        length = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        if length is None or not length.isdigit() or int(length) > self._max_body:
            await _refuse(send, scope["type"], 413)
            return
        await self._app(scope, receive, send)


async def _refuse(send: Send, kind: str, status: int) -> None:
    if kind != "http":
        raise RuntimeError(f"the gateway does not speak {kind}")
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
