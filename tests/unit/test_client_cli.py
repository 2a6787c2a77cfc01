"""What an owner types: one line for a mistake, exit code 2, and the truth."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedsus.config import load, loads
from fedsus.errors import ConfigError, EnvironmentFault, UserError
from fedsus.owner import key_files
from fedsus.owner.ledger import Ledger
from fedsus.owner.policy import Policy
from fedsus.secagg.keys import Identity
from fedsus.secagg.roster import Pins, fingerprint
from fedsus_client import identity
from fedsus_client.cli import client
from fedsus_client.config import load_agent
from fedsus_client.status import Status, paused, process_start, write_status

# Flower's command line imports names that click is going to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*will be removed in Click:DeprecationWarning")

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``fedsus client ...`` in an empty folder; errors are raised as the command raises them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(client, arguments, input=answer, catch_exceptions=False)

    return call


@pytest.fixture
def agent_process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends on SIGTERM, as an agent does."""
    started = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield started
    started.kill()
    started.communicate()


def status_of(pid: int) -> Status:
    return Status(state="idle", server="localhost:9443", pid=pid, started=process_start(pid) or "", updated=1.7e9)


def test_enroll_writes_valid_files_and_a_key(run: Run, tmp_path: Path) -> None:
    result = run("enroll", "--server", "hub.example.org:443")
    assert result.exit_code == 0
    agent, policy = load_agent(Path("agent.toml")), load(Path("policy.toml"), Policy)
    assert agent.server.address == "hub.example.org:443"
    assert set(policy.tasks) <= set(agent.tasks)
    assert {task.data for task in policy.tasks.values()} <= set(agent.data)
    assert not policy.privacy.without_dp
    assert (policy.exchange.secure_sum, policy.exchange.clear_sum, policy.federation) == (True, False, None)
    _, public = identity.load(tmp_path / "node.key")
    own = key_files.load(tmp_path / "identity.key", "identity").public.hex()
    assert key_files.read_public(tmp_path / "identity.key.pub", "identity") == own
    for words in (
        str(tmp_path / "node.key.pub"),
        identity.fingerprint(public),
        "fedsus server devices add NAME node.key.pub",
        str(tmp_path / "identity.key.pub"),
        fingerprint(own),
        "fedsus federation admit roster.json NAME identity.key.pub",
        "fedsus client check --agent agent.toml",
    ):
        assert words in result.output


def test_enroll_again_keeps_what_is_there(run: Run, tmp_path: Path) -> None:
    run("enroll")
    (tmp_path / "policy.toml").write_text("# mine\n")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    again = run("enroll").output
    assert "kept the node key" in again
    assert "kept the identity key" in again
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    with pytest.raises(ConfigError, match="exists already"):
        run("enroll", "--server", "hub.example.org:443")
    with pytest.raises(ConfigError, match="expected host:port"):
        run("enroll", "--agent", "other/agent.toml", "--server", "hub")


def test_enroll_gives_an_older_device_its_identity(run: Run, tmp_path: Path) -> None:
    run("enroll")
    node = (tmp_path / "node.key").read_bytes()
    (tmp_path / "identity.key").unlink()
    with pytest.raises(ConfigError, match=r"identity\.key\.pub: exists already"):
        run("enroll")
    (tmp_path / "identity.key.pub").unlink()
    assert "made the identity key" in run("enroll").output
    public = (tmp_path / "identity.key.pub").read_bytes()
    (tmp_path / "identity.key.pub").unlink()  # as after a crash between the two files
    run("enroll")
    assert (tmp_path / "identity.key.pub").read_bytes() == public
    assert (tmp_path / "node.key").read_bytes() == node
    (tmp_path / "identity.key").chmod(0o644)
    with pytest.raises(ConfigError, match="other users may use the identity key"):
        run("enroll")


def test_the_templates_pins_are_valid_once_the_keys_are_pasted() -> None:
    text = files("fedsus_client").joinpath("files", "policy.toml").read_text(encoding="utf-8")
    start = text.index("# [federation]")
    table = text[start : text.index("needed = 2", start) + len("needed = 2")].replace("# ", "")
    keys = sorted(Identity.generate().public.hex() for _ in range(2))
    for place, words in enumerate(("64 hex digits of one owner's key", "and of another's")):
        table = table.replace(words, keys[place])
    policy = loads(table, Policy)
    assert policy.federation is not None
    assert policy.federation.pins == Pins("heart", frozenset(keys), 2)
    given, default = loads(text, Policy), Policy()
    assert (given.secure_sum, given.exchange) == (default.secure_sum, default.exchange)


