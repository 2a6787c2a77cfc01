"""The gateway, as an ASGI application: what reaches the application behind it, and what does not."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedsus_server.gateway import PATHS, UPLOAD, Gateway

PULL = "/v1/fleet/pull-messages"


def ask(
    path: str = PULL,
    method: str = "POST",
    headers: Sequence[tuple[bytes, bytes]] = ((b"content-length", b"3"),),
    kind: str = "http",
    small_body: int = 10,
    known: bool = False,
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

    async def is_known(_: Any) -> bool:
        return known

    asyncio.run(Gateway(behind, is_known, max_body=20, small_body=small_body)(scope, receive, send))
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
    [
        (),
        ((b"content-length", b"11"),),
        ((b"content-length", b"-1"),),
        ((b"content-length", b"1e3"),),
        ((b"content-length", b"1" * 9999),),
    ],
    ids=["none", "too long", "negative", "no number", "absurd"],
)
def test_a_body_without_a_length_in_bounds_does_not_pass(headers: Sequence[tuple[bytes, bytes]]) -> None:
    assert ask(headers=headers) == (413, False)


def test_the_longest_body_passes() -> None:
    assert ask(headers=((b"content-length", b"10"),)) == (None, True)


@pytest.mark.parametrize(
    ("path", "length", "known", "status"),
    [
        (UPLOAD, b"20", True, None),
        (UPLOAD, b"21", True, 413),
        (UPLOAD, b"20", False, 401),
        (UPLOAD, b"10", False, None),
        (PULL, b"11", True, 413),
    ],
)
def test_a_large_body_is_an_upload_of_a_known_node(path: str, length: bytes, known: bool, status: int | None) -> None:
    """Else anybody who reaches the port could fill the server's memory, a body a connection."""
    headers = ((b"content-length", length),)
    assert ask(path, headers=headers, known=known) == (status, status is None)


@pytest.mark.filterwarnings("ignore:'click.utils:DeprecationWarning")  # typer, which flwr imports
def test_a_node_is_known_by_its_signature_and_its_added_key() -> None:
    from fastapi import FastAPI

    from fedsus_server.flower.direct import known_node

    key, other = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    added = {_pem(key): 7}
    whole = FastAPI()
    state = SimpleNamespace(get_node_id_by_public_key=added.get)
    whole.state.linkstate_factory = SimpleNamespace(state=lambda: state)

    def known(headers: dict[str, str]) -> bool:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        return asyncio.run(known_node(whole)({"type": "http", "headers": raw}))  # type: ignore[arg-type]

    now = datetime.now(UTC)
    assert known(_signed(key, now))
    assert not known({})
    assert not known(_signed(other, now))
    assert not known(_signed(key, now - timedelta(hours=1)))
    assert not known({**_signed(other, now), "flwr-public-key": _signed(key, now)["flwr-public-key"]})
    assert not known({**_signed(key, now), "flwr-public-key": "\xe9"})


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _signed(key: ec.EllipticCurvePrivateKey, at: datetime) -> dict[str, str]:
    """A node's headers, as `fedsus_client.flower` makes them."""
    signature = key.sign(at.isoformat().encode(), ec.ECDSA(hashes.SHA256()))
    return {
        "flwr-public-key": b64encode(_pem(key)).decode(),
        "flwr-timestamp": at.isoformat(),
        "flwr-signature": b64encode(signature).decode(),
    }


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
