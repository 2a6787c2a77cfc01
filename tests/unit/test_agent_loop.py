"""The agent's own loop, over a server that is a script: what its owner and its connection make of it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_agent import MESSAGE, Server, agent_config, answered, player, status

from fedsus.errors import Cancelled, ConfigError, EnvironmentFault, ProtocolViolation, Refusal
from fedsus.rounds.device_half.answers import refused
from fedsus.rounds.device_half.device import Answer
from fedsus.rounds.messages import REFUSAL
from fedsus_client import agent as agents
from fedsus_client import telling
from fedsus_client.config import AgentConfig
from fedsus_client.failures import ConnectionLost, NotAdmitted, TlsFailure
from fedsus_client.status import pause


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    return agent_config(tmp_path)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tmp_path / "policy.toml"


@pytest.fixture
def play(config: AgentConfig, policy: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return player(config, policy, monkeypatch)


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


def test_a_budget_that_is_raised_after_a_refusal_makes_the_agent_leave_and_come_back(
    play: Any, policy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(agents, "AWAY_SECONDS", 0.0)
    policy.write_text("[budget]\njoules = 10.0\n", encoding="utf-8")

    class Raising(Server):
        def receive(self) -> Any:
            if self.replies and len(self.script) == 2:
                policy.write_text("[budget]\njoules = 99.0\n", encoding="utf-8")
            return super().receive()

    server = Raising(MESSAGE, None, None)
    with caplog.at_level(logging.INFO):
        play(server, lambda _: refused(Refusal("[budget] joules: 10 J of 10 J of today are used")))
    assert server.calls.count("connect") == server.calls.count("close") == 2
    assert "[budget] was changed: away for" in caplog.text
    server = Raising(MESSAGE, None, None)
    play(server)
    assert server.calls.count("connect") == 1, "nothing was declined"


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
