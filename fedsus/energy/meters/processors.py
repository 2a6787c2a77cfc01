"""Which processor this is, and its thermal design power where CodeCarbon's table knows it."""

from __future__ import annotations

import csv
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

CPUINFO: Final = Path("/proc/cpuinfo")
_NOISE: Final = re.compile(
    r"\((?:r|tm|c)\)|\bcpu\b|\bprocessor\b|\b\d+-core\b|\b\d+(?:st|nd|rd|th) gen\b|@.*$|\bwith radeon.*$|,",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """This machine's processors, all of one kind.

    Attributes:
        name: as the system calls it; "" where it does not.
        cores: logical cores of the machine.
        sockets: how many processors.
        virtual: whether the machine shows a part of a processor only, as virtual machines do.
    """

    name: str
    cores: int
    sockets: int = 1
    virtual: bool = False


def processor(file: Path = CPUINFO) -> Processor:
    """What the system says."""
    cores = os.cpu_count() or 1
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Processor(name=_apple() or platform.processor(), cores=cores)
    fields: dict[str, set[str]] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), set()).add(value.strip())
    flags = {flag for line in fields.get("flags", ()) for flag in line.split()}
    names = sorted(fields.get("model name", ()))
    sockets = max(len(fields.get("physical id", ())), 1)
    return Processor(name=names[0] if names else "", cores=cores, sockets=sockets, virtual="hypervisor" in flags)


def tdp(name: str, rows: Iterable[tuple[str, str]] | None = None) -> float | None:
    """Thermal design power in W of the processor called ``name``; None where the table does not know just it.

    A name must be the table's, but for marks, clock rates and numbers of cores: the power of a similar name may be
    four times another. ``rows`` are name and power; else those of the installed CodeCarbon.
    """
    wanted = _plain(name)
    if not wanted:
        return None
    found = {power for other, power in (_table() if rows is None else rows) if _plain(other) == wanted}
    if len(found) != 1:
        return None
    try:
        watts = float(found.pop())
    except ValueError:
        return None
    return watts if math.isfinite(watts) and watts > 0 else None


def _apple() -> str:
    """The name on macOS, "Apple M2 Pro"; "" elsewhere."""
    if platform.system() != "Darwin":
        return ""
    command = ("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string")
    try:
        return subprocess.run(command, capture_output=True, timeout=5, check=True, text=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _table() -> list[tuple[str, str]]:
    """CodeCarbon's table as a file: none of its code runs, so that nothing of it is sent, written or logged."""
    spec = find_spec("codecarbon")
    if spec is None or not spec.submodule_search_locations:
        return []
    file = Path(spec.submodule_search_locations[0]) / "data" / "hardware" / "cpu_power.csv"
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return [(row["Name"], row["TDP"]) for row in csv.DictReader(lines)]
    except (OSError, KeyError, UnicodeDecodeError):
        return []


def _plain(name: str) -> str:
    return " ".join(_NOISE.sub(" ", name).casefold().split())
