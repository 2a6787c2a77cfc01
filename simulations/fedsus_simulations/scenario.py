"""``scenario.toml``: a run to simulate. The tables of ``run.toml``, and whose data, how they train, how they behave."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedsus.config import RunConfig
from fedsus.errors import ConfigError
from fedsus.plan import Name, Positive, Scalar, Strict


class PopulationConfig(Strict):
    """``[population]``: who the clients are and what data they have.

    Attributes:
        data: a data set's name (`fedsus data list`), or the path of a file or folder.
        partition: "groups": the data's own clients (hospital, person, role); "iid": an equal share of all rows each;
            "dirichlet": each class divided by a draw from Dirichlet(alpha) (Hsu, Qi and Brown 2019).
        clients: how many; not with "groups", where the data say it.
        alpha: of the Dirichlet distribution: small is uneven.
        least: fewest training examples of a client; those of "groups" with fewer are left out, and counted.
        options: the task's own, as in ``[data.<id>]`` of agent.toml.
    """

    data: Annotated[str, Field(min_length=1)]
    partition: Literal["groups", "iid", "dirichlet"] = "groups"
    clients: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    alpha: Positive | None = None
    least: Annotated[int, Field(ge=1)] = 1
    options: dict[Name, Scalar] = Field(default={})

    @model_validator(mode="after")
    def _fits(self) -> PopulationConfig:
        if (self.clients is None) != (self.partition == "groups"):
            raise ValueError(
                f"partition '{self.partition}' and clients = {self.clients} do not fit: "
                "'groups' takes the data's own clients, the others need a number"
            )
        if (self.alpha is None) == (self.partition == "dirichlet"):
            raise ValueError("'alpha' belongs to partition = \"dirichlet\", which needs it")
        return self


class SimulationConfig(Strict):
    """``[simulation]``: how it is computed. Changes no guarantee and, but for rounding, no model.

    Attributes:
        masks: "real": each client makes its keys, shares, masks and signatures; "none": their integers are added
            without, to the same sum.
        trainer: "stacked": many clients at once; "loop": one after the other; "auto": stacked where the model can be.
        stack: clients that are trained at once; 0 chooses by the size of the model. Another stack rounds differently.
        workers: processes that train.
        threads: of each worker.
        evaluate_every: rounds between evaluations on the data's own test part; 0 for none.
    """

    masks: Literal["real", "none"] = "real"
    trainer: Literal["auto", "stacked", "loop"] = "auto"
    stack: Annotated[int, Field(ge=0, le=100_000)] = 0
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    evaluate_every: Annotated[int, Field(ge=0, le=100_000)] = 1


class SweepConfig(Strict):
    """``[sweep]``: the same scenario again with other seeds and settings.

    Attributes:
        seeds: one run each.
        settings: dotted name of a field -> its values; every combination is run.
    """

    seeds: list[Annotated[int, Field(ge=0, le=2**31 - 1)]] = Field(default=[])
    settings: dict[str, list[Any]] = Field(default={})


class Scenario(RunConfig):
    """A run to simulate."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    population: PopulationConfig
    simulation: SimulationConfig = SimulationConfig()
    sweep: SweepConfig | None = None

    def run_config(self, registered: int) -> RunConfig:
        """What the round loop is given, for so many registered clients.

        Raises:
            ConfigError: fewer clients than the plan's cohort, or a secure sum that is not safe.
        """
        from fedsus_simulations.sums import chosen, without_masks

        size = self.plan.cohort.size
        if registered < size:
            raise ConfigError(f"plan.cohort.size = {size}: the population has {registered} clients; ask for fewer")
        config = RunConfig(**{name: getattr(self, name) for name in RunConfig.model_fields})
        config = chosen(config, registered)
        return without_masks(config, registered) if self.simulation.masks == "none" else config
