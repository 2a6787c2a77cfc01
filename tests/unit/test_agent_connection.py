"""A device's half of Flower's protocol against servers that answer wrongly, too much, or not at all."""

from __future__ import annotations

import gzip
import hashlib
import socket
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto import fleet_pb2, message_pb2, node_pb2

from fedsus.errors import ConfigError, FedsusError, ProtocolViolation
from fedsus_client import flower
from fedsus_client.flower import ConnectionLost, FleetConnection, Incoming, NotAdmitted
from fedsus_server.gateway import PATHS

KEY = ec.generate_private_key(ec.SECP384R1())
NOW = 1_700_000_000.0
ADDRESS = "server.example:8443"
Handler = Callable[[httpx.Request], httpx.Response]


def connected(handler: Handler) -> FleetConnection:
    connection = FleetConnection(ADDRESS, None, KEY, lambda: NOW)
    connection._http = httpx.Client(transport=httpx.MockTransport(handler), base_url=f"https://{ADDRESS}")
    connection._node = node_pb2.Node(node_id=3)
    return connection


def answering(message: Any, status: int = 200) -> Handler:
    body = message if isinstance(message, bytes) else message.SerializeToString()
    return lambda _: response(status, body)


def response(status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> httpx.Response:
    """An answer whose body is still on its way, as over a network."""
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(content))


def name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def envelope(message_id: str = name(b"m"), child: str = name(b"p"), **changes: Any) -> fleet_pb2.PullMessagesResponse:
    metadata = message_pb2.Metadata(message_id=message_id, message_type=flower.MESSAGE_TYPE, created_at=NOW, ttl=60)
    tree = message_pb2.ObjectTree(object_id=message_id, children=[message_pb2.ObjectTree(object_id=child)])
    fields = {"messages_list": [message_pb2.Message(metadata=metadata)], "message_object_trees": [tree]} | changes
    return fleet_pb2.PullMessagesResponse(**fields)


def incoming(payload_id: str = name(b"p")) -> Incoming:
    return Incoming(1, name(b"m"), "", flower.MESSAGE_TYPE, NOW + 60, payload_id)


def test_each_request_is_signed_freshly_and_takes_no_compressed_answer() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return response(200)

    assert connected(handler).receive() is None
    (request,) = seen
    stamp = request.headers["flwr-timestamp"]
    assert stamp == "2023-11-14T22:13:20+00:00"
    signature = b64decode(request.headers["flwr-signature"])
    KEY.public_key().verify(signature, stamp.encode(), ec.ECDSA(hashes.SHA256()))
    assert request.headers["accept-encoding"] == "identity"


def test_only_the_gateways_paths_are_asked_for() -> None:
    asked: list[str] = []
    payload = b"ConfigRecord  3\0abc"

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        answers: dict[str, Any] = {
            "activate-node": fleet_pb2.ActivateNodeResponse(node_id=3),
            "pull-messages": envelope(child=name(payload)),
            "pull-object": message_pb2.PullObjectResponse(
                object_found=True, object_available=True, object_content=payload
            ),
            "send-node-heartbeat": b"\x08\x01",
        }
        found = answers.get(request.url.path.rpartition("/")[2], b"")
        if request.url.path.endswith("/push-messages"):
            pushed = fleet_pb2.PushMessagesRequest.FromString(request.content)
            tree = pushed.message_object_trees[0].object_id
            found = fleet_pb2.PushMessagesResponse(objects_to_push=[tree])
        return response(200, found if isinstance(found, bytes) else found.SerializeToString())

    connection = connected(handler)
    assert connection.connect() == 3
    connection.heartbeat()
    message = connection.receive()
    assert message is not None
    assert connection.fetch(message) == b"abc"
    connection.confirm(message)
    connection.reply(message, b"answer")
    connection.close()
    assert set(asked) == PATHS  # all of them, and nothing else: no bundle, no run


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"\xff\xff\xff", "not of Flower's protocol"),
        (envelope(message_object_trees=[]), "not one message with its object tree"),
        (envelope(messages_list=[message_pb2.Message()] * 2), "not one message"),
        (envelope(message_object_trees=[message_pb2.ObjectTree(object_id=name(b"m"))]), "not a fedsus envelope"),
        (envelope(message_id="../../etc"), "names are not hashes"),
        (envelope(child="x" * 64), "names are not hashes"),
        (envelope(message_id=name(b"m").upper()), "names are not hashes"),
    ],
)
def test_messages_that_are_not_ours(answer: Any, reason: str) -> None:
    with pytest.raises(ProtocolViolation, match=reason):
        connected(answering(answer)).receive()


