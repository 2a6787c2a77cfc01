"""The guide docs/three-hospitals.md, run from its own text on four network namespaces that meet at one port.

Between its steps stand the attacks: an operator that goes on with the old roster and the stolen device; an older
roster, and one that strangers signed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import namespaces
import pytest
from hospitals import BIN, GUIDE, HOSPITALS, HOST, OPERATOR, PATIENCE, ROOT, Journey, steps, until

from fedsus.journal.entries import RoundReleased, RunOpened
from fedsus.owner.ledger import Ledger
from fedsus.owner.pinning import read_roster
from fedsus.reporting import read, summary
from fedsus.secagg import thresholds
from fedsus_client.status import process_start


@pytest.fixture
def journey(tmp_path: Path) -> Iterator[Journey]:
    assert (BIN / "fedsus").exists(), "the guide needs the installed command: make venv"
    with namespaces.network(tmp_path, OPERATOR, HOSPITALS, HOST) as network:
        one = Journey(tmp_path, network)
        try:
            yield one
        finally:
            one.close()


@pytest.mark.namespaces
@pytest.mark.timeout(1800)
def test_three_hospitals_as_the_guide_says(journey: Journey) -> None:
    for section in (1, 2, 3, 4):
        journey.section(section)
    for hospital in HOSPITALS:
        assert f"this device is '{hospital}'" in journey.said[hospital]
    journey.section(5)
    assert "✗" not in journey.said["north"], journey.said["north"]
    assert "the server knows this device's key" in journey.said["north"]
    assert "a single device that drops out ends the round" in journey.said["north"]
    journey.section(6)
    completed(journey, 0)
    for hospital in HOSPITALS:
        assert "3 answered, 0 refused" in journey.said[hospital]
        assert f"this device is '{hospital}'" in journey.said[hospital]
    only_one_port_is_open(journey)
    the_device_is_stolen(journey)
    other_rosters_are_refused(journey)
    journey.section(9)
    completed(journey, 2)
    assert journey.close() == [0] * 4


def completed(journey: Journey, number: int) -> None:
    """A run came to its end with all three in each sum, and its journal says nothing about one of them."""
    folder = journey.run_folder(number)
    assert summary(folder).status == "completed", journey.logs()
    released = [entry for entry in read(folder) if isinstance(entry, RoundReleased)]
    assert [(entry.round, entry.survivors, entry.refused, entry.lost) for entry in released] == [
        (round, 3, 0, 0) for round in (1, 2, 3)
    ]
    nothing_about_one_client(journey, folder)


def nothing_about_one_client(journey: Journey, folder: Path) -> None:
    """The members stand in a journal once, as the roster lists them; their names, keys and addresses nowhere else."""
    opened = read(folder)[0]
    assert isinstance(opened, RunOpened)
    listed = opened.config["roster"]["members"]
    assert [one["name"] for one in listed] == sorted(HOSPITALS)
    marks = {one[part] for one in listed for part in ("name", "key")}
    marks |= {address for hospital in HOSPITALS for address in journey.network.addresses(hospital)}
    assert len(marks) == 9
    first, *others = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    values = json.loads(first)
    del values["config"]["roster"]
    written = [json.dumps(values), *others, *(blob.read_bytes().decode("latin-1") for blob in blobs(folder))]
    assert [mark for mark in marks for text in written if mark in text] == []


def blobs(folder: Path) -> list[Path]:
    found = [path for path in (folder / "blobs").rglob("*") if path.is_file()]
    assert found
    return found


def only_one_port_is_open(journey: Journey) -> None:
    """A hospital reaches one port of the server and nothing else; nothing listens at a hospital."""
    network = journey.network
    ports = listening(journey, OPERATOR)
    assert 8443 in ports
    assert len(ports) > 2  # health, and the server's own interface
    doors = [(address, port) for address in network.addresses(OPERATOR) for port in ports]
    for hospital in HOSPITALS:
        assert listening(journey, hospital) == []
        reached = json.loads(python(journey, hospital, REACH, json.dumps(doors)))
        (near,) = {address for address, _ in reached} - {namespaces.ADDRESS}  # the server's end of its own line
        assert sorted(map(tuple, reached)) == sorted([(namespaces.ADDRESS, 8443), (near, 8443)])
    away = [(address, 8443) for site in ("south", "west") for address in network.addresses(site)]
    away.append(("198.51.100.250", 8443))
    assert json.loads(python(journey, "north", ROUTES, json.dumps(away))) == []


LISTENING = """
import json
rows = [line.split() for kind in ("tcp", "tcp6") for line in list(open(f"/proc/net/{kind}"))[1:]]
print(json.dumps(sorted({int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"})))
"""
REACH = """
import json, socket, sys
reached = []
for address, port in json.loads(sys.argv[1]):
    try:
        socket.create_connection((address, port), timeout=5).close()
        reached.append((address, port))
    except OSError:
        pass
print(json.dumps(reached))
"""
ROUTES = """
import json, socket, sys
found = []
for address, port in json.loads(sys.argv[1]):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        try:
            line.connect((address, port))
            found.append(address)
        except OSError:
            pass
print(json.dumps(found))
"""


def listening(journey: Journey, machine: str) -> list[int]:
    """TCP ports that something listens on, on a machine."""
    found = json.loads(python(journey, machine, LISTENING))
    assert isinstance(found, list)
    return found


def python(journey: Journey, machine: str, code: str, *arguments: str) -> str:
    """What a script says on a machine."""
    command = journey.on(machine, [sys.executable, "-I", "-c", code, *arguments])
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout


def the_device_is_stolen(journey: Journey) -> None:
    """Section 8. The operator keeps the old roster and the stolen device stays connected: nobody else joins them."""
    operator = journey.home(OPERATOR)
    shutil.copyfile(operator / "roster.json", operator / "old.json")
    spent = {hospital: ledger(journey, hospital) for hospital in HOSPITALS}
    assert all(spent.values())
    *before, remove = [step for step in steps() if step.section == 8]
    for step in before:
        journey.do(step)
    shutil.copyfile(operator / "model.safetensors", operator / "old.safetensors")
    (operator / "old.toml").write_text(OLD, encoding="utf-8")
    assert "joined: 1 of 3 clients" in journey.type(OPERATOR, "fedsus server run old.toml", expected=1)
    entries = read(journey.run_folder(1))
    assert [type(entry).__name__ for entry in entries] == [
        "RunOpened",
        "AttemptOpened",
        "AttemptAbandoned",
        "RunClosed",
    ]
    for hospital in ("north", "south"):
        log = (journey.home(hospital) / "state" / "agent.log").read_text(encoding="utf-8")
        assert "the session uses roster 1 of 'cardio', number 2 is installed: the operator's is too old" in log
    assert {hospital: ledger(journey, hospital) for hospital in HOSPITALS} == spent
    journey.do(remove)
    assert journey.stop("west") == 0
    shutil.copytree(journey.home("west") / "state", journey.home("west's backup") / "state")


OLD = """
name = "old"
task = { name = "heart" }
[plan]
rounds = 1
spare_attempts = 0
cohort = { size = 3, minimum = 3 }
[server]
roster = "old.json"
"""


def ledger(journey: Journey, hospital: str) -> list[Any]:
    """All that was ever written into a hospital's ledger."""
    book = Ledger(journey.home(hospital) / "state" / "ledger.sqlite", time.time, read_only=True)
    try:
        return list(book.export())
    finally:
        book.close()


def other_rosters_are_refused(journey: Journey) -> None:
    """An older roster, and one of the same name that strangers signed, are not installed; what was installed stays."""
    north, stranger = journey.home("north"), "stranger's laptop"
    installed = (north / "roster.json").read_bytes()
    shutil.copyfile(journey.home("north's laptop") / "roster.json.1", north / "older.json")
    said = journey.type("north", "fedsus client roster older.json", expected=1)
    assert "2 was accepted before, and an older one never is again" in said
    shutil.copyfile(north / "identity.key.pub", journey.home(stranger) / "north.pub")
    journey.type(stranger, FOREIGN)
    assert len(read_roster(journey.home(stranger) / "foreign.json").valid_signatures()) == 1
    shutil.copyfile(journey.home(stranger) / "foreign.json", north / "foreign.json")
    said = journey.type("north", "fedsus client roster foreign.json", expected=1)
    assert "0 of the 2 pinned keys signed it, 2 must" in said
    assert (north / "roster.json").read_bytes() == installed
    assert "number 2" in journey.type("north", "fedsus client roster")


FOREIGN = """
fedsus federation key own.key
fedsus federation new cardio --signer own.key.pub -o foreign.json
fedsus federation admit foreign.json north north.pub
fedsus federation sign foreign.json --key own.key
"""


def test_every_block_of_the_guide_is_run() -> None:
    blocks = re.findall(r"^```(\w+)$", GUIDE, re.MULTILINE)
    found = steps()
    assert len(blocks) == len([step for step in found if step.text])
    assert len(re.findall(r"^\| from \|", GUIDE, re.MULTILINE)) == len([step for step in found if step.sent])
    assert {step.section for step in found} == {1, 2, 3, 4, 5, 6, 8, 9}
    machines = {OPERATOR, *HOSPITALS, "north's laptop", "south's laptop", "west's new device"}
    assert {name for step in found for name in step.where if not name.endswith(".toml")} == machines


def test_the_table_of_dropouts_is_what_the_thresholds_say() -> None:
    members, lost = re.findall(r"^\| (?:members|may fall out of a round, with A = 1) \| (.+) \|$", GUIDE, re.MULTILINE)
    said = {}
    for names, number in zip(members.split(" | "), lost.split(" | "), strict=True):
        said |= {int(name): int(number) for name in names.split(", ")}
    assert said == {n: thresholds.least_tolerance(n, 1) for n in range(3, 11)}
    assert [thresholds.colluders(n) for n in (3, 4, 6)] == [1, 1, 2]
    assert thresholds.least_tolerance(6, 2) == 1
    assert thresholds.planned_dropouts(8, 0.34) == 2


@pytest.fixture
def powerless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No command is found."""
    namespaces.missing.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    yield
    namespaces.missing.cache_clear()


@pytest.mark.usefixtures("powerless")
@pytest.mark.parametrize("required", [False, True])
def test_without_privilege_it_is_skipped_aloud_and_never_where_it_is_required(
    required: bool, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the hook that looks at each test before it, asked about the journey above."""
    monkeypatch.setenv(namespaces.REQUIRE, "1" if required else "")
    hooks = [plugin for plugin in pytestconfig.pluginmanager.get_plugins() if hasattr(plugin, "FEDERATION")]
    marks = {mark.name: mark for mark in test_three_hospitals_as_the_guide_says.pytestmark}
    (hook,), journey = hooks, SimpleNamespace(get_closest_marker=marks.get)
    if required:
        text = "FEDSUS_REQUIRE_NAMESPACES=1, and network namespaces cannot be made: no command 'ip'"
        with pytest.raises(pytest.fail.Exception, match=text):
            hook.pytest_runtest_setup(journey)
    else:
        with pytest.raises(pytest.skip.Exception, match="needs root and the command 'ip'"):
            hook.pytest_runtest_setup(journey)
    marks.clear()
    hook.pytest_runtest_setup(journey)  # all other tests


def test_continuous_integration_requires_them() -> None:
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if not line.startswith("#")]
    assert f"export {namespaces.REQUIRE}=1" in commands
    assert commands[-2:] == ["make check", "make test"]


@pytest.mark.namespaces
def test_nothing_is_left_of_a_killed_run_and_nothing_else_is_touched(tmp_path: Path) -> None:
    """A network, and what runs in it, ends with its process; another run's network stays."""
    with namespaces.network(tmp_path, "a", ("b",), HOST) as other:
        code = KILLED.format(support=str(Path(namespaces.__file__).parent), folder=str(tmp_path), host=HOST)
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            names, inside = json.loads(process.stdout.readline())
            assert set(names) < namespaces.existing()
            assert not set(names) & set(other.names.values())
            process.kill()
        until(lambda: not set(names) & namespaces.existing(), "the guard")
        until(lambda: process_start(inside) is None, "what ran inside")
        assert set(other.names.values()) <= namespaces.existing()
    assert not set(other.names.values()) & namespaces.existing()


KILLED = """
import json, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, {support!r})
import namespaces
with namespaces.network(Path({folder!r}), "a", ("b",), {host!r}) as made:
    inside = subprocess.Popen(made.command("b", ["sleep", "600"]))
    print(json.dumps([list(made.names.values()), inside.pid]), flush=True)
    time.sleep(600)
"""
