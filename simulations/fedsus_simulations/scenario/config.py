"""``scenario.toml``: a run to simulate. The tables of ``run.toml``, and whose data, how they train, how they behave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from fedsus.config import RunConfig
from fedsus.errors import ConfigError
from fedsus.plan import Name, Positive, Scalar, Strict
from fedsus_simulations.scenario.owners import OwnersConfig
from fedsus_simulations.scenario.traces import TracesConfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MOST_RUNS: Final = 10_000
"""Of one sweep."""
_NO_SETTINGS: Final = {
    "seed": "seeds have a list of their own: [sweep] seeds, or --seeds 1,2,3",
    "name": "it changes no result",
    "sweep": "a sweep has no sweep in it",
}


class PopulationConfig(Strict):
    """``[population]``: who the clients are and what data they have.

    Attributes:
        data: a data set's name (`fedsus data list`), or the path of a file or folder.
        partition: "groups": the data's own clients (hospital, person, role); "iid": an equal share of all rows each;
            "dirichlet": equally many rows each, of classes in proportions of Dirichlet(alpha) (Hsu, Qi and Brown
            2019); "dirichlet-by-class": each class divided over the clients by Dirichlet(alpha) (Yurochkin et al.
            2019); "sampled": ``examples`` random rows each, which others may have too; "files": a file or folder each.
        files: client name -> path, with "files" alone.
        clients: how many; "groups" and "files" have their own.
        alpha: of the Dirichlet distribution: small is uneven.
        examples: rows of each client, with "sampled" alone.
        held_out: share of each client's own rows that it measures on, and does not train on. Clients of "groups" have
            held-out parts of their own.
        least: fewest training examples of a client; those of "groups" with fewer are left out, and counted.
        options: the task's own, as in ``[data.<id>]`` of agent.toml.
    """

    data: str = ""
    partition: Literal["groups", "iid", "dirichlet", "dirichlet-by-class", "sampled", "files"] = "groups"
    files: dict[Name, str] = Field(default={})
    clients: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    alpha: Positive | None = None
    examples: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    held_out: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    least: Annotated[int, Field(ge=1)] = 1
    options: dict[Name, Scalar] = Field(default={})

    @model_validator(mode="after")
    def _fits(self) -> PopulationConfig:
        if bool(self.files) != (self.partition == "files"):
            raise ValueError("'files' belongs to partition = \"files\", which needs it: client name = path")
        if bool(self.data) == (self.partition == "files"):
            raise ValueError("'data' is needed: a data set's name or a path; but not with partition = \"files\"")
        if (self.clients is None) != (self.partition in ("groups", "files")):
            raise ValueError(
                f"partition '{self.partition}' and clients = {self.clients} do not fit: "
                "'groups' and 'files' have their own clients, the others need a number"
            )
        if (self.alpha is None) == (self.partition in ("dirichlet", "dirichlet-by-class")):
            raise ValueError('\'alpha\' belongs to partition = "dirichlet" and "dirichlet-by-class", which need it')
        if (self.examples is None) == (self.partition == "sampled"):
            raise ValueError("'examples' belongs to partition = \"sampled\", which needs it")
        if self.held_out and self.partition in ("groups", "files"):
            raise ValueError(
                f"held_out = {self.held_out:g}: clients of '{self.partition}' have held-out parts of their own; "
                "see the task's options for how large"
            )
        return self


class SimulationConfig(Strict):
    """``[simulation]``: how it is computed. Changes no guarantee and, but for rounding, no model.

    Attributes:
        masks: "real": each client makes its keys, shares, masks and signatures; "none": their integers are added
            without, to the same sum.
        trainer: "stacked": many clients at once; "loop": one after the other; "auto": stacked where the model can be.
        stack: clients that are trained at once; 0 chooses by the size of the model. Another stack rounds differently.
        workers: processes that train.
        threads: blocks that each worker trains at the same time; the loop trainer takes turns: give it workers.
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
        seeds: one run each, of every combination; the scenario's own where there are none.
        settings: dotted name of a field -> its values; every combination is run.
    """

    seeds: list[Annotated[int, Field(ge=0, le=2**31 - 1)]] = Field(default=[])
    settings: dict[str, list[Any]] = Field(default={})

    @model_validator(mode="after")
    def _distinct(self) -> SweepConfig:
        runs = len(self.seeds) or 1
        _each_once("seeds", self.seeds)
        for name, values in self.settings.items():
            if name.partition(".")[0] in _NO_SETTINGS:
                raise ValueError(f"settings.{name}: {_NO_SETTINGS[name.partition('.')[0]]}")
            if not values:
                raise ValueError(f"settings.{name}: an empty list leaves nothing to run")
            _each_once(f"settings.{name}", values)
            runs *= len(values)
        if runs > MOST_RUNS:
            raise ValueError(f"{runs} runs; at most {MOST_RUNS}: leave out seeds or values")
        return self


def _each_once(name: str, values: Sequence[Any]) -> None:
    """Refuse a value that is there twice: its run would be counted as another, and the spread look smaller."""
    twice = next((value for at, value in enumerate(values) if value in values[:at]), None)
    if twice is not None:
        raise ValueError(f"{name}: {twice!r} is there twice")


class Scenario(RunConfig):
    """A run to simulate."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    population: PopulationConfig
    simulation: SimulationConfig = SimulationConfig()
    traces: TracesConfig | None = None
    owners: Annotated[list[OwnersConfig], Field(max_length=100)] = Field(default=[])
    sweep: SweepConfig | None = None

    def run_config(self, registered: int) -> RunConfig:
        """What the round loop is given, for so many registered clients.

        Raises:
            ConfigError: fewer clients than the plan's cohort, or a secure sum that is not safe.
        """
        from fedsus_simulations.scenario.sums import chosen, without_masks

        size = self.plan.cohort.size
        if registered < size:
            raise ConfigError(f"plan.cohort.size = {size}: the population has {registered} clients; ask for fewer")
        config = RunConfig(**{name: getattr(self, name) for name in RunConfig.model_fields})
        config = chosen(config, registered)
        return without_masks(config, registered) if self.simulation.masks == "none" else config

    def with_policies(self, folder: Path) -> Self:
        """The scenario with the tables of its owners' policies in place of their paths, which start at ``folder``.

        Raises:
            ConfigError: a policy that cannot be read.
        """
        found = [one.model_copy(update={"policy": one.read(folder)}) for one in self.owners]
        return self.model_copy(update={"owners": found}) if found else self
