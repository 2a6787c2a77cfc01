"""Which workers a scenario asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fedsus.errors import ConfigError
from fedsus_simulations.workers.inline import Inline, Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from fedsus_simulations.clients.blocks import Workers
    from fedsus_simulations.scenario.config import Scenario
    from fedsus_simulations.workers.training import BlockTrainer


def workers_for(
    scenario: Scenario, trainer: BlockTrainer, root: Path, reference: str, ray: str | None = None
) -> Workers:
    """The workers that a scenario asks for, started.

    Args:
        trainer: of this process.
        root, reference: as `Recipe` has them.
        ray: address of a Ray cluster; "auto": the one that this machine is part of, or a new one of its own
            processors. None: this machine's processes.

    Raises:
        ConfigError: Ray is not installed or not there, or processes are asked for as well.
        DataError: a worker does not find its data.
    """
    asked, recipe = scenario.simulation, Recipe(scenario, root, reference)
    if ray is not None:
        if asked.workers > 1:
            raise ConfigError(
                f"--ray: the cluster has workers of its own; set simulation.workers = {asked.workers} to 1"
            )
        from fedsus_simulations.workers.ray_workers import OnRay

        return OnRay.start(recipe, ray)
    if asked.workers > 1:
        from fedsus_simulations.workers.processes import Processes

        return Processes.start(recipe)
    import torch

    from fedsus.learning import optimizers

    optimizers.preload(torch.zeros(1, requires_grad=True))
    return Inline(replace(trainer, compute=replace(trainer.compute, threads=1)), asked.threads)
