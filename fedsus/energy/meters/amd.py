"""AMD's GPUs: their energy counters, by the library that comes with ROCm (amdsmi)."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from fedsus.errors import EnvironmentFault

MOST: Final = 2000.0
"""W, where a GPU does not say its limit."""

_COUNTS: Final = ("energy_accumulator", "power")
"""What versions of amdsmi call the counter; the unit is ``counter_resolution`` microjoules."""


@dataclass(frozen=True, slots=True)
class AmdGpu:
    """One GPU. See `fedsus.energy.meters.gpu.Accelerator`.

    Attributes:
        limit: W that it is held to.
    """

    name: str
    limit: float
    _handle: Any
    _smi: Any

    @property
    def wraps(self) -> None:
        """Never: 64 bits of some microjoules."""
        return

    @property
    def most(self) -> float:
        """As `Counter.most`: twice the limit, for a moment."""
        return 2 * self.limit

    @property
    def idle(self) -> None:
        """It does not say whether something runs on it."""
        return

    def read(self) -> float:
        """As `Counter.read`."""
        count = _asked(lambda: self._smi.amdsmi_get_energy_count(self._handle))
        for key in _COUNTS:
            if key in count:
                return float(count[key]) * float(count["counter_resolution"]) * 1e-6
        raise EnvironmentFault(f"amdsmi: {self.name} has no energy counter")

    def others(self) -> int:
        """Not known, and taken as none."""
        return 0


def find() -> list[AmdGpu]:
    """AMD's GPUs of this machine; none without amdsmi.

    Raises:
        EnvironmentFault: the driver is there and fails, or a GPU has no counter.
    """
    try:
        smi: Any = importlib.import_module("amdsmi")
    except (ImportError, OSError, KeyError, AttributeError):  # it looks for its library while it is imported
        return []
    _asked(smi.amdsmi_init)
    handles = _asked(smi.amdsmi_get_processor_handles)
    read = [(gpu, gpu.read()) for gpu in (_gpu(smi, index, handle) for index, handle in enumerate(handles))]
    # A double GPU (MI250) counts both halves in the first one; the second one says 0 for ever.
    found = [gpu for gpu, joules in read if joules > 0]
    if read and not found:
        raise EnvironmentFault(f"amdsmi: the energy counter of {read[0][0].name} reads 0")
    return found


def _gpu(smi: Any, index: int, handle: Any) -> AmdGpu:
    name, limit = "AMD", MOST
    with contextlib.suppress(EnvironmentFault, KeyError):
        name = str(_asked(lambda: smi.amdsmi_get_gpu_asic_info(handle))["market_name"])
    with contextlib.suppress(EnvironmentFault, KeyError):
        limit = float(_asked(lambda: smi.amdsmi_get_power_cap_info(handle))["power_cap"]) * 1e-6 or MOST
    return AmdGpu(f"GPU {index} ({name})", limit, handle, smi)


def _asked(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except Exception as error:  # its errors have no base that all versions export
        raise EnvironmentFault(f"amdsmi: {' '.join(str(error).split()) or type(error).__name__}") from None
