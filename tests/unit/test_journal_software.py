"""What a run's first entry says of the software: the same for the same files, another for any other byte."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from fedsus.journal.software import NAMED, code_hash, installed, lock_hash


def sources(folder: Path) -> Path:
    (folder / "part").mkdir(parents=True)
    (folder / "__init__.py").write_text("A = 1\n")
    (folder / "part" / "one.py").write_text("B = 2\n")
    return folder


def test_versions_are_those_installed() -> None:
    found = installed()
    assert set(found) == {*NAMED, "python", "code", "lock"}
    assert {name: found[name] for name in NAMED} == {name: metadata.version(name) for name in NAMED}
    assert found["python"] == platform.python_version()
    assert all(len(found[name]) == 64 for name in ("code", "lock"))


def test_the_code_hash_is_of_the_sources_alone_wherever_they_are(tmp_path: Path) -> None:
    one, two = sources(tmp_path / "one"), sources(tmp_path / "elsewhere" / "two")
    (two / "__pycache__").mkdir()
    (two / "__pycache__" / "one.cpython-311.pyc").write_bytes(b"compiled")
    assert code_hash(one) == code_hash(two)


@pytest.mark.parametrize("change", ["a byte", "a name", "one more", "one less", "a border moved"])
def test_any_change_of_the_sources_is_another_hash(tmp_path: Path, change: str) -> None:
    folder = sources(tmp_path / "package")
    before = code_hash(folder)
    match change:
        case "a byte":
            (folder / "part" / "one.py").write_text("B = 3\n")
        case "a name":
            (folder / "part" / "one.py").rename(folder / "part" / "two.py")
        case "one more":
            (folder / "empty.py").write_text("")
        case "one less":
            (folder / "part" / "one.py").unlink()
        case _:
            (folder / "__init__.py").write_text("A = 1\nB = 2\n")
            (folder / "part" / "one.py").write_text("")
    assert code_hash(folder) != before


def test_the_lock_hash_is_of_a_set() -> None:
    one = [("numpy", "2.1"), ("attrs", "25.1")]
    assert lock_hash(one) == lock_hash(one[::-1])
    assert lock_hash(one) != lock_hash([("numpy", "2.1"), ("attrs", "25.2")])
    assert lock_hash(one) != lock_hash(one[:1])


def test_another_process_finds_the_same() -> None:
    program = "from fedsus.journal.software import installed; print(sorted(installed().items()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == str(sorted(installed().items())), done.stderr
