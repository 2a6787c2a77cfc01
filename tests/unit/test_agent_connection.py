"""A device's half of Flower's protocol against servers that answer wrongly, too much, or not at all."""

from __future__ import annotations

import gzip
import hashlib
import socket
from base64 import b64decode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto import fleet_pb2, message_pb2, node_pb2

from fedsus.errors import ConfigError, FedsusError, ProtocolViolation
from fedsus_client import flower
from fedsus_client.failures import ConnectionLost, NotAdmitted
from fedsus_client.flower import FleetConnection, Incoming
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


def envelope(
    message_id: str = name(b"m"),
    children: Sequence[str] = (name(b"p"),),
    kind: str = flower.MESSAGE_TYPE,
    **changes: Any,
) -> fleet_pb2.PullMessagesResponse:
    metadata = message_pb2.Metadata(message_id=message_id, message_type=kind, created_at=NOW, ttl=60)
    tree = message_pb2.ObjectTree(
        object_id=message_id, children=[message_pb2.ObjectTree(object_id=child) for child in children]
    )
    fields = {"messages_list": [message_pb2.Message(metadata=metadata)], "message_object_trees": [tree]} | changes
    return fleet_pb2.PullMessagesResponse(**fields)


def incoming(child_id: str = name(b"p"), message_id: str = name(b"m"), kind: str = flower.MESSAGE_TYPE) -> Incoming:
    return Incoming(1, message_id, "", kind, NOW + 60, child_id)


class Store:
    """Objects by name, as the server gives them out; counts what is asked for."""

    def __init__(self, *contents: bytes) -> None:
        self.objects = {name(content): content for content in contents}
        self.pulled: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        asked = message_pb2.PullObjectRequest.FromString(request.content).object_id
        self.pulled.append(asked)
        content = self.objects.get(asked)
        answer = message_pb2.PullObjectResponse(
            object_found=content is not None, object_available=bool(content), object_content=content or b""
        )
        return response(200, answer.SerializeToString())


def of_one(body: bytes, child: str = "", kind: bytes = b"ConfigRecord") -> bytes:
    return b"%s %s %d\0%s" % (kind, child.encode(), len(body), body)


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
            "pull-messages": envelope(children=[name(payload)]),
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


NESTED = message_pb2.ObjectTree(
    object_id=name(b"m"),
    children=[
        message_pb2.ObjectTree(object_id=name(b"p"), children=[message_pb2.ObjectTree(object_id=name(b"q"))]),
    ],
)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"\xff\xff\xff", "not of Flower's protocol"),
        (envelope(message_object_trees=[]), "not one message with its object tree"),
        (envelope(messages_list=[message_pb2.Message()] * 2), "not one message"),
        (envelope(message_object_trees=[message_pb2.ObjectTree(object_id=name(b"o"))]), "not a fedsus envelope"),
        (envelope(children=[name(b"p"), name(b"q")]), "not a fedsus envelope with at most one child"),
        (envelope(children=[name(b"p")] * 2, kind=flower.OWN_MESSAGE_TYPE), "not a fedsus envelope"),
        (envelope(children=[name(b"p"), name(b"q"), name(b"r")]), "not a fedsus envelope"),
        (envelope(message_object_trees=[NESTED]), "not a fedsus envelope with at most one child"),
        (envelope(children=[]), "leads to no request"),
        (envelope(children=[name(b"m")], kind=flower.OWN_MESSAGE_TYPE), "leads to no request"),
        (envelope(message_id="../../etc"), "names are not hashes"),
        (envelope(children=["x" * 64]), "names are not hashes"),
        (envelope(children=[""], kind=flower.OWN_MESSAGE_TYPE), "names are not hashes"),
        (envelope(message_id=name(b"m").upper()), "names are not hashes"),
    ],
)
def test_messages_that_are_not_ours(answer: Any, reason: str) -> None:
    with pytest.raises(ProtocolViolation, match=reason):
        connected(answering(answer)).receive()


CHILD = of_one(b"common")


