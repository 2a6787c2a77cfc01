"""Secure aggregation between real processes: equal sums, and rounds in which clients and the server die or hang.

Four hospitals, of which one may fall out. A client is caught while it trains: its gate makes each batch take 150 ms.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import telling_agent
from seeded_agent import SEED
from sites import AGENT, DATA, POLICY, SUPPORT, Sites, released, until

from fedsus.config import RunConfig, load
from fedsus.errors import EnvironmentFault
from fedsus.journal import AttemptAbandoned, AttemptOpened, RoundReleased
from fedsus.owner import key_files
from fedsus.reporting import read, released_model, summary
from fedsus.secagg.session import Phase
from fedsus.tasks.task import DataSource
from fedsus_server import runs
from fedsus_server.supervisor import claim_port
from fedsus_simulations.whole.memory import simulate

HOSPITALS = ("cleveland", "hungary", "switzerland", "va")
DEADLINE = 10.0
PATIENCE = 120.0
HEART = """
rounds = 3
deadline = 60.0
metrics = [{ name = "loss", low = 0.0, high = 10.0 }, { name = "accuracy", low = 0.0, high = 1.0 }]
cohort = { size = 4, minimum = 3 }
[plan.training.optimizer]
name = "sgd"
learning_rate = 0.1
momentum = 0.5
"""
GATED = f"""
rounds = 300
deadline = {DEADLINE}
cohort = {{ size = 4, minimum = 3 }}
[plan.training]
local_epochs = 150
"""
FEW = GATED.replace("rounds = 300", "rounds = 8\nspare_attempts = 6")

pytestmark = pytest.mark.timeout(240)


class Hospitals(Sites):
    """Four hospitals whose agents write down their secrets, for the test that looks for them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.agent_command = (sys.executable, "-W", "ignore", str(SUPPORT / "telling_agent.py"))

    def start(self) -> None:
        self.serve()
        for name in HOSPITALS:
            self.add_client(name, AGENT.format(patients=DATA / f"{name}.csv"), POLICY)
        self.register()
        self.restore()

    def restore(self) -> None:
        for name in HOSPITALS:
            self.let_go(name)
            if name not in self._processes or self._processes[name].poll() is not None:
                self.start_agent(name)
        for name in HOSPITALS:
            until(lambda name=name: self.connected(name), f"agent {name}", PATIENCE)  # type: ignore[misc]

    def serve(self) -> None:
        until(self._port_is_free, "the port")
        super().serve()

    def _port_is_free(self) -> bool:
        try:
            return claim_port("127.0.0.1", self.port) == self.port
        except EnvironmentFault:
            return False

    def hold(self, name: str) -> None:
        """Let its next training last until `let_go`."""
        self.gate(name).touch()

    def let_go(self, name: str) -> None:
        self.gate(name).unlink(missing_ok=True)
        self.seen(name).unlink(missing_ok=True)

    def held(self, *names: str) -> bool:
        return all(self.seen(name).exists() for name in names)

    @contextlib.contextmanager
    def run(self, name: str) -> Iterator[Path]:
        """A run that is stopped when the block is left."""
        folder = self.open("gated", GATED, name=name)
        try:
            yield folder
        finally:
            runs.stop(self.home, folder, time.time)

    def notes(self, name: str) -> list[dict[str, Any]]:
        """What a hospital's device noted of its sessions."""
        text = (self.clients[name].state / "sessions.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def sessions(self, name: str, run: Path) -> dict[int, str]:
        """The sessions of a run that a hospital joined: attempt -> sid."""
        joined = [note for note in self.notes(name) if note["type"] == "joined" and note["run"] == run.name]
        assert len({note["attempt"] for note in joined}) <= len({note["sid"] for note in joined}) == len(joined)
        return {note["attempt"]: note["sid"] for note in joined}

    def phases(self, name: str, sid: str) -> set[int]:
        """What a hospital answered in a session."""
        return {note["phase"] for note in self.notes(name) if note["sid"] == sid}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    with Hospitals(tmp_path_factory.mktemp("secure")) as found:
        found.start()
        yield found


@pytest.fixture
def sites(hospitals: Hospitals) -> Hospitals:
    """Four hospitals, all connected."""
    hospitals.restore()
    return hospitals


def facts(folder: Path) -> list[tuple[object, ...]]:
    """What a run's rounds released; the checkpoint is the hash of the strategy's state with the model."""
    return [
        (one.round, one.survivors, one.checkpoint, one.metrics, one.held_out, one.weight, one.saturated)
        for one in released(folder)
    ]


def test_clear_and_secure_sums_simulated_and_deployed_give_the_same_integers(sites: Hospitals, tmp_path: Path) -> None:
    sources = {name: DataSource(DATA / f"{name}.csv") for name in HOSPITALS}
    found, sent = [], {}
    for exchange in ("clear_sum", "secure_sum"):
        deployed, memory = sites.open("heart", f'exchange = "{exchange}"\n{HEART}', name=exchange), tmp_path / exchange
        sites.wait_for_run(deployed, PATIENCE)
        start = sites.model(exchange)
        simulate(load(sites.folder / f"{exchange}.toml", RunConfig), memory, "memory", start, sources, seed=SEED)
        for where in (deployed, memory):
            assert not np.array_equal(released_model(where), start)
            found.append((released_model(where).tobytes(), facts(where)))
            sent[exchange, where == memory] = [entry.bytes_received for entry in released(where)]
        joined = sites.sessions("va", deployed)
        assert sorted(joined) == ([] if exchange == "clear_sum" else [1, 2, 3, 4])
    assert [fact[:2] for fact in found[0][1]] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(other == found[0] for other in found)
    # Masks and shares were really exchanged, in memory as in the deployment, byte for byte as many.
    assert sent["secure_sum", True] == sent["secure_sum", False]
    assert min(sent["secure_sum", True]) > max(sent["clear_sum", True])


def test_a_killed_client_costs_its_own_update_and_is_back_later(sites: Hospitals) -> None:
    sites.hold("va")
    with sites.run("killed") as folder:
        until(lambda: sites.held("va"), "the training", PATIENCE)
        sites.kill("va")
        until(lambda: released(folder), "the round", PATIENCE)
        first = released(folder)[0]
        assert (first.round, first.attempt, first.survivors, first.lost, first.refused) == (1, 1, 3, 1, 0)
        sites.let_go("va")
        sites.start_agent("va")
        until(lambda: any(one.survivors == 4 for one in released(folder)), "a round of four", PATIENCE)
        entries = read(folder)
        back = next(one for one in released(folder) if one.survivors == 4)
        assert {one.survivors for one in released(folder)[: back.round - 1]} == {3}
        assert not [entry for entry in entries if isinstance(entry, AttemptAbandoned)]
        mine = sites.sessions("va", folder)
    assert Phase.CONFIRM not in sites.phases("va", mine[1]), "what it was in, it never took up again"
    assert sites.phases("va", mine[back.attempt]) >= {Phase.ADVERTISE, Phase.SHARE, Phase.CONTRIBUTE, Phase.CONFIRM}


def test_below_the_floor_nothing_is_released_and_the_next_attempt_has_fresh_keys(sites: Hospitals) -> None:
    for name in ("switzerland", "va"):
        sites.hold(name)
    folder = sites.open("gated", FEW, name="few")
    until(lambda: sites.held("switzerland", "va"), "both trainings", PATIENCE)
    for name in ("switzerland", "va"):
        sites.kill(name)
    until(lambda: any(isinstance(entry, AttemptAbandoned) for entry in read(folder)), "the end of it", PATIENCE)
    _, opened, abandoned = read(folder)[:3]
    assert isinstance(opened, AttemptOpened)
    assert isinstance(abandoned, AttemptAbandoned)
    assert (abandoned.round, abandoned.attempt) == (opened.round, opened.attempt) == (1, 1)
    assert "2 of 4 clients" in abandoned.reason
    assert released(folder) == []
    (sid,) = sites.sessions("cleveland", folder).values()
    answered = sites.phases("cleveland", sid)
    assert Phase.CONTRIBUTE in answered
    assert not answered & {Phase.CONFIRM, Phase.UNMASK}, "nobody opened anything"
    for name in ("switzerland", "va"):
        sites.let_go(name)
        sites.start_agent(name)
    sites.wait_for_run(folder, PATIENCE)
    assert summary(folder).status == "completed"
    assert [one.round for one in released(folder)] == list(range(1, 9))
    used = {one.attempt for one in released(folder)}
    joined = sites.sessions("cleveland", folder)
    assert 1 not in used <= joined.keys()
    assert sid not in {joined[attempt] for attempt in used}


def test_a_killed_server_goes_on_where_it_was(sites: Hospitals) -> None:
    folder = sites.open("gated", FEW, name="resumed")
    until(lambda: len(released(folder)) >= 2, "two rounds", PATIENCE)
    sites.hold("va")
    until(lambda: sites.held("va"), "a training", PATIENCE)
    before = read(folder)
    sites.kill("server")
    sites.let_go("va")
    sites.serve()
    sites.wait_for_run(folder, PATIENCE)
    assert summary(folder).status == "completed"
    entries = read(folder)
    assert entries[: len(before)] == before
    assert [one.round for one in released(folder)] == list(range(1, 9))
    attempts = [entry.attempt for entry in entries if isinstance(entry, AttemptOpened)]
    assert attempts == list(range(1, len(attempts) + 1))
    assert isinstance(before[-1], AttemptOpened)
    lost = before[-1].attempt
    assert lost not in {one.attempt for one in released(folder)}, "its sessions' secrets are gone: a new attempt"


def test_a_stopped_client_is_dropped_at_the_deadline_and_not_waited_for(sites: Hospitals) -> None:
    sites.hold("va")
    with sites.run("stopped") as folder:
        until(lambda: sites.held("va"), "the training", PATIENCE)
        slow = sites.process("va")
        os.kill(slow.pid, signal.SIGSTOP)
        try:
            until(lambda: len(released(folder)) >= 3, "three rounds", PATIENCE)
        finally:
            sites.let_go("va")
            os.kill(slow.pid, signal.SIGCONT)
        first, *others = released(folder)[:3]
        assert (first.attempt, first.survivors, first.lost) == (1, 3, 1)
        light = load(sites.folder / "stopped.toml", RunConfig).plan.secure_sum.light_deadline
        assert DEADLINE <= first.seconds < DEADLINE + light
        assert [one.survivors for one in others] == [3, 3]
        assert max(one.seconds for one in others) < DEADLINE
        until(lambda: released(folder)[-1].survivors == 4, "a round of four", PATIENCE)
        assert not [entry for entry in read(folder) if isinstance(entry, AttemptAbandoned)]


def test_no_secret_is_on_a_devices_disk_and_each_step_is_noted_once(sites: Hospitals) -> None:
    folder = sites.open("heart", HEART, name="noted")
    sites.wait_for_run(folder, PATIENCE)
    assert all(isinstance(one, RoundReleased) and one.survivors == 4 for one in released(folder))
    everyone = {secret for name in HOSPITALS for secret in telling_agent.told(sites.folder / name)}
    for name in HOSPITALS:
        notes = sites.notes(name)
        assert max(Counter((note["sid"], note["phase"]) for note in notes).values()) == 1
        assert set(sites.sessions(name, folder)) == {1, 2, 3, 4}
        assert all(len(note["content"]) == 64 for note in notes)
        identity = key_files.load(sites.folder / name / "identity.key", "identity").private_bytes().reveal()
        assert len(telling_agent.told(sites.folder / name)) > 4 * 8
        state = [path for path in sites.clients[name].state.rglob("*") if path.is_file()]
        assert {"sessions.jsonl", "agent.log"} <= {path.name for path in state}
        for path in state:
            shown = forms_in(path.read_bytes(), everyone | {identity})
            assert not shown, f"{path.name} holds {len(shown)} secrets"


def forms_in(content: bytes, secrets: set[bytes]) -> list[bytes]:
    """The secrets that ``content`` holds: as bytes, in hexadecimal digits, or in base 64."""
    lower = content.lower()
    return [
        secret
        for secret in secrets
        if secret in content
        or secret.hex().encode() in lower
        or base64.b64encode(secret).rstrip(b"=") in content
        or base64.urlsafe_b64encode(secret).rstrip(b"=") in content
    ]


def test_the_search_for_secrets_finds_them() -> None:
    secret = bytes(range(200, 232))
    for shown in (secret, secret.hex().upper().encode(), base64.b64encode(secret), base64.urlsafe_b64encode(secret)):
        assert forms_in(b"before " + shown + b" after", {secret}) == [secret]
    assert forms_in(b"before and after", {secret}) == []
