"""``fedsus client ledger``: what an owner reads, grants, checks and exports."""

from __future__ import annotations

import csv
import json
import math
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from charges import CLEAR, charge, policy
from click.testing import CliRunner, Result

from fedsus.config import load
from fedsus.errors import BudgetExhausted, ConfigError, CorruptionError, EnvironmentFault
from fedsus.owner.caps import Account, Cap, accounts
from fedsus.owner.ledger import Ledger
from fedsus.owner.policy import Policy
from fedsus_client.cli import client

# Flower's command line imports names that click is going to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*will be removed in Click:DeprecationWarning")

Run = Callable[..., Result]
DAY = 1.7e9  # 2023-11-14 in UTC
SMALL = charge(noise=20.0)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``fedsus client ledger ...`` for an enrolled device."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    CliRunner().invoke(client, ["enroll"], catch_exceptions=False)

    def call(*arguments: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(client, ["ledger", *arguments], input=answer, catch_exceptions=False)

    return call


@pytest.fixture
def book(tmp_path: Path, run: Run) -> Iterator[Ledger]:
    """The device's ledger, as an agent holds it: with two attempts of one run, and a run without privacy."""
    made = Ledger(tmp_path / "state" / "ledger.sqlite", lambda: DAY)
    private = load(Path("policy.toml"), Policy).privacy
    made.open_run("clinic", "winter", SMALL, private)
    for attempt in (1, 2):
        made.reserve("clinic", "winter", attempt, attempt, b"", SMALL, private)
        made.release("clinic", "winter", attempt)
    clear = private.model_copy(update={"without_dp": True})
    made.open_run("clinic", "clear", CLEAR, clear)
    made.reserve("clinic", "clear", 1, 1, b"", CLEAR, clear)
    yield made
    made.close()


def shown(result: Result, unit: str, adversary: str) -> str:
    """The line of one account."""
    return next(" ".join(line.split()) for line in result.output.splitlines() if line.split()[1:3] == [unit, adversary])


def test_nothing_yet(run: Run) -> None:
    for command in ([], ["show"], ["verify"]):
        assert "nothing was spent" in run(*command).output
    assert json.loads(run("--json").output) == json.loads(run("show", "--json").output) == {"data": {}, "entries": []}


@pytest.mark.usefixtures("book")
def test_all_nine_accounts_in_a_table_while_the_agent_runs(run: Run) -> None:
    for command in ([], ["show"], ["show", "--data", "clinic"]):
        result = run(*command)
        server = shown(result, "example", "server")
        assert server.startswith("clinic example server 3.5 (delta 1e-05) ")
        assert re.search(r" 9\d% renyi \d+$", server)
        assert shown(result, "client", "recipients") == "clinic client recipients none infinite"
        for words in ("winter", "2 of 5", "clear", "infinite", "1 of 5"):
            assert words in result.output
        for words in (
            "clinic: example, patient, client: infinite through run 'clear', without differential privacy, since 20",
            "clinic: patient, client: infinite through run 'winter', whose noise does not protect them, since 20",
        ):
            assert words in result.output


def test_the_table_never_cuts_a_runs_name(run: Run, book: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "heart-20261122T015554Z-e2fff4"
    book.open_run("clinic", name, SMALL, load(Path("policy.toml"), Policy).privacy)
    long = name.replace("heart", "a-trial-of-all-the-wards")
    book.open_run("clinic", long, SMALL, load(Path("policy.toml"), Policy).privacy)
    lines = [line.split() for line in run().output.splitlines()]
    assert all(["clinic", full] in [line[:2] for line in lines] for full in (name, long))
    assert "spent: of the cap, at its delta" in run().output


@pytest.mark.usefixtures("book")
def test_everything_for_a_program(run: Run) -> None:
    told = json.loads(run("--json").output)
    assert told == json.loads(run("show", "--json").output)
    assert [entry["type"] for entry in told["entries"]] == [
        *("granted", "opened", "reserved", "released", "reserved", "released"),
        *("opened", "reserved"),
    ]
    found = {(one["unit"], one["adversary"]): one for one in told["data"]["clinic"]["accounts"]}
    assert len(found) == 9
    server = found["example", "server"]
    assert (server["cap"], server["granted_by"]) == ({"epsilon": 3.5, "delta": 1e-5}, "policy")
    assert 0.9 < server["left"] < 1
    assert server["outside"] == ["clear"]
    assert found["client", "server"]["cap"] is None
    clear, winter = sorted(told["data"]["clinic"]["runs"], key=lambda entry: str(entry["run"]))
    assert (clear["private"], clear["epsilon"], winter["private"]) == (False, None, True)
    assert 0 < winter["epsilon_so_far"] < winter["epsilon"] == SMALL.epsilon


def test_the_agent_alone_writes_while_it_runs(run: Run, book: Ledger) -> None:
    with pytest.raises(EnvironmentFault, match="the agent is running, and alone writes it: stop it, grant"):
        run("grant", "--data", "clinic", "--unlimited", "--yes")
    book.close()
    assert run("grant", "--data", "clinic", "--unlimited", "--yes").exit_code == 0


def test_a_grant_is_asked_for_written_and_stands_before_the_policy(run: Run, tmp_path: Path) -> None:
    cap = ("--data", "clinic", "--unit", "example", "--adversary", "server", "--epsilon", "1.5", "--delta", "1e-6")
    asked = run("grant", *cap, answer="n\n")
    assert asked.exit_code == 1
    assert "data 'clinic', example against server: 3.5 (delta 1e-05) -> 1.5 (delta 1e-06)" in asked.output
    path, server = tmp_path / "state" / "ledger.sqlite", Account("clinic", "example", "server")
    assert Ledger(path, lambda: DAY, read_only=True).grants() == {}
    assert run("grant", *cap, "--order", "12", answer="y\n").exit_code == 0
    private = load(Path("policy.toml"), Policy).privacy
    book = Ledger(path, lambda: DAY)
    assert book.grants() == {server: Cap(1.5, 1e-6)}
    assert (book.granted(server).order, book.cap(server, private)) == (12, Cap(1.5, 1e-6))
    with pytest.raises(BudgetExhausted, match=r"example against server.* the cap 1\.5 \(delta 1e-06\) .* order 12"):
        book.open_run("clinic", "r", charge(noise=5.0), private)
    book.close()
    assert "1.5 (delta 1e-06) granted on 20" in run().output
    assert "the policy says 3.5 (delta 1e-05)" in run().output
    with pytest.raises(ConfigError, match="order of its filter is 12, fixed for ever"):
        run("grant", *cap, "--order", "13", "--yes")
    run("grant", "--data", "clinic", "--as-policy", "--yes")
    assert Ledger(path, lambda: DAY, read_only=True).cap(server, private) == Cap(3.5, 1e-5)


def test_nobody_to_answer_is_told_how_to_grant_all_the_same(run: Run) -> None:
    with pytest.raises(ConfigError, match="nothing was granted: nobody answers here; --yes goes on without asking"):
        run("grant", "--data", "clinic", "--unlimited")


def test_a_cap_below_what_is_spent_is_granted_with_a_warning(run: Run, book: Ledger) -> None:
    spent = book.standing(Account("clinic", "example", "server")).spent(Cap(3.5, 1e-5))
    book.close()
    cap = ("grant", "--data", "clinic", "--unit", "example", "--delta", "1e-5", "--yes", "--epsilon")
    said = run(*cap, f"{spent / 2:.3g}").output
    assert re.search(r"warning: data 'clinic', example against \w+: epsilon 1\.\d+ is spent already, so that no", said)
    assert "warning" not in run(*cap, f"{spent * 2:.3g}").output + run(*cap, "0").output


def test_what_was_capped_is_said_in_one_line(run: Run, tmp_path: Path) -> None:
    cap = ("--data", "clinic", "--epsilon", "2", "--delta", "1e-6", "--yes")
    end = "accounts of data 'clinic'), in force from the next request on"
    said = run("grant", *cap, "--unit", "patient").output.splitlines()[-1]
    assert said == f"granted: 2 (delta 1e-06), for patient against each adversary (3 of 9 {end}"
    book = Ledger(tmp_path / "state" / "ledger.sqlite", lambda: DAY, read_only=True)
    assert {account.unit for account in book.grants()} == {"patient"} and len(book.grants()) == 3
    book.close()
    said = run("grant", *cap, "--unit", "all", "--adversary", "server").output.splitlines()[-1]
    assert said == f"granted: 2 (delta 1e-06), for example, patient, client against server (3 of 9 {end}"
    said = run("grant", "--data", "clinic", "--as-policy", "--yes").output.splitlines()[-1]
    assert said.startswith("granted: as the policy says, for example, patient, client against each adversary (9 of 9")


def test_infinity_for_one_data_set_is_granted_in_the_ledger(run: Run, tmp_path: Path) -> None:
    run("grant", "--data", "clinic", "--unlimited", "--yes")
    book = Ledger(tmp_path / "state" / "ledger.sqlite", lambda: DAY)
    assert book.grants() == {account: Cap(math.inf, 0.0) for account in accounts("clinic")}
    book.open_run("clinic", "clear", CLEAR, load(Path("policy.toml"), Policy).privacy)
    book.close()
    assert "unlimited granted on" in run().output


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--data", "clinic"), "one of the three"),
        (("--data", "clinic", "--unlimited", "--epsilon", "1"), "one of the three"),
        (("--data", "clinic", "--epsilon", "1"), "--delta None: expected more than 0 and less than 1"),
        (("--data", "clinic", "--epsilon", "nan", "--delta", "1e-5"), "--epsilon nan: expected 0 to 1000"),
        (("--data", "clinic", "--epsilon", "1", "--delta", "1.5"), "--delta 1.5"),
        (
            ("--data", "clinic", "--epsilon", "1", "--delta", "1e-5"),
            "--unit: say whom the cap protects: example, patient, client, or all; the policy protects: example",
        ),
        (("--data", "clinic", "--unlimited", "--order", "4"), "--order 4: expected 2 to 16384, with --epsilon"),
        (("--data", "clinic", "--epsilon", "1", "--delta", "1e-5", "--order", "1"), "--order 1: expected 2"),
        (("--data", "clinik", "--unlimited"), "--data clinik: not a data set of this device; there are: clinic"),
    ],
)
def test_a_mistaken_grant_is_one_line(run: Run, arguments: tuple[str, ...], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run("grant", *arguments, "--yes")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_data_set_that_is_not_there(run: Run, book: Ledger) -> None:
    with pytest.raises(ConfigError, match="--data ward: not a data set of this device; there are: clinic"):
        run("show", "--data", "ward")


def test_verify_recomputes_sums_from_the_entries(run: Run, book: Ledger, tmp_path: Path) -> None:
    result = run("verify")
    assert result.exit_code == 0
    assert "8 entries: hash chain and head hold" in result.output
    assert "✓ data 'clinic', example against server: " in result.output
    book.close()
    path = tmp_path / "state" / "ledger.sqlite"
    database = sqlite3.connect(path)
    database.execute("UPDATE entries SET body = CAST(replace(body, '20.0', '90.0') AS BLOB) WHERE seq = 2")
    database.commit()
    database.close()
    with pytest.raises(CorruptionError, match="row 2: the hash chain is broken"):
        run("verify")


def test_a_ledger_that_let_too_much_pass_fails_its_verification(run: Run, tmp_path: Path) -> None:
    """The chain holds, for whoever wrote it computed it; the sums do not."""
    wide = policy(8.0)
    book = Ledger(tmp_path / "state" / "ledger.sqlite", lambda: DAY)
    book.open_run("clinic", "winter", SMALL, wide)
    given = {account.key: {"epsilon": 0.05, "delta": 1e-5, "order": None} for account in accounts("clinic")[:1]}
    book._append(type="granted", data="clinic", by="policy", accounts=given)
    for attempt in (1, 2, 3, 4):
        book.reserve("clinic", "winter", attempt, attempt, b"", SMALL, wide)
    book.close()
    with pytest.raises(CorruptionError, match="row 4: beyond the cap 0.05"):
        run("verify")


@pytest.mark.usefixtures("book")
def test_export(run: Run, tmp_path: Path) -> None:
    run("export", "all.json")
    assert json.loads((tmp_path / "all.json").read_text()) == json.loads(run("--json").output)
    run("export", "--csv", "all.csv")
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["type"] for row in rows].count("reserved") == 3
    assert [row["run"] for row in rows if row["type"] == "opened"] == ["winter", "clear"]
    assert json.loads(rows[0]["rest"])["by"] == "policy"
    with pytest.raises(ConfigError, match=r"all\.csv: exists already"):
        run("export", "--csv", "all.csv")
    with pytest.raises(ConfigError, match="exclude each other"):
        run("export", "--csv", "--json", "more")


def test_options_of_the_group_reach_its_commands(tmp_path: Path, run: Run) -> None:
    (tmp_path / "here").mkdir()
    for name in ("agent.toml", "policy.toml"):
        (tmp_path / name).rename(tmp_path / "here" / name)
    assert "nothing was spent" in run("--agent", "here/agent.toml", "show").output
    assert "nothing was spent" in run("show", "--agent", "here/agent.toml").output
