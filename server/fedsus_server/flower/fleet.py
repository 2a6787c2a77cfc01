"""The fleet of a deployment: Flower's runtime API, with as few requests as it allows.

Each request costs the SuperLink 6-20 ms, so a phase sends: one push of all messages, one object for each message
plus one for what is common to all, questions that the server holds until an answer is there, and for each answer one
pull and one confirmation, in parallel.

A message is an envelope, an object of 16 random bytes that make it unique and the client's own part; its one child is
the common part, or what some clients get instead of it. Where that is short it follows the own part in the envelope,
and there is no child: a pull saved for each client. The message's type says whether the envelope carries anything, so
that a device pulls only what there is. (Two children would come back in any order: Flower's store keeps none.) An
answer is a single object.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from flwr.proto import message_pb2, node_pb2, recorddict_pb2, runtime_pb2

from fedsus.types import Answered, Ask, Clock, Lost, Member, Reply

_SUPERLINK: Final = 1
_OBJECT_TYPE: Final = b"ConfigRecord"
_GRACE_SECONDS: Final = 2.0
_UPLOAD_SECONDS: Final = 0.5
"""How long one look waits for an announced answer to be complete; then the others are seen to first."""

_Ready: TypeAlias = tuple[str, str, str, bool]
"""(client, message, answer, failed)."""

MESSAGE_TYPE: Final = "query.fedsus"
"""All is in the child; the envelope is empty."""

OWN_MESSAGE_TYPE: Final = "query.fedsus_own"
"""The envelope carries a part, and the rest is in the child if there is one."""

NONCE_BYTES: Final = 16
"""Random bytes at the head of an envelope: equal requests are messages of their own."""

INLINE_BYTES: Final = 16 * 1024
"""A common part up to this length travels within each envelope: a copy in the store costs less than a request."""


@dataclass(slots=True)
class _Phase:
    """An ask under way: which message waits for which client, and whose answer is announced but not complete."""

    waiting: dict[str, str] = field(default_factory=dict)
    uploading: list[_Ready] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Shared:
    """A part that several clients receive: within their envelopes, or as an object of its own."""

    inline: bytes = b""
    child: str = ""
    content: bytes = b""

    @classmethod
    def of(cls, part: bytes) -> _Shared:
        if len(part) <= INLINE_BYTES:
            return cls(inline=part)
        content = _object(part)
        return cls(child=_name(content), content=content)

    @property
    def children(self) -> list[message_pb2.ObjectTree]:
        return [message_pb2.ObjectTree(object_id=self.child)] if self.child else []


class FlowerFleet:
    """Clients behind a SuperLink, asked through its runtime API.

    Args:
        client: Flower's ``RuntimeHttpClient`` of the running ServerApp.
        run_id: Flower's number of this run.
        poll: seconds between two looks while answers are due.
        workers: parallel transfers.
        clock, sleep: time, passed in.
    """

    def __init__(
        self,
        client: Any,
        run_id: int,
        *,
        poll: float,
        workers: int,
        clock: Clock = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client, self._run_id = client, run_id
        self._poll, self._clock, self._sleep = poll, clock, sleep
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="fleet")
        self._node = node_pb2.Node(node_id=_SUPERLINK)

    def close(self) -> None:
        """Wait for transfers under way."""
        self._pool.shutdown(wait=True)

    def members(self) -> Sequence[Member]:
        """Nodes that are connected now, by number."""
        nodes = self._client.GetNodes(runtime_pb2.GetNodesRequest()).nodes
        return sorted(Member(str(node.node_id), node.name or str(node.node_id)) for node in nodes)

    def ask(self, ask: Ask) -> Iterator[Reply]:
        """Send a whole phase; replies as they come, each client exactly once."""
        end = self._clock() + ask.deadline
        phase = self._push(ask)
        due = set(ask.requests) - ask.optional or set(ask.requests)
        for client in phase.lost:
            due.discard(client)
            yield Lost(client)
        enough = ask.enough
        while due and self._clock() < end:
            asked = self._clock()
            ready, phase.uploading = [*phase.uploading, *self._pull(phase)], []
            for reply in self._collect(phase, ready):
                due.discard(reply.client)
                yield reply
            if enough is not None and enough():
                # The slowest have the grace from now on; with none, the phase is over.
                end, enough = min(end, self._clock() + ask.grace), None
            if not ready:
                # Our server holds the question until there is an answer; where none does, this is the pace.
                self._sleep(max(min(asked + self._poll, end) - self._clock(), 0.0))
        for client in (*phase.waiting.values(), *(one[0] for one in phase.uploading)):
            yield Lost(client)

    def _push(self, ask: Ask) -> _Phase:
        """Announce all messages in one request, then send the objects: the common part before any envelope.

        A device that sees a complete envelope then finds what it points to.
        """
        common, instead = _Shared.of(ask.common), _Shared.of(ask.instead)
        envelopes: dict[str, bytes] = {}
        messages, trees = [], []
        now = self._clock()
        for client, own in ask.requests.items():
            shared = instead if client in ask.others else common
            envelope = _object(os.urandom(NONCE_BYTES) + own + shared.inline, shared.child)
            name = _name(envelope)
            envelopes[name] = envelope
            kind = OWN_MESSAGE_TYPE if own or shared.inline else MESSAGE_TYPE
            messages.append(self._message(name, kind, int(client), now, ask.deadline + _GRACE_SECONDS))
            trees.append(message_pb2.ObjectTree(object_id=name, children=shared.children))
        response = self._client.PushMessages(
            runtime_pb2.PushAppMessagesRequest(messages_list=messages, message_object_trees=trees)
        )
        wanted, session = set(response.objects_to_push), response.session_id
        for shared in (common, instead):
            if shared.child in wanted:
                self._push_object(shared.child, shared.content, session)
        missing = [name for name in envelopes if name in wanted]
        list(self._pool.map(lambda name: self._push_object(name, envelopes[name], session), missing))
        phase = _Phase()
        for client, message_id in zip(ask.requests, response.message_ids, strict=True):
            if message_id:
                phase.waiting[message_id] = client
            else:
                phase.lost.append(client)
        return phase

    def _message(self, name: str, kind: str, node: int, now: float, ttl: float) -> message_pb2.Message:
        metadata = message_pb2.Metadata(
            run_id=self._run_id,
            message_id=name,
            src_node_id=_SUPERLINK,
            dst_node_id=node,
            reply_to_message_id="",
            group_id="",
            ttl=ttl,
            message_type=kind,
            created_at=now,
        )
        return message_pb2.Message(metadata=metadata, content=recorddict_pb2.RecordDict())

    def _push_object(self, name: str, content: bytes, session: str) -> None:
        self._client.PushObject(
            message_pb2.PushObjectRequest(
                node=self._node, run_id=self._run_id, object_id=name, object_content=content, session_id=session
            )
        )

    def _pull(self, phase: _Phase) -> list[_Ready]:
        """Answers that are announced."""
        if not phase.waiting:
            return []
        request = runtime_pb2.PullAppMessagesRequest(message_ids=list(phase.waiting))
        ready = []
        for message in self._client.PullMessages(request).messages_list:
            asked = message.metadata.reply_to_message_id
            client = phase.waiting.pop(asked, None)
            if client is not None:
                ready.append((client, asked, message.metadata.message_id, message.HasField("error")))
        return ready

    def _collect(self, phase: _Phase, ready: Iterable[_Ready]) -> Iterator[Answered | Lost]:
        """Fetch answers in parallel, yield them as they arrive; at most ``workers`` are held at a time."""
        jobs: dict[Future[bytes | Lost | None], _Ready] = {}
        for one in ready:
            client, asked, answer, failed = one
            if failed:
                yield Lost(client)
                continue
            if len(jobs) >= self._workers:
                yield from self._finished(phase, jobs)
            jobs[self._pool.submit(self._fetch, client, asked, answer)] = one
        while jobs:
            yield from self._finished(phase, jobs)

    @staticmethod
    def _finished(phase: _Phase, jobs: dict[Future[bytes | Lost | None], _Ready]) -> Iterator[Answered | Lost]:
        """Replies of the transfers that are done, taken out of ``jobs``; waits for one."""
        for job in wait(jobs, return_when=FIRST_COMPLETED).done:
            one, found = jobs.pop(job), job.result()
            del job
            if found is None:
                phase.uploading.append(one)
            else:
                yield found if isinstance(found, Lost) else Answered(one[0], found)

    def _fetch(self, client: str, asked: str, answer: str) -> bytes | Lost | None:
        """The body of an answer; None while its upload is not complete, which may be never."""
        request = message_pb2.PullObjectRequest(node=self._node, run_id=self._run_id, object_id=answer)
        end = self._clock() + _UPLOAD_SECONDS
        while True:
            response = self._client.PullObject(request)
            if not response.object_found:
                return Lost(client)
            if response.object_available:
                break
            if self._clock() > end:
                return None
            self._sleep(self._poll)
        self._pool.submit(self._confirm, answer)
        _, divider, body = response.object_content.partition(b"\0")
        # The device repeats which message it answers; anything else is another message's answer.
        if not divider or body[:32] != bytes.fromhex(asked):
            return Lost(client)
        return bytes(body[32:])

    def _confirm(self, answer: str) -> None:
        self._client.ConfirmMessageReceived(
            message_pb2.ConfirmMessageReceivedRequest(node=self._node, run_id=self._run_id, message_object_id=answer)
        )


def _object(body: bytes, child: str = "") -> bytes:
    """Flower's object format: type, children, length, zero byte, body."""
    return b"%s %s %d\0%s" % (_OBJECT_TYPE, child.encode("ascii"), len(body), body)


def _name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