@pytest.mark.parametrize("command", ["start", "ledger", "status", "pause", "resume", "leave", "roster"])
def test_a_missing_file_is_the_users_mistake(run: Run, command: str) -> None:
    with pytest.raises(UserError, match=r"agent\.toml: no such file"):
        run(command, *(["--yes"] if command == "leave" else []))


def test_start_hands_over_both_files_and_debug(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import fedsus_client.agent

    calls: list[tuple[Path, Path, bool]] = []
    monkeypatch.setattr(fedsus_client.agent, "run", lambda *arguments: calls.append(arguments))
    run("start", "--agent", "device/agent.toml")
    run("start", "--policy", "strict.toml")
    assert calls == [
        (Path("device/agent.toml"), Path("device/policy.toml"), False),
        (Path("agent.toml"), Path("strict.toml"), False),
    ]


@pytest.mark.parametrize("command", sorted(client.commands))
def test_a_commands_summary_fits_in_80_columns(command: str) -> None:
    assert not client.commands[command].get_short_help_str(66).endswith("...")


def test_status_tells_a_live_agent_from_a_dead_one(run: Run, tmp_path: Path) -> None:
    run("enroll")
    assert "not running" in run("status").output
    alive = status_of(os.getpid())
    write_status(tmp_path / "state", alive)
    assert "agent:        idle" in run("status").output
    assert json.loads(run("status", "--json").output)["running"] is True
    dead = replace(
        alive, started="earlier", run="winter", round=3, rounds=9, last_refusal="epsilon 9", last_refused=1e9
    )
    write_status(tmp_path / "state", dead)
    text = run("status").output
    assert "not running" in text
    assert "3 of 9 of run 'winter'" in text
    assert f"last refusal: {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(1e9))}: epsilon 9" in text
    assert json.loads(run("status", "--json").output)["running"] is False


def test_pause_and_resume(run: Run, tmp_path: Path) -> None:
    run("enroll")
    run("pause")
    assert paused(tmp_path / "state")
    assert "paused" in run("status").output
    run("resume")
    assert not paused(tmp_path / "state")


def test_leave_stops_the_agent_and_keeps_ledger_and_key(
    run: Run, tmp_path: Path, agent_process: subprocess.Popen[bytes]
) -> None:
    run("enroll")
    Ledger(tmp_path / "state" / "ledger.sqlite", lambda: 1.0).close()
    write_status(tmp_path / "state", status_of(agent_process.pid))
    assert run("leave", answer="n\n").exit_code == 1
    with pytest.raises(ConfigError, match="has not left: nobody answers here; --yes goes on without asking"):
        run("leave")
    assert agent_process.poll() is None
    assert not paused(tmp_path / "state")
    result = run("leave", answer="y\n")
    assert "fedsus server devices remove NAME" in result.output
    assert agent_process.wait(timeout=60) == -signal.SIGTERM
    assert paused(tmp_path / "state")
    assert (tmp_path / "state" / "ledger.sqlite").exists()
    assert (tmp_path / "node.key").exists()
    assert "was not running" in run("leave", "--yes").output


def test_leave_never_stops_another_process(run: Run, tmp_path: Path, agent_process: subprocess.Popen[bytes]) -> None:
    run("enroll")
    later = replace(status_of(agent_process.pid), started="an earlier process")
    write_status(tmp_path / "state", later)
    assert "was not running" in run("leave", "--yes").output
    assert agent_process.poll() is None


def test_an_agent_that_does_not_stop_is_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent_process: subprocess.Popen[bytes]
) -> None:
    run("enroll")
    write_status(tmp_path / "state", status_of(agent_process.pid))
    monkeypatch.setattr("fedsus_client.cli._LEAVE_SECONDS", -1.0)
    monkeypatch.setattr("fedsus_client.cli.os.kill", lambda pid, number: None)
    with pytest.raises(EnvironmentFault, match="did not stop"):
        run("leave", "--yes")


def test_check_exits_2_by_its_error(run: Run) -> None:
    run("enroll")
    with pytest.raises(UserError, match="checks failed"):
        run("check")


def test_a_mistake_is_explained_in_one_line_with_exit_code_2(run: Run) -> None:
    from fedsus import cli

    code, message = None, ""
    try:
        run("status", "--agent", "nowhere.toml")
    except UserError as error:
        message, code = cli.explain(error)
    assert (message, code) == ("nowhere.toml: no such file", 2)
