"""Messages to the agent, over a server that is a script: answered once, refused, confirmed, or left alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_meter import FakeMeter
from scripted_agent import MESSAGE, NAME, FakeDevice, Server, agent_config, answered, player, status

from fedsus.errors import Cancelled, Refusal
from fedsus.owner.energy_record import Attempt, history
from fedsus.rounds.device_half.answers import refused
from fedsus.rounds.device_half.device import Answer
from fedsus.rounds.messages import REFUSAL
from fedsus.secagg import wire
from fedsus.secagg.wire import Kind
from fedsus_client import agent as agents
from fedsus_client import answering
from fedsus_client.answering import Answering
from fedsus_client.config import AgentConfig
from fedsus_client.failures import ConnectionLost
from fedsus_client.flower import MESSAGE_TYPE, OWN_MESSAGE_TYPE, Incoming


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    return agent_config(tmp_path)


@pytest.fixture
def play(config: AgentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return player(config, tmp_path / "policy.toml", monkeypatch)


def test_an_answer_is_sent_once_and_told_to_the_owner(play: Any, config: AgentConfig) -> None:
    server = Server(None, MESSAGE)
    play(server)
    assert server.replies == [b"body"]
    found = status(config)
    assert (found.state, found.answered, found.refused) == ("stopped", 1, 0)
    assert (found.run, found.round, found.rounds) == ("r", 3, 9)


def test_a_refusal_is_sent_and_its_reason_kept(play: Any, config: AgentConfig) -> None:
    server = Server(MESSAGE)
    play(server, lambda _: refused(Refusal("the owner said no")))
    assert server.replies == [REFUSAL]
    found = status(config)
    assert (found.answered, found.refused, found.last_refusal, found.run) == (0, 1, "the owner said no", None)
    assert found.last_refused == pytest.approx(found.updated, abs=60.0)


def test_a_refusal_beside_an_answer_counts_and_what_is_nobodys_fault_does_not(play: Any, config: AgentConfig) -> None:
    plan: Any = SimpleNamespace(run="r", round=3, rounds=9)
    given = [
        Answer(b"body", lambda: None, plan=plan, declined="the next session"),
        Answer(REFUSAL, lambda: None, "phase confirm of a session that this device is not in"),
    ]
    play(Server(MESSAGE, MESSAGE), lambda _: given.pop(0))
    found = status(config)
    assert (found.answered, found.refused, found.last_refusal) == (1, 1, "the next session")


def test_an_answer_is_sent_again_when_the_connection_breaks(play: Any) -> None:
    server = Server(MESSAGE)
    server.failing = [ConnectionLost("gone")] * 3
    play(server)
    assert server.calls.count("reply") == 4
    assert server.replies == [b"body"]


def test_what_was_not_sent_when_it_stops_is_not_sent(play: Any, config: AgentConfig) -> None:
    sent: list[bool] = []
    server = Server(MESSAGE)

    def work(stop: Callable[[], bool]) -> Answer:
        assert not stop()
        assert server.agent is not None
        server.agent.stop()
        assert stop()
        return Answer(b"body", lambda: sent.append(True))

    play(server, work)
    assert (server.replies, sent) == ([], [])
    assert status(config).answered == 0


def test_work_that_is_cancelled_is_not_answered(play: Any, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(MESSAGE)

    def work(stop: Callable[[], bool]) -> Answer:
        raise Cancelled("stopped")

    play(server, work)
    assert server.replies == []
    assert "stopped while training: nothing was sent" in caplog.text


def test_messages_of_another_type_or_too_late_are_left_alone(play: Any, caplog: pytest.LogCaptureFixture) -> None:
    late = Incoming(1, NAME, "", MESSAGE_TYPE, 0.0, NAME)
    other = Incoming(1, NAME, "", "train\n2026-01-01 INFO stopped" + "x" * 10_000, 1e12, NAME)
    server = Server(late, other)
    play(server, lambda _: pytest.fail("nothing is trained"))
    assert server.replies == []
    assert "confirm" not in server.calls
    (line,) = (line for line in caplog.messages if "a message of type" in line)
    assert [found for found in caplog.messages if "is the clock right? see: fedsus client check" in found]
    assert "\n" not in line, "the server writes no lines of its own into the owner's log"
    assert len(line) < 100


def test_a_device_without_identity_refuses_light_phases_before_it_loaded(
    play: Any, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, loaded = Server(MESSAGE), threading.Event()
    config.identity.signing.unlink()
    server.fetch = lambda _: wire.frame(Kind.ADVERTISE, b"session")  # type: ignore[method-assign]

    def confirm(_: Incoming) -> None:
        loaded.set()  # after the reply

    def slow(*all: Any) -> Answering:
        monkeypatch.setattr(answering, "load_device", lambda *_: loaded.wait(30) or pytest.fail("waited for torch"))
        return Answering(*all)

    server.confirm = confirm  # type: ignore[method-assign]
    monkeypatch.setattr(agents, "Answering", slow)
    play(server)
    assert server.replies == [wire.frame(Kind.ADVERTISE, refused=True)]
    assert "fedsus client enroll" in str(status(config).last_refusal)


def test_the_last_evaluation_is_told_as_the_last_round(play: Any, config: AgentConfig) -> None:
    plan: Any = SimpleNamespace(run="r", round=10, rounds=9)
    play(Server(MESSAGE), lambda _: Answer(b"body", lambda: None, plan=plan))
    assert (status(config).round, status(config).rounds) == (9, 9)


def test_nothing_of_a_request_is_logged(play: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        play(Server(MESSAGE))
    assert "request" not in caplog.text
    assert "body" not in caplog.text


def test_a_device_that_still_loads_answers_what_needs_no_training(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server, loaded = Server(MESSAGE, MESSAGE), threading.Event()
    asked = iter([wire.frame(Kind.ADVERTISE, b"no session"), b"request"])

    def fetch(incoming: Incoming) -> bytes:
        if server.replies:
            loaded.set()  # the light phase was answered before
        return next(asked)

    def load(*_: Any) -> FakeDevice:
        assert loaded.wait(30)
        return FakeDevice(answered)

    def slow(*all: Any) -> Answering:
        monkeypatch.setattr(answering, "load_device", load)
        return Answering(*all)

    monkeypatch.setattr(server, "fetch", fetch)
    monkeypatch.setattr(agents, "Answering", slow)
    play(server)
    assert server.replies == [wire.frame(Kind.ADVERTISE, refused=True), b"body"]


def test_a_message_is_confirmed_beside_the_next_question(play: Any) -> None:
    server, asked = Server(MESSAGE, None, MESSAGE), threading.Event()
    receive = server.receive

    def next_question() -> Incoming | None:
        if server.replies:
            asked.set()
        return receive()

    def confirm(_: Incoming) -> None:
        server.calls.append("confirm" if asked.wait(20) else "confirm before the next question")

    server.receive, server.confirm = next_question, confirm  # type: ignore[method-assign]
    play(server)
    assert server.calls.count("confirm") == 2
    assert "confirm before the next question" not in server.calls
    assert server.calls[-1] == "close"


def test_a_confirmation_that_fails_is_no_failure(play: Any) -> None:
    server = Server(MESSAGE, MESSAGE)
    errors = [ConnectionLost("gone"), RuntimeError("closed")]

    def confirm(_: Incoming) -> None:
        raise errors.pop()

    server.confirm = confirm  # type: ignore[method-assign]
    _, backoff = play(server)
    assert (len(server.replies), backoff.waits, errors) == (2, 0, [])


def test_work_on_a_message_that_expires_is_stopped_and_the_next_message_served(play: Any) -> None:
    late = Incoming(1, NAME, "", MESSAGE_TYPE, 1e11, NAME)
    server = Server(late, MESSAGE)

    def work(stop: Callable[[], bool]) -> Answer:
        assert server.agent is not None
        first = not server.replies and not stop()
        server.agent._clock = lambda: 2e11
        if first and stop():
            raise Cancelled("stopped")
        assert not stop()
        return answered(stop)

    play(server, work)
    assert server.replies == [b"body"]
    assert server.calls.count("confirm") == 2


def test_a_message_with_a_part_of_its_own_is_served(play: Any) -> None:
    server = Server(Incoming(1, NAME, "", OWN_MESSAGE_TYPE, 1e12, ""))
    play(server)
    assert server.replies == [b"body"]


def test_what_a_request_uses_is_its_runs_and_what_waits_is_nobodys(
    play: Any, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, meter = Server(None, MESSAGE, None), FakeMeter()
    monkeypatch.setattr("fedsus.energy.meters.meter.make_meter", lambda _: meter)

    def work(stop: Callable[[], bool]) -> Answer:
        assert server.agent is not None
        server.agent._consumption.working("r", 3, 5)
        meter.use("train", 8.0)
        return answered(stop)

    play(server, work)
    found = history(config.energy_record)
    (asked,) = [one.used.joules for one in found if one.attempt == Attempt("r", 3, 5)]
    assert (asked["train"], asked["communicate"]) == (8.0, 2.0)
    assert "wait" not in asked
    waited = [one.used.joules for one in found if one.attempt is None]
    assert sum(joules.get("wait", 0.0) for joules in waited) >= 3.0
    assert sum(one.used.total for one in found) == meter.taken, "nothing is lost at the end"
