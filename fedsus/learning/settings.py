"""How a round is trained, and on what hardware: two types, so that hardware never meets a guarantee."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from fedsus import plan
from fedsus.errors import ConfigError

DEVICES: Final = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class TrainSettings:
    """What the plan asks of a trainer in one round.

    Attributes:
        training: optimizer, schedule, batches.
        privacy: who is protected, and how; the noise of some is the trainer's, of others the mechanism's.
        round: this round, 1-based.
        rounds: rounds of the run.
    """

    training: plan.Training
    privacy: plan.Privacy
    round: int
    rounds: int

    @property
    def learning_rate(self) -> float:
        """The local learning rate of this round."""
        return plan.learning_rate(self.training, self.round, self.rounds)


@dataclass(frozen=True)
class Compute:
    """The owner's hardware (agent.toml): changes speed, never a guarantee.

    Attributes:
        device: "auto" (CUDA, then MPS, then CPU), "cpu", "cuda", "cuda:1", "mps".
        threads: CPU threads of torch.
    """

    device: str = "auto"
    threads: int = 1


def resolve(compute: Compute) -> torch.device:
    """The torch device to train on; also sets the number of CPU threads of this process.

    Raises:
        ConfigError: unknown device, a device that is not there, or fewer than one thread.
    """
    if compute.threads < 1:
        raise ConfigError(f"compute.threads = {compute.threads}: expected 1 or more")
    device = _device(compute.device)
    if torch.get_num_threads() != compute.threads:
        torch.set_num_threads(compute.threads)
    return device


def resolve_wide(compute: Compute) -> torch.device:
    """As `resolve`, for sums of clipped gradients: the CPU in place of MPS, which has no float64.

    In float32 an example would move a sum of n by up to about n**2 / 2**24 of its bound more than is accounted for.
    """
    device = resolve(compute)
    return torch.device("cpu") if device.type == "mps" else device


def check_precision(training: plan.Training, device: torch.device) -> None:
    """Refuses bfloat16 where the hardware would only emulate it.

    Raises:
        ConfigError: no native bfloat16 here.
    """
    if training.precision == "bfloat16" and not _native_bfloat16(device):
        raise ConfigError(
            f"training.precision = 'bfloat16': this {device.type} has no native bfloat16; use precision = 'float32'"
        )


def _device(name: str) -> torch.device:
    kind, _, index = name.partition(":")
    if kind not in DEVICES or (index and (kind != "cuda" or not index.isdecimal())):
        raise ConfigError(f"compute.device = {name!r}: expected one of {', '.join(DEVICES)}, or cuda:<number>")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if kind == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    if (kind == "cuda" and not cuda) or (kind == "mps" and not mps):
        raise ConfigError(f"compute.device = {name!r}: not available on this machine; use 'auto' or 'cpu'")
    if index and int(index) >= torch.cuda.device_count():
        raise ConfigError(f"compute.device = {name!r}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    return torch.device(name)


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    return False
