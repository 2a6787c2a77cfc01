"""`fedsus client roster`, and the roster that a running agent goes by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedsus.commands.federation import federation
from fedsus.config import load
from fedsus.errors import ConfigError, FedsusError, Refusal
from fedsus.owner import key_files
from fedsus.owner.pinning import read_roster
from fedsus.owner.policy import Policy
from fedsus_client.cli import client
from fedsus_client.config import load_agent
from fedsus_client.findings import Finding
from fedsus_client.membership import StandingRoster
from fedsus_client.summing import secure_sum

Call = Callable[[str], str]


def call(line: str) -> str:
    """Runs ``fedsus client ...`` or ``fedsus federation ...``; errors are raised as the command raises them."""
    command, *arguments = line.split()
    group = {"client": client, "federation": federation}[command]
    return CliRunner().invoke(group, arguments, catch_exceptions=False).output


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An enrolled device among four members, in a folder of its own, its pins pasted; the owners' files are outside."""
    monkeypatch.chdir(tmp_path)
    call("client enroll --agent device/agent.toml")
    for owner in "ab":
        call(f"federation key {owner}.key")
    call("federation new heart --signer a.key.pub --signer b.key.pub")
    call("federation admit roster.json clinic device/identity.key.pub")
    for name in ("north", "south", "west"):
        key_files.create(Path(f"{name}.key"), "identity")
        call(f"federation admit roster.json {name} {name}.key.pub")
    sign()
    shown = call("federation show roster.json")
    pins = shown[shown.index("[federation]") :]
    with Path("device/policy.toml").open("a") as policy:
        policy.write("\n" + pins)
    return tmp_path / "device"


def sign(file: str = "roster.json", owners: str = "ab") -> None:
    for owner in owners:
        call(f"federation sign {file} --key {owner}.key --yes")


def roster_command(file: str = "") -> str:
    return call(f"client roster {file} --agent device/agent.toml")


def refused(file: str, words: str, kind: type[FedsusError] = Refusal) -> None:
    installed = Path("device/roster.json")
    before = installed.read_bytes() if installed.exists() else None
    with pytest.raises(kind, match=words) as caught:
        roster_command(file)
    assert "\n" not in str(caught.value)
    assert (installed.read_bytes() if installed.exists() else None) == before


def policy_now(device: Path) -> Policy:
    return load(device / "policy.toml", Policy)


def test_a_roster_is_installed_and_shown(device: Path) -> None:
    said = roster_command("roster.json")
    for words in ("'heart', number 1, 4 members", "+ clinic", "+ west", "this device is 'clinic'", "installed"):
        assert words in said
    assert (device / "roster.json").read_bytes() == Path("roster.json").read_bytes()
    assert (device / "state" / "roster.noted").exists()
    shown = roster_command()
    assert "this device is 'clinic'" in shown
    assert all(name in shown for name in ("clinic", "north", "south", "west"))


def test_what_changes_is_shown(device: Path) -> None:
    roster_command("roster.json")
    call("federation revoke roster.json south")
    sign()
    said = roster_command("roster.json")
    assert "changes against number 1" in said
    assert "- south" in said
    assert "+ " not in said
    assert "  none" in roster_command("roster.json")


def test_a_device_that_was_revoked_is_told(device: Path) -> None:
    call("federation revoke roster.json clinic")
    sign()
    assert "is not a member: secure sums go on without it" in roster_command("roster.json")


def test_what_is_not_installed(device: Path) -> None:
    refused("none.json", "none.json: no such file", ConfigError)
    with pytest.raises(ConfigError, match="no roster yet"):
        roster_command()
    roster_command("roster.json")
    first = Path("roster.json").read_bytes()
    call("federation revoke roster.json south")
    refused("roster.json", "0 of the 2 pinned keys signed it")
    refused("roster.json", "it needs 2 signatures and has 0: let the other owners run 'fedsus federation sign'")
    sign(owners="a")
    refused("roster.json", "1 of the 2 pinned keys signed it, 2 must")
    refused("roster.json", "it needs 2 signatures and has 1")
    sign(owners="b")
    roster_command("roster.json")
    Path("old.json").write_bytes(first)
    refused("old.json", "2 was accepted before, and an older one never is again")
    Path("text.json").write_text("hello")
    refused("text.json", "text.json: not a roster", ConfigError)


