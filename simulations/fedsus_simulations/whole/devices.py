"""Whole devices in this process, asked in turn: policy, ledger and training of each, as deployed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fedsus.errors import Cancelled
from fedsus.rounds.device_half.device import Device
from fedsus.types import Answered, Ask, Lost, Member, Reply


def _never() -> bool:
    return False


class DeviceFleet:
    """Devices in this process, asked one after the other in the order of their names.

    Args:
        devices: client name -> device.
    """

    def __init__(self, devices: Mapping[str, Device]) -> None:
        self._devices = dict(sorted(devices.items()))

    def members(self) -> Sequence[Member]:
        """All devices; a simulated one is always connected."""
        return [Member(name, name) for name in self._devices]

    def ask(self, ask: Ask) -> Iterator[Reply]:
        """Ask each device in turn, optional ones too; each reply is handed over before the next device starts."""
        for name in ask.requests:
            device = self._devices.get(name)
            if device is None:
                yield Lost(name)
                continue
            try:
                answer = device.answer(ask.request(name), _never)
            except Cancelled:
                yield Lost(name)
                continue
            answer.sent()
            yield Answered(name, answer.body)
