"""The agent's own loop, over a server that is a script."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_meter import FakeMeter

from fedsus.errors import Cancelled, ConfigError, EnvironmentFault, ProtocolViolation
from fedsus.owner import key_files
from fedsus.owner.energy_record import Attempt, history
from fedsus.rounds.device import Answer
from fedsus.rounds.messages import REFUSAL
from fedsus.secagg import wire
from fedsus.secagg.wire import Kind
from fedsus_client import agent as agents
from fedsus_client import answering, identity, telling
from fedsus_client.agent import Agent
from fedsus_client.answering import Answering
from fedsus_client.config import AgentConfig, load_agent
from fedsus_client.failures import ConnectionLost, NotAdmitted, TlsFailure
from fedsus_client.flower import MESSAGE_TYPE, OWN_MESSAGE_TYPE, Incoming
from fedsus_client.pace import Backoff
from fedsus_client.standing import StandingPolicy
from fedsus_client.status import pause, read_status

NAME = "a" * 64
MESSAGE = Incoming(1, NAME, "", MESSAGE_TYPE, 1e12, NAME)


class Counting(Backoff):
    """Waits of no time; counts them and what ended them."""

    def __init__(self) -> None:
        super().__init__(1e-9, 1e-9)
        self.waits = self.resets = 0

    def wait(self) -> float:
        self.waits += 1
        return super().wait()

    def reset(self) -> None:
        self.resets += 1
        super().reset()


class Server:
    """What each question is answered with: an error to raise, a message, None, or something to do."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.calls: list[str] = []
        self.replies: list[bytes] = []
        self.failing: list[Exception] = []
        self.agent: Agent | None = None
        self.activation: list[Exception] = []

    def __call__(self, *_: Any) -> Any:
        return self

    def connect(self) -> int:
        self.calls.append("connect")
        if self.activation:
            raise self.activation.pop(0)
        return 1

    def close(self) -> None:
        self.calls.append("close")

    def heartbeat(self) -> None:
        self.calls.append("heartbeat")

    def receive(self) -> Incoming | None:
        assert self.agent is not None
        if not self.script:
            self.agent.stop()
            return None
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        assert step is None or isinstance(step, Incoming)
        return step

    def fetch(self, incoming: Incoming) -> bytes:
        return b"request"

    def confirm(self, incoming: Incoming) -> None:
        self.calls.append("confirm")

    def reply(self, incoming: Incoming, body: bytes) -> None:
        self.calls.append("reply")
        if self.failing:
            raise self.failing.pop(0)
        self.replies.append(body)


class FakeDevice:
    def __init__(self, work: Callable[[Callable[[], bool]], Answer]) -> None:
        self._work = work
        self.policy: Any = None
        self.policies: list[Any] = []

    def answer(self, raw: bytes, stop: Callable[[], bool]) -> Answer:
        assert raw == b"request"
        self.policies.append(self.policy)
        return self._work(stop)


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    identity.create(tmp_path / "node.key")
    key_files.create(tmp_path / "identity.key", "identity")
    (tmp_path / "agent.toml").write_text(
        '[server]\naddress = "localhost:1"\n[tasks]\n[data]\n[agent]\npoll_idle = 0.005\npoll_active = 0.005\n',
        encoding="utf-8",
    )
    return load_agent(tmp_path / "agent.toml")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tmp_path / "policy.toml"