@pytest.mark.parametrize(
    ("own", "child", "whole"),
    [
        (None, CHILD, b"common"),
        (b"own", CHILD, b"owncommon"),
        (b"own", b"", b"own"),
        (b"", CHILD, b"common"),
        (b"common", CHILD, b"commoncommon"),
        (b"\0", of_one(b"\0\0"), b"\0\0\0"),
    ],
)
def test_a_request_is_what_the_envelope_carries_and_then_its_child(
    own: bytes | None, child: bytes, whole: bytes
) -> None:
    child_id = name(child) if child else ""
    head = of_one(bytes(16) + (own or b""), child_id)
    kind = flower.MESSAGE_TYPE if own is None else flower.OWN_MESSAGE_TYPE
    store = Store(*([child] if child else []), head)
    connection = connected(store)
    assert connection.fetch(incoming(child_id, name(head), kind)) == whole
    assert len(store.pulled) == (own is not None) + bool(child), "what carries nothing is not pulled"


@pytest.mark.parametrize(
    "content",
    [
        b"ConfigRecord  4\0abc",
        b"Context  3\0abc",
        of_one(b"abc", name(b"x")),
        b"no divider",
    ],
)
def test_children_that_are_not_ours(content: bytes) -> None:
    store = Store(content)
    with pytest.raises(ProtocolViolation, match="a part is not a fedsus object"):
        connected(store).fetch(incoming(name(content)))


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (of_one(bytes(16), ""), "not a fedsus object"),
        (of_one(bytes(16), name(b"another")), "not a fedsus object"),
        (of_one(bytes(16), f"{name(CHILD)},{name(CHILD)}"), "not a fedsus object"),
        (of_one(bytes(16), f"{name(CHILD)},{name(b'another')}"), "not a fedsus object"),
        (of_one(bytes(15), name(CHILD)), "its envelope is too short"),
        (of_one(bytes(16), name(CHILD), b"Context"), "not a fedsus object"),
    ],
)
def test_envelopes_that_are_not_ours(head: bytes, reason: str) -> None:
    with pytest.raises(ProtocolViolation, match=reason):
        connected(Store(CHILD, head)).fetch(incoming(name(CHILD), name(head), flower.OWN_MESSAGE_TYPE))


@pytest.mark.parametrize("swapped", ["child", "envelope"])
def test_no_object_comes_in_anothers_place(swapped: str) -> None:
    head = of_one(bytes(16) + b"own", name(CHILD))
    store = Store(CHILD, head)
    store.objects[name(CHILD if swapped == "child" else head)] = of_one(bytes(16) + b"forged")
    with pytest.raises(ProtocolViolation, match="a part does not match its hash"):
        connected(store).fetch(incoming(name(CHILD), name(head), flower.OWN_MESSAGE_TYPE))


def test_a_part_that_is_gone_or_not_complete() -> None:
    head = of_one(bytes(16) + b"own", name(CHILD))
    message = incoming(name(CHILD), name(head), flower.OWN_MESSAGE_TYPE)
    for missing in (CHILD, head):
        store = Store(CHILD, head)
        store.objects[name(missing)] = b""
        assert connected(store).fetch(message) is None
        del store.objects[name(missing)]
        with pytest.raises(ProtocolViolation, match="a part of it is gone"):
            connected(store).fetch(message)


def test_both_parts_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    child = of_one(bytes(3000))
    for size, fits in ((500, True), (2000, False)):
        head = of_one(bytes(size), name(child))
        message = incoming(name(child), name(head), flower.OWN_MESSAGE_TYPE)
        monkeypatch.setattr(flower, "_MAX_PAYLOAD", 4096)
        if fits:
            found = connected(Store(child, head)).fetch(message)
            assert found is not None
            assert len(found) == 3000 + size - 16
        else:
            with pytest.raises(ProtocolViolation, match="pull-object: the answer is longer than 1096 bytes"):
                connected(Store(child, head)).fetch(message)


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
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, so that nobody else gets it, and not listening
        port = closed.getsockname()[1]
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
    other = incoming(message_id=name(b"m2"))
    connection.reply(other, b"refusal")
    assert len(set(pushed)) == 2
