"""Who may lie with a receipt, and what `verify` says of it; and what it cannot say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from receipts import (
    DIMENSION,
    IDENTITIES,
    OPERATOR,
    SIGNER,
    STRANGER,
    Run,
    clear_run,
    payload_of,
    private_run,
    roster,
    signed,
)

from fedsus.envelope import decode
from fedsus.errors import ConfigError, ReceiptFault
from fedsus.journal import NAME
from fedsus.plan import canonical
from fedsus.reporting.receipt import make, read_file, write
from fedsus.reporting.told import lines
from fedsus.reporting.verification import Evidence, Verified, verify
from fedsus.secagg.keys import fingerprint
from fedsus.secagg.roster import Pins, SignedRoster


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return private_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def evidence(run: Run) -> Evidence:
    pins = Pins("six", frozenset({SIGNER.public.hex()}), 1)
    return Evidence(run.journal, roster(), pins, frozenset({OPERATOR.public.hex()}), frozenset({"d" * 64}))


def test_what_holds_is_said_with_whose_key_it_is(run: Run, evidence: Evidence) -> None:
    raw = decode(run.receipt()).signed(IDENTITIES["eva"]).signed(IDENTITIES["ben"]).encode()
    found = verify(raw, evidence)
    assert found == Verified(payload_of(raw), fingerprint(OPERATOR.public), ("ben", "eva"), ())


def test_what_was_not_checked_is_said(run: Run) -> None:
    notes = verify(run.receipt(), Evidence(run.journal)).notes
    assert [word for word in ("pinned", "roster", "model") if not any(word in note for note in notes)] == []


def test_another_operators_signature(run: Run, evidence: Evidence) -> None:
    with pytest.raises(ReceiptFault, match=r"signatures\.0: signed by the key .* and not by the operator's"):
        verify(run.receipt(STRANGER), evidence)
    with pytest.raises(ReceiptFault, match=r"predicate\.operator: the receipt names the key"):
        verify(signed(run.payload(), STRANGER), replace(evidence, operators=None))


def test_an_operator_who_rewrites_the_journal_is_found_by_a_countersignature_alone(
    run: Run, evidence: Evidence, tmp_path: Path
) -> None:
    """Fewer refusals, chained anew and signed anew: it holds, for nobody else keeps the journal. What a device signed
    before does not fit it any more."""
    import hashlib

    lines, prev, made = [json.loads(line) for line in run.journal.splitlines()], "0" * 64, b""
    for line in lines:
        one = canonical({**line, "prev": prev} | ({"refused": 0} if "refused" in line else {}))
        prev, made = hashlib.sha256(one).hexdigest(), made + one + b"\n"
    (tmp_path / NAME).write_bytes(made)
    forged, lied = make(tmp_path, OPERATOR), replace(evidence, journal=made)
    assert verify(forged, lied).payload["predicate"]["participation"]["refused"] == 0
    honest = decode(run.receipt()).signed(IDENTITIES["ada"])
    transplanted = replace(decode(forged), signatures={**decode(forged).signatures, **_others(honest.signatures)})
    with pytest.raises(ReceiptFault, match=r"signatures\.1: the signature of key .* does not fit"):
        verify(transplanted.encode(), lied)


def _others(signatures: dict[str, bytes]) -> dict[str, bytes]:
    return {key: sig for key, sig in signatures.items() if key != OPERATOR.public.hex()}


def test_a_stripped_countersignature_is_not_found(run: Run, evidence: Evidence) -> None:
    """Nothing says who wished to sign: docs/receipt.md says so too."""
    assert verify(run.receipt(), evidence).countersigners == ()


def test_a_countersignature_of_no_member(run: Run, evidence: Evidence) -> None:
    raw = decode(run.receipt()).signed(STRANGER).encode()
    with pytest.raises(ReceiptFault, match=r"signatures\.1: the key .* is of no member"):
        verify(raw, evidence)


def test_another_runs_receipt_or_journal(run: Run, evidence: Evidence, tmp_path: Path) -> None:
    other = clear_run(tmp_path)
    with pytest.raises(ReceiptFault, match=r"predicate\.journal\.head"):
        verify(other.receipt(), evidence)
    with pytest.raises(ReceiptFault, match=r"predicate\.journal\.head"):
        verify(run.receipt(), replace(evidence, journal=other.journal))


def test_a_journal_that_was_cut_off(run: Run, evidence: Evidence) -> None:
    whole = run.journal
    for cut in (whole[:-1], whole[: whole[:-1].rindex(b"\n") + 1], whole[: len(whole) // 2], b"", b"\n"):
        with pytest.raises(ReceiptFault):
            verify(run.receipt(), replace(evidence, journal=cut))


def test_a_receipt_of_an_open_run_that_an_operator_signs(run: Run, evidence: Evidence) -> None:
    """The journal's beginning, with a statement that fits it in everything."""
    from fedsus.reporting.receipt import entries_of
    from fedsus.reporting.receipt import payload_of as derived

    raw = run.journal[: run.journal[:-1].rindex(b"\n") + 1]
    receipt = signed(derived(*entries_of(raw, Path(NAME)), OPERATOR.public.hex()))
    with pytest.raises(ReceiptFault, match="is not closed"):
        verify(receipt, replace(evidence, journal=raw, model=None))