@pytest.fixture
def play(config: AgentConfig, policy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def run(server: Server, work: Callable[[Callable[[], bool]], Answer] | None = None) -> tuple[Agent, Counting]:
        backoff = Counting()
        monkeypatch.setattr(agents, "FleetConnection", server)
        monkeypatch.setattr(answering, "load_device", lambda *_: FakeDevice(work or answered))
        policy.touch()
        server.agent = Agent(config, StandingPolicy(policy), backoff=backoff)
        server.agent.run()
        return server.agent, backoff

    return run


def answered(stop: Callable[[], bool]) -> Answer:
    plan: Any = SimpleNamespace(run="r", round=3, rounds=9)
    return Answer(b"body", lambda: None, plan=plan)


def status(config: AgentConfig) -> Any:
    found = read_status(config.state.folder)
    assert found is not None
    return found


def test_an_answer_is_sent_once_and_told_to_the_owner(play: Any, config: AgentConfig) -> None:
    server = Server(None, MESSAGE)
    play(server)
    assert server.replies == [b"body"]
    found = status(config)
    assert (found.state, found.answered, found.refused) == ("stopped", 1, 0)
    assert (found.run, found.round, found.rounds) == ("r", 3, 9)


def test_a_grant_that_was_taken_back_counts_at_once(play: Any, policy: Path) -> None:
    server = Server(MESSAGE, MESSAGE)
    policy.write_text("[exchange]\nclear_sum = true\n", encoding="utf-8")

    def work(stop: Callable[[], bool]) -> Answer:
        policy.write_text("[exchange]\nclear_sum = false\n# taken back\n", encoding="utf-8")
        return answered(stop)

    agent, _ = play(server, work)
    assert [found.exchange.clear_sum for found in agent._answering.device.result().policies] == [True, False]


def test_a_policy_that_became_wrong_refuses_everything(
    play: Any, policy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(MESSAGE, MESSAGE)

    def work(stop: Callable[[], bool]) -> Answer:
        policy.write_text("[exchange]\nclear = true\n", encoding="utf-8")
        return answered(stop)

    play(server, work)
    assert server.replies == [b"body", REFUSAL]
    assert "policy.toml: unknown field 'exchange.clear'" in caplog.text


def test_a_refusal_is_sent_and_its_reason_kept(play: Any, config: AgentConfig) -> None:
    server = Server(MESSAGE)
    play(server, lambda _: Answer(REFUSAL, lambda: None, "the owner said no"))
    assert server.replies == [REFUSAL]
    found = status(config)
    assert (found.answered, found.refused, found.last_refusal, found.run) == (0, 1, "the owner said no", None)


def test_a_paused_device_refuses_everything(play: Any, config: AgentConfig, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(MESSAGE)
    pause(config.state.folder)
    with caplog.at_level(logging.INFO):
        play(server, lambda _: pytest.fail("nothing is trained"))
    assert server.replies == [REFUSAL]
    assert status(config).last_refusal == "paused by the owner"
    assert "refused: the owner paused this device" in caplog.text


def test_violations_are_followed_by_a_pause_on_the_same_connection(play: Any, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(*[ProtocolViolation("nonsense")] * 5, MESSAGE)
    _, backoff = play(server)
    assert server.calls.count("connect") == server.calls.count("close") == 1
    assert backoff.waits == 5
    assert caplog.text.count("ignored: nonsense; next question in ") == 5
    assert server.replies == [b"body"]
    assert backoff.resets >= 1


def test_a_violation_at_activation_is_waited_for_like_a_server_that_is_down(
    play: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    server.activation = [ProtocolViolation("nonsense")] * 3
    _, backoff = play(server)
    assert backoff.waits == 3
    assert caplog.text.count("server: nonsense; next try in ") == 3


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConnectionLost("gone"), "server: gone; next try in 0.0 s"),
        (TlsFailure("old"), "tls: old; next try in 0.0 s"),
        (NotAdmitted("unknown"), "key: unknown; next try in 0.0 s"),
    ],
)
def test_causes_are_told_apart_and_tried_again_for_ever(
    play: Any, caplog: pytest.LogCaptureFixture, error: Exception, line: str
) -> None:
    server = Server(error, error, MESSAGE)
    server.activation = [error] * 50
    _, backoff = play(server)
    assert backoff.waits == 52
    assert caplog.text.count(line) == 52
    assert server.replies == [b"body"]


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


def test_an_agent_that_cannot_write_its_status_while_it_trains_stops_the_training(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, full, stopped = Server(MESSAGE), threading.Event(), []
    write = telling.write_status

    def on_full_disk(*all: Any) -> None:
        if full.is_set():
            raise EnvironmentFault("status.json: cannot be written: No space left on device")
        write(*all)

    def work(stop: Callable[[], bool]) -> Answer:
        full.set()
        assert server.agent is not None
        server.agent._stopped.wait(20)
        stopped.append(stop())
        raise Cancelled

    monkeypatch.setattr(telling, "write_status", on_full_disk)
    with pytest.raises(EnvironmentFault, match="No space left"):
        play(server, work)
    assert stopped == [True], "and the worker was waited for"
    assert server.replies == []


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


def test_an_agent_whose_identity_cannot_be_used_ends_without_being_asked(play: Any, config: AgentConfig) -> None:
    server, release = Server(), threading.Event()
    server.receive = lambda: release.wait(20) and None  # type: ignore[method-assign]
    config.identity.signing.chmod(0o644)
    try:
        with pytest.raises(ConfigError, match="other users may use the identity key .* run: chmod 600"):
            play(server)
        assert not release.is_set()
    finally:
        release.set()


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


def test_a_held_question_does_not_hold_the_end(play: Any, config: AgentConfig) -> None:
    server, release = Server(), threading.Event()

    def held() -> None:
        assert server.agent is not None
        server.agent.stop()
        release.wait(20)

    server.receive = held  # type: ignore[method-assign]
    try:
        play(server)
        assert status(config).state == "stopped"
        assert not release.is_set()
    finally:
        release.set()


def test_the_status_of_an_idle_agent_says_when_it_is_paused(play: Any, config: AgentConfig) -> None:
    seen: list[str] = []
    server = Server()

    def asked() -> None:
        seen.append(json.loads((config.state.folder / "status.json").read_text(encoding="utf-8"))["state"])
        assert server.agent is not None
        server.agent.stop()

    server.receive = asked  # type: ignore[method-assign]
    pause(config.state.folder)
    play(server)
    assert seen == ["paused"]


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
    monkeypatch.setattr("fedsus.energy.meter.make_meter", lambda _: meter)

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


def test_a_carbon_source_that_cannot_be_used_ends_the_agent_at_once(
    play: Any, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> Any:
        raise ConfigError("agent.toml: 'carbon.country' = 'XXX': no such country")

    monkeypatch.setattr("fedsus_client.metering.intensity_of", unknown)
    server, release = Server(), threading.Event()
    server.receive = lambda: release.wait(20)  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(ConfigError, match="no such country"):
        play(server)
    release.set()
