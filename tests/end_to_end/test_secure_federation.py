"""Secure aggregation between real processes: equal sums, and rounds in which clients and the server die or hang.

Four hospitals, of which one may fall out. A client is caught while it trains: its gate makes each batch take a second.
What a slow machine may do, as to spend one more attempt, is looked up in the journal; light phases wait for all their
clients as long as training may take, so that the fast ones leave out no slow one.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import telling_agent
from seeded_agent import SEED
from sites import AGENT, DATA, PATIENCE, POLICY, SUPPORT, Sites, opened, released, until

from fedsus.config import RunConfig, load
from fedsus.journal import AttemptAbandoned, AttemptOpened
from fedsus.owner import key_files
from fedsus.reporting import read, released_model, summary
from fedsus.secagg.session import Phase
from fedsus.tasks.task import DataSource
from fedsus_simulations.whole.memory import simulate

HOSPITALS = ("cleveland", "hungary", "switzerland", "va")
PLAN = """
cohort = { size = 4, minimum = 3 }
secure_sum = { light_deadline = 60.0, grace = 60.0 }
"""
HEART = f"""
rounds = 3
deadline = 60.0
metrics = [{{ name = "loss", low = 0.0, high = 10.0 }}, {{ name = "accuracy", low = 0.0, high = 1.0 }}]
{PLAN}
[plan.training.optimizer]
name = "sgd"
learning_rate = 0.1
momentum = 0.5
"""
GATED = """
rounds = {rounds}
spare_attempts = 10
deadline = {deadline}
{PLAN}
[plan.training]
local_epochs = {epochs}
"""

RESUMED = 12
"""Rounds of the run whose server is killed: so many that a training can be held before the last of them is over."""

pytestmark = pytest.mark.timeout(400)


class Hospitals(Sites):
    """Four hospitals whose agents write down their secrets, for the test that looks for them."""

    names = HOSPITALS

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.agent_command = (sys.executable, "-W", "ignore", str(SUPPORT / "telling_agent.py"))

    def start(self) -> None:
        self.serve()
        # Nothing private runs here: agents whose owners grant no epsilon are ready sooner.
        policy = POLICY.replace("epsilon = 5.0\ndelta = 1e-5\n", "")
        for name in self.names:
            self.add_client(name, AGENT.format(patients=DATA / f"{name}.csv"), policy)
        self.register()
        self.restore()

    def open_gated(self, name: str, rounds: int = 300) -> Path:
        """A run whose trainings can be held past its deadline. What outlives its test is stopped by the next."""
        plan = GATED.format(rounds=rounds, deadline=self.deadline, epochs=round(3 * self.deadline), PLAN=PLAN)
        return self.open("gated", plan, name=name)

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


def attempts(folder: Path) -> tuple[set[int], set[int]]:
    """The attempts of a run that were opened, and those of them that were released."""
    entries = read(folder)
    spent = [entry.attempt for entry in entries if isinstance(entry, AttemptOpened)]
    assert spent == list(range(1, len(spent) + 1))
    return set(spent), {one.attempt for one in released(folder)}


def abandoned(folder: Path) -> list[AttemptAbandoned]:
    return [entry for entry in read(folder) if isinstance(entry, AttemptAbandoned)]


@pytest.fixture(scope="module")
def deployed(hospitals: Hospitals) -> dict[str, Path]:
    """The same run in clear and masked; all four in each round."""
    folders = {}
    for exchange in ("clear_sum", "secure_sum"):
        folders[exchange] = hospitals.open("heart", f'exchange = "{exchange}"\n{HEART}', name=exchange)
        hospitals.wait_for_run(folders[exchange], PATIENCE)
        assert [(one.round, one.survivors) for one in released(folders[exchange])] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    return folders


def test_clear_and_secure_sums_simulated_and_deployed_give_the_same_integers(
    hospitals: Hospitals, deployed: dict[str, Path], tmp_path: Path
) -> None:
    sources = {name: DataSource(DATA / f"{name}.csv") for name in HOSPITALS}
    found, sent = [], {}
    for exchange, run in deployed.items():
        start, memory = hospitals.model(exchange), tmp_path / exchange
        simulate(load(hospitals.folder / f"{exchange}.toml", RunConfig), memory, "memory", start, sources, seed=SEED)
        for where in (run, memory):
            assert not np.array_equal(released_model(where), start)
            found.append((released_model(where).tobytes(), facts(where)))
            sent[exchange, where == memory] = [entry.bytes_received for entry in released(where)]
    assert all(other == found[0] for other in found)
    # Masks and shares were really exchanged, in memory as in the deployment, byte for byte as many.
    assert sent["secure_sum", True] == sent["secure_sum", False]
    assert min(sent["secure_sum", True]) > max(sent["clear_sum", True])
    assert not hospitals.sessions("va", deployed["clear_sum"])


def test_a_killed_client_costs_its_own_update_and_is_back_later(sites: Hospitals) -> None:
    sites.hold("va")
    folder = sites.open_gated("killed")
    attempt = sites.trained(folder, "va")
    sites.kill("va")
    sites.let_go("va")
    sites.start_agent("va")
    until(lambda: any(one.attempt == attempt for one in released(folder)), "the round")
    until(lambda: released(folder)[-1].survivors == 4, "a round of four")
    first, *others = [one for one in released(folder) if one.attempt >= attempt]
    assert (first.attempt, first.survivors, first.lost, first.refused) == (attempt, 3, 1, 0)
    back = next(one for one in others if one.survivors == 4)
    assert {one.survivors for one in others if one.round < back.round} <= {3}
    assert not [one for one in abandoned(folder) if attempt <= one.attempt <= back.attempt]
    mine = sites.sessions("va", folder)
    assert not sites.phases("va", mine[attempt]) & {Phase.CONFIRM, Phase.UNMASK}, "it never took it up again"
    assert sites.phases("va", mine[back.attempt]) >= {Phase.ADVERTISE, Phase.SHARE, Phase.CONTRIBUTE, Phase.CONFIRM}


def test_below_the_floor_nothing_is_released_and_the_next_attempt_has_fresh_keys(sites: Hospitals) -> None:
    lost = ("switzerland", "va")
    sites.hold(*lost)
    folder = sites.open_gated("few", rounds=4)
    attempt = sites.trained(folder, *lost)
    for name in lost:
        sites.kill(name)
        sites.let_go(name)
        sites.start_agent(name)
    until(lambda: any(one.attempt == attempt for one in abandoned(folder)), "the end of it")
    (end,) = (one for one in abandoned(folder) if one.attempt == attempt)
    assert end.round == 1
    assert "2 of 4 clients" in end.reason
    sites.wait_for_run(folder, PATIENCE)
    assert summary(folder).status == "completed"
    assert [one.round for one in released(folder)] == list(range(1, 5))
    spent, used = attempts(folder)
    assert min(used) > attempt
    for name in ("cleveland", "hungary"):
        joined = sites.sessions(name, folder)
        answered = sites.phases(name, joined[attempt])
        assert Phase.CONTRIBUTE in answered
        assert not answered & {Phase.CONFIRM, Phase.UNMASK}, "nobody opened anything"
        assert used <= joined.keys() <= spent
        assert joined[attempt] not in {joined[one] for one in used}


def test_a_killed_server_goes_on_where_it_was(sites: Hospitals) -> None:
    folder = sites.open_gated("resumed", rounds=RESUMED)
    until(lambda: released(folder), "a round")
    sites.hold("va")
    lost = sites.trained(folder, "va", since=opened(folder))
    before = read(folder)
    sites.kill("server")
    sites.let_go("va")
    sites.serve()
    sites.wait_for_run(folder, PATIENCE)
    assert summary(folder).status == "completed"
    assert read(folder)[: len(before)] == before
    assert isinstance(before[-1], AttemptOpened)
    assert before[-1].attempt == lost
    assert [one.round for one in released(folder)] == list(range(1, RESUMED + 1))
    _, used = attempts(folder)
    assert lost not in used, "its sessions' secrets are gone: a new attempt"


def test_a_stopped_client_is_dropped_at_the_deadline_and_not_waited_for(sites: Hospitals) -> None:
    sites.hold("va")
    folder = sites.open_gated("stopped")
    attempt = sites.trained(folder, "va")
    slow = sites.process("va")
    os.kill(slow.pid, signal.SIGSTOP)
    try:
        until(lambda: len([one for one in released(folder) if one.attempt >= attempt]) >= 3, "three rounds")
    finally:
        sites.let_go("va")
        os.kill(slow.pid, signal.SIGCONT)
    first, *others = [one for one in released(folder) if one.attempt >= attempt][:3]
    assert (first.attempt, first.survivors, first.lost) == (attempt, 3, 1)
    assert [one.survivors for one in others] == [3, 3]
    # Light phases have the same deadline here: whichever waits for it, the round lasts as long.
    deadline = load(sites.folder / "stopped.toml", RunConfig).plan.deadline
    assert max(one.seconds for one in others) < deadline <= first.seconds
    until(lambda: released(folder)[-1].survivors == 4, "a round of four")
    back = released(folder)[-1]
    assert not [one for one in abandoned(folder) if attempt <= one.attempt <= back.attempt]


def test_no_secret_is_on_a_devices_disk_and_each_step_is_noted_once(
    hospitals: Hospitals, deployed: dict[str, Path]
) -> None:
    """After a whole run, and after all that the tests before this one did to the devices."""
    spent, used = attempts(deployed["secure_sum"])
    everyone = {secret for name in HOSPITALS for secret in telling_agent.told(hospitals.folder / name)}
    for name in HOSPITALS:
        notes = hospitals.notes(name)
        assert max(Counter((note["sid"], note["phase"]) for note in notes).values()) == 1
        assert used <= hospitals.sessions(name, deployed["secure_sum"]).keys() <= spent
        assert all(len(note["content"]) == 64 for note in notes)
        identity = key_files.load(hospitals.folder / name / "identity.key", "identity").private_bytes().reveal()
        assert len(telling_agent.told(hospitals.folder / name)) > len(used) * 8
        state = [path for path in hospitals.clients[name].state.rglob("*") if path.is_file()]
        assert {"sessions.jsonl", "agent.log"} <= {path.name for path in state}
        for path in state:
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # a device that is still at work ends its database's journal meanwhile
                continue
            shown = forms_in(content, everyone | {identity})
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
