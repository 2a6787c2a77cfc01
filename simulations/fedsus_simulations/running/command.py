"""The ``fedsus simulate`` command: a federation in memory, watched like a deployed one; one run, or a sweep of many."""

from __future__ import annotations

import json
import logging
import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from fedsus.cli import INTERRUPTED
from fedsus.errors import RunFailed
from fedsus.privacy.stated import shown
from fedsus_simulations.running import saved
from fedsus_simulations.running.options import Options, scenario_of
from fedsus_simulations.scenario import catalogue

if TYPE_CHECKING:
    from rich.console import Console

    from fedsus.journal import RoundReleased
    from fedsus.types import Vector
    from fedsus_simulations.running.outcome import Outcome
    from fedsus_simulations.running.saved import Origin
    from fedsus_simulations.running.simulation import Loader, Simulation
    from fedsus_simulations.running.sweeping import Cell, Ran
    from fedsus_simulations.scenario.config import Scenario

_WAYS: Final = {
    "secure_sum": "every client makes its keys, shares, masks and signatures, as a device does",
    "clear_sum": "no masks: in a deployment the server would see each client's update",
    "none": "clients' integers are added without masks, to the same sum",
}
_LONGEST_NAME: Final = 38


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs scenarios in folders, and tells people about it.

    Args:
        ray: address of a Ray cluster; None: this machine's processes.
    """

    console: Console
    loader: Loader
    quiet: bool
    ray: str | None

    def say(self, text: str) -> None:
        """A line for people."""
        if not self.quiet:
            self.console.print(text, soft_wrap=True, markup=False, highlight=False)

    def run(self, folder: Path, scenario: Scenario, origin: Origin, *, fresh: bool, part: bool = False) -> Outcome:
        """Run a scenario in its folder, from the start or from where it stands; what came out.

        Args:
            part: of a sweep: said less of.

        Raises:
            RunFailed: no attempts are left; says why the last was abandoned.
        """
        from fedsus_simulations.running.outcome import last_abandoned, outcome
        from fedsus_simulations.running.simulation import Simulation

        before = None if fresh else _status(folder)
        if before == "completed":
            self.say(f"{folder}: finished before")
            return outcome(folder, scenario.seed)
        simulation = Simulation.of(scenario, self.loader.root, loader=self.loader, ray=self.ray)
        try:
            start = _start(simulation, origin) if before in (None, "new") else None
            if fresh:
                saved.save(folder, scenario, origin)
            simulation.open(folder, origin.run, start)
            if not part:
                self._opening(simulation, origin, folder, fresh)
            if before == "failed":
                raise RunFailed(f"{folder}: the run has failed, and does not go on")
            self._watched(simulation, folder, origin.run, start)
        except RunFailed as error:
            reason = last_abandoned(folder)
            raise RunFailed(f"{error}; the last was abandoned: {reason}" if reason else str(error)) from None
        finally:
            simulation.close()
        return outcome(folder, scenario.seed)

    def _watched(self, simulation: Simulation, folder: Path, run: str, start: Vector | None) -> None:
        from fedsus.reporting import read
        from fedsus_simulations.running.watching import Watching

        entries = read(folder)
        with Watching(self.console, self.quiet) as watching:
            watching.begin(entries)

            def told(released: RoundReleased, model: Vector) -> None:
                del model
                watching.round(released, simulation.evaluated.get(released.round))

            simulation.run(folder, run, told, start)

    def _opening(self, simulation: Simulation, origin: Origin, folder: Path, fresh: bool) -> None:
        from fedsus_simulations.clients import description

        scenario = simulation.scenario
        count, size = len(simulation.population.names), scenario.plan.cohort.size
        self.say(f"simulated run {origin.run}: {count} clients in memory, {size} a round, seed {scenario.seed}")
        self.say(str(description.describe(simulation.population)))
        if origin.model:
            self.say(f"begins with the model of {origin.model}")
        if fresh or not (folder / f"{description.NAME}.png").exists():
            description.draw(simulation.population, folder)
        exchange = simulation.config.plan.exchange
        way = "none" if scenario.plan.exchange == "secure_sum" != exchange else exchange
        self.say(f"exchange {scenario.plan.exchange}: {_WAYS[way]}")
        least, asked = simulation.config.plan.cohort.minimum, scenario.plan.cohort.minimum
        if least > asked:
            self.say(
                f"secure_sum releases from {least} of {size} clients on; plan.cohort.minimum = {asked} asks for fewer, "
                'which plan.exchange = "clear_sum" alone would give'
            )

    def closing(self, found: Outcome, folder: Path, picture: str | None) -> None:
        """What came out, and where it is."""
        from fedsus_server.progress import metric_words, size

        if found.central:
            self.say(f"on the test part: {'  '.join(metric_words(found.central))}")
        if found.epsilon is not None:
            whom = f"at delta {found.delta:g} against {found.against}"
            self.say(f"epsilon {shown(found.epsilon)} {whom}: planned, for {found.attempts} attempts")
        both = size(found.bytes_sent + found.bytes_received)
        ways = f"{size(found.bytes_sent)} to the clients and {size(found.bytes_received)} from them"
        self.say(f"{found.exchange} ran {found.asked} times: {both}, {ways}, models included; {found.seconds:.1f} s")
        self.say(f"{found.status}: journal, blobs{', ' + picture if picture else ''} in {folder}")
        self.say(f"its model: fedsus model export {folder} -o trained.safetensors")


def main(options: Options) -> None:
    """Run or resume what was asked for, show its progress, and leave a folder."""
    from rich.console import Console

    from fedsus_simulations.running.simulation import Loader

    # Ours first: a library that finds no handler adds one of its own form.
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    folder, scenario, origin = _asked(options)
    loader = Loader(options.root if options.data else Path(origin.data), origin.task or None)
    runner = Runner(Console(stderr=options.as_json, highlight=False), loader, options.quiet, options.ray)
    job = _single if scenario.sweep is None else _sweep
    try:
        told, failed = job(runner, folder.resolve(), scenario, origin, options.resume is None)
    except KeyboardInterrupt:
        on = f"to go on: fedsus simulate --resume {folder}" if (folder / saved.ORIGIN).exists() else "nothing was run"
        click.echo(f"interrupted; {on}", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    if options.as_json:
        click.echo(json.dumps(told, indent=1))
    if failed:
        raise RunFailed(failed)


def _asked(options: Options) -> tuple[Path, Scenario, Origin]:
    """Folder, scenario and origin of a new run, or of one that goes on."""
    if options.resume is None:
        scenario, origin = scenario_of(options)
        kind = "" if scenario.sweep is None else "-sweep"
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        origin = replace(origin, run=f"{scenario.name[: _LONGEST_NAME - len(kind)]}{kind}-{stamp}")
        return options.runs / origin.run, scenario, origin
    options.check_resumed()
    scenario, origin = saved.saved(options.resume)
    changes = {name: value for name in ("workers", "threads") if (value := getattr(options, name)) is not None}
    simulation = scenario.simulation.model_copy(update=changes)
    return options.resume, scenario.model_copy(update={"simulation": simulation}), origin


def _single(
    runner: Runner, folder: Path, scenario: Scenario, origin: Origin, fresh: bool
) -> tuple[dict[str, Any], str]:
    from fedsus_simulations.running import curves

    try:
        found = runner.run(folder, scenario, origin, fresh=fresh)
    except RunFailed as error:
        drawn = curves.draw(folder)
        told = {"run": origin.run, "status": "failed", "error": str(error), "folder": str(folder)}
        return told, f"{error}; its journal{' and ' + drawn[0].name if drawn else ''}: {folder}"
    drawn = curves.draw(folder)
    runner.closing(found, folder, drawn[0].name if drawn else None)
    return found.plain(), ""


def _sweep(runner: Runner, folder: Path, scenario: Scenario, origin: Origin, fresh: bool) -> tuple[dict[str, Any], str]:
    from fedsus_simulations.running import sweep_table, sweeping

    todo = sweeping.cells(scenario)
    if fresh:
        saved.save(folder, scenario, origin)
    runner.say(f"sweep {origin.run}: {len(todo)} runs")

    def run(where: Path, cell: Cell, new: bool) -> Outcome:
        return runner.run(where, cell.scenario, replace(origin, run=cell.run), fresh=new, part=True)

    ran: list[Ran] = list(sweeping.run_all(folder, todo, run, runner.say))
    found = sweep_table.rows(ran)
    told = sweep_table.plain(origin.run, folder, found)
    sweep_table.write(folder, told)
    drawn = sweep_table.draw(folder, ran)
    if not runner.quiet:
        runner.console.print(sweep_table.table(found))
    runner.say(f"sweep.json{', sweep.png' if drawn else ''} and a folder for each run in {folder}")
    failed = sum(one.outcome is None for one in ran)
    why = folder / "sweep.json"
    return told, f"{failed} of {len(ran)} runs failed; what failed, and why: {why}" if failed else ""


def show_list() -> None:
    """The shipped scenarios and what they are, a line each."""
    known = catalogue.shipped()
    width = max(map(len, known), default=0)
    for name, file in known.items():
        click.echo(f"{name:<{width}}  {catalogue.described(file)}")


def _status(folder: Path) -> str:
    """Of a run that goes on; "new" where it stopped before its journal was begun."""
    from fedsus.journal import NAME
    from fedsus.reporting import summary

    return summary(folder).status if (folder / NAME).exists() else "new"


def _start(simulation: Simulation, origin: Origin) -> Vector | None:
    """The model of the file beside ``run.toml``, if it is there."""
    if not origin.model:
        return None
    from fedsus.errors import ConfigError
    from fedsus.model_file import read_model, task_of

    vector, described = read_model(Path(origin.model))
    if task_of(described) != simulation.scenario.task:
        raise ConfigError(f"{origin.model}: made for another task or other settings; make it again: fedsus model init")
    return vector
