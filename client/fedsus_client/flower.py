"""Flower's Fleet API, as a device speaks it: all use of Flower on the client side is in this file.

Protobuf over HTTPS, each request signed with the node key (ECDSA P-384 over a timestamp). A message is an envelope
in Flower's store with at most one child. Its type says where the request is: in the child alone, or first in the
envelope and then in the child, if there is one. This client pulls what carries something, checks each object against
its hash, and answers with a single object. It never asks for a bundle: nothing that a server sends is ever executed.
"""

from __future__ import annotations

import hashlib
import logging
import re
import ssl
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import httpx
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, recorddict_pb2
from google.protobuf.message import DecodeError

from fedsus.errors import ConfigError, FedsusError, ProtocolViolation
from fedsus_client.failures import ConnectionLost, NotAdmitted, transport_error

# Flower's header names and its object format "<type> <children> <length>\0<body>" (flwr 1.41, supercore).
_KEY_HEADER, _SIGNATURE_HEADER, _TIMESTAMP_HEADER = "flwr-public-key", "flwr-signature", "flwr-timestamp"
_MEDIA_TYPE: Final = "application/protobuf"
_OBJECT_TYPE: Final = b"ConfigRecord"
MESSAGE_TYPE: Final = "query.fedsus"
OWN_MESSAGE_TYPE: Final = "query.fedsus_own"
MESSAGE_TYPES: Final = frozenset({MESSAGE_TYPE, OWN_MESSAGE_TYPE})
HEARTBEAT_SECONDS: Final = 30.0
_MAX_PAYLOAD: Final = 2**31
_MAX_OTHER: Final = 2**20
_NONCE_BYTES: Final = 16
_OBJECT_ID: Final = re.compile(r"[0-9a-f]{64}")