@pytest.mark.parametrize(
    ("swapped", "why"),
    [
        (roster(seed="6" * 64), "the file holds roster 1 of 'six'"),
        (roster(number=2), "the file holds roster 2 of 'six'"),
        (SignedRoster(roster=roster().roster), "0 of the 1 pinned keys signed it"),
        (SignedRoster(roster=roster().roster).signed(STRANGER), "0 of the 1 pinned keys signed it"),
    ],
)
def test_a_swapped_roster(run: Run, evidence: Evidence, swapped: SignedRoster, why: str) -> None:
    with pytest.raises(ReceiptFault, match=why):
        verify(run.receipt(), replace(evidence, roster=swapped))


def test_a_roster_that_too_few_of_its_own_signers_signed(run: Run, evidence: Evidence) -> None:
    unsigned = replace(evidence, roster=SignedRoster(roster=roster().roster), pins=None)
    with pytest.raises(ReceiptFault, match="0 of 1 signatures of its own signers"):
        verify(run.receipt(), unsigned)


def test_another_model(run: Run, evidence: Evidence) -> None:
    assert verify(run.receipt(), replace(evidence, model=frozenset({"c" * 64}))).notes == ()  # the checkpoint
    with pytest.raises(ReceiptFault, match=r"subject: the receipt is of dddd.*, the file holds eeee"):
        verify(run.receipt(), replace(evidence, model=frozenset({"e" * 64})))


def test_a_countersignature_without_any_roster_cannot_be_checked(tmp_path: Path) -> None:
    run = clear_run(tmp_path)
    raw = decode(run.receipt()).signed(IDENTITIES["ada"]).encode()
    with pytest.raises(ConfigError, match="say --roster"):
        verify(raw, Evidence(run.journal))
    assert verify(raw, Evidence(run.journal, roster())).countersigners == ("ada",)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda p: p["privacy"]["losses"][2].update(epsilon=7.9999), r"privacy\.losses\.2\.epsilon"),
        (lambda p: p["privacy"].update(attempts=4), r"privacy\.attempts"),
        (lambda p: p["asked"]["plans"].pop(), r"asked\.plans \(how many\)"),
        (lambda p: p["asked"]["plans"][1].update(digest="f" * 64), r"asked\.plans\.1\.digest"),
        (lambda p: p["secure_sum"].update(colluders=3), r"secure_sum\.colluders"),
        (lambda p: p["energy"]["server"]["total"].update(value=13.0), r"energy\.server\.total\.value"),
        (lambda p: p["energy"].pop("devices"), r"energy\.devices"),
        (lambda p: p["carbon"]["operational"][1]["grams"].update(unit="kg CO2e"), r"carbon\.operational\.1\.grams"),
        (lambda p: p["traffic"]["total"]["sent"].update(value=32499.0), r"traffic\.total\.sent\.value"),
        (lambda p: p["participation"].update(refused=2), r"participation\.refused"),
        (lambda p: p["participation"].update(refused=3.0), r"participation\.refused"),
        (lambda p: p["participation"].update(better=True), r"participation\.better"),
        (lambda p: p["model"].update(hash="e" * 64), r"model\.hash"),
        (lambda p: p["asked"]["configuration"]["schedule"].update(slack_hours=-0.0), r"asked.*slack_hours"),
        (lambda p: p.update({f"privacy.losses.{at}.epsilon": loss["epsilon"] for at, loss in _losses(p)}), "privacy"),
        (lambda p: p.update({"privacy.losses.x.epsilon": 1.0}), r"privacy\.losses\.x\.epsilon"),
    ],
)
def test_a_lie_that_the_operator_signs_is_named(run: Run, evidence: Evidence, change, where: str) -> None:
    payload = run.payload()
    change(payload["predicate"])
    with pytest.raises(ReceiptFault, match=rf"^predicate\.{where}.*: the receipt says .*, the journal gives "):
        verify(signed(payload), evidence)


