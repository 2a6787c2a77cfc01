"""`fedsus federation`: nothing is signed unseen, no number is two rosters, no edit is lost in silence."""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fedsus.commands.federation import federation
from fedsus.commands.rosters import recall
from fedsus.config import loads
from fedsus.errors import ConfigError, CorruptionError, EnvironmentFault, FedsusError, UserError
from fedsus.owner import key_files
from fedsus.owner.pinning import RosterBook, read_roster
from fedsus.owner.policy import Policy
from fedsus.secagg import points
from fedsus.secagg.roster import SignedRoster, digest, encode, fingerprint

Run = Callable[..., Result]
ROSTER = Path("roster.json")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``fedsus federation ...`` in an empty folder; errors are raised as the command raises them."""
    monkeypatch.chdir(tmp_path)

    def call(line: str, answer: str | None = None) -> Result:
        result = CliRunner().invoke(federation, line.split(), input=answer, catch_exceptions=False)
        assert result.exit_code in (0, 1)
        return result

    return call


@pytest.fixture
def three(run: Run) -> Run:
    """Three owners a, b, c, a roster without members, and identities of n1 .. n4."""
    for owner in "abc":
        run(f"key {owner}.key")
    run("new heart --signer a.key.pub --signer b.key.pub --signer c.key.pub")
    for i in range(1, 5):
        key_files.create(Path(f"n{i}.key"), "identity")
    return run


def admit(run: Run, *names: str) -> None:
    for name in names:
        run(f"admit roster.json {name} {name}.key.pub")


def mistake(call: Callable[[], object], words: str, kind: type[FedsusError] = ConfigError) -> None:
    with pytest.raises(kind, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def names() -> list[str]:
    return [member.name for member in read_roster(ROSTER).roster.members]


def test_from_keys_to_a_roster_that_a_device_accepts(three: Run, tmp_path: Path) -> None:
    """The guide, as three hospitals do it: what `show` prints is what the device pins."""
    admit(three, "n2", "n1", "n3")
    three("sign roster.json --key a.key --yes")
    assert "signed by   1 of 3; 2 needed" in three("show roster.json").output
    assert "number 1, signed by 2 of 3" in three("sign roster.json --key c.key", "y\n").output
    shown = three("show roster.json").output
    policy = loads(shown[shown.index("[federation]") :], Policy)
    assert policy.federation is not None
    roster = RosterBook(ROSTER, tmp_path / "noted", policy.federation.pins).current()
    assert roster is not None
    assert names() == ["n1", "n2", "n3"]
    for name in names():
        assert fingerprint(key_files.read_public(Path(f"{name}.key.pub"), "identity")) in shown
    for owner in "abc":
        assert fingerprint(key_files.read_public(Path(f"{owner}.key.pub"), "signer")) in shown


def test_a_program_reads_it(three: Run) -> None:
    admit(three, "n1")
    three("sign roster.json --key b.key --yes")
    found = json.loads(three("show roster.json --json").output)
    roster = read_roster(ROSTER).roster
    assert found["digest"] == digest(roster).hex()
    assert (found["number"], found["complete"], found["needed"]) == (1, False, 2)
    assert found["signed_by"] == [key_files.read_public(Path("b.key.pub"), "signer")]
    assert [member["name"] for member in found["members"]] == ["n1"]


@pytest.mark.parametrize(
    ("signers", "needed", "expected"), [(1, "", 1), (2, "", 2), (3, "", 2), (3, "--needed 3", 3), (3, "--needed 1", 1)]
)
def test_how_many_sign(run: Run, signers: int, needed: str, expected: int) -> None:
    for i in range(signers):
        run(f"key {i}.key")
    said = run("new heart " + " ".join(f"--signer {i}.key.pub" for i in range(signers)) + f" {needed}").output
    assert read_roster(ROSTER).roster.needed == expected
    assert f"{expected} of {signers} owners sign" in said
    assert ("two groups could publish" in said) == (2 * expected <= signers)


def test_mistakes_in_new(three: Run) -> None:
    mistake(lambda: three("new heart --signer a.key.pub"), "roster.json: exists already")
    out = " --out other.json"
    mistake(lambda: three("new heart --signer a.key.pub --signer a.key.pub" + out), "the same key as a.key.pub")
    mistake(lambda: three("new heart --signer a.key.pub --needed 2" + out), "--needed 2: expected 1 to 1")
    mistake(lambda: three("new heart --signer n1.key.pub" + out), "an identity key, not a signer key")
    mistake(lambda: three("new heart --signer a.key" + out), "it is a private key: send and name the file with .pub")
    mistake(lambda: three("new heart --signer none.pub" + out), "none.pub: cannot be read")
    mistake(lambda: three("new Herz/kreis --signer a.key.pub" + out), "'federation' = 'Herz/kreis'")
    ROSTER.rename("elsewhere.json")
    ROSTER.symlink_to("dangling.json")
    mistake(lambda: three("new heart --signer a.key.pub"), "exists already")
    assert not Path("other.json").exists()


def test_mistakes_in_admit(three: Run) -> None:
    admit(three, "n1")
    before = ROSTER.read_bytes()
    mistake(lambda: admit(three, "n1"), "'n1' is a member already; revoke it first")
    mistake(lambda: three("admit roster.json N1 n2.key.pub"), "'n1' is a member already")
    mistake(lambda: three("admit roster.json n2 n1.key.pub"), "the key of member 'n1' already")
    mistake(lambda: three("admit roster.json n2 a.key.pub"), "a signer key, not an identity key")
    mistake(lambda: three("admit roster.json zürich n2.key.pub"), "'name' = 'zürich'")
    mistake(lambda: three("admit none.json n2 n2.key.pub"), "none.json: no such file; 'fedsus federation new'")
    own = key_files.read_public(Path("b.key.pub"), "signer")
    Path("both.pub").write_text(f"fedsus-identity {own}\n")
    mistake(lambda: three("admit roster.json n2 both.pub"), "an owner signs rosters with this key")
    for y in points.LOW_ORDER:
        Path("low.pub").write_text(f"fedsus-identity {y.to_bytes(32, 'little').hex()}\n")
        mistake(lambda: three("admit roster.json n2 low.pub"), "low order")
    for text in ("", "fedsus-identity 00", "fedsus-identity " + own.upper(), f"fedsus-identity {own}\n" * 2, "\x00"):
        Path("odd.pub").write_text(text)
        mistake(lambda: three("admit roster.json n2 odd.pub"), "not one line 'fedsus-identity <64 hex digits>'")
    assert ROSTER.read_bytes() == before


def test_an_edit_after_a_signature_is_a_new_number_without_signatures(three: Run) -> None:
    admit(three, "n1", "n2")
    assert read_roster(ROSTER).roster.number == 1
    three("sign roster.json --key a.key --yes")
    signed = ROSTER.read_bytes()
    admit(three, "n3")
    admit(three, "n4")  # several edits of one draft are one number
    after = read_roster(ROSTER)
    assert (after.roster.number, after.signatures) == (2, {})
    assert Path("roster.json.1").read_bytes() == signed
    assert after.roster.previous == digest(read_roster(Path("roster.json.1")).roster).hex()
    three("sign roster.json --key a.key --yes")
    three("revoke roster.json n1")
    assert read_roster(ROSTER).roster.number == 3
    assert names() == ["n2", "n3", "n4"]


def test_revoked_is_for_ever_once_it_was_signed(three: Run) -> None:
    admit(three, "n1", "n2")
    assert "taken out" not in three("revoke roster.json n2").output
    assert read_roster(ROSTER).roster.revoked == ()  # a slip in a draft costs no key
    admit(three, "n2")
    three("sign roster.json --key a.key --yes")
    assert "for ever" in three("revoke roster.json n2").output
    mistake(lambda: admit(three, "n2"), "revoked for ever; the device needs a new one")
    three("admit roster.json n2 n3.key.pub")  # the device's new key
    admit(three, "n4")
    assert "not revoked" in three("revoke roster.json n4").output
    mistake(lambda: three("revoke roster.json n4"), "no member 'n4'; there are: n1, n2")


def test_what_is_signed_is_shown_and_asked(three: Run) -> None:
    admit(three, "n1", "n2", "n3")
    for owner in "ab":
        three(f"sign roster.json --key {owner}.key --yes")
    three("revoke roster.json n1")
    admit(three, "n4")
    before = ROSTER.read_bytes()
    key = {name: fingerprint(key_files.read_public(Path(f"{name}.key.pub"), "identity")) for name in ("n1", "n4")}
    asked = three("sign roster.json --key a.key", "n\n")
    assert asked.exit_code == 1
    assert ROSTER.read_bytes() == before
    assert recall(Path("a.key")).federations["heart"].number == 1
    for line in (
        "number 2, 3 members",
        "changes against number 1, which 2 of 3 owners signed:",
        f"  - n1  {key['n1']}",
        f"  + n4  {key['n4']}",
        f"  revoked for ever: {key['n1']}",
        "Sign number 2 of 'heart'?",
        "roster.json: not signed; the file is as it was",
    ):
        assert line in asked.output
    assert "+ n2" not in asked.output


def test_without_the_version_before_all_is_shown(three: Run) -> None:
    admit(three, "n1", "n2")
    three("sign roster.json --key a.key --yes")
    admit(three, "n3")
    Path("roster.json.1").unlink()
    said = three("sign roster.json --key b.key --yes").output
    assert "! roster.json.1 is not at hand, so that all is shown as new:" in said
    assert all(f"+ {name}  " in said for name in ("n1", "n2", "n3"))


def test_another_file_under_the_name_of_the_version_before_is_not_compared_with(three: Run) -> None:
    """The attack: a forged base that already lists the invented member, so that it is not shown."""
    admit(three, "n1")
    three("sign roster.json --key a.key --yes")
    admit(three, "n2")
    forged = read_roster(ROSTER).roster.model_copy(update={"number": 1, "previous": None})
    Path("roster.json.1").write_bytes(encode(SignedRoster(roster=forged)))
    said = three("sign roster.json --key b.key --yes").output
    assert "not at hand" in said
    assert "+ n2  " in said


def test_a_key_never_signs_two_rosters_of_one_number(three: Run) -> None:
    admit(three, "n1")
    draft = ROSTER.read_bytes()
    three("sign roster.json --key a.key --yes")
    Path("fork.json").write_bytes(draft)
    three("admit fork.json n2 n2.key.pub")
    mistake(lambda: three("sign fork.json --key a.key --yes"), "this key signed another roster 1 before")
    assert read_roster(Path("fork.json")).signatures == {}
    three("sign fork.json --key b.key --yes")  # another owner's mistake: neither gets two signatures
    mistake(lambda: three("sign roster.json --key b.key --yes"), "signed another roster 1 before")
    mistake(lambda: three("sign fork.json --key a.key --yes"), "signed another roster 1 before")


def test_a_key_never_signs_an_older_number(three: Run) -> None:
    admit(three, "n1")
    three("sign roster.json --key b.key --yes")
    old = ROSTER.read_bytes()
    three("revoke roster.json n1")
    three("sign roster.json --key a.key --yes")
    Path("old.json").write_bytes(old)
    mistake(lambda: three("sign old.json --key a.key --yes"), "this key signed roster 2 before")


def test_a_successor_of_a_fork_is_not_signed(three: Run) -> None:
    admit(three, "n1")
    Path("fork.json").write_bytes(ROSTER.read_bytes())
    three("sign roster.json --key a.key --yes")
    three("sign fork.json --key b.key --yes")
    three("admit fork.json n2 n2.key.pub")
    mistake(lambda: three("sign fork.json --key a.key --yes"), "follows another roster 1 than the one that this key")
    three("sign fork.json --key b.key --yes")
    three("renew fork.json")  # the way out that the message names
    three("sign fork.json --key a.key --yes")
    assert read_roster(Path("fork.json")).roster.number == 3


def test_the_first_signer_draws_the_seed(three: Run) -> None:
    """Whoever prepares the draft must not choose by what the cohorts are drawn."""
    admit(three, "n1", "n2")
    chosen = read_roster(ROSTER).roster.model_copy(update={"seed": "00" * 32})
    ROSTER.write_bytes(encode(SignedRoster(roster=chosen)))
    three("sign roster.json --key a.key --yes")
    seed = read_roster(ROSTER).roster.seed
    assert seed != "00" * 32
    three("sign roster.json --key b.key --yes")
    assert read_roster(ROSTER).roster.seed == seed
    three("renew roster.json")
    three("sign roster.json --key a.key --yes")
    assert read_roster(ROSTER).roster.seed != seed


def test_a_signature_of_nobody_does_not_keep_the_seed(three: Run) -> None:
    admit(three, "n1")
    draft = read_roster(ROSTER)
    stranger = key_files.create(Path("stranger.key"), "signer")
    for signatures in ({"ab" * 32: "00" * 64}, draft.signed(stranger).signatures):
        ROSTER.write_bytes(encode(SignedRoster(roster=draft.roster, signatures=signatures)))
        mistake(lambda: three("sign roster.json --key a.key --yes"), "of nobody who signs this roster")
    assert "no signer of this version" in three("show roster.json").output


def test_a_bad_signature_counts_for_nothing(three: Run) -> None:
    admit(three, "n1")
    three("sign roster.json --key a.key --yes")
    good = read_roster(ROSTER)
    other = key_files.read_public(Path("b.key.pub"), "signer")
    mark = next(iter(good.signatures.values()))
    ROSTER.write_bytes(encode(SignedRoster(roster=good.roster, signatures={**good.signatures, other: mark})))
    shown = three("show roster.json").output
    assert "signed by   1 of 3; 2 needed" in shown
    assert f"invalid signature of {fingerprint(other)}" in shown
    assert "signed by 2 of 3" in three("sign roster.json --key b.key --yes").output


def test_a_file_that_was_changed_after_a_signature_is_not_signed(three: Run) -> None:
    admit(three, "n1")
    three("sign roster.json --key a.key --yes")
    ROSTER.write_bytes(ROSTER.read_bytes().replace(b'"n1"', b'"n2"'))
    mistake(lambda: three("sign roster.json --key b.key --yes"), "the file was changed after it was signed")


def test_owners_change(three: Run) -> None:
    """The owners so far sign the version that names their successors."""
    admit(three, "n1")
    for owner in "ab":
        three(f"sign roster.json --key {owner}.key --yes")
    pins = Policy.model_validate(
        {"federation": {"name": "heart", "signers": list(read_roster(ROSTER).roster.signers)}}
    ).federation
    assert pins is not None
    three("key d.key")
    assert "go by the pins" in three("renew roster.json --signer d.key.pub").output
    mistake(lambda: three("sign roster.json --key n1.key --yes"), "not the key of an owner")
    for owner in "abd":
        said = three(f"sign roster.json --key {owner}.key --yes").output
        assert "+ signer" in said and "- signer" in said and "signatures needed: 2 -> 1" in said
    signed = read_roster(ROSTER)
    assert signed.verified(pins.pins) == signed.roster
    assert len(signed.valid_signatures()) == 1


def test_nothing_to_renew(three: Run) -> None:
    mistake(lambda: three("renew roster.json"), "nobody signed number 1 yet")


def test_signing_goes_on_where_it_was_interrupted(three: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key has noted what it signs, and the file has no signature yet: the same roster is signed, not a new one."""
    from fedsus.commands import signing

    admit(three, "n1")
    writes: list[Path] = []
    really = signing.write

    def cut(file: Path, content: bytes, mode: int) -> None:
        writes.append(file)
        if len(writes) == 2:
            raise EnvironmentFault("the power went")
        really(file, content, mode)

    monkeypatch.setattr(signing, "write", cut)
    mistake(lambda: three("sign roster.json --key a.key --yes"), "the power went", EnvironmentFault)
    assert read_roster(ROSTER).signatures == {}
    three("sign roster.json --key a.key --yes")
    assert len(read_roster(ROSTER).valid_signatures()) == 1
    assert recall(Path("a.key")).federations["heart"].digest == digest(read_roster(ROSTER).roster).hex()
    assert "signed number 1 already" in three("sign roster.json --key a.key --yes").output


