"""Which machine will fail: an example of a task of one's own."""

from machine_failure.task import MachineFailure

__all__ = ["MachineFailure"]
