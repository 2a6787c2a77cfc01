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
from fedsus_server.flower.fleet import INLINE_BYTES, MESSAGE_TYPE, NONCE_BYTES, OWN_MESSAGE_TYPE, FlowerFleet


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
            assert len(tree.children) <= 1
            self.children[tree.object_id] = "".join(child.object_id for child in tree.children)
            wanted |= dict.fromkeys((tree.object_id, self.children[tree.object_id] or tree.object_id))
        names = [message.metadata.message_id for message in request.messages_list]
        names = ["" if self.messages[name].metadata.dst_node_id == 99 else name for name in names]
        return runtime_pb2.PushAppMessagesResponse(message_ids=names, objects_to_push=list(wanted), session_id="s")

    def PushObject(self, request: Any) -> Any:
        with self._guard:
            self.calls.append("push-object")
            assert hashlib.sha256(request.object_content).hexdigest() == request.object_id
            assert self.objects.keys() >= {self.children.get(request.object_id)} - {None, ""}, "children come first"
            self.objects[request.object_id] = request.object_content
        return message_pb2.PushObjectResponse(stored=True)

    def PullMessages(self, request: Any) -> Any:
        self.calls.append("pull-messages")
        found = []
        for name in request.message_ids:
            payload = self.received(name)
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

    def received(self, name: str) -> bytes:
        """What the device makes of a message: the part in the envelope, then the child's."""
        child = self.children[name]
        head, _, body = self.objects[name].partition(b"\0")
        assert head == b"ConfigRecord %s %d" % (child.encode(), len(body))
        if self.messages[name].metadata.message_type == MESSAGE_TYPE:
            assert len(body) == NONCE_BYTES
        else:
            assert self.messages[name].metadata.message_type == OWN_MESSAGE_TYPE
        return body[NONCE_BYTES:] + (self.objects[child].partition(b"\0")[2] if child else b"")

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


def a_fleet(runtime: Runtime) -> FlowerFleet:
    ticks = itertools.count(0.0, 0.5)
    return FlowerFleet(runtime, 7, poll=0.1, workers=2, clock=lambda: next(ticks), sleep=lambda _: None)


def ask(
    runtime: Runtime,
    requests: dict[str, bytes],
    deadline: float = 5.0,
    enough: Callable[[], bool] | None = None,
    common: bytes = b"",
    optional: frozenset[str] = frozenset(),
    grace: float = 0.0,
) -> list[Reply]:
    fleet = a_fleet(runtime)
    replies = list(fleet.ask(Ask(requests, deadline, enough, common, optional, grace)))
    fleet.close()
    return replies


def bodies(replies: list[Reply]) -> dict[str, bytes]:
    return {reply.client: reply.body for reply in replies if isinstance(reply, Answered)}


def test_members_are_in_a_fixed_order() -> None:
    fleet = FlowerFleet(Runtime(lambda *_: None), 7, poll=0.1, workers=1)
    assert [(member.id, member.name) for member in fleet.members()] == [("1", "h1"), ("2", "h2"), ("3", "h3")]
    fleet.close()


LONG = b"model" * INLINE_BYTES
EMPTY = {"1": b"", "2": b"", "3": b""}


@pytest.mark.parametrize(
    ("requests", "common", "objects"),
    [
        (EMPTY, LONG, 4),  # three envelopes and one child
        (EMPTY, b"short", 3),  # in the envelopes
        ({"1": b"one", "2": b"two", "3": b"three"}, b"", 3),
        ({"1": b"one", "2": b"one", "3": b"one"}, b"short", 3),
        ({"1": b"one", "2": b"", "3": b"three"}, LONG, 4),
        ({"1": LONG, "2": b"", "3": b"short"}, LONG, 4),  # own and common alike
        ({"1": LONG, "2": b"two", "3": LONG}, b"", 3),
        ({"1": b"", "2": b"x", "3": b"y"}, b"z" * INLINE_BYTES, 3),
        ({"1": b"", "2": b"x", "3": b"y"}, b"z" * (INLINE_BYTES + 1), 4),
    ],
)
def test_each_client_receives_its_own_part_and_then_the_common_one(
    requests: dict[str, bytes], common: bytes, objects: int
) -> None:
    runtime = Runtime(lambda node, payload: payload + bytes([node]))
    replies = ask(runtime, requests, common=common)
    assert bodies(replies) == {client: own + common + bytes([int(client)]) for client, own in requests.items()}
    assert runtime.calls.count("push-messages") == 1
    assert runtime.calls.count("push-object") == len(runtime.objects) == objects
    assert sorted(runtime.confirmed) == ["answer-1", "answer-2", "answer-3"]


@pytest.mark.parametrize(("common", "instead", "objects"), [(LONG, b"whole" * INLINE_BYTES, 5), (b"short", LONG, 4)])
def test_some_clients_get_another_common_part_which_is_stored_once(common: bytes, instead: bytes, objects: int) -> None:
    runtime, own = Runtime(lambda node, payload: payload), {"1": b"one", "2": b"", "3": b""}
    fleet = a_fleet(runtime)
    found = bodies(list(fleet.ask(Ask(own, 5.0, common=common, instead=instead, others=frozenset("23")))))
    fleet.close()
    assert found == {"1": b"one" + common, "2": instead, "3": instead}
    assert runtime.calls.count("push-object") == len(runtime.objects) == objects


