"""What an operator types: run files, node keys, progress."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from rich.console import Console

from fedsus.cli import USER, explain
from fedsus.config import RunConfig
from fedsus.errors import ConfigError, RunFailed, UserError
from fedsus.journal import AttemptAbandoned, AttemptOpened, Entry, RoundReleased, RunClosed, RunOpened
from fedsus.model_file import metadata, write_model
from fedsus.plan import TaskPart
from fedsus.privacy import stated
from fedsus.privacy.accounting import dp_sgd_event, epsilon
from fedsus.reporting import read
from fedsus.rounds.planning.specification import open_run, specification_of, specified
from fedsus.secagg import roster as rosters
from fedsus.secagg.keys import Identity
from fedsus.secagg.roster import RosterMember, SignedRoster
from fedsus_server import cli, devices, following, progress, runs
from fedsus_server.home import Home
from fedsus_simulations.whole.memory import Members

GOOD = """
name = "trial"
task = { name = "heart" }
plan = { rounds = 4, exchange = "clear_sum", cohort = { size = 2, minimum = 2 } }
"""
HASH = "0" * 64


def write_run(folder: Path, text: str = GOOD, task: str | None = "heart", **settings: float) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    if task is not None:
        part = TaskPart.model_validate({"name": task, "settings": settings})
        write_model(folder / "model.safetensors", np.zeros(4, np.float32), metadata(part))
    return path


def test_a_new_run_has_a_name_a_time_and_a_journal(tmp_path: Path) -> None:
    active = runs.open_new(write_run(tmp_path), tmp_path / "runs", lambda: 0.0)
    assert active.run.startswith("trial-19700101T000000Z-")
    assert Path(active.folder) == tmp_path / "runs" / active.run
    assert len(read(Path(active.folder))) == 1
    home = Home(tmp_path / "home")
    assert runs.find(home, tmp_path / "runs", "trial") == Path(active.folder)
    with pytest.raises(ConfigError, match=f"did you mean '{active.run}'"):
        runs.find(home, tmp_path / "runs", active.run.replace("trial", "trail"))
    runs.open_new(tmp_path / "run.toml", tmp_path / "runs", lambda: 0.0)
    with pytest.raises(ConfigError, match="fits 2 runs"):
        runs.find(home, tmp_path / "runs", "trial")


def test_the_table_of_runs_never_cuts_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(following.looping, "of", lambda folder: SimpleNamespace(alive=True, waits=None))
    home = Home(tmp_path / "home")
    active = runs.open_new(write_run(tmp_path), tmp_path / "runs", lambda: 0.0)
    home.make()
    home.activate(active)
    following.print_runs(home, tmp_path / "runs")
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[:3] == [active.run, "running", "0"]


def test_why_a_run_was_given_up_stands_below_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    home, why = Home(tmp_path / "home"), "the source of carbon intensity has no value for this hour " * 3
    home.make()
    active = runs.open_new(write_run(tmp_path), tmp_path / "runs", lambda: 0.0)
    home.activate(replace(active, given_up=why))
    following.print_runs(home, tmp_path / "runs")
    _, row, said = capsys.readouterr().out.splitlines()
    assert row.split()[:3] == [active.run, "given", "up"]
    assert said == f"{active.run} was given up: {why}"
    monkeypatch.setattr(Home, "running", lambda _: object())
    with pytest.raises(RunFailed, match=r"mend that \(run.toml is not read again\), then: fedsus server run --resume"):
        following.follow_run(home, Path(active.folder))


@pytest.mark.parametrize(
    ("text", "task", "settings", "reason"),
    [
        (GOOD.replace("rounds", "ronds = 1, rounds"), "heart", {}, "unknown field 'plan.ronds'; did you mean 'rounds'"),
        (GOOD, None, {}, "no initial model; make one: fedsus model init .*run.toml -o .*model.safetensors"),
        (GOOD, "fashion-mnist", {}, "a model of task 'fashion-mnist' than"),
        (GOOD, "heart", {"hidden": 9.0}, "a model of other settings than"),
        (GOOD + 'server = { evaluate = "absent.csv" }', "heart", {}, "'server.evaluate' = 'absent.csv': no such file"),
    ],
)
def test_mistakes_in_a_run_are_one_line(
    tmp_path: Path, text: str, task: str | None, settings: dict[str, float], reason: str
) -> None:
    path = write_run(tmp_path, text, task, **settings)
    with pytest.raises(UserError, match=reason):
        runs.open_new(path, tmp_path / "runs", lambda: 0.0)
    assert not (tmp_path / "runs").exists()


def test_the_operators_evaluation_file_is_found_beside_run_toml(tmp_path: Path) -> None:
    (tmp_path / "held.csv").write_text("x", encoding="ascii")
    config, _ = runs.prepare(write_run(tmp_path, GOOD + 'server = { evaluate = "held.csv" }'), lambda: 0.0)
    assert config.server.evaluate == str(tmp_path / "held.csv")


SECURE = """
name = "trial"
task = { name = "heart" }
plan = { rounds = 4, cohort = { size = 4, minimum = 3 } }
"""


def write_roster(folder: Path, members: int, *, signed: bool = True, needed: int = 1) -> bytes:
    """A roster beside run.toml, signed by one of its two signers."""
    signer, other = Identity.generate(), Identity.generate()
    found = Members.of(f"member-{number}" for number in range(members)).roster
    keys = tuple(sorted((signer.public.hex(), other.public.hex())))
    roster = SignedRoster(roster=found.model_copy(update={"signers": keys, "needed": needed}))
    raw = rosters.encode(roster.signed(signer) if signed else roster)
    (folder / "roster.json").write_bytes(raw)
    return raw


def forged(folder: Path) -> None:
    """A signed roster into which the operator writes one more member."""
    signed = rosters.decode(write_roster(folder, 4))
    extra = RosterMember(name="zoe", key=Identity.generate().public.hex())
    roster = signed.roster.model_copy(update={"members": (*signed.roster.members, extra)})
    (folder / "roster.json").write_bytes(rosters.encode(signed.model_copy(update={"roster": roster})))


def asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """What `fedsus server run` says, with a server that is running: its exit code and its output."""
    monkeypatch.setattr(Home, "connectable", lambda _: SimpleNamespace(ca=None))
    path = write_run(folder, SECURE)
    options = ["run", str(path), "--home", str(folder / "home"), "--runs", str(folder / "runs"), "--detach"]
    done = CliRunner().invoke(cli.server, options)
    if done.exception is None:
        return 0, done.output
    assert isinstance(done.exception, Exception)
    line, code = explain(done.exception)
    return code, line


def test_a_run_with_a_signed_roster_is_opened_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = write_roster(tmp_path, 4)
    Home(tmp_path / "home").make()
    code, said = asked(tmp_path, monkeypatch)
    assert code == 0, said
    (folder,) = (tmp_path / "runs").iterdir()
    opened = read(folder)[0]
    assert isinstance(opened, RunOpened)
    found = specification_of(opened)
    assert found.roster == rosters.decode(raw).roster
    assert found.config.plan.exchange == "secure_sum"
    told = "secure sum over 4 of the 4 members of roster 1 of 'simulated': 1 may work with a lying server"
    assert told in said


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, ("roster.json: no roster; secure_sum needs", "fedsus federation new", "clear_sum")),
        (
            lambda folder: write_roster(folder, 4, signed=False),
            ("0 of 1 signatures", "fedsus federation sign", "--key FILE"),
        ),
        (lambda folder: write_roster(folder, 4, needed=2), ("1 of 2 signatures", "fedsus federation sign")),
        (lambda folder: write_roster(folder, 3), ("plan.cohort.size = 4", "has 3 members")),
        (lambda folder: (folder / "roster.json").write_bytes(b"{}"), ("roster.json: not a roster: ",)),
        (lambda folder: (folder / "roster.json").write_bytes(b"\xff" * 99), ("roster.json: not a roster: ",)),
        (lambda folder: (folder / "roster.json").mkdir(), ("roster.json: cannot be read",)),
        (forged, ("0 of 1 signatures",)),
    ],
)
def test_a_roster_that_no_device_would_take_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], words: tuple[str, ...]
) -> None:
    make(tmp_path)
    code, said = asked(tmp_path, monkeypatch)
    assert code == USER
    assert "\n" not in said
    for word in words:
        assert word in said
    assert not (tmp_path / "runs").exists()


def test_a_run_in_clear_needs_no_roster(tmp_path: Path) -> None:
    config, _ = runs.prepare(write_run(tmp_path), lambda: 0.0)
    assert runs.roster_of(tmp_path / "run.toml", config) is None


def key_file(folder: Path, curve: ec.EllipticCurve, *, ssh: bool = True, private: bool = False) -> Path:
    key, path = ec.generate_private_key(curve), folder / "node.key"
    if private:
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return path
    kind = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    pem = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.write_bytes(key.public_key().public_bytes(*(kind if ssh else pem)) + b"\n")
    return path


@pytest.mark.parametrize("ssh", [True, False])
def test_node_keys_are_read_in_both_forms(tmp_path: Path, ssh: bool) -> None:
    key = devices.read_key(key_file(tmp_path, ec.SECP384R1(), ssh=ssh))
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert devices.fingerprint(key) == devices.fingerprint_of(pem)


def test_what_is_no_node_key_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must never leave its device; give the public one, node\.key\.pub"):
        devices.read_key(key_file(tmp_path, ec.SECP384R1(), private=True))
    with pytest.raises(ConfigError, match="not an ECDSA key on curve P-384"):
        devices.read_key(key_file(tmp_path, ec.SECP256R1()))
    (tmp_path / "text").write_text("hello", encoding="ascii")
    with pytest.raises(ConfigError, match="not a public key"):
        devices.read_key(tmp_path / "text")
    with pytest.raises(ConfigError, match="no such file"):
        devices.read_key(tmp_path / "absent")


def entries(folder: Path, config: RunConfig) -> Iterator[Entry]:
    open_run(folder, "one", config, np.zeros(4, np.float32), lambda: 0.0)
    yield from read(folder)
    yield AttemptOpened(round=1, attempt=1, plan_digest=HASH, cohort=2)
    yield AttemptAbandoned(round=1, attempt=1, reason="1 of 2 clients answered")
    for n in (1, 2):
        yield AttemptOpened(round=n, attempt=n + 1, plan_digest=HASH, cohort=2)
        yield RoundReleased(
            round=n,
            attempt=n + 1,
            survivors=2,
            refused=0,
            lost=0,
            weight=2.0,
            metrics=None if config.plan.privacy.unit == "example" else {"accuracy": 0.75, "loss": 0.5, "auc": 0.8},
            held_out=8,
            saturated=None,
            checkpoint=HASH,
            bytes_sent=1500,
            bytes_received=500,
            seconds=3.0,
        )
    yield RunClosed(reason="completed", model=HASH)


def test_a_round_that_a_device_refused_says_so() -> None:
    seen = progress.Progress()
    released = dict[str, Any](round=1, attempt=1, weight=2.0, metrics=None, held_out=0, saturated=None)
    released |= {"checkpoint": HASH, "bytes_sent": 1, "bytes_received": 1, "seconds": 1.0}
    for refused, lost, who in ((1, 0, "3/4, 1 refused"), (0, 1, "3/4"), (2, 1, "3/6, 2 refused")):
        seen.feed(RoundReleased(survivors=3, refused=refused, lost=lost, **released))
        assert f"  clients {who}  " in seen.line(None)


def shown(folder: Path, config: RunConfig, terminal: bool = False) -> tuple[str, progress.Progress]:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, color_system=None, width=120)
    seen = progress.show(entries(folder, config), console)
    return text.getvalue(), seen


def test_plain_progress_says_rounds_clients_metrics_bytes_and_time_left(tmp_path: Path) -> None:
    text, seen = shown(tmp_path, RunConfig.model_validate({"task": {"name": "heart"}, "plan": plan()}))
    assert text.splitlines() == [
        "waiting for 2 devices",
        "round 1/4  attempt 1 abandoned: 1 of 2 clients answered",
        "round 1/4  clients 2/2  loss 0.5  accuracy 0.75  auc 0.8  2.0 kB  3.0 s  9 s left",
        "round 2/4  clients 2/2  loss 0.5  accuracy 0.75  auc 0.8  2.0 kB  3.0 s  6 s left",
    ]
    assert (seen.round, seen.bytes, seen.closed is not None) == (2, 4000, True)


def test_planned_epsilon_counts_every_attempt(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"task": {"name": "heart"}, "plan": plan() | {"privacy": PRIVATE}})
    specification = specified("one", config, 4)
    private = specification.privacy
    assert private.unit == "example"
    event = dp_sgd_event(private.noise_multiplier, private.sampling_rate, 3 * private.steps)
    spent = progress.planned_epsilon(specification, 3)
    assert spent == epsilon(event, 1e-5)
    assert 0 < spent < 3.0
    text, _ = shown(tmp_path, config)
    assert f"epsilon {stated.shown(spent)} against everyone (planned)" in text.splitlines()[-1]


def test_live_progress_shows_the_same(tmp_path: Path) -> None:
    text, _ = shown(tmp_path, RunConfig.model_validate({"task": {"name": "heart"}, "plan": plan()}), terminal=True)
    for words in ("attempt 1 abandoned", "2 of 4 released", "2 of 2", "accuracy 0.75", "4.0 kB"):
        assert words in text


PRIVATE = {"unit": "example", "epsilon": 3.0, "delta": 1e-5, "sampling_rate": 0.5, "denominator": 50.0}


def plan() -> dict[str, object]:
    return {"rounds": 4, "exchange": "clear_sum", "cohort": {"size": 2, "minimum": 2}}


def test_the_operator_is_told_what_the_server_will_see(tmp_path: Path) -> None:
    clear = runs.open_new(write_run(tmp_path), tmp_path / "runs", lambda: 0.0)
    assert "sees each client's encoded update" in runs.exchange_line(Path(clear.folder))
