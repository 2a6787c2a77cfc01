"""The simulators' benchmarks: where peers are looked for, and how one is installed."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedsus.errors import EnvironmentFault
from fedsus_simulations.benchmarks import (
    simulate_peers,
)
from fedsus_simulations.benchmarks.simulate_peers import Places


def venv(folder: Path, packages: dict[str, str]) -> Path:
    """An environment whose Python knows one answer."""
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(f"#!/bin/sh\necho '{json.dumps(packages)}'\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No peer in this environment or the cache, and none is built; the cache's base."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(simulate_peers, "build", lambda environment: environment / "built")
    return tmp_path / "cache"


def test_pfl_is_found_in_any_of_the_named_environments(nowhere: Path, tmp_path: Path) -> None:
    flower = venv(tmp_path / "a", {"flwr": "1.41.0", "ray": "2.55.1", "torch": "2.13.0"})
    pfl = venv(tmp_path / "b", {"pfl": "0.6.0", "torch": "2.13.0"})
    places = Places((flower, pfl))
    assert simulate_peers.pfl(places) == pfl / "bin" / "python"
    assert simulate_peers.flower(places) == flower / "bin" / "python"
    assert simulate_peers.flower(Places((pfl,))) is None


@pytest.mark.parametrize("packages", [{"pfl": "0.5.0", "torch": "2.13.0"}, {"pfl": "0.6.0"}, {}])
def test_a_named_environment_with_neither_is_refused(nowhere: Path, tmp_path: Path, packages: dict[str, str]) -> None:
    with pytest.raises(EnvironmentFault, match=r"--peer-venv .*a: has neither pfl 0\.6\.0 nor flwr; name"):
        simulate_peers.pfl(Places((venv(tmp_path / "a", packages),)))


def test_pfl_is_built_in_a_named_folder_that_is_not_there_else_in_the_cache(nowhere: Path, tmp_path: Path) -> None:
    assert simulate_peers.pfl(Places((tmp_path / "new",))) == tmp_path / "new" / "built"
    (tmp_path / "empty").mkdir()
    assert simulate_peers.pfl(Places((tmp_path / "empty",))) == tmp_path / "empty" / "built"
    own = simulate_peers.pfl(Places())
    assert own.is_relative_to(nowhere / "fedsus" / "peers")
    flower = venv(tmp_path / "a", {"flwr": "1.41.0"})
    assert simulate_peers.pfl(Places((flower,))) == own
    venv(own.parent, {"pfl": "0.6.0", "torch": "2.13.0"})
    assert simulate_peers.pfl(Places()) == own.parent / "bin" / "python"


def test_a_failing_installation_leaves_nothing_and_says_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def fail(command: list[str], **_: Any) -> Any:
        ran.append(command)
        (tmp_path / "new").mkdir(exist_ok=True)
        wrong = "pip" in command
        return SimpleNamespace(returncode=int(wrong), stdout="", stderr="some lines\nERROR: no such package\n")

    monkeypatch.setattr(simulate_peers.subprocess, "run", fail)
    with pytest.raises(EnvironmentFault) as caught:
        simulate_peers.build(tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert "cannot be built: ERROR: no such package; make one elsewhere" in str(caught.value)
    assert "--peer-venv DIR" in str(caught.value)
    assert not (tmp_path / "new").exists()
    assert [command[-1] for command in ran][1] == "pfl[pytorch]==0.6.0"
    assert any(part.startswith("torch==") and "+" not in part for part in ran[1])


def test_an_interrupted_installation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(command: list[str], **_: Any) -> Any:
        (tmp_path / "new").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(simulate_peers.subprocess, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        simulate_peers.build(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_without_an_interpreter_has_nothing(tmp_path: Path) -> None:
    assert simulate_peers.installed(tmp_path) == {}
    broken = venv(tmp_path / "a", {})
    (broken / "bin" / "python").write_text("#!/bin/sh\necho oh no\n")
    assert simulate_peers.installed(broken) == {}


def test_this_environments_packages_are_seen() -> None:
    found = simulate_peers.installed(Path(sys.prefix))
    assert {"torch", "flwr", "fedsus"} <= found.keys()