def test_an_edit_that_fails_leaves_the_file(three: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    admit(three, "n1")
    before = ROSTER.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        mistake(lambda: admit(three, "n2"), "No space left", EnvironmentFault)
    assert ROSTER.read_bytes() == before
    assert not list(Path().glob("*.new"))


def test_two_commands_at_once(three: Run) -> None:
    """The second would write over the first one's edit."""
    with ROSTER.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        mistake(lambda: admit(three, "n1"), "another command is at work on it", EnvironmentFault)
    admit(three, "n1")


def test_a_kept_version_is_never_overwritten_by_another(three: Run) -> None:
    admit(three, "n1")
    Path("fork.json").write_bytes(ROSTER.read_bytes())
    three("sign roster.json --key a.key --yes")
    three("sign fork.json --key b.key --yes")
    Path("roster.json.1").write_bytes(Path("fork.json").read_bytes())
    before = ROSTER.read_bytes()
    mistake(lambda: admit(three, "n2"), "roster.json.1: another roster 1 than")
    assert ROSTER.read_bytes() == before


def test_a_link_stays_a_link(three: Run) -> None:
    Path("real").mkdir()
    ROSTER.rename("real/roster.json")
    ROSTER.symlink_to("real/roster.json")
    admit(three, "n1")
    three("sign roster.json --key a.key --yes")
    three("renew roster.json")
    assert ROSTER.is_symlink()
    assert read_roster(Path("real/roster.json")).roster.number == 2
    assert Path("real/roster.json.1").exists()


@pytest.mark.parametrize("content", ["", "{}", "[" * 9999, '{"roster":{},"roster":{},"signatures":{}}'])
def test_a_file_that_is_no_roster(three: Run, content: str) -> None:
    ROSTER.write_text(content)
    for line in ("show roster.json", "renew roster.json", "sign roster.json --key a.key"):
        mistake(lambda line=line: three(line), "roster.json: not a roster: ")


def test_a_huge_file_and_a_pipe(three: Run) -> None:
    with ROSTER.open("r+b") as file:
        file.truncate(100 * 2**20)
    mistake(lambda: three("show roster.json"), "at most 16777216")
    ROSTER.unlink()
    os.mkfifo(ROSTER)
    mistake(lambda: three("show roster.json"), "not a regular file", EnvironmentFault)
    mistake(lambda: three("renew roster.json"), "not a regular file", EnvironmentFault)


def test_the_key_files(run: Run) -> None:
    said = run("key keys/a.key").output
    assert stat.S_IMODE(Path("keys/a.key").stat().st_mode) == 0o600
    assert Path("keys/a.key").read_text().startswith("-----BEGIN PRIVATE KEY-----")
    line = Path("keys/a.key.pub").read_text()
    assert re.fullmatch(r"fedsus-signer [0-9a-f]{64}\n", line)
    assert fingerprint(line.split()[1]) in said
    before = Path("keys/a.key").read_bytes()
    mistake(lambda: run("key keys/a.key"), "never overwritten")
    Path("keys/a.key").rename("keys/b.key")
    mistake(lambda: run("key keys/a.key"), "a.key.pub: exists already")
    assert Path("keys/b.key").read_bytes() == before
    Path("c.key").symlink_to("nowhere")
    mistake(lambda: run("key c.key"), "never overwritten")
    assert not Path("nowhere").exists()


def test_a_key_that_others_may_use_signs_nothing(three: Run) -> None:
    Path("a.key").chmod(0o640)
    mistake(lambda: three("sign roster.json --key a.key --yes"), "other users may use the signer key .*chmod 600")
    mistake(lambda: three("sign roster.json --key none.key --yes"), "no signer key; make one with 'fedsus federation")
    Path("raw.key").write_bytes(b"x" * 32)
    Path("raw.key").chmod(0o600)
    mistake(lambda: three("sign roster.json --key raw.key --yes"), "not an Ed25519 private key in PEM form")


def test_the_memory_of_a_key_is_never_repaired(three: Run) -> None:
    Path("a.key.signed").write_text("{}")
    mistake(lambda: three("sign roster.json --key a.key --yes"), "put back its copy", CorruptionError)
    assert Path("a.key.signed").read_text() == "{}"


def test_mistakes_are_the_users(three: Run) -> None:
    """Exit code 2, in one line."""
    from fedsus import cli

    with pytest.raises(UserError) as caught:
        three("revoke roster.json nobody")
    assert cli.explain(caught.value) == ("roster.json: no member 'nobody'; there are: none", 2)


def test_it_is_a_command_of_fedsus(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    from fedsus import cli

    assert cli.run(["federation", "show", "none.json"]) == 2
    assert capsys.readouterr().err == "error: none.json: no such file\n"
    assert cli.run(["federation", "--help"]) == 0


@pytest.mark.parametrize("command", sorted(federation.commands))
def test_a_commands_summary_fits_in_80_columns(command: str) -> None:
    assert not federation.commands[command].get_short_help_str(66).endswith("...")
