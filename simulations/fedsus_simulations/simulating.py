"""The ``fedsus simulate`` command: a federation in memory, watched like a deployed one."""

from __future__ import annotations

import json
import logging
import secrets
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fedsus.cli import INTERRUPTED
from fedsus.errors import ConfigError, RunFailed
from fedsus_simulations import catalogue, saved
from fedsus_simulations.options import Options, scenario_of

if TYPE_CHECKING:
    from rich.console import Console

    from fedsus.journal import RoundReleased
    from fedsus.types import Vector
    from fedsus_simulations.outcome import Outcome
    from fedsus_simulations.running import Loader, Simulation
    from fedsus_simulations.saved import Origin
    from fedsus_simulations.scenario import Scenario

_WAYS: Final = {
    "secure_sum": "every client makes its keys, shares, masks and signatures, as a device does",
    "clear_sum": "no masks: in a deployment the server would see each client's update",
    "none": "clients' integers are added without masks, to the same sum",
}


def main(options: Options) -> None:
    """Run or resume what was asked for, show its progress, and leave a run folder."""
    from rich.console import Console

    # Ours first: a library that finds no handler adds one of its own form.
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    console = Console(stderr=options.as_json, highlight=False)
    if options.resume is not None:
        options.check_resumed()
        folder = options.resume
        scenario, origin = saved.saved(folder)
    else:
        scenario, origin = scenario_of(options)
        origin = replace(origin, run=run_name(scenario.name))
        folder = options.runs / origin.run
    try:
        found = _single(options, folder.resolve(), scenario, origin, console)
    except KeyboardInterrupt:
        click.echo(f"interrupted; to go on: fedsus simulate --resume {folder}", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    if options.as_json:
        click.echo(json.dumps(found.plain(), indent=1))


def run_name(name: str) -> str:
    """A fresh identifier: the scenario's name, the time, six random digits."""
    return f"{name[:38]}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def show_list() -> None:
    """The shipped scenarios and what they are, a line each."""
    known = catalogue.shipped()
    width = max(map(len, known), default=0)
    for name, file in known.items():
        click.echo(f"{name:<{width}}  {catalogue.described(file)}")


def _single(options: Options, folder: Path, scenario: Scenario, origin: Origin, console: Console) -> Outcome:
    from fedsus_simulations import curves
    from fedsus_simulations.running import Loader

    if options.workers is not None:
        workers = scenario.simulation.model_copy(update={"workers": options.workers})
        scenario = scenario.model_copy(update={"simulation": workers})
    loader = Loader(options.root if options.data else Path(origin.data), origin.task or None)
    say = Say(console, options.quiet)
    found = run(folder, scenario, origin, loader, say, fresh=options.resume is None)
    drawn = curves.draw(folder)
    _closing(found, folder, drawn[0].name if drawn else None, say)
    return found


class Say:
    """Prints a line for people, unless it shall be quiet."""

    def __init__(self, console: Console, quiet: bool) -> None:
        self.console, self.quiet = console, quiet

    def __call__(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, soft_wrap=True, markup=False, highlight=False)


def run(folder: Path, scenario: Scenario, origin: Origin, loader: Loader, say: Say, fresh: bool) -> Outcome:
    """Run one scenario in its folder, from the start or from where it stands; what came out.

    Raises:
        RunFailed: no attempts are left; says why the last was abandoned.
    """
    from fedsus_simulations.outcome import last_abandoned, outcome
    from fedsus_simulations.running import Simulation

    simulation = Simulation.of(scenario, loader.root, loader.reference, loader)
    try:
        start = _start(simulation, origin)
        if fresh:
            saved.save(folder, scenario, origin)
        simulation.open(folder, origin.run, start)
        _opening(simulation, origin.run, say)
        _watched(simulation, folder, origin.run, start, say)
    except RunFailed as error:
        reason = last_abandoned(folder)
        raise RunFailed(f"{error}; the last was abandoned: {reason}" if reason else str(error)) from None
    finally:
        simulation.close()
    return outcome(folder, scenario.seed)


def _watched(simulation: Simulation, folder: Path, run: str, start: Vector | None, say: Say) -> None:
    from fedsus.reporting import read
    from fedsus_simulations.watching import Watching

    entries = read(folder)
    with Watching(say.console, say.quiet) as watching:
        watching.begin(entries)

        def told(released: RoundReleased, model: Vector) -> None:
            del model
            watching.round(released, simulation.evaluated.get(released.round))

        simulation.run(folder, run, told, start)


def _start(simulation: Simulation, origin: Origin) -> Vector | None:
    """The model of the file beside ``run.toml``, if it is there."""
    if not origin.model:
        return None
    from fedsus.model_file import read_model, task_of

    vector, described = read_model(Path(origin.model))
    if task_of(described) != simulation.scenario.task:
        raise ConfigError(f"{origin.model}: made for another task or other settings; make it again: fedsus model init")
    return vector


def _opening(simulation: Simulation, run: str, say: Say) -> None:
    scenario = simulation.scenario
    count, size = len(simulation.population.names), scenario.plan.cohort.size
    say(f"simulated run {run}: {count} clients in memory, {size} a round, seed {scenario.seed}")
    exchange = simulation.config.plan.exchange
    way = "none" if scenario.plan.exchange == "secure_sum" != exchange else exchange
    say(f"exchange {scenario.plan.exchange}: {_WAYS[way]}")


def _closing(found: Outcome, folder: Path, picture: str | None, say: Say) -> None:
    from fedsus_server.progress import metric_words, size

    if found.central:
        say(f"on the test part: {'  '.join(metric_words(found.central))}")
    if found.epsilon is not None:
        say(f"epsilon {found.epsilon:.2f} at delta {found.delta:g}: planned, for {found.attempts} attempts")
    both = size(found.bytes_sent + found.bytes_received)
    ways = f"{size(found.bytes_sent)} to the clients and {size(found.bytes_received)} from them"
    say(f"{found.exchange} ran {found.asked} times: {both}, {ways}, models included; {found.seconds:.1f} s")
    say(f"{found.status}: journal, blobs{', ' + picture if picture else ''} in {folder}")
    say(f"its model: fedsus model export {folder} -o model.safetensors")