def test_a_roster_that_was_changed_after_it_was_signed(device: Path) -> None:
    Path("roster.json").write_bytes(Path("roster.json").read_bytes().replace(b'"clinic"', b'"clinid"'))
    refused("roster.json", "it was changed after it was signed: ask the owners who sign for their own copy")


def test_an_operators_own_roster_is_not_installed(device: Path) -> None:
    """The attack of the Sybils: the operator signs a roster of the right name, with members that it invented."""
    call("federation key operator.key")
    call("federation new heart --signer operator.key.pub --out sybils.json")
    call("federation admit sybils.json clinic device/identity.key.pub")
    call("federation sign sybils.json --key operator.key --yes")
    refused("sybils.json", "0 of the 2 pinned keys signed it")
    refused("sybils.json", "others than those signed it: compare the pins with the owners by voice")
    edit(device, "needed = 2\n", "needed = 1\n")
    refused("sybils.json", "0 of the 2 pinned keys signed it, 1 must")
    # A weaker device, which pins what the operator sends along, takes it.
    shown, text = call("federation show sybils.json"), (device / "policy.toml").read_text()
    (device / "policy.toml").write_text(text[: text.rindex("[federation]")] + shown[shown.index("[federation]") :])
    assert "installed" in roster_command("sybils.json")


def test_without_pins_nothing_is_installed(device: Path) -> None:
    text = (device / "policy.toml").read_text()
    (device / "policy.toml").write_text(text[: text.rindex("[federation]")])
    refused("roster.json", "policy.toml: no signer is pinned: compare the fingerprints", ConfigError)


def test_the_file_in_its_place_is_checked_where_it_lies(device: Path) -> None:
    (device / "roster.json").write_bytes(Path("roster.json").read_bytes())
    assert "installed" in roster_command("device/roster.json")


