"""What runs here, as a run's first entry names it: versions, and hashes of the code and of all that is installed."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMED: Final = (
    "fedsus",
    "fedsus-server",
    "flwr",
    "numpy",
    "cryptography",
    "dp-accounting",
    "pydantic",
    "scipy",
    "securesystemslib",
)
"""Distributions whose versions are named one by one; those that are not installed are left out."""


@cache
def installed() -> dict[str, str]:
    """Distribution -> version of `NAMED`, "python", and two SHA-256 (hex): "code" of fedsus' sources, "lock" of all
    installed distributions. The same for the same files, wherever they are installed; computed once a process.
    """
    versions = _versions()
    named = {name: versions[name] for name in NAMED if name in versions}
    code, lock = code_hash(Path(__file__).resolve().parents[1]), lock_hash(versions.items())
    return named | {"python": platform.python_version(), "code": code, "lock": lock}


def code_hash(package: Path) -> str:
    """SHA-256 (hex) over the names and contents of all ``*.py`` below a folder, in the order of their names."""
    found = hashlib.sha256()
    files = {file.relative_to(package).as_posix(): file for file in package.rglob("*.py")}
    for name, file in sorted(files.items()):
        found.update(f"{name}\n{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def lock_hash(versions: Iterable[tuple[str, str]]) -> str:
    """SHA-256 (hex) over lines ``name==version``, sorted."""
    lines = sorted(f"{name}=={version}\n" for name, version in versions)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _versions() -> dict[str, str]:
    """All distributions that can be imported; of two of one name the one that is found first, as an import would."""
    found: dict[str, str] = {}
    for each in metadata.distributions():
        found.setdefault(each.name.lower().replace("_", "-").replace(".", "-"), each.version)
    return found
