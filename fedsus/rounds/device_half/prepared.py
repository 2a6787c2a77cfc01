"""A device's tasks with their data, checked and loaded once, and kept between rounds."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fedsus import plan as plans
from fedsus.errors import FedsusError, Refusal
from fedsus.plan import Plan
from fedsus.rounds.device_half.answers import line
from fedsus.tasks import metrics

if TYPE_CHECKING:
    from fedsus.learning import Trainer
    from fedsus.owner.admission import Grant
    from fedsus.tasks.task import DataSource, Shard, Task

log = logging.getLogger("fedsus.device")

_PREPARED: Final = 4
"""Tasks kept with their data: a policy may allow a range of settings, and each value loads the data once more."""


@dataclass(slots=True)
class Prepared:
    """A task with its data and trainers."""

    task: Task
    shard: Shard
    trainers: dict[str, Trainer] = field(default_factory=dict)


class PreparedTasks:
    """See above.

    Args:
        tasks: the device's own table, name -> built-in name or ``module:Class``.
        sources: data id -> where the data are.
    """

    def __init__(self, tasks: Mapping[str, str], sources: Mapping[str, DataSource]) -> None:
        self._tasks, self._sources = tasks, sources
        self._prepared: dict[str, Prepared] = {}

    def of(self, plan: Plan, grant: Grant) -> Prepared:
        """The task with its data, checked and loaded once; told to the owner's log.

        Raises:
            DataError: the data do not fit the task.
            Refusal: the plan does not fit the task.
        """
        key = plans.canonical([grant.task, grant.data_id, plan.task.settings]).decode()
        prepared = self._prepared.get(key)
        if prepared is None:
            try:
                prepared = self._load(plan, grant)
            except FedsusError:
                raise
            except Exception as error:
                raise Refusal(f"task '{grant.task}': {line(error)}") from error
            while len(self._prepared) >= _PREPARED:
                del self._prepared[next(iter(self._prepared))]
            self._prepared[key] = prepared
        if not metrics.are_of(plan.metrics, prepared.task.bounds):
            raise Refusal(metrics.for_owner(plan.metrics, prepared.task.bounds))
        return prepared

    def _load(self, plan: Plan, grant: Grant) -> Prepared:
        from fedsus.learning.parameters import check_model, dimension
        from fedsus.tasks import registry
        from fedsus.tasks.checks import refuse
        from fedsus.tasks.task import Checked

        source = self._sources.get(grant.data_id)
        if source is None:
            raise Refusal(f"data '{grant.data_id}' is not in agent.toml: add a table [data.{grant.data_id}]")
        task = registry.build(registry.resolve(self._tasks[grant.task]), plan.task.settings)
        model = task.model(0)
        check_model(model, grant.task, private=plan.private)
        if dimension(model) != plan.dimension:
            raise Refusal(f"the plan's model has {plan.dimension} parameters, the task's {dimension(model)}")
        if isinstance(task, Checked):
            # A private run makes no use of batch_size: as a bound on the rows it would let the server ask for n.
            findings = task.check(source, 1 if plan.private else plan.training.batch_size)
            for finding in findings:
                log.warning("data '%s': %s: %s", grant.data_id, finding.severity, finding.message)
            refuse(findings)
        shard = task.load(source)
        log.info("data '%s': %d rows to train on, %d held out", grant.data_id, shard.size, len(shard.held_out[0]))
        return Prepared(task, shard)