def test_notes_that_would_be_closed_to_the_agent_are_left_to_it(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (device / "state").mkdir()
    monkeypatch.setattr("fedsus_client.membership.os.geteuid", lambda: (device / "state").stat().st_uid + 1)
    assert "accepts it when it reads it" in roster_command("roster.json")
    assert not list((device / "state").iterdir())


def test_a_running_agent_goes_by_the_newest(device: Path) -> None:
    standing = StandingRoster(load_agent(device / "agent.toml"))
    assert standing(policy_now(device)) is None
    roster_command("roster.json")
    first = standing(policy_now(device))
    assert first is not None
    assert first.number == 1
    assert standing(Policy()) is None  # the owner took the pins back
    call("federation revoke roster.json south")
    sign()
    roster_command("roster.json")
    second = standing(policy_now(device))
    assert second is not None
    assert second.number == 2
    Path("stolen.json").write_bytes((device / "roster.json").read_bytes())
    (device / "roster.json").write_bytes(Path("roster.json.1").read_bytes())
    with pytest.raises(Refusal, match="2 was accepted before"):
        standing(policy_now(device))


def test_other_pins_count_at_once(device: Path) -> None:
    roster_command("roster.json")
    standing = StandingRoster(load_agent(device / "agent.toml"))
    assert standing(policy_now(device)) is not None
    call("federation key new.key")
    key = key_files.read_public(Path("new.key.pub"), "signer")
    other = Policy.model_validate({"federation": {"name": "heart", "signers": [key]}})
    with pytest.raises(Refusal, match="0 of the 1 pinned keys"):
        standing(other)
    assert standing(policy_now(device)) is not None


def looked(device: Path) -> dict[str, Finding]:
    found = list(secure_sum(load_agent(device / "agent.toml"), policy_now(device)))
    assert all("\n" not in str(finding) for finding in found)
    assert all(finding.fix for finding in found if finding.grade == "fail")
    return {finding.name: finding for finding in found}


def test_the_preflight_of_a_device_in_order(device: Path) -> None:
    roster_command("roster.json")
    found = looked(device)
    assert {name: finding.grade for name, finding in found.items()} == dict.fromkeys(
        ("identity", "pins", "roster", "member", "secure_sum"), "fine"
    )
    assert "signed by 2 of the 2 pinned keys" in found["roster"].text
    assert "this device is 'clinic', one of 4" in found["member"].text
    assert (
        found["secure_sum"].text == "4 members, of whom 1 may work with a lying server: up to 1 may drop out of a round"
    )


def edit(device: Path, old: str, new: str) -> None:
    text = (device / "policy.toml").read_text()
    assert old in text
    (device / "policy.toml").write_text(text.replace(old, new))


def another_key(device: Path) -> None:
    for name in ("identity.key", "identity.key.pub"):
        (device / name).unlink()
    key_files.create(device / "identity.key", "identity")


def rolled_back(device: Path) -> None:
    call("federation revoke roster.json south")
    sign()
    roster_command("roster.json")
    (device / "roster.json").write_bytes(Path("roster.json.1").read_bytes())


def half_signed(device: Path) -> None:
    call("federation revoke roster.json south")
    sign(owners="a")
    (device / "roster.json").write_bytes(Path("roster.json").read_bytes())


def two_members(device: Path) -> None:
    for name in ("south", "west"):
        call(f"federation revoke roster.json {name}")
    sign()
    roster_command("roster.json")


FAULTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no key": (lambda device: (device / "identity.key").unlink(), "identity", "no identity key"),
    "open key": (lambda device: (device / "identity.key").chmod(0o640), "identity", "other users may use"),
    "other half": (
        lambda device: (device / "identity.key.pub").write_bytes(Path("north.key.pub").read_bytes()),
        "identity",
        "not the public half",
    ),
    "no roster": (lambda device: (device / "roster.json").unlink(), "roster", "no roster is installed"),
    "half signed": (half_signed, "roster", "1 of the 2 pinned keys"),
    "rolled back": (rolled_back, "roster", "2 was accepted before"),
    "not listed": (another_key, "member", "is not in the roster"),
    "too few": (two_members, "secure_sum", "2 members"),
    "too many colluders": (lambda device: edit(device, "# colluders = 1", "colluders = 3"), "secure_sum", "colluders"),
    "minimum": (lambda device: edit(device, "minimum = 3", "minimum = 5"), "secure_sum", "[cohort] minimum is 5"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(device: Path, fault: str) -> None:
    spoil, name, words = FAULTS[fault]
    roster_command("roster.json")
    spoil(device)
    found = looked(device)
    assert found[name].grade == "fail"
    assert words in found[name].text
    # Where the owner grants clear_sum too, the device is of use without: a warning.
    edit(device, "clear_sum = false", "clear_sum = true")
    assert all(finding.grade != "fail" for finding in looked(device).values())


def test_missing_pins(device: Path) -> None:
    text = (device / "policy.toml").read_text()
    (device / "policy.toml").write_text(text[: text.rindex("[federation]")])
    assert looked(device)["pins"].grade == "fail"
    edit(device, "secure_sum = true", "secure_sum = false")
    assert looked(device) == {}


def test_worth_knowing(device: Path) -> None:
    roster_command("roster.json")
    edit(device, "needed = 2\n", "needed = 1\n")
    edit(device, "dropout = 0.34", 'dropout = 0.0\nnamed = ["south", "sotuh"]')
    found = list(secure_sum(load_agent(device / "agent.toml"), policy_now(device)))
    warned = [finding.text for finding in found if finding.grade == "warn"]
    assert len(warned) == 3
    assert "half or fewer could publish two" in warned[0]
    assert "a single device that drops out ends the round" in warned[1]
    assert warned[2].endswith("not in the roster: sotuh")


def test_looking_changes_nothing(device: Path) -> None:
    Path("device/roster.json").write_bytes(Path("roster.json").read_bytes())
    before = sorted(file.name for file in device.rglob("*"))
    assert looked(device)["roster"].grade == "fine"
    assert sorted(file.name for file in device.rglob("*")) == before
    assert read_roster(device / "roster.json").roster.number == 1
