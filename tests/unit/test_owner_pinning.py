"""What a device lets in as its roster: newer ones, by the pinned keys, noted before they are used."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from fedsus.errors import ConfigError, CorruptionError, EnvironmentFault, Refusal
from fedsus.owner.pinning import RosterBook, read_roster
from fedsus.secagg.keys import Identity
from fedsus.secagg.roster import MAX_BYTES, Pins, Roster, RosterMember, SignedRoster, digest, encode

OWNERS = [Identity.generate() for _ in range(3)]
KEYS = tuple(sorted(owner.public.hex() for owner in OWNERS))
CLIENTS = [Identity.generate().public.hex() for _ in range(4)]
PINS = Pins("heart", frozenset(KEYS), 2)


def version(number: int = 1, previous: Roster | None = None, by: int = 2, **changes: Any) -> tuple[Roster, bytes]:
    """A roster, and the bytes of its file with so many owners' signatures."""
    before = digest(previous).hex() if previous else None if number == 1 else "ab" * 32
    members = tuple(RosterMember(name=f"site-{i}", key=key) for i, key in enumerate(CLIENTS))
    values = {
        "federation": "heart",
        "number": number,
        "previous": before,
        "signers": KEYS,
        "needed": 2,
        "seed": f"{number:064x}",
        "members": members,
    }
    roster = Roster.model_validate({**values, **changes})
    signed = SignedRoster(roster=roster)
    for owner in OWNERS[:by]:
        signed = signed.signed(owner)
    return roster, encode(signed)


@pytest.fixture
def book(tmp_path: Path) -> RosterBook:
    return opened(tmp_path)


def opened(folder: Path, pins: Pins = PINS) -> RosterBook:
    """As after a restart: nothing but the disk is remembered."""
    return RosterBook(folder / "roster.json", folder / "state" / "roster.noted", pins)


def refused(book: RosterBook, raw: bytes, words: str) -> None:
    """The refusal is one line; it changes nothing, and nothing was noted."""
    before = book.newest()
    with pytest.raises(Refusal, match=words) as caught:
        book.accept(raw, "new.json")
    assert str(caught.value).startswith("new.json: ")
    assert "\n" not in str(caught.value)
    assert book.newest() == before


def test_versions_that_follow_each_other(book: RosterBook, tmp_path: Path) -> None:
    first, raw = version()
    assert book.newest() is None
    assert book.accept(raw) == first
    assert book.accept(raw) == first
    second, raw = version(2, first)
    assert opened(tmp_path).accept(raw) == second
    fifth, raw = version(5)  # versions between them were never seen here
    assert book.accept(raw) == fifth
    note = opened(tmp_path).newest()
    assert note is not None
    assert (note.number, note.digest) == (5, digest(fifth).hex())


def test_no_way_back(book: RosterBook, tmp_path: Path) -> None:
    first, old = version()
    book.accept(version(2, first)[1])
    for again in (book, opened(tmp_path)):
        refused(again, old, "roster 1 of 'heart': 2 was accepted before, and an older one never is again")
    # A weaker device, which remembers nothing, takes it: signatures alone do not tell old from new.
    assert RosterBook(tmp_path / "roster.json", tmp_path / "elsewhere" / "noted", PINS).accept(old) == first


def test_a_fork_is_seen(book: RosterBook) -> None:
    first, raw = version()
    other, fork = version(seed="ff" * 32)
    book.accept(raw)
    refused(book, fork, "another roster 1 was accepted before: its owners signed two")
    refused(book, version(2, other)[1], "follows another roster 1 than the one that was accepted here")
    book.accept(version(2, first)[1])


def test_revoked_stays_revoked(book: RosterBook) -> None:
    _, raw = version(4, members=(), revoked=(CLIENTS[0],))
    book.accept(raw)
    refused(book, version(6)[1], "the key of 'site-0' was revoked before")
    refused(book, version(6, members=())[1], "forgets keys that were revoked")
    book.accept(version(6, members=(), revoked=tuple(sorted(CLIENTS[:2])))[1])


@pytest.mark.parametrize("by", [0, 1])
def test_too_few_signatures(book: RosterBook, by: int) -> None:
    refused(book, version(by=by)[1], rf"{by} of the 3 pinned keys signed it, 2 must \(\[federation\] of policy.toml\)")


def test_a_takeover_is_refused(book: RosterBook) -> None:
    """One owner's key is stolen: the roster names it as the only signer, of whom one is enough."""
    stolen = (OWNERS[0].public.hex(),)
    refused(book, version(by=1, signers=stolen, needed=1)[1], "1 of the 3 pinned keys")


def test_a_foreign_roster(book: RosterBook) -> None:
    refused(book, version(federation="lung")[1], "'lung': 'heart' is pinned")


def test_other_federations_keep_their_own_numbers(tmp_path: Path) -> None:
    """An owner who pins another federation for a while, and then this one again, is not rolled back."""
    opened(tmp_path).accept(version(3)[1])
    lung = Pins("lung", PINS.keys, 2)
    opened(tmp_path, lung).accept(version(federation="lung")[1])
    refused(opened(tmp_path), version()[1], "3 was accepted before")
    stricter = opened(tmp_path, Pins("heart", PINS.keys, 3))
    refused(stricter, version(4)[1], "2 of the 3 pinned keys signed it, 3 must")


def test_looking_notes_nothing(book: RosterBook, tmp_path: Path) -> None:
    assert book.look(version()[1]) == version()[0]
    assert book.newest() is None
    assert not list(tmp_path.iterdir())


