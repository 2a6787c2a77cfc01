"""agent.toml: strict, paths beside the file, and quick to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedsus.errors import ConfigError
from fedsus_client.config import load_agent

LEAST = '[server]\naddress = "localhost:9443"\n[tasks]\nheart = "heart"\n[data.clinic]\npath = "rows.csv"\n'


def write(folder: Path, text: str) -> Path:
    file = folder / "agent.toml"
    file.write_text(text)
    return file


def test_relative_paths_are_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, LEAST.replace('9443"', '9443"\nca = "/etc/ca.pem"'))
    monkeypatch.chdir(tmp_path)
    agent = load_agent(Path("agent.toml"))
    assert agent.server.ca == Path("/etc/ca.pem")
    assert agent.server.ca_file == "/etc/ca.pem"
    assert agent.identity.key == tmp_path / "node.key"
    assert agent.identity.signing == tmp_path / "identity.key"
    assert agent.federation.roster == tmp_path / "roster.json"
    assert agent.roster_notes == tmp_path / "state" / "roster.noted"
    assert agent.ledger == tmp_path / "state" / "ledger.sqlite"
    assert agent.data["clinic"].path == tmp_path / "rows.csv"
    assert (agent.server.host, agent.server.port) == ("localhost", 9443)


def test_further_keys_of_a_data_set_are_for_the_task(tmp_path: Path) -> None:
    agent = load_agent(write(tmp_path, LEAST + "holdout = 0.3\ncolumns = ['a']\n"))
    assert agent.data["clinic"].options == {"holdout": 0.3, "columns": ["a"]}


def test_an_ipv6_address(tmp_path: Path) -> None:
    agent = load_agent(write(tmp_path, LEAST.replace("localhost", "[::1]")))
    assert (agent.server.host, agent.server.port) == ("::1", 9443)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("[tasks]", "[agent]\npoll_idel = 1.0\n[tasks]", "unknown field 'agent.poll_idel'; did you mean 'poll_idle'?"),
        (":9443", "", "'server.address' = 'localhost'"),
        ("localhost:9443", "https://localhost:9443", "'server.address' = 'https://localhost:9443'"),
        (":9443", ":70000", "the port must be 1..65535"),
        ('heart = "heart"', 'heart = "os:system()"', "'tasks.heart' = 'os:system()'"),
        ('path = "rows.csv"', "", "'data.clinic.path' is missing"),
        ('path = "rows.csv"', "path = 3", "'data.clinic.path' = 3"),
        ("[tasks]", '[compute]\ndevice = "gpu"\n[tasks]', "'compute.device' = 'gpu'"),
        ("[tasks]", "[agent]\npoll_idle = 0\n[tasks]", "'agent.poll_idle' = 0"),
        ("[tasks]", "[seed]\n[tasks]", "unknown field 'seed'"),
        ("[tasks]", "[agent]\nlog_level = 'loud'\n[tasks]", "'agent.log_level' = 'loud'"),
        ("[tasks]", "[tasks", "not valid TOML"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, old: str, new: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_agent(write(tmp_path, LEAST.replace(old, new)))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"agent\.toml: no such file"):
        load_agent(tmp_path / "agent.toml")


def test_the_commands_load_nothing_heavy() -> None:
    code = (
        "import sys, fedsus_client.cli, fedsus_client.config, fedsus_client.status, fedsus_client.identity;"
        "print([name for name in ('torch', 'flwr', 'opacus', 'dp_accounting', 'scipy', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
