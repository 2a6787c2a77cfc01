"""CodeCarbon as the engine for hardware that it knows and that is not read here: AMD's GPUs.

Its devices alone are used, never its tracker: nothing is sent, written, or measured in the background.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from fedsus.errors import EnvironmentFault

MOST: Final = 2000.0
"""W, where a GPU does not say its limit."""


@dataclass(frozen=True, slots=True)
class AmdGpu:
    """One GPU. See `fedsus.energy.gpu.Accelerator`.

    Attributes:
        limit: W that it is held to.
    """

    name: str
    limit: float
    _device: Any

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
        millijoules = self._device._get_total_energy_consumption()
        if millijoules is None:
            raise EnvironmentFault(f"amdsmi: {getattr(self._device, '_counter_error', None) or 'no energy counter'}")
        return float(millijoules) * 1e-3

    def others(self) -> int:
        """Not known, and taken as none."""
        return 0


def find() -> list[AmdGpu]:
    """AMD's GPUs of this machine; none without ``amdsmi`` (it comes with ROCm) or without CodeCarbon.

    Raises:
        EnvironmentFault: the driver is there and fails, or a GPU has no counter.
    """
    if find_spec("amdsmi") is None or find_spec("codecarbon") is None:
        return []
    from codecarbon.core import gpu_amd

    if not gpu_amd.AMDSMI_AVAILABLE:
        return []
    smi: Any = vars(gpu_amd)["amdsmi"]
    try:
        smi.amdsmi_init()
        devices = [
            gpu_amd.AMDGPUDevice(handle=handle, gpu_index=index)
            for index, handle in enumerate(smi.amdsmi_get_processor_handles())
        ]
    except Exception as error:  # amdsmi's errors have no common base that every version exports
        raise EnvironmentFault(f"amdsmi does not start: {error}") from None
    # The second half of a double GPU says 0 always; the first one's counter holds both.
    found = [_gpu(index, device) for index, device in enumerate(devices) if not device._reports_zero_power_by_design()]
    for gpu in found:
        gpu.read()
    return found


def _gpu(index: int, device: Any) -> AmdGpu:
    limit = None
    with contextlib.suppress(Exception):
        limit = device._get_power_limit()
    return AmdGpu(f"GPU {index} ({device._get_gpu_name()})", float(limit or MOST), device)