@pytest.mark.parametrize(
    ("content", "payload_id", "reason"),
    [
        (b"ConfigRecord  3\0abc", name(b"other"), "does not match its hash"),
        (b"ConfigRecord  4\0abc", None, "not a fedsus object"),
        (b"Context  3\0abc", None, "not a fedsus object"),
        (b"ConfigRecord " + name(b"x").encode() + b" 3\0abc", None, "not a fedsus object"),
        (b"no divider", None, "not a fedsus object"),
    ],
)
def test_payloads_that_are_not_ours(content: bytes, payload_id: str | None, reason: str) -> None:
    answer = message_pb2.PullObjectResponse(object_found=True, object_available=True, object_content=content)
    with pytest.raises(ProtocolViolation, match=reason):
        connected(answering(answer)).fetch(incoming(payload_id or name(content)))


def test_a_payload_that_is_gone_or_not_complete() -> None:
    with pytest.raises(ProtocolViolation, match="its payload is gone"):
        connected(answering(message_pb2.PullObjectResponse())).fetch(incoming())
    assert connected(answering(message_pb2.PullObjectResponse(object_found=True))).fetch(incoming()) is None


def test_an_answer_is_bounded_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def endless() -> Any:
        while True:
            read.append(1)
            yield b"x" * 65536

    with pytest.raises(ProtocolViolation, match="pull-messages: the answer is longer than 1048576 bytes"):
        connected(lambda _: httpx.Response(200, content=endless())).receive()
    assert len(read) == 17
    monkeypatch.setattr(flower, "_MAX_PAYLOAD", 100_000)
    with pytest.raises(ProtocolViolation, match="pull-object: the answer is longer than 100000 bytes"):
        connected(lambda _: httpx.Response(200, content=endless())).fetch(incoming())


def test_a_compressed_answer_is_not_expanded() -> None:
    bomb = gzip.compress(b"\0" * 10_000_000)
    headers = {"content-encoding": "gzip"}
    with pytest.raises(ProtocolViolation, match="not of Flower's protocol"):
        connected(lambda _: response(200, bomb, headers)).receive()


@pytest.mark.parametrize(
    ("status", "call", "error", "text"),
    [
        (401, "receive", NotAdmitted, f"{ADDRESS} does not accept this node's key, or the clocks differ"),
        (403, "connect", NotAdmitted, f"{ADDRESS} does not know this node's key (HTTP 403)"),
        (404, "connect", NotAdmitted, f"{ADDRESS} does not know this node's key (HTTP 404)"),
        (500, "connect", ConnectionLost, f"{ADDRESS} answered activate-node with HTTP 500"),
        (302, "receive", ConnectionLost, f"{ADDRESS} answered pull-messages with HTTP 302"),
        (200, "heartbeat", NotAdmitted, f"{ADDRESS} does not recognise this node any more"),
    ],
)
def test_what_the_server_says_is_told_apart(status: int, call: str, error: type[FedsusError], text: str) -> None:
    headers = {"location": "https://elsewhere.example/"}
    connection = connected(lambda _: response(status, headers=headers))
    with pytest.raises(error) as caught:
        getattr(connection, call)()
    assert text in str(caught.value)


def test_a_server_that_is_down_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    connection = FleetConnection(f"127.0.0.1:{port}", None, KEY, lambda: NOW)
    with pytest.raises(ConnectionLost, match=f"the server cannot be reached at 127.0.0.1:{port}: .*refused"):
        connection.connect()
    connection.close()


def test_an_authority_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ca.pem: No such file or directory; 'server.ca' names"):
        FleetConnection(ADDRESS, str(tmp_path / "ca.pem"), KEY, lambda: NOW)
    (tmp_path / "ca.pem").write_bytes(
        KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(ConfigError, match="ca.pem: no certificate in PEM form"):
        FleetConnection(ADDRESS, str(tmp_path / "ca.pem"), KEY, lambda: NOW)


def test_equal_answers_to_two_messages_are_two_answers() -> None:
    pushed: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        pushed.extend(
            message.metadata.message_id
            for message in fleet_pb2.PushMessagesRequest.FromString(request.content).messages_list
        )
        return response(200)

    connection = connected(handler)
    connection.reply(incoming(), b"refusal")
    other = Incoming(1, name(b"m2"), "", flower.MESSAGE_TYPE, NOW + 60, name(b"p"))
    connection.reply(other, b"refusal")
    assert len(set(pushed)) == 2
