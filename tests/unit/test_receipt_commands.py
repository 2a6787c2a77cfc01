"""`fedsus receipt`, and the server's and the device's part in receipts: files, keys, exit codes."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from charges import policy
from receipts import IDENTITIES, SIGNER, STRANGER, Run, clear_run, private_run, roster, signed
from reported_runs import written

from fedsus.cli import run as command
from fedsus.envelope import decode
from fedsus.errors import ConfigError, Refusal
from fedsus.journal import NAME, RoundReleased, RunOpened
from fedsus.model_file import write_model
from fedsus.owner import key_files
from fedsus.owner.charges import Charge, events_of, goal_of
from fedsus.owner.ledger import Ledger
from fedsus.reporting import read
from fedsus.rounds.messages import model_hash
from fedsus.rounds.planning.specification import specification_of
from fedsus.secagg.keys import fingerprint
from fedsus.secagg.roster import SignedRoster, encode
from fedsus_client.config import load_agent
from fedsus_client.countersigning import compared, countersign, same_roster
from fedsus_server import receipts

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run in ./run, the operator's key in the server's folder ./home, and the roster in ./roster.json."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDSUS_SERVER_HOME", "home")
    key_files.create(Path("home") / receipts.KEY, "operator")
    Path("roster.json").write_bytes(encode(roster()))
    return private_run(tmp_path / "run")


def told(capsys: Captured, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``fedsus receipt``."""
    capsys.readouterr()
    code = command(["receipt", *arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_make_verify_show(run: Run, capsys: Captured) -> None:
    code, out, _ = told(capsys, "make", "run")
    assert (code, out.startswith("wrote run/receipt.json, signed by the key ")) == (0, True)
    pinned = ("--operator", "home/operator.key.pub", "--roster", "roster.json")
    code, out, _ = told(capsys, "verify", "run", *pinned)
    assert (code, out.splitlines()[0]) == (0, "holds: run masked-1, completed; recomputed from 11 journal entries")
    code, out, _ = told(capsys, "show", "run/receipt.json")
    assert code == 0
    assert "epsilon       8 at delta 1e-05: each client, against server  <- the run's own" in out
    code, out, _ = told(capsys, "show", "run", "--json")
    assert json.loads(out)["predicate"]["run"]["name"] == "masked-1"


def test_a_simulation_says_that_it_is_one(run: Run, capsys: Captured) -> None:
    entries = [replace(e, virtual=60.0 * e.round) if isinstance(e, RoundReleased) else e for e in read(run.folder)]
    written(Path("simulated"), entries)
    for folder, wanted in ((Path("simulated"), True), (run.folder, False)):
        assert told(capsys, "make", str(folder))[0] == 0
        for what in ("verify", "show"):
            code, out, _ = told(capsys, what, str(folder))
            assert (code, "a simulation: no device took part" in out) == (0, wanted)


def test_what_does_not_hold_says_so_with_its_file(run: Run, capsys: Captured) -> None:
    assert told(capsys, "make", "run")[0] == 0
    code, _, err = told(capsys, "verify", "run", "--operator", STRANGER.public.hex())
    assert (code, err.startswith("error: run/receipt.json: does not hold: signatures.0: ")) == (1, True)


def test_several_runs_are_verified_each_with_its_verdict(run: Run, capsys: Captured, tmp_path: Path) -> None:
    clear_run(tmp_path / "clear")
    for name in ("run", "clear"):
        assert told(capsys, "make", name)[0] == 0
    shutil.copytree("run", "changed")
    journal = Path("changed", NAME)
    journal.write_bytes(journal.read_bytes().replace(b'"lost":0', b'"lost":1', 1))
    Path("open").mkdir()
    Path("open", NAME).write_bytes(run.journal.splitlines(keepends=True)[0])
    code, out, err = told(capsys, "verify", "run", "clear", "--operator", "home/operator.key.pub")
    assert (code, err) == (0, "")
    verdicts = [line for line in out.splitlines() if not line.startswith(" ")]
    assert [line.split(",")[0] for line in verdicts] == ["run: holds: run masked-1", "clear: holds: run clear-1"]
    key_files.create(Path("other.key"), "operator")
    both = ("--operator", "home/operator.key.pub", "--operator", "other.key.pub")
    for order in (both, (*both[2:], *both[:2])):
        assert told(capsys, "verify", "run", "clear", *order)[::2] == (0, ""), "one of them signed"
    code, out, err = told(capsys, "verify", "run", "--operator", "other.key.pub", "--operator", "0" * 64)
    assert (code, " or " in err) == (1, True)
    code, out, err = told(capsys, "verify", "changed", "run", "open", "clear")
    assert (code, out.count(": holds: ")) == (1, 2), "the others are told too"
    first, second, last = err.splitlines()
    assert first.startswith("error: changed/receipt.json: does not hold: ")
    assert second.startswith("error: open/receipt.json: no such file; once the run is over")
    assert last == "error: of 4 receipts 1 does not hold and 1 cannot be checked"
    Path("demo-1").mkdir()
    code, out, err = told(capsys, "verify", "demo-1", "run")
    assert (code, out.count(": holds: ")) == (2, 1)
    assert err.startswith("error: demo-1: not a run's folder: it holds neither receipt.json nor journal.jsonl\n")
    code, out, err = told(capsys, "verify", "open", "run")
    assert (code, err.splitlines()[-1]) == (2, "error: of 2 receipts 1 cannot be checked")
    for option in ("--journal", "--model"):
        code, out, err = told(capsys, "verify", "run", "clear", option, f"run/{NAME}")
        assert (code, out, err) == (2, "", f"error: {option} is of one run: name one receipt, not 2\n")
    code, out, err = told(capsys, "verify", "run", "clear", "--roster", f"run/{NAME}")
    assert (code, out, err.count("\n")) == (2, "", 1), "what is of all is looked at once"


def test_a_second_make_does_not_take_countersignatures_away(run: Run, capsys: Captured) -> None:
    told(capsys, "make", "run")
    code, _, error = told(capsys, "make", "run")
    assert (code, "exists already, perhaps with countersignatures" in error) == (2, True)


def test_exit_codes_say_whether_it_holds_or_cannot_be_checked(run: Run, capsys: Captured, tmp_path: Path) -> None:
    told(capsys, "make", "run")
    key_files.create(Path("other.key"), "operator")
    shutil.copytree("run", "cut")
    Path("cut", NAME).write_bytes(run.journal[:-1])
    clear_run(tmp_path / "clear")
    Path("empty").mkdir()
    for arguments, code, why in (
        (("run", "--operator", "other.key.pub"), 1, "and not by the operator's"),
        (
            ("clear",),
            2,
            "clear/receipt.json: no such file; once the run is over, its operator makes it: fedsus receipt",
        ),
        (("empty",), 2, "empty: not a run's folder: it holds neither receipt.json nor journal.jsonl"),
        (("run", "--journal", "clear/journal.jsonl"), 1, "predicate.journal.head"),
        (("cut",), 1, "it has no end: the file was cut off or changed"),
        (("nowhere",), 2, "nowhere: no such file"),
        (("run", "--journal", "nowhere"), 2, "nowhere: no such file"),
        (("run", "--operator", "344b"), 2, "--operator 344b: no such file, nor 64 hex digits"),
        (("run", "--operator", "roster.json"), 2, "not one line 'fedsus-operator <64 hex digits>'"),
        (("run", "--roster", "run/journal.jsonl"), 2, "not a roster"),
        (("run", "--policy", "policy.toml"), 2, "name the roster too"),
        (("run", "--model", "nowhere"), 2, "nowhere"),
    ):
        found = told(capsys, "verify", *arguments)
        assert (found[0], why in found[2], found[1]) == (code, True, ""), (arguments, found)
        assert found[2].count("\n") == 1


@pytest.mark.parametrize("option", ["journal", "roster", "policy", "operator", "model"])
def test_what_is_no_file_is_not_waited_for(run: Run, capsys: Captured, option: str) -> None:
    told(capsys, "make", "run")
    os.mkfifo("pipe")
    more = ("--roster", "roster.json") if option == "policy" else ()
    code, out, err = told(capsys, "verify", "run", *more, f"--{option}", "pipe")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: pipe: not ")


def test_the_signers_that_a_policy_pins_count(run: Run, capsys: Captured) -> None:
    told(capsys, "make", "run")
    for signer, expected in ((SIGNER, 0), (STRANGER, 1)):
        pins = f'[federation]\nname = "six"\nsigners = ["{signer.public.hex()}"]\nneeded = 1\n'
        Path("policy.toml").write_text(f"tasks = {{}}\n{pins}")
        code, _, error = told(capsys, "verify", "run", "--roster", "roster.json", "--policy", "policy.toml")
        assert (code, "0 of the 1 pinned keys signed it" in error) == (expected, bool(expected))


def test_the_model_is_compared_by_its_values(capsys: Captured, run: Run, tmp_path: Path) -> None:
    made = clear_run(tmp_path / "clear")
    told(capsys, "make", "clear")
    model = made.payload()["predicate"]["model"]
    (checkpoint,) = (made.folder / "blobs").glob(f"{model['checkpoint']}*")
    from fedsus.reporting import released_model

    vector = released_model(made.folder)
    assert model_hash(vector) == model["hash"]
    described = {"task": "heart", "settings": "{}", "fedsus": "0"}
    write_model(Path("same.safetensors"), vector, described)
    write_model(Path("other.safetensors"), vector + np.float32(1), described)
    for file, code in (("same.safetensors", 0), (str(checkpoint), 0), ("other.safetensors", 1)):
        assert told(capsys, "verify", "clear", "--model", file)[0] == code


def test_verifying_imports_neither_torch_nor_flower(run: Run, capsys: Captured) -> None:
    told(capsys, "make", "run")
    program = (
        "import sys; from fedsus.cli import run; assert run(['receipt', 'verify', 'run']) == 0; "
        "assert not {'torch', 'opacus', 'flwr', 'codecarbon', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_server_leaves_one_receipt_and_makes_its_key_once(run: Run) -> None:
    home = Path("new")
    first = receipts.leave(run.folder, home)
    assert first == run.folder / "receipt.json"
    made = first.read_bytes()
    assert stat.S_IMODE((home / receipts.KEY).stat().st_mode) == 0o600
    assert receipts.leave(run.folder, Path("another")) == first
    assert first.read_bytes() == made
    assert not Path("another").exists()
    assert decode(made).author == key_files.read_public(home / f"{receipts.KEY}.pub", "operator")


def test_an_operator_makes_the_key_once_and_is_told_its_fingerprint(run: Run, capsys: Captured) -> None:
    assert command(["server", "init", "--home", "new"]) == 0
    first = capsys.readouterr().out
    assert command(["server", "init", "--home", "new"]) == 0
    assert capsys.readouterr().out == first
    key = key_files.load(Path("new") / receipts.KEY, "operator")
    assert fingerprint(key.public) in first
    assert told(capsys, "make", "run", "--key", "new/operator.key")[0] == 0
    assert told(capsys, "verify", "run", "--operator", key.public.hex())[0] == 0


def test_a_server_leaves_none_of_an_open_run(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    raw = run.journal
    (run.folder / NAME).write_bytes(raw[: raw[:-1].rindex(b"\n") + 1])
    assert receipts.leave(run.folder, Path("home")) is None
    (run.folder / NAME).write_bytes(raw)
    Path("home", receipts.KEY).chmod(0o644)
    receipts.leave_quietly(run.folder)  # the run is over, whatever happens here
    assert "no receipt: home/operator.key: other users may use the operator key" in caplog.text


def ledger_of(run: Run, path: Path | None = None) -> Ledger:
    """What a device noted that was asked in attempts 1 and 3."""
    opened = next(entry for entry in read(run.folder) if isinstance(entry, RunOpened))
    specification = specification_of(opened)
    plan = specification.first_plan
    charge = Charge(specification.hash(specification.dimension), goal_of(plan), 8.0, 1e-5, 5, events_of(plan, None))
    ledger, granted = Ledger(path, lambda: 1.0), policy(epsilon=40.0, composition="runs")
    ledger.open_run("clinic", opened.run, charge, granted)
    for attempt, round in ((1, 1), (3, 2)):
        ledger.reserve("clinic", opened.run, attempt, round, bytes.fromhex(f"{attempt:064x}"), charge, granted)
    return ledger


def test_a_device_finds_its_own_attempts_in_a_receipt(run: Run) -> None:
    entries = ledger_of(run).export()
    assert len(list(compared(run.payload()["predicate"], entries))) == 3


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda p: p["run"].update(name="other"), "ledger knows no such run"),
        (lambda p: p["asked"].update(specification="0" * 64), "the receipt's specification is 0000"),
        (lambda p: p["asked"]["plans"][2].update(digest="f" * 64), "attempt 3: the receipt's plan is ffff"),
        (lambda p: p["asked"]["plans"][0].update(round=2), "attempt 1: round 2 in the receipt"),
        (lambda p: p["asked"]["plans"].pop(0), "attempt 1: this device was asked"),
        (lambda p: p["asked"]["plans"].pop(), "counts 5 attempts, and names 4"),
        (lambda p: p["privacy"].update(attempts=4), "counts 4 attempts, and names 5"),
        (lambda p: p["privacy"]["losses"][2].update(epsilon=7.9), "client/server: the receipt says epsilon 7.9, "),
        (lambda p: p["privacy"]["losses"][2].update(epsilon="none"), "the receipt says epsilon none"),
        (
            lambda p: p["privacy"]["losses"].insert(0, {**p["privacy"]["losses"][2], "epsilon": 0.1}),
            "one epsilon of each",
        ),
        (lambda p: p["privacy"]["losses"].append({**p["privacy"]["losses"][2], "unit": "soul"}), "one epsilon of each"),
        (lambda p: p["privacy"]["losses"].pop(), "one epsilon of each"),
        (lambda p: p["privacy"]["losses"][8].update(delta=1e-9), "delta 1e-09, this device admitted 1e-05"),
    ],
)
def test_a_device_refuses_what_its_ledger_does_not_say(run: Run, change, why: str) -> None:
    predicate = run.payload()["predicate"]
    change(predicate)
    with pytest.raises(Refusal, match=why):
        list(compared(predicate, ledger_of(run).export()))


def test_an_attempt_less_is_a_smaller_epsilon_and_is_found(run: Run) -> None:
    """An operator who leaves out the last attempt, which this device was not asked in, and says what four spend: the
    epsilon is right for four. This device cannot know of a fifth; the one that was asked in it does."""
    from fedsus.reporting.spending import privacy

    opened = read(run.folder)[0]
    predicate = run.payload()["predicate"]
    predicate["asked"]["plans"].pop()
    predicate["privacy"] = privacy(specification_of(opened), 4).model_dump(mode="json")
    assert len(list(compared(predicate, ledger_of(run).export()))) == 3
    predicate["asked"]["plans"] = predicate["asked"]["plans"][:2]
    predicate["privacy"] = privacy(specification_of(opened), 2).model_dump(mode="json")
    with pytest.raises(Refusal, match="attempt 3: this device was asked"):
        list(compared(predicate, ledger_of(run).export()))


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (roster(seed="6" * 64), "not the one that this device accepted"),
        (SignedRoster(roster=roster().roster.model_copy(update={"federation": "seven"})), "federation 'six'"),
    ],
)
def test_a_device_refuses_a_run_of_another_roster(run: Run, made: SignedRoster, why: str) -> None:
    predicate = run.payload()["predicate"]
    assert "is the one" in next(same_roster(predicate, Path("roster.json")))
    Path("other.json").write_bytes(encode(made))
    with pytest.raises(Refusal, match=why):
        list(same_roster(predicate, Path("other.json")))
    Path("later.json").write_bytes(encode(roster(number=2)))
    assert "not compared" in next(same_roster(predicate, Path("later.json")))
    assert "not compared" in next(same_roster(predicate, Path("none.json")))
    assert list(same_roster({"participation": {"roster": None}}, Path("roster.json"))) == [
        "the receipt names no roster"
    ]