def test_bytes_that_are_no_roster_are_the_users_mistake(book: RosterBook) -> None:
    for raw in (b"", b"{}", version()[1] + b"\n", b" " * (MAX_BYTES + 1)):
        with pytest.raises(ConfigError, match=r"new\.json: not a roster: "):
            book.accept(raw, "new.json")


def test_the_file_is_read_again_when_it_changed(book: RosterBook, monkeypatch: pytest.MonkeyPatch) -> None:
    assert book.current() is None
    first, raw = version()
    book.file.write_bytes(raw)
    assert book.current() == first
    monkeypatch.setattr("fedsus.owner.pinning.read", lambda *_: pytest.fail("read although nothing changed"))
    assert book.current() == first
    monkeypatch.undo()
    second, raw = version(2, first)
    book.file.write_bytes(raw)
    assert book.current() == second
    book.file.unlink()
    assert book.current() is None


def test_a_bad_file_is_not_answered_by_the_roster_before(book: RosterBook) -> None:
    first, raw = version()
    book.file.write_bytes(raw)
    book.current()
    book.file.write_bytes(version(2, first, by=1)[1])
    for _ in range(2):  # the second time as well: a failure is no state to rest in
        with pytest.raises(Refusal, match=r"roster\.json: roster 2 of 'heart': 1 of the 3 pinned keys"):
            book.current()
    book.file.write_bytes(b"{")
    with pytest.raises(ConfigError, match=r"roster\.json: not a roster"):
        book.current()
    second, raw = version(2, first)
    book.file.write_bytes(raw)
    assert book.current() == second
    book.file.write_bytes(version()[1])
    with pytest.raises(Refusal, match="2 was accepted before"):
        book.current()


def test_a_replaced_file_of_the_same_size_and_time(book: RosterBook) -> None:
    book.file.write_bytes(version(3)[1])
    found = book.file.stat()
    book.current()
    newer, raw = version(5)
    assert len(raw) == found.st_size
    replacement = book.file.with_name("new")
    replacement.write_bytes(raw)
    os.utime(replacement, ns=(found.st_atime_ns, found.st_mtime_ns))
    replacement.replace(book.file)
    assert book.current() == newer


@pytest.mark.parametrize("kind", ["folder", "pipe", "endless", "loop"])
def test_things_that_are_no_file(book: RosterBook, kind: str) -> None:
    make = {
        "folder": book.file.mkdir,
        "pipe": lambda: os.mkfifo(book.file),
        "endless": lambda: book.file.symlink_to("/dev/zero"),
        "loop": lambda: book.file.symlink_to(book.file),
    }
    make[kind]()
    with pytest.raises(EnvironmentFault, match=r"roster\.json"):
        book.current()


def test_a_huge_file_is_not_read_whole(book: RosterBook) -> None:
    with book.file.open("wb") as file:
        file.truncate(100 * 2**20)
    with pytest.raises(ConfigError, match="at most 16777216 are allowed"):
        book.current()


def test_the_notes_are_for_the_owner_alone(book: RosterBook, tmp_path: Path) -> None:
    book.accept(version()[1])
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "state" / "roster.noted").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"{}", b"1", b'{"federations":{},"version":2}', b'{"federations":{}}'])
def test_broken_notes_are_never_repaired(book: RosterBook, tmp_path: Path, content: bytes) -> None:
    book.accept(version(2)[1])
    (tmp_path / "state" / "roster.noted").write_bytes(content)
    for _ in range(2):
        with pytest.raises(CorruptionError, match=r"roster\.noted: .*put back the newest copy"):
            book.accept(version(3)[1])
    assert (tmp_path / "state" / "roster.noted").read_bytes() == content


@pytest.mark.parametrize("call", ["fsync", "open", "replace"])
def test_without_a_note_there_is_no_roster(book: RosterBook, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Cut at each call: either an error and nothing noted, or the roster and its note."""
    book.file.write_bytes(version()[1])

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if call == "replace":
        monkeypatch.setattr(Path, "replace", full)
    elif call == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        really = os.open
        monkeypatch.setattr(os, "open", lambda f, *a, **k: full() if str(f).endswith(".new") else really(f, *a, **k))
    with pytest.raises(EnvironmentFault, match="No space left on device"):
        book.current()
    monkeypatch.undo()
    assert book.newest() is None
    assert not list(book.file.parent.rglob("*.new"))
    assert book.current() == version()[0]


def test_the_note_is_on_the_disk_before_its_name(book: RosterBook, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("sync"), sync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda old, new: (order.append("rename"), replace(old, new))[1])
    book.accept(version()[1])
    assert order == ["sync", "rename", "sync"]


def test_two_who_accept_at_once_never_go_back(tmp_path: Path) -> None:
    """Without the lock, one that read the notes early would write an older number over a newer one."""
    files = [version(number)[1] for number in range(2, 22, 2)]
    start = threading.Barrier(len(files))

    def accept(raw: bytes) -> None:
        start.wait()
        with contextlib.suppress(Refusal):
            opened(tmp_path).accept(raw)

    threads = [threading.Thread(target=accept, args=(raw,)) for raw in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    note = opened(tmp_path).newest()
    assert note is not None
    assert note.number == 20


def test_reading_a_roster_without_pins(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json: no such file"):
        read_roster(tmp_path / "none.json")
    (tmp_path / "r.json").write_bytes(version()[1])
    assert read_roster(tmp_path / "r.json").roster == version()[0]
