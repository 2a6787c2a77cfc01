"""What was asked on the command line of ``fedsus simulate``, and the scenario that it makes of a file."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import RootModel

from fedsus.config import load, validate
from fedsus.errors import ConfigError
from fedsus_simulations.clients import datasets
from fedsus_simulations.running.saved import Origin
from fedsus_simulations.scenario import catalogue
from fedsus_simulations.scenario.config import Scenario
from fedsus_simulations.scenario.overriding import assignment, toml_values, with_changes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_OF_A_RESUMED_RUN: Final = ("seed", "rounds", "masks", "task")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line; None and empty where nothing was said."""

    scenario: str | None = None
    resume: Path | None = None
    data: Path | None = None
    runs: Path = Path("runs")
    task: str | None = None
    clients: tuple[str, ...] = ()
    seed: int | None = None
    rounds: int | None = None
    changes: tuple[str, ...] = ()
    masks: str | None = None
    workers: int | None = None
    threads: int | None = None
    ray: str | None = None
    sweep: tuple[str, ...] = ()
    seeds: str | None = None
    single: bool = False
    as_json: bool = False
    quiet: bool = False

    @property
    def root(self) -> Path:
        """Folder of the data sets."""
        return (self.data or Path("data")).resolve()

    def assignments(self) -> list[tuple[str, Any]]:
        """Dotted names and values: those of ``--set``, then those that have an option of their own."""
        named = {
            "seed": self.seed,
            "plan.rounds": self.rounds,
            "simulation.masks": self.masks,
            "simulation.workers": self.workers,
            "simulation.threads": self.threads,
        }
        given = [assignment("--set", text) for text in self.changes]
        return given + [(name, value) for name, value in named.items() if value is not None]

    def check_resumed(self) -> None:
        """A resumed run takes its scenario from its folder.

        Raises:
            ConfigError: an option would change it.
        """
        wrong = [f"--{name}" for name in _OF_A_RESUMED_RUN if getattr(self, name) is not None]
        several = {"--set": self.changes, "--client": self.clients, "--sweep": self.sweep, "--seeds": self.seeds}
        wrong += [name for name, value in several.items() if value]
        wrong += ["SCENARIO"] if self.scenario is not None else []
        if wrong:
            raise ConfigError(
                f"--resume {self.resume}: a run goes on as it began, with the scenario in its folder; "
                f"leave out {', '.join(wrong)}"
            )


def scenario_of(options: Options) -> tuple[Scenario, Origin]:
    """The scenario to run, and where it came from (without the run's identifier).

    A ``run.toml``, which has no ``[population]``, is one whose clients come from ``--client``, and whose seed is fresh.

    Raises:
        ConfigError: file, option or field is wrong.
    """
    path = catalogue.find(options.scenario or "")
    data: dict[str, Any] = load(path, RootModel[dict[str, Any]]).root
    where, lent = str(path), "population" not in data
    if options.clients or "population" not in data:
        data = {**data, "population": _clients(data, options.clients)}
    data = _swept(with_changes(data, options.assignments()), options)
    if "seed" not in data:
        data["seed"] = secrets.randbelow(2**31)
    scenario = _absolute(validate(data, Scenario, where)).with_policies(path.resolve().parent)
    model = path.resolve().parent / scenario.server.model
    begins = lent and model.exists()  # beside a scenario it is there by chance: its own model is the seed's
    return scenario, Origin(run="", data=str(options.root), task=options.task or "", model=str(model) if begins else "")


def _absolute(scenario: Scenario) -> Scenario:
    """The scenario with an absolute path where its data are named by a path: a run goes on from anywhere."""
    asked = scenario.population
    data = datasets.absolute(asked.data)
    return scenario.model_copy(update={"population": asked.model_copy(update={"data": data})})


def _swept(data: dict[str, Any], options: Options) -> dict[str, Any]:
    """The data with ``--sweep``, ``--seeds`` and ``--single`` applied; ``--seed`` alone leaves one seed."""
    if options.single:
        return {name: value for name, value in data.items() if name != "sweep"}
    asked = dict(data["sweep"]) if isinstance(data.get("sweep"), dict) else {}
    settings, given = dict(asked.get("settings", {})), set[str]()
    for text in options.sweep:
        name, equals, values = text.partition("=")
        if not equals or not name.strip() or not values.strip():
            raise ConfigError(f"--sweep {text!r}: expected NAME=VALUE,VALUE, as in plan.strategy.name=fedavg,fedadam")
        if name.strip() in given:
            raise ConfigError(f"--sweep {text!r}: '{name.strip()}' is given twice; list its values in one: A,B,C")
        given.add(name.strip())
        settings[name.strip()] = toml_values("--sweep", values)
    if settings:
        asked["settings"] = settings
    if options.seeds is not None:
        asked["seeds"] = toml_values("--seeds", options.seeds)
    elif options.seed is not None and asked.get("seeds"):
        asked["seeds"] = [options.seed]
    return {**data, "sweep": asked} if asked else data


def _clients(data: Mapping[str, Any], clients: Sequence[str]) -> dict[str, Any]:
    """``[population]`` from NAME=PATH options; the shipped hospitals without any."""
    if not clients:
        task = data.get("task")
        name = task.get("name") if isinstance(task, dict) else None
        if name != "heart":
            raise ConfigError(
                f"task '{name}' needs data: give --client NAME=PATH for each client, or a table [population]"
            )
        return {"data": "heart", "partition": "groups"}
    found: dict[str, str] = {}
    for text in clients:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"--client {text!r}: expected NAME=PATH")
        if name in found:
            raise ConfigError(f"--client {text!r}: '{name}' is given twice")
        if not Path(path).exists():
            raise ConfigError(f"--client {text!r}: {path}: no such file or folder")
        found[name] = str(Path(path).resolve())
    return {"partition": "files", "files": found}
