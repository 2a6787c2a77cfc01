"""An agent for tests, over a server that is a script and with a device that is a function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedsus.owner import key_files
from fedsus.rounds.device_half.device import Answer
from fedsus_client import agent as agents
from fedsus_client import answering, identity
from fedsus_client.agent import Agent
from fedsus_client.config import AgentConfig, load_agent
from fedsus_client.flower import MESSAGE_TYPE, Incoming
from fedsus_client.pace import Backoff
from fedsus_client.standing import StandingPolicy
from fedsus_client.status import read_status

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


def agent_config(folder: Path) -> AgentConfig:
    identity.create(folder / "node.key")
    key_files.create(folder / "identity.key", "identity")
    (folder / "agent.toml").write_text(
        '[server]\naddress = "localhost:1"\n[tasks]\n[data]\n[agent]\npoll_idle = 0.005\npoll_active = 0.005\n',
        encoding="utf-8",
    )
    return load_agent(folder / "agent.toml")


def player(config: AgentConfig, policy: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What lets an agent run until the server's script ends, or the agent does."""

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
