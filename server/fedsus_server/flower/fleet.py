"""The fleet of a deployment: Flower's runtime API, with as few requests as it allows.

Each request costs the SuperLink 10-20 ms, so a phase sends: one push of all messages, one object for each
message plus one for each distinct request (equal requests share it), questions that the server holds until an answer
is there, and for each answer one pull and one confirmation, in parallel.

A message is an envelope without content of its own (an object that makes it unique) with one child: the
payload. An answer is a single object.
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


@dataclass(slots=True)
class _Phase:
    """An ask under way: which message waits for which client, and whose answer is announced but not complete."""

    waiting: dict[str, str] = field(default_factory=dict)
    uploading: list[_Ready] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


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
        for client in phase.lost:
            yield Lost(client)
        answered = 0
        while (phase.waiting or phase.uploading) and self._clock() < end:
            asked = self._clock()
            ready, phase.uploading = [*phase.uploading, *self._pull(phase)], []
            for reply in self._collect(phase, ready):
                answered += isinstance(reply, Answered)
                yield reply
            if ask.enough is not None and answered >= ask.enough:
                break
            if not ready:
                # Our server holds the question until there is an answer; where none does, this is the pace.
                self._sleep(max(min(asked + self._poll, end) - self._clock(), 0.0))
        for client in (*phase.waiting.values(), *(one[0] for one in phase.uploading)):
            yield Lost(client)

    def _push(self, ask: Ask) -> _Phase:
        """Announce all messages in one request, then send each object that the store lacks once."""
        objects: dict[str, bytes] = {}
        payloads: set[str] = set()
        messages, trees, clients = [], [], []
        now = self._clock()
        for client in ask.requests:
            content = _object(ask.request(client))
            child = _name(content)
            payloads.add(child)
            objects[child] = content
            envelope = _object(os.urandom(16), child)
            name = _name(envelope)
            objects[name] = envelope
            clients.append(client)
            messages.append(self._message(name, int(client), now, ask.deadline + _GRACE_SECONDS))
            tree = message_pb2.ObjectTree(object_id=name, children=[message_pb2.ObjectTree(object_id=child)])
            trees.append(tree)
        response = self._client.PushMessages(
            runtime_pb2.PushAppMessagesRequest(messages_list=messages, message_object_trees=trees)
        )
        wanted = [name for name in response.objects_to_push if name in objects]
        # Payloads before envelopes: a device that sees a message then finds what it points to.
        wanted.sort(key=lambda name: name not in payloads)
        list(self._pool.map(lambda name: self._push_object(name, objects[name], response.session_id), wanted))
        phase = _Phase()
        for client, message_id in zip(clients, response.message_ids, strict=True):
            if message_id:
                phase.waiting[message_id] = client
            else:
                phase.lost.append(client)
        return phase

    def _message(self, name: str, node: int, now: float, ttl: float) -> message_pb2.Message:
        metadata = message_pb2.Metadata(
            run_id=self._run_id,
            message_id=name,
            src_node_id=_SUPERLINK,
            dst_node_id=node,
            reply_to_message_id="",
            group_id="",
            ttl=ttl,
            message_type=MESSAGE_TYPE,
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

    def _collect(self, phase: _Phase, ready: Iterable[_Ready]) -> Iterator[Reply]:
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
    def _finished(phase: _Phase, jobs: dict[Future[bytes | Lost | None], _Ready]) -> Iterator[Reply]:
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
