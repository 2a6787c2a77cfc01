"""An agent whose [carbon] cannot be used says so, and ends, before any server hears of it; `client check` likewise."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from scripted_agent import Server, agent_config, player

from fedsus.errors import ConfigError
from fedsus.owner.policy import DayBudget
from fedsus_client import agent as agents
from fedsus_client import metering
from fedsus_client.agent import Agent
from fedsus_client.config import AgentConfig, load_agent
from fedsus_client.energy_findings import energy
from fedsus_client.standing import StandingPolicy

BROKEN = '[carbon.series]\nfiles = "a.csv"\nvalue = "moer"\nunit = "g/kWh"\n'
SAID = "agent.toml: 'carbon.series': {folder}/a.csv: line 3: '-5' g/kWh = -5 g/kWh: an intensity is not negative"


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    agent_config(tmp_path)
    file = tmp_path / "agent.toml"
    file.write_text(file.read_text() + BROKEN)
    (tmp_path / "a.csv").write_text("time,moer\n2021-03-01T00:00Z,5\n2021-03-01T01:00Z,-5\n")
    return load_agent(file)


def test_a_broken_series_ends_the_agent_before_it_connects(
    config: AgentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    with pytest.raises(ConfigError) as caught:
        player(config, tmp_path / "policy.toml", monkeypatch)(server)
    assert SAID.format(folder=tmp_path) in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/agent.toml: ")
    assert server.calls == []


def test_a_series_that_takes_long_to_read_is_waited_for_and_a_stop_is_not_held_up(
    config: AgentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, release, looked = Server(), threading.Event(), threading.Event()
    monkeypatch.setattr(metering, "intensity_of", lambda *_: release.wait(20))
    (tmp_path / "policy.toml").touch()
    agent = Agent(config, StandingPolicy(tmp_path / "policy.toml"))
    monkeypatch.setattr(agents, "FleetConnection", server)
    waiting = metering.Metering.wait

    def wait(self: metering.Metering, stopped: threading.Event) -> None:
        looked.set()
        waiting(self, stopped)

    monkeypatch.setattr(metering.Metering, "wait", wait)
    running = threading.Thread(target=agent.run)
    running.start()
    try:
        assert looked.wait(20)
        agent.stop()
    finally:
        release.set()
        running.join(20)
    assert not running.is_alive()
    assert server.calls == []


@pytest.mark.parametrize("meter", ["", '[energy]\nmeter = "off"\n'])
def test_client_check_finds_it_also_where_nothing_is_measured(config: AgentConfig, tmp_path: Path, meter: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(file.read_text() + meter)
    found = {one.name: one for one in energy(load_agent(file), DayBudget(), lambda: 0.0)}
    assert found["carbon"].grade == "fail"
    assert SAID.format(folder=tmp_path) in found["carbon"].text
    assert config.file == file
