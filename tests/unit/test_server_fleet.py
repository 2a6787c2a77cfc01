"""The fleet of a deployment over a runtime API that keeps objects as Flower's store does."""

# ruff: noqa: N802 (the methods carry the names of Flower's service)

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from flwr.proto import message_pb2, node_pb2, runtime_pb2

from fedsus.types import Answered, Ask, Lost, Reply
from fedsus_server.flower.fleet import FlowerFleet


class Runtime:
    """Flower's runtime API in memory; ``behave`` says what a node does with its request."""

    def __init__(self, behave: Callable[[int, bytes], bytes | str | None]) -> None:
        self.behave = behave
        self.objects: dict[str, bytes] = {}
        self.messages: dict[str, Any] = {}
        self.children: dict[str, str] = {}
        self.answers: dict[str, tuple[str, bytes | str]] = {}
        self.calls: list[str] = []
        self.confirmed: list[str] = []
        self._guard = threading.Lock()

    def GetNodes(self, _: Any) -> Any:
        nodes = [node_pb2.NodeInfo(node_id=n, name=f"h{n}") for n in (3, 1, 2)]
        return runtime_pb2.GetNodesResponse(nodes=nodes)

    def PushMessages(self, request: Any) -> Any:
        self.calls.append("push-messages")
        wanted: dict[str, None] = {}
        for message, tree in zip(request.messages_list, request.message_object_trees, strict=True):
            assert message.metadata.message_id == tree.object_id
            self.messages[tree.object_id] = message
            (child,) = tree.children
            self.children[tree.object_id] = child.object_id
            wanted |= dict.fromkeys((tree.object_id, child.object_id))
        names = [message.metadata.message_id for message in request.messages_list]
        names = ["" if self.messages[name].metadata.dst_node_id == 99 else name for name in names]
        return runtime_pb2.PushAppMessagesResponse(message_ids=names, objects_to_push=list(wanted), session_id="s")

    def PushObject(self, request: Any) -> Any:
        with self._guard:
            self.calls.append("push-object")
            assert hashlib.sha256(request.object_content).hexdigest() == request.object_id
            self.objects[request.object_id] = request.object_content
        return message_pb2.PushObjectResponse(stored=True)

    def PullMessages(self, request: Any) -> Any:
        self.calls.append("pull-messages")
        found = []
        for name in request.message_ids:
            payload = self.objects[self.children[name]].partition(b"\0")[2]
            node = self.messages[name].metadata.dst_node_id
            body = self.behave(node, payload)
            if body is None:
                continue
            meta = message_pb2.Metadata(message_id=f"answer-{node}", reply_to_message_id=name)
            answer = message_pb2.Message(metadata=meta)
            if body == "error":
                answer.error.code = 1
            self.answers[f"answer-{node}"] = (name, body)
            found.append(answer)
        return runtime_pb2.PullAppMessagesResponse(messages_list=found)

    def PullObject(self, request: Any) -> Any:
        asked, body = self.answers[request.object_id]
        if body == "gone":
            return message_pb2.PullObjectResponse(object_found=False, object_available=False)
        if body == "unfinished":
            return message_pb2.PullObjectResponse(object_found=True, object_available=False)
        if body == "foreign":
            asked, body = "00" * 32, b"x"
        assert isinstance(body, bytes)
        content = b"ConfigRecord  9\0" + bytes.fromhex(asked) + body
        return message_pb2.PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request: Any) -> Any:
        with self._guard:
            self.confirmed.append(request.message_object_id)
        return message_pb2.ConfirmMessageReceivedResponse()


def ask(runtime: Runtime, requests: dict[str, bytes], deadline: float = 5.0, enough: int | None = None) -> list[Reply]:
    ticks = itertools.count(0.0, 0.5)
    fleet = FlowerFleet(runtime, 7, poll=0.1, workers=2, clock=lambda: next(ticks), sleep=lambda _: None)
    replies = list(fleet.ask(Ask(requests, deadline, enough)))
    fleet.close()
    return replies


def test_members_are_in_a_fixed_order() -> None:
    fleet = FlowerFleet(Runtime(lambda *_: None), 7, poll=0.1, workers=1)
    assert [(member.id, member.name) for member in fleet.members()] == [("1", "h1"), ("2", "h2"), ("3", "h3")]
    fleet.close()


def test_equal_requests_travel_once_and_each_client_answers_once() -> None:
    runtime = Runtime(lambda node, payload: payload + bytes([node]))
    body = b"model" * 1000
    replies = ask(runtime, {"1": body, "2": body, "3": body})
    assert {r.client: r.body for r in replies if isinstance(r, Answered)} == {
        str(n): body + bytes([n]) for n in (1, 2, 3)
    }
    assert runtime.calls.count("push-messages") == 1
    assert runtime.calls.count("push-object") == 4, "three envelopes and one payload"
    assert len(set(runtime.children.values())) == 1
    assert sorted(runtime.confirmed) == ["answer-1", "answer-2", "answer-3"]


def test_different_requests_reach_their_own_client() -> None:
    runtime = Runtime(lambda node, payload: payload)
    replies = ask(runtime, {"1": b"one", "2": b"two"})
    assert {r.client: r.body for r in replies if isinstance(r, Answered)} == {"1": b"one", "2": b"two"}


@pytest.mark.parametrize("failure", ["error", "gone", "foreign", "unfinished", None])
def test_a_client_that_fails_is_lost_and_the_others_are_not(failure: str | None) -> None:
    runtime = Runtime(lambda node, payload: failure if node == 2 else b"fine")
    replies = ask(runtime, {"1": b"x", "2": b"x", "3": b"x"})
    assert [r.client for r in replies if isinstance(r, Lost)] == ["2"]
    assert sorted(r.client for r in replies if isinstance(r, Answered)) == ["1", "3"]


def test_a_client_that_flower_does_not_take_is_lost_at_once() -> None:
    replies = ask(Runtime(lambda *_: b"fine"), {"99": b"x", "1": b"x"})
    assert replies[0] == Lost("99")
    assert replies[1] == Answered("1", b"fine")


def test_an_upload_that_never_ends_does_not_cost_the_others_their_time() -> None:
    """Node 2 announces an answer and sends none; node 3 answers later, and in time."""
    looks = itertools.count()
    runtime = Runtime(lambda node, payload: "unfinished" if node == 2 else b"fine" if next(looks) > 2 else None)
    replies = ask(runtime, {"2": b"x", "3": b"x"}, deadline=15.0)
    assert replies == [Answered("3", b"fine"), Lost("2")]


def test_enough_answers_end_a_phase() -> None:
    runtime = Runtime(lambda node, payload: None if node == 3 else b"fine")
    replies = ask(runtime, {"1": b"x", "2": b"x", "3": b"x"}, enough=2)
    assert [type(reply) for reply in replies] == [Answered, Answered, Lost]
    assert runtime.calls.count("pull-messages") == 1
