"""RAPL: energy counters of processors, Intel's and AMD's, as Linux shows them in /sys/class/powercap.

Domains: Documentation/power/powercap in the kernel's sources. A package holds its cores and its own graphics; memory
(dram) is beside it; psys and the MMIO interface show the same energy again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedsus.energy.meters.counters import beginning
from fedsus.errors import EnvironmentFault

ROOT: Final = Path("/sys/class/powercap")
MOST: Final = 1000.0
"""W. Twice the largest processors that are sold."""

_ZONE: Final = re.compile(r"intel-rapl:\d+(:\d+)?")
_SAME: Final = 1.0
"""Joules between counters of several dies that show one: they are read one after the other."""

WAY_OUT: Final = 'let a group read it, as docs/energy.md says (Permissions), or set [energy] meter = "model"'


@dataclass(frozen=True, slots=True)
class Rapl:
    """One domain. See `fedsus.energy.meters.counters.Counter`."""

    name: str
    file: Path
    wraps: float
    most: float = MOST

    def read(self) -> float:
        """As `Counter.read`."""
        return _microjoules(self.file) * 1e-6


def find(root: Path = ROOT) -> list[Rapl]:
    """The packages of this machine and their memory, each once, and all of them readable.

    Raises:
        EnvironmentFault: there are none, or one of them cannot be read: what is missing, and the way out.
    """
    try:
        zones = sorted(zone for zone in root.iterdir() if _ZONE.fullmatch(zone.name))
    except OSError:
        zones = []
    found = [counter for zone in zones if (counter := _counter(zone)) is not None]
    if not any("package" in counter.name for counter in found):
        raise EnvironmentFault(
            f"no RAPL in {root}: "
            'a virtual machine, a container, or a processor or kernel without; [energy] meter = "model" goes without'
        )
    return _each_once(found)


def _counter(zone: Path) -> Rapl | None:
    try:
        name = (zone / "name").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    if not name.startswith("package-") and name != "dram":
        return None
    shown = name if name != "dram" else f"dram-{zone.name.split(':')[1]}"
    return Rapl(f"RAPL {shown}", zone / "energy_uj", _microjoules(zone / "max_energy_range_uj") * 1e-6)


def _each_once(counters: list[Rapl]) -> list[Rapl]:
    """Without the dies of a package that show the counter of another die of it."""
    kept: list[tuple[Rapl, float]] = []
    for counter in counters:
        joules = counter.read()
        same = any("-die-" in counter.name and "-die-" in k.name and abs(joules - j) < _SAME for k, j in kept)
        if not same:
            kept.append((counter, joules))
    return [counter for counter, _ in kept]


def _microjoules(file: Path) -> int:
    try:
        text = beginning(file).strip()
    except PermissionError:
        raise EnvironmentFault(f"{file}: only root may read it; {WAY_OUT}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFault(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not re.fullmatch(r"\d{1,20}", text):
        raise EnvironmentFault(f"{file}: '{text[:40]}' is no number of microjoules")
    return int(text)