def _losses(predicate: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    return enumerate(predicate["privacy"]["losses"])


def test_a_receipt_of_another_version_cannot_be_checked(run: Run, evidence: Evidence) -> None:
    with pytest.raises(ConfigError, match=r"predicateType: urn:fedsus:receipt:1; this fedsus checks"):
        verify(signed(run.payload() | {"predicateType": "urn:fedsus:receipt:1"}), evidence)


def deep(levels: int) -> object:
    found: object = 0
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b'{"_type":1,"_type":2}', "not the canonical encoding"),
        (b'{"a": 1}', "not the canonical encoding"),
        (b"1" + b"0" * 5000, "payload: not JSON"),
        (b"1e999", "payload: not JSON"),
        (b"NaN", "payload: not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b"\xff\xfe{}", "payload: not JSON"),
        (b"", "payload: not JSON"),
        (b"[]", "_type: null"),
        (b"7", "_type: null"),
    ],
)
def test_payloads_that_are_none(evidence: Evidence, payload: bytes, why: str) -> None:
    from fedsus.envelope import Envelope

    with pytest.raises((ReceiptFault, ConfigError), match=why) as found:
        verify(Envelope(payload, {}).signed(OPERATOR).encode(), evidence)
    assert "\n" not in str(found.value)


def test_deep_and_huge_fields_are_one_short_line(run: Run, evidence: Evidence) -> None:
    for value in (deep(500), "x" * 10_000, 10**300, {"a\nb": "\x1b[31m"}):
        payload = run.payload()
        payload["predicate"]["run"]["name"] = value
        with pytest.raises(ReceiptFault, match=r"^predicate\.run\.name: the receipt says ") as found:
            verify(signed(payload), evidence)
        assert str(found.value).isprintable()
        assert len(str(found.value)) < 400


LONG = canonical({"v": 1, "seq": 0, "prev": "0" * 64, "type": "x\x1b" * 10_000, "time": 0.0})


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"a":1,"a":2}', b"\xff", b"1" + b"0" * 5000, b'{"v":1}', LONG])
def test_journals_that_are_none(run: Run, evidence: Evidence, line: bytes) -> None:
    journal = line + b"\n" + run.journal.split(b"\n", 1)[1]
    with pytest.raises(ReceiptFault, match="line 1") as found:
        verify(run.receipt(), replace(evidence, journal=journal))
    assert str(found.value).isprintable()
    assert len(str(found.value)) <= 300


def test_what_is_shown_writes_nothing_into_a_terminal(run: Run) -> None:
    payload = run.payload()
    payload["predicate"]["budgets"]["ended_by"] = "\x1b[2J\nholds: run masked-1"
    raw = signed(payload)
    assert all(line.isprintable() for line in lines(decode(raw), payload))


def test_the_name_of_a_field_writes_nothing_into_a_terminal(run: Run, evidence: Evidence) -> None:
    payload = run.payload()
    payload["predicate"]["energy"] |= {"\x1b[2J\nholds: run" + "x" * 1000: 1}
    with pytest.raises(ReceiptFault, match=r"^predicate\.energy\.\?\[2J\?holds: run") as found:
        verify(signed(payload), evidence)
    assert str(found.value).isprintable()
    assert len(str(found.value)) < 600


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(1001))
    for name, why in (("missing", "no such file"), (".", "a folder"), ("large", "longer than 1000 bytes")):
        with pytest.raises(ConfigError, match=why):
            read_file(tmp_path / name, 1000)


def test_a_receipt_is_never_replaced_by_chance(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    write(path, b"one")
    with pytest.raises(ConfigError, match="exists already"):
        write(path, b"two")
    assert path.read_bytes() == b"one"
    assert [file.name for file in tmp_path.iterdir()] == ["receipt.json"]


def test_a_receipt_can_be_made_again_and_is_the_same(run: Run, tmp_path: Path) -> None:
    shutil.copy(run.folder / NAME, tmp_path / NAME)
    assert make(tmp_path, OPERATOR) == run.receipt()
    assert run.payload()["predicate"]["model"]["dimension"] == DIMENSION