def test_only_an_envelope_that_carries_something_is_to_be_pulled() -> None:
    runtime = Runtime(lambda node, payload: b"fine")
    ask(runtime, {"1": b"", "2": b"own"}, common=LONG)
    types = {m.metadata.dst_node_id: m.metadata.message_type for m in runtime.messages.values()}
    assert types == {1: MESSAGE_TYPE, 2: OWN_MESSAGE_TYPE}


def test_equal_requests_are_messages_of_their_own() -> None:
    runtime = Runtime(lambda node, payload: payload)
    ask(runtime, {"1": b"", "2": b""}, common=b"same")
    ask(runtime, {"1": b"", "2": b""}, common=b"same")
    assert len(runtime.messages) == 4


def test_an_ask_without_content_is_refused() -> None:
    with pytest.raises(ValueError, match="a client's request is empty"):
        Ask({"1": b"own", "2": b""}, 1.0)
    with pytest.raises(ValueError, match="a client's request is empty"):
        Ask({"1": b"own", "2": b""}, 1.0, common=b"all", others=frozenset("2"))


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


@pytest.mark.parametrize("enough", [True, False])
def test_a_phase_ends_when_who_asks_has_enough(enough: bool) -> None:
    """It is asked once what came was taken: an answer may be a refusal, which the fleet cannot know."""
    runtime = Runtime(lambda node, payload: None if node == 3 else b"fine")
    taken: dict[str, Reply] = {}
    known: list[set[str]] = []

    def said() -> bool:
        known.append(set(taken))
        return enough

    fleet = a_fleet(runtime)
    for reply in fleet.ask(Ask({"1": b"x", "2": b"x", "3": b"x"}, 20.0, said)):
        taken[reply.client] = reply
    fleet.close()
    assert known[0] == {"1", "2"}
    assert taken["3"] == Lost("3")
    assert (runtime.calls.count("pull-messages") == 1) == enough


@pytest.mark.parametrize(("grace", "came"), [(0.0, {"1", "2"}), (4.0, {"1", "2", "3"})])
def test_the_slowest_have_the_grace_once_enough_have_answered(grace: float, came: set[str]) -> None:
    """Node 3 answers at the third look, node 4 never; the clock moves half a second a look at it."""
    looks = itertools.count()
    runtime = Runtime(lambda node, _: b"fine" if node < 3 or (node == 3 and next(looks) > 2) else None)
    requests = {"1": b"x", "2": b"x", "3": b"x", "4": b"x"}
    replies = ask(runtime, requests, deadline=1e6, enough=lambda: True, grace=grace)
    assert set(bodies(replies)) == came
    assert Lost("4") in replies


@pytest.mark.parametrize("failure", ["error", "unfinished", None])
def test_a_phase_ends_without_those_who_are_optional(failure: str | None) -> None:
    runtime = Runtime(lambda node, payload: failure if node == 3 else b"fine")
    replies = ask(runtime, {"1": b"x", "2": b"x", "3": b"x"}, optional=frozenset({"3"}), deadline=1e6)
    assert bodies(replies) == {"1": b"fine", "2": b"fine"}
    assert [reply for reply in replies if isinstance(reply, Lost)] == [Lost("3")]
    assert runtime.calls.count("pull-messages") == 1


def test_who_is_optional_and_in_time_counts() -> None:
    runtime = Runtime(lambda node, payload: b"fine")
    replies = ask(runtime, {"1": b"x", "2": b"x", "3": b"x"}, optional=frozenset({"1", "3"}))
    assert sorted(bodies(replies)) == ["1", "2", "3"]
    assert len(replies) == 3


def test_the_others_are_waited_for_whoever_optional_has_answered() -> None:
    looks = itertools.count()
    runtime = Runtime(lambda node, payload: b"fine" if node == 3 or next(looks) > 5 else None)
    replies = ask(runtime, {"1": b"x", "3": b"x"}, optional=frozenset({"3"}), deadline=1e3)
    assert replies == [Answered("3", b"fine"), Answered("1", b"fine")]


@pytest.mark.parametrize("first", ["1", "99"])
def test_a_lost_client_is_not_waited_for_either(first: str) -> None:
    """Node 1 fails, node 99 is not taken by Flower."""
    runtime = Runtime(lambda node, payload: "error" if node == 1 else None)
    replies = ask(runtime, {first: b"x", "3": b"x"}, optional=frozenset({"3"}), deadline=1e6)
    assert replies == [Lost(first), Lost("3")]


def test_a_phase_of_optional_clients_alone_waits_for_them_until_its_deadline() -> None:
    looks = itertools.count()
    everyone = frozenset({"1", "2", "3"})
    late = Runtime(lambda node, payload: b"fine" if next(looks) > 8 else None)
    assert sorted(bodies(ask(late, {"1": b"x", "2": b"x"}, optional=everyone, deadline=1e3))) == ["1", "2"]
    silent = Runtime(lambda node, payload: None if node == 2 else b"fine")
    replies = ask(silent, {"1": b"x", "2": b"x"}, optional=everyone)
    assert replies == [Answered("1", b"fine"), Lost("2")]
    assert silent.calls.count("pull-messages") > 1
