"""The gateway, as an ASGI application: what reaches the application behind it, and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from fedsus_server.gateway import PATHS, Gateway

PULL = "/v1/fleet/pull-messages"


def ask(
    path: str = PULL,
    method: str = "POST",
    headers: Sequence[tuple[bytes, bytes]] = ((b"content-length", b"3"),),
    kind: str = "http",
    max_body: int = 10,
) -> tuple[int | None, bool]:
    """The gateway's own status, if it answered itself, and whether the application behind it was reached."""
    reached: list[str] = []
    sent: list[Any] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    async def receive() -> Any:
        raise AssertionError("the gateway reads no body")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "method": method, "path": path, "headers": list(headers)}
    asyncio.run(Gateway(behind, max_body=max_body)(scope, receive, send))
    return (sent[0]["status"] if sent else None), bool(reached)


def test_the_devices_paths_pass() -> None:
    assert {path: ask(path) for path in PATHS} == dict.fromkeys(PATHS, (None, True))
    assert len(PATHS) == 8


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/control/list-runs",
        "/v1/runtime/acquire-task",
        "/v1/fleet/get-fab",
        "/v1/fleet/get-run",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "//v1/fleet/pull-messages",
        "/v1//fleet/pull-messages",
        "/v1/fleet/pull-messages/",
        "/V1/fleet/pull-messages",
        "/v1/fleet/pull-messages\x00",
        "http://host/v1/fleet/pull-messages",
    ],
)
def test_no_other_path_passes(path: str) -> None:
    assert ask(path) == (404, False)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS", "CONNECT", "post"])
def test_no_other_method_passes(method: str) -> None:
    assert ask(method=method) == (404, False)


@pytest.mark.parametrize(
    "headers",
    [(), ((b"content-length", b"11"),), ((b"content-length", b"-1"),), ((b"content-length", b"1e3"),)],
    ids=["none", "too long", "negative", "no number"],
)
def test_a_body_without_a_length_in_bounds_does_not_pass(headers: Sequence[tuple[bytes, bytes]]) -> None:
    assert ask(headers=headers) == (413, False)


def test_the_longest_body_passes() -> None:
    assert ask(headers=((b"content-length", b"10"),)) == (None, True)


def test_websockets_are_not_spoken() -> None:
    with pytest.raises(RuntimeError, match="does not speak websocket"):
        ask(kind="websocket")


@pytest.mark.filterwarnings("ignore:'click.utils:DeprecationWarning")  # typer, which flwr imports
def test_every_path_is_a_fleet_route_of_flower_and_what_is_left_out_is_known() -> None:
    """A new route of Flower's must be judged before a device may ask for it."""
    from flwr.superlink.routers.fleet.router import router

    routes = {route.path for route in router.routes}  # type: ignore[attr-defined]
    left_out = {f"/v1/fleet/{name}" for name in ("register-node", "unregister-node", "get-run", "get-fab")}
    assert routes == PATHS | left_out
