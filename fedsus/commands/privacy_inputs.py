"""What `fedsus privacy` is told: a run's file, the size of its model, who could be asked."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fedsus.config import RunConfig, load, validate
from fedsus.errors import ConfigError
from fedsus.tasks import metrics

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from fedsus.tasks.task import Task

_SIMULATED: Final = frozenset({"seed", "population", "simulation", "traces", "owners", "sweep"})
"""What a scenario of `fedsus simulate` says beyond a run."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """A run before it is opened.

    Attributes:
        dimension: parameters of the model.
        origin: what said so.
        members: who may be asked; None for a sum in clear where nobody said.
        simulated: a scenario; it needs no roster, and cohorts are the simulation's own choice.
    """

    config: RunConfig
    dimension: int
    origin: str
    members: int | None
    simulated: bool = False


def read(file: Path, model: Path | None, dimension: int | None, members: int | None, reference: str | None) -> Inputs:
    """All of it.

    Raises:
        ConfigError: a field of the file, or something that it does not say and no option does.
        CorruptionError: the model file is broken.
    """
    config, scenario = _config(file)
    if scenario is not None:
        population = scenario.get("population")
        said = population.get("clients") if isinstance(population, dict) else None
        members = members if members is not None or not isinstance(said, int) else said
        config = _as_simulated(config, members)
    elif members is None:
        members = _members(file, config)
    if members is None and config.plan.exchange == "secure_sum":
        where = "the scenario's population is known when it is loaded" if scenario is not None else "no roster yet"
        raise ConfigError(f"{file}: {where}: say how many members there are: --members N")
    made = _task(config, reference, dimension is not None)
    if made is not None and not metrics.are_of(config.plan.metrics, made.bounds):
        raise ConfigError(f"{file}: {metrics.for_operator(reference or config.task.name, made.bounds)}")
    size, origin = _dimension(file, config, model, dimension, made)
    return Inputs(config, size, origin, members, scenario is not None)


def _config(file: Path) -> tuple[RunConfig, dict[str, Any] | None]:
    """The run; and what else the file says, if it is a scenario."""
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        data = {}
    beyond = _SIMULATED & data.keys()
    if not beyond:
        return load(file, RunConfig), None  # which says what is wrong
    run = {key: value for key, value in data.items() if key not in _SIMULATED}
    return validate(run, RunConfig, str(file)), {key: data[key] for key in beyond}


def _as_simulated(config: RunConfig, members: int | None) -> RunConfig:
    """As `fedsus simulate` chooses cohorts: A counts within the cohort, which its seed draws."""
    from fedsus.secagg import thresholds

    asked = config.plan
    if asked.exchange == "clear_sum" or members is None or members <= asked.cohort.size:
        return config
    colluders = asked.secure_sum.colluders or thresholds.colluders(asked.cohort.size)
    secure = asked.secure_sum.model_copy(update={"choice": "named", "colluders": colluders})
    return config.model_copy(update={"plan": asked.model_copy(update={"secure_sum": secure})})


def _members(file: Path, config: RunConfig) -> int | None:
    """Of the roster beside the file; None where there is none."""
    from fedsus.owner.pinning import read_roster

    path = file.parent / config.server.roster
    if config.plan.exchange == "clear_sum" or not path.exists():
        return None
    return len(read_roster(path).roster.members)


def _dimension(
    file: Path, config: RunConfig, model: Path | None, given: int | None, task: Task | None
) -> tuple[int, str]:
    """Parameters, from an option, a model file or the task; whatever the unit cannot train is refused."""
    from fedsus.model_file import read_model

    if given is not None:
        return given, "--dimension"
    found = model or file.parent / config.server.model
    size = None if task is None else _checked(task.model(0), config)
    if model is not None or found.exists():
        vector, _ = read_model(found)
        if size is not None and size != len(vector):
            raise ConfigError(f"{found}: {len(vector)} parameters, but the task with these settings has {size}")
        return len(vector), str(found)
    if size is None:
        raise ConfigError(
            f"task '{config.task.name}': not installed here, and {found}: no such file; say how many parameters the "
            "model has: --dimension D, or --model FILE, or --task module:Class"
        )
    return size, f"task '{config.task.name}'"


def _task(config: RunConfig, reference: str | None, sized: bool) -> Task | None:
    """The task, if it is installed here; where the size was given, it is only asked for its metrics."""
    from fedsus.tasks.registry import BUILT_IN, build, resolve

    name = reference or config.task.name
    if (name not in BUILT_IN and ":" not in name) or (sized and not config.plan.metrics):
        return None
    try:
        found = resolve(name)
    except ConfigError:
        if sized and reference is None:
            return None  # as on a server without PyTorch
        raise
    return build(found, config.task.settings)


def _checked(made: nn.Module, config: RunConfig) -> int:
    from fedsus.learning.parameters import check_model, dimension

    check_model(made, config.task.name, private=config.plan.privacy.unit == "example")
    return dimension(made)
