"""NVML: the energy counters of Nvidia's GPUs, from Volta on, in millijoules since the driver was loaded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fedsus.errors import EnvironmentFault

if TYPE_CHECKING:
    from types import ModuleType

MOST: Final = 2000.0
"""W, where a GPU does not say its limit."""

_OVER: Final = 2.0
"""Times its limit that a GPU may draw for a moment."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. See `fedsus.energy.meters.counters.Counter`.

    Attributes:
        limit: W that it is held to.
        idle: W of it measured when nothing ran on it; None where something did.
    """

    name: str
    limit: float
    idle: float | None
    _handle: Any
    _nvml: ModuleType

    @property
    def wraps(self) -> None:
        """Never: 64 bits of millijoules last longer than any GPU."""
        return

    @property
    def most(self) -> float:
        """As `Counter.most`."""
        return _OVER * self.limit

    def read(self) -> float:
        """As `Counter.read`."""
        with _faults(self._nvml):
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) * 1e-3

    def others(self) -> int:
        """Processes that compute on it beside this one; 0 where it does not say."""
        with contextlib.suppress(EnvironmentFault), _faults(self._nvml):
            return max(len(self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)) - 1, 0)
        return 0


def find(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs that this process may use (``CUDA_VISIBLE_DEVICES``); none where there is no driver.

    Raises:
        EnvironmentFault: the driver is there and fails, or a GPU has no counter.
    """
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return []
    except pynvml.NVMLError as error:
        raise EnvironmentFault(f"NVML does not start: {error}") from None
    with _faults(pynvml):
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        ids = [_text(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    return [_gpu(pynvml, i, handles[i]) for i in visible(ids, environment.get("CUDA_VISIBLE_DEVICES"))]


def visible(ids: list[str], wanted: str | None) -> list[int]:
    """Indices of those GPUs that ``CUDA_VISIBLE_DEVICES`` names; all where it names parts of GPUs, or is not set."""
    if wanted is None:
        return list(range(len(ids)))
    found: list[int] = []
    for word in (word.strip() for word in wanted.split(",")):
        if word.startswith("MIG-"):
            return list(range(len(ids)))
        matches = [i for i, name in enumerate(ids) if word == str(i) or (word and name.startswith(word))]
        if len(matches) != 1:
            # CUDA too stops at the first that is none.
            break
        found += [i for i in matches if i not in found]
    return found


def _gpu(nvml: ModuleType, index: int, handle: Any) -> Gpu:
    with _faults(nvml):
        name = _text(nvml.nvmlDeviceGetName(handle))
    limit = MOST
    with contextlib.suppress(EnvironmentFault), _faults(nvml):
        limit = nvml.nvmlDeviceGetEnforcedPowerLimit(handle) * 1e-3
    idle = None
    with contextlib.suppress(EnvironmentFault), _faults(nvml):
        if not nvml.nvmlDeviceGetComputeRunningProcesses(handle) and not nvml.nvmlDeviceGetUtilizationRates(handle).gpu:
            idle = min(nvml.nvmlDeviceGetPowerUsage(handle) * 1e-3, limit)
    gpu = Gpu(f"GPU {index} ({name})", limit, idle, handle, nvml)
    gpu.read()
    return gpu


@contextlib.contextmanager
def _faults(nvml: ModuleType) -> Iterator[None]:
    try:
        yield
    except nvml.NVMLError as error:
        raise EnvironmentFault(f"NVML: {error}") from None


def _text(name: str | bytes) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name
