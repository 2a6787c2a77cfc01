"""What a benchmark says: figures of ours and of the peer, and a ratio where larger is better."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedsus import __version__
from fedsus.errors import RunFailed

Number = Annotated[float, Field(allow_inf_nan=False)]


class Figure(BaseModel):
    """What one side needed: ``n`` measurements in ``unit``, after ``warm_up`` that do not count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: Number
    median: Number
    max: Number
    unit: str
    n: Annotated[int, Field(ge=1)]
    warm_up: Annotated[int, Field(ge=0)] = 0
    what: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.median <= self.max:
            raise ValueError(f"min {self.min}, median {self.median}, max {self.max} are out of order")
        return self


class Comparison(BaseModel):
    """Ours against the peer.

    Attributes:
        target: in words, what ours should reach.
        most: what the median of ours should not exceed, in its unit.
        times: what the ratio should reach.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ours: Figure
    peer: Figure
    ratio: Annotated[Number, Field(ge=0)]
    target: str = ""
    most: Number | None = None
    times: Number | None = None

    @property
    def reached(self) -> bool | None:
        """Whether both numbers are met; None where there is none."""
        if self.most is None and self.times is None:
            return None
        return (self.most is None or self.ours.median <= self.most) and (self.times is None or self.ratio >= self.times)


class Table(BaseModel):
    """Figures that are no comparison of two, as rows under columns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | Number, ...], ...]

    @model_validator(mode="after")
    def _filled(self) -> Self:
        for number, row in enumerate(self.rows, start=1):
            if len(row) != len(self.columns):
                raise ValueError(f"row {number} has {len(row)} cells, there are {len(self.columns)} columns")
        return self


class Machine(BaseModel):
    """Where it ran."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str
    cores: int
    memory_gb: float


class Result(Comparison):
    """The JSON of a benchmark: one comparison, whose ratio decides; further ones in ``figures``; tables beside them."""

    name: str
    quick: bool
    machine: Machine
    versions: dict[str, str]
    notes: list[str] = []
    figures: dict[str, Comparison] = {}
    tables: list[Table] = []


def figure(values: Sequence[float], unit: str, what: str = "", warm_up: int = 0) -> dict[str, Any]:
    """A `Figure` of measurements, as plain data; those of the warm-up are not among them."""
    if not values:
        raise RunFailed(f"benchmark: nothing was measured ({what or unit})")
    return {
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
        "unit": unit,
        "n": len(values),
        "warm_up": warm_up,
        "what": what,
    }


def comparison(
    ours: dict[str, Any],
    peer: dict[str, Any],
    target: str = "",
    *,
    most: float | None = None,
    times: float | None = None,
) -> dict[str, Any]:
    """A `Comparison` by medians, where less is better on both sides, as plain data.

    Without ``target``, ``most`` and ``times`` are put into words.
    """
    words = [f"at most {most:g} {ours['unit']}"] if most is not None else []
    words += [f"{times:g} times faster"] if times is not None else []
    # Below a hundred-thousandth of the unit ours counts as that much: a ratio stays finite.
    ratio = peer["median"] / max(ours["median"], 1e-5)
    return {
        "ours": ours,
        "peer": peer,
        "ratio": ratio,
        "target": target or ", ".join(words),
        "most": most,
        "times": times,
    }


def complete(name: str, quick: bool, body: dict[str, Any]) -> Result:
    """A benchmark's own fields with its name, the machine and the versions.

    Raises:
        RunFailed: a field is missing, unknown or no number: the benchmark is wrong.
    """
    known = {"name": name, "quick": quick, "machine": machine(), "versions": versions()}
    try:
        return Result.model_validate(known | body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RunFailed(f"benchmark '{name}': {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def machine() -> Machine:
    """Processor, usable cores and memory of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return Machine(cpu=_cpu(), cores=cores, memory_gb=round(memory, 1))


def load() -> float:
    """Processes that ran or waited for a processor, the mean of the last minute: above 0 when others work here too."""
    return os.getloadavg()[0]


def versions() -> dict[str, str]:
    """Versions that matter for a figure."""
    found = {"python": platform.python_version(), "fedsus": __version__}
    for name in ("torch", "flwr", "opacus", "numpy", "cryptography", "ray"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