@pytest.fixture
def device(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An enrolled device, whose identity is ada's; its agent.toml."""
    from click.testing import CliRunner

    from fedsus_client.cli import client

    folder = tmp_path / "device"
    folder.mkdir()
    CliRunner().invoke(client, ["enroll", "--agent", str(folder / "agent.toml")], catch_exceptions=False)
    agent = load_agent(folder / "agent.toml")
    agent.identity.signing.write_bytes(_pem(IDENTITIES["ada"].private_bytes().reveal()))
    agent.ledger.parent.mkdir(parents=True, exist_ok=True)
    ledger_of(run, agent.ledger).close()
    return folder / "agent.toml"


def _pem(raw: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return Ed25519PrivateKey.from_private_bytes(raw).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_a_countersigned_receipt_verifies_with_the_members_name(run: Run, device: Path, capsys: Captured) -> None:
    told(capsys, "make", "run")
    assert command(["client", "countersign", "run", "--agent", str(device)]) == 0
    shown = capsys.readouterr().out
    assert "this device took part" in shown
    assert f"signed by the key {fingerprint(key_files.load(Path('home', receipts.KEY), 'operator').public)}: " in shown
    assert "not compared, since no device knows it" in shown
    code, out, _ = told(capsys, "verify", "run", "--roster", "roster.json")
    assert (code, out.splitlines()[2]) == (0, "countersigned ada")


def test_what_a_device_does_not_countersign_stays_as_it_was(run: Run, device: Path, capsys: Captured) -> None:
    payload = run.payload()
    payload["predicate"]["privacy"]["losses"][2]["epsilon"] = 1.0
    lie = signed(payload)
    Path("lie.json").write_bytes(lie)
    Path("broken.json").write_bytes(replace(decode(lie), payload=b"{}").encode())
    Path("no.json").write_bytes(b"{")
    agent = load_agent(device)
    for name, error, why in (
        ("lie.json", Refusal, "the receipt says epsilon 1.0"),
        ("broken.json", Refusal, "a signature does not fit"),
        ("no.json", ConfigError, "not a receipt"),
        ("nowhere.json", ConfigError, "no such file"),
    ):
        before = Path(name).read_bytes() if Path(name).exists() else None
        with pytest.raises(error, match=why):
            list(countersign(agent, Path(name), None))
        assert before is None or Path(name).read_bytes() == before


def test_a_device_is_no_operator(run: Run) -> None:
    with pytest.raises(Refusal, match="a key has one purpose"):
        list(compared(run.payload()["predicate"], ledger_of(run).export(), author=True))
