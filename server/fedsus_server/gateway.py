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
UPLOAD: Final = "/v1/fleet/push-object"
"""The one path on which a device sends as much as a model."""

MAX_BODY: Final = 2**29
"""What a known node may upload unless the operator says otherwise: 134 million parameters at 32 bits."""

SMALL_BODY: Final = 2**20
"""What anybody may send; a body is held in memory before its sender is known."""

_DIGITS: Final = 20

Known = Callable[[Scope], Awaitable[bool]]
"""Whether a request's headers are those of a node whose key the operator added."""


async def nobody(scope: Scope) -> bool:
    """Knows no sender: nothing large passes."""
    del scope
    return False


class Gateway:
    """ASGI middleware that lets the fleet's paths through and nothing else.

    Args:
        known: asked before a large body is read.
        max_body: longest upload of a known node, bytes.
        small_body: longest request otherwise.
    """

    def __init__(self, app: App, known: Known = nobody, max_body: int = MAX_BODY, small_body: int = SMALL_BODY) -> None:
        self._app, self._known = app, known
        self._max_body, self._small_body = max_body, small_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward an allowed request; answer 404 to any other, 413 to one that is too long, 401 to a large unknown."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in PATHS:
            await _refuse(send, scope["type"], 404)
            return
        length = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        limit = self._max_body if scope["path"] == UPLOAD else self._small_body
        if length is None or not length.isdigit() or len(length) > _DIGITS or int(length) > limit:
            await _refuse(send, scope["type"], 413)
            return
        if int(length) > self._small_body and not await self._known(scope):
            await _refuse(send, scope["type"], 401)
            return
        await self._app(scope, receive, send)


async def _refuse(send: Send, kind: str, status: int) -> None:
    if kind != "http":
        raise RuntimeError(f"the gateway does not speak {kind}")
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
