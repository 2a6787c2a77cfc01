"""Loads torch, opacus and the owner's tasks: seconds, so after the connection is up and beside the heartbeat."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from fedsus.owner.policy import Policy
from fedsus.types import Clock
from fedsus_client.config import AgentConfig

if TYPE_CHECKING:
    from fedsus.owner.consumption import Consumption
    from fedsus.owner.ledger import Ledger
    from fedsus.rounds.device_half.device import Device
    from fedsus.rounds.device_half.seeds import SeedSource
    from fedsus.rounds.device_half.sessions import Sessions

log = logging.getLogger("fedsus.client")


def load_device(
    config: AgentConfig,
    policy: Policy,
    ledger: Ledger,
    seeds: SeedSource | None,
    clock: Clock,
    sessions: Sessions | None,
    consumption: Consumption,
) -> Device:
    """The device half of rounds over an owner's files; ``seeds`` None draws from the operating system."""
    started = time.monotonic()
    from fedsus.learning.settings import Compute
    from fedsus.privacy.noise import SystemNoise
    from fedsus.rounds.device_half.device import Device
    from fedsus.rounds.device_half.seeds import system_seed
    from fedsus.tasks.task import DataSource
    from fedsus_client.evaluations import Evaluations

    _import_trainers(policy)
    device = Device(
        policy=policy,
        ledger=ledger,
        tasks=config.tasks,
        sources={name: DataSource(part.path, part.options) for name, part in config.data.items()},
        compute=Compute(config.compute.device, config.compute.threads or os.cpu_count() or 1),
        noise=SystemNoise(),
        seeds=seeds or system_seed,
        report=Evaluations(config.state.folder, clock),
        sessions=sessions,
        consumption=consumption,
    )
    log.info("ready to train after %.1f s", time.monotonic() - started)
    return device


def _import_trainers(policy: Policy) -> None:
    """Import now what the policy may need, so that the first round does not wait for it; opacus takes memory."""
    import torch._dynamo  # noqa: F401  # 800 modules that the first optimizer of a process would import

    import fedsus.learning.loop

    if policy.privacy.epsilon > 0:
        import dp_accounting.pld  # noqa: F401

        import fedsus.learning.dp_sgd  # noqa: F401
