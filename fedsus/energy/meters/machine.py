"""What this machine can measure, part by part, and why not better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from fedsus.energy.meters import amd, nvml, rapl
from fedsus.energy.meters.gpu import GpuPart
from fedsus.energy.meters.model import model_of
from fedsus.energy.meters.package import Packages
from fedsus.energy.meters.processors import processor, tdp
from fedsus.energy.meters.spent import Spent
from fedsus.errors import EnvironmentFault

if TYPE_CHECKING:
    from fedsus.costs import Method
    from fedsus.energy.meters.counters import Counter
    from fedsus.energy.meters.gpu import Accelerator
    from fedsus.energy.meters.model import Model
    from fedsus.energy.meters.phases import Work
    from fedsus.energy.meters.processors import Processor
    from fedsus.energy.meters.spent import Part
    from fedsus.settings.energy import EnergySettings

VIRTUAL: Final = (
    "a virtual machine does not show which part of a processor it has: the power of a core is a default; "
    "set [energy] watts to what your provider says"
)
UNKNOWN: Final = (
    "processor '{name}' is not in CodeCarbon's table: the power of a core is a default; set [energy] watts to what it "
    "draws above idle with all cores busy"
)
NO_TABLE: Final = (
    "without CodeCarbon's table of processors the power of a core is a default: pip install 'fedsus[energy]'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A part of the machine, for a person: by which method it is measured, and from what."""

    part: str
    method: Method
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """See `look`.

    Attributes:
        parts: what is measured; never empty.
        counters: those that are read.
        lines: what `parts` are, in words.
        notes: why it is not better, and the way there.
    """

    parts: tuple[Part, ...]
    counters: tuple[Counter, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hardware:
    """Ways to look; tests give others."""

    rapl: Callable[[], Sequence[Counter]] = rapl.find
    nvidia: Callable[[], Sequence[Accelerator]] = nvml.find
    amd: Callable[[], Sequence[Accelerator]] = amd.find
    processor: Callable[[], Processor] = processor
    tdp: Callable[[str], float | None] = tdp


class WithoutGpus:
    """GPUs that are there and cannot be read: part of no figure, and each figure says so."""

    def spend(self, work: Work) -> Spent:
        """As `Part.spend`."""
        del work
        return Spent(boundaries=("without its GPUs, which have no counter",))


_HARDWARE: Final = Hardware()


def look(settings: EnergySettings, hardware: Hardware = _HARDWARE) -> Machine:
    """The best that the settings allow.

    Raises:
        EnvironmentFault: counters are asked for, one is missing, and the settings refuse to go on without.
    """
    cpu = hardware.processor()
    model, notes = _model(settings, cpu, hardware.tdp)
    if settings.meter == "model":
        return Machine(parts=(model,), counters=(), lines=(_line(model),), notes=tuple(notes))
    missing: list[str] = []
    packages = _try(hardware.rapl, missing)
    try:
        processors: Part = Packages(packages, model, cpu.cores) if packages else model
        gpus = [*hardware.nvidia(), *hardware.amd()]
        parts: list[Part] = [processors, *(GpuPart(gpu) for gpu in gpus)]
    except EnvironmentFault as error:
        gpus, parts = [], [processors, WithoutGpus()]
        missing.append(str(error))
    if missing and settings.meter == "counter" and settings.missing == "refuse":
        raise EnvironmentFault(f'[energy] meter = "counter": {missing[0]}')
    read = [Line(part="processor", method="counter", source=counter.name) for counter in packages] or [_line(model)]
    lines = read + [Line(part="GPU", method="counter", source=gpu.name) for gpu in gpus]
    # Where packages are counted, the model's watts matter only where counters fail.
    notes = missing if packages else missing + notes
    return Machine(parts=tuple(parts), counters=(*packages, *gpus), lines=tuple(lines), notes=tuple(notes))


def _model(settings: EnergySettings, cpu: Processor, table: Callable[[str], float | None]) -> tuple[Model, list[str]]:
    if settings.watts is not None:
        return model_of(settings, cpu.cores), []
    if cpu.virtual:
        return model_of(settings, cpu.cores), [VIRTUAL]
    watts = table(cpu.name)
    if watts is None and find_spec("codecarbon") is None:
        return model_of(settings, cpu.cores), [NO_TABLE]
    if watts is None:
        return model_of(settings, cpu.cores), [UNKNOWN.format(name=cpu.name or "of unknown name")]
    return model_of(settings, cpu.cores, cpu.name, watts * cpu.sockets), []


def _line(model: Model) -> Line:
    return Line(part="processor", method=model.method, source=model.source)


def _try(find: Callable[[], Sequence[Counter]], missing: list[str]) -> list[Counter]:
    try:
        return list(find())
    except EnvironmentFault as error:
        missing.append(str(error))
        return []