R = TypeVar("R")
log = logging.getLogger("fedsus.client")


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message that waits for this node: its metadata and where its request lies.

    Attributes:
        expires: seconds since the epoch; after it no answer counts.
        child_id: the object with the common part; "" where there is none.
    """

    run_id: int
    message_id: str
    group_id: str
    message_type: str
    expires: float
    child_id: str

    @property
    def own(self) -> bool:
        """Whether the envelope carries a part."""
        return self.message_type == OWN_MESSAGE_TYPE


class FleetConnection:
    """One node's connection. Thread-safe: heartbeats run beside requests.

    Args:
        address: host:port of the server's gateway.
        ca: PEM file of the certificate authority; None for the system's.
        key: the node's private key.
        clock: seconds since the epoch.

    Raises:
        ConfigError: the authority's file cannot be read.
    """

    def __init__(
        self, address: str, ca: str | None, key: ec.EllipticCurvePrivateKey, clock: Callable[[], float]
    ) -> None:
        self._address, self._key, self._clock = address, key, clock
        self._public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        try:
            context = ssl.create_default_context(cafile=ca)
        except OSError as error:
            reason = "no certificate in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
            raise ConfigError(f"{ca}: {reason}; 'server.ca' names the operator's authority, ask for it") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._http = httpx.Client(
            base_url=f"https://{address}",
            verify=context,
            timeout=httpx.Timeout(30.0, connect=10.0),
            limits=httpx.Limits(keepalive_expiry=60),
            trust_env=False,
        )
        self._node: node_pb2.Node | None = None

    def close(self) -> None:
        """Say good-bye if connected, and close."""
        if self._node is not None:
            try:
                self._call("deactivate-node", fleet_pb2.DeactivateNodeRequest(node_id=self._node.node_id), None)
            except FedsusError as error:
                log.debug("deactivation: %s", error)
        self._http.close()

    def connect(self) -> int:
        """Activate this node; returns its number."""
        request = fleet_pb2.ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_SECONDS)
        response = self._call("activate-node", request, fleet_pb2.ActivateNodeResponse, activating=True)
        self._node = node_pb2.Node(node_id=response.node_id)
        return int(response.node_id)

    def heartbeat(self) -> None:
        """Tell the server that this node is alive for another interval."""
        request = heartbeat_pb2.SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)
        response = self._call("send-node-heartbeat", request, heartbeat_pb2.SendNodeHeartbeatResponse)
        if not response.success:
            raise NotAdmitted(f"{self._address} does not recognise this node any more")

    def receive(self) -> Incoming | None:
        """The next message for this node, if one waits."""
        request = fleet_pb2.PullMessagesRequest(node=self._node)
        response = self._call("pull-messages", request, fleet_pb2.PullMessagesResponse)
        if not response.messages_list:
            return None
        if len(response.messages_list) != 1 or len(response.message_object_trees) != 1:
            raise ProtocolViolation("message: not one message with its object tree")
        meta, tree = response.messages_list[0].metadata, response.message_object_trees[0]
        children = [child.object_id for child in tree.children]
        if tree.object_id != meta.message_id or len(children) > 1 or any(child.children for child in tree.children):
            raise ProtocolViolation("message: not a fedsus envelope with at most one child")
        if not all(_OBJECT_ID.fullmatch(name) for name in (meta.message_id, *children)):
            raise ProtocolViolation("message: its names are not hashes")
        if children == [meta.message_id] or not (children or meta.message_type == OWN_MESSAGE_TYPE):
            raise ProtocolViolation("message: its envelope leads to no request")
        return Incoming(
            run_id=meta.run_id,
            message_id=meta.message_id,
            group_id=meta.group_id,
            message_type=meta.message_type,
            expires=meta.created_at + meta.ttl,
            child_id="".join(children),
        )

    def fetch(self, incoming: Incoming) -> bytes | None:
        """The request, each object checked against its hash; None while the server is still receiving it.

        Raises:
            ProtocolViolation: an object is gone, not what its name says, not of this form, or both are too long.
        """
        child: bytes | None = b""
        if incoming.child_id:
            child = self._object(incoming, incoming.child_id, "", _MAX_PAYLOAD)
        if child is None or not incoming.own:
            return child
        envelope = self._object(incoming, incoming.message_id, incoming.child_id, _MAX_PAYLOAD - len(child))
        if envelope is None:
            return None
        if len(envelope) < _NONCE_BYTES:
            raise ProtocolViolation("message: its envelope is too short")
        return b"".join((memoryview(envelope)[_NONCE_BYTES:], child))

    def _object(self, incoming: Incoming, name: str, child: str, limit: int) -> bytes | None:
        """The body of an object of at most ``limit`` bytes with that ``child``; None while it is not complete."""
        request = message_pb2.PullObjectRequest(node=self._node, run_id=incoming.run_id, object_id=name)
        response = self._call("pull-object", request, message_pb2.PullObjectResponse, limit=limit)
        if not response.object_found:
            raise ProtocolViolation("message: a part of it is gone")
        if not response.object_available:
            return None
        content = response.object_content
        if hashlib.sha256(content).hexdigest() != name:
            raise ProtocolViolation("message: a part does not match its hash")
        head, divider, body = content.partition(b"\0")
        if not divider or head != b"%s %s %d" % (_OBJECT_TYPE, child.encode("ascii"), len(body)):
            raise ProtocolViolation("message: a part is not a fedsus object")
        return bytes(body)

    def confirm(self, incoming: Incoming) -> None:
        """Let the server free the message."""
        request = message_pb2.ConfirmMessageReceivedRequest(
            node=self._node, run_id=incoming.run_id, message_object_id=incoming.message_id
        )
        self._call("confirm-message-received", request, message_pb2.ConfirmMessageReceivedResponse)

    def reply(self, incoming: Incoming, body: bytes) -> None:
        """Answer a message with ``body``."""
        if self._node is None:
            raise ConnectionLost("not connected")
        # Flower names a message by its content: the prefix keeps two equal answers (refusals) two messages.
        body = bytes.fromhex(incoming.message_id) + body
        content = b"%s  %d\0%s" % (_OBJECT_TYPE, len(body), body)
        object_id, now = hashlib.sha256(content).hexdigest(), self._clock()
        message = message_pb2.Message(
            metadata=message_pb2.Metadata(
                run_id=incoming.run_id,
                message_id=object_id,
                src_node_id=self._node.node_id,
                dst_node_id=1,
                reply_to_message_id=incoming.message_id,
                group_id=incoming.group_id,
                ttl=max(incoming.expires - now, 0.001),
                message_type=incoming.message_type,
                created_at=now,
            ),
            content=recorddict_pb2.RecordDict(),
        )
        pushed = self._call(
            "push-messages",
            fleet_pb2.PushMessagesRequest(
                node=self._node,
                messages_list=[message],
                message_object_trees=[message_pb2.ObjectTree(object_id=object_id)],
            ),
            fleet_pb2.PushMessagesResponse,
        )
        if object_id in pushed.objects_to_push:
            self._call(
                "push-object",
                message_pb2.PushObjectRequest(
                    node=self._node,
                    run_id=incoming.run_id,
                    object_id=object_id,
                    object_content=content,
                    session_id=pushed.session_id,
                ),
                message_pb2.PushObjectResponse,
            )

    def _call(
        self,
        name: str,
        request: Any,
        response: Callable[[], R] | None,
        *,
        activating: bool = False,
        limit: int = _MAX_OTHER,
    ) -> R:
        """One signed request; transport failures and refusals as named errors."""
        stamp = datetime.fromtimestamp(self._clock(), UTC).isoformat()
        signature = self._key.sign(stamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
        headers = {
            "content-type": _MEDIA_TYPE,
            "accept": _MEDIA_TYPE,
            "accept-encoding": "identity",
            _KEY_HEADER: b64encode(self._public).decode("ascii"),
            _TIMESTAMP_HEADER: stamp,
            _SIGNATURE_HEADER: b64encode(signature).decode("ascii"),
        }
        status, content = self._post(name, request.SerializeToString(), headers, limit)
        if status == 401:
            raise NotAdmitted(
                f"{self._address} does not accept this node's key, or the clocks differ by over 5 minutes"
            )
        if activating and 400 <= status < 500:
            raise NotAdmitted(f"{self._address} does not know this node's key (HTTP {status})")
        if status != 200:
            raise ConnectionLost(f"{self._address} answered {name} with HTTP {status}")
        if response is None:
            return None  # type: ignore[return-value]
        message: Any = response()
        try:
            message.ParseFromString(content)
        except DecodeError:
            raise ProtocolViolation(f"{name}: the answer is not of Flower's protocol") from None
        return message  # type: ignore[no-any-return]

    def _post(self, name: str, body: bytes, headers: dict[str, str], limit: int) -> tuple[int, bytes]:
        """Status and body of one request; the body is bounded before it is read, and never decompressed."""
        parts, length = [], 0
        try:
            with self._http.stream("POST", f"/v1/fleet/{name}", content=body, headers=headers) as answer:
                for part in answer.iter_raw():
                    length += len(part)
                    if length > limit:
                        raise ProtocolViolation(f"{name}: the answer is longer than {limit} bytes")
                    parts.append(part)
                return answer.status_code, b"".join(parts)
        except httpx.TransportError as error:
            raise transport_error(self._address, error) from error
