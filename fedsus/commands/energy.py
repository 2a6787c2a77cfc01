"""`fedsus energy`: what this machine can measure of its own energy, by which method, and how to get a better one."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fedsus.costs import Usage
    from fedsus.energy.meters.machine import Machine
    from fedsus.settings.energy import EnergySettings


class _Finite(click.FloatRange):
    """A range without NaN, which is neither above nor below anything."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As `click.FloatRange`."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is no number", param, ctx)
        return number


@click.group()
def energy() -> None:
    """What this machine can measure of its own energy."""


@energy.command()
@click.option(
    "--meter",
    type=click.Choice(("auto", "counter", "model")),
    default="auto",
    show_default=True,
    help="As [energy] meter: 'counter' is an error where a counter is missing.",
)
@click.option("--watts", type=_Finite(0, 1e5, min_open=True), help="As [energy] watts: above idle, all cores busy.")
@click.option("--idle-watts", type=_Finite(0, 1e5), help="As [energy] idle_watts: of the whole machine.")
@click.option(
    "--seconds", type=_Finite(0.1, 3600), help="Measure for so long, with one core kept busy by this command."
)
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
def show(meter: Any, watts: float | None, idle_watts: float | None, seconds: float | None, as_json: bool) -> None:
    """Say by which method each part of this machine is measured, why not by a better one, and the way there.

    Nothing is sent or written, and nothing needs rights.
    """
    from fedsus.energy.meters.machine import look
    from fedsus.settings.energy import EnergySettings

    settings = EnergySettings(meter=meter, watts=watts, idle_watts=idle_watts, missing="refuse")
    machine = look(settings)
    usage = None if seconds is None else _measured(machine, settings, seconds)
    if as_json:
        said = {"parts": [asdict(line) for line in machine.lines], "notes": list(machine.notes)}
        click.echo(json.dumps(said | {"usage": None if usage is None else _plain(usage)}, indent=1, allow_nan=False))
        return
    for line in machine.lines:
        click.echo(f"{line.part:<10} {line.method:<9} {line.source}")
    for note in machine.notes:
        click.echo(f"not better: {note}")
    if usage is not None:
        click.echo(_sentence(usage))


def _measured(machine: Machine, settings: EnergySettings, seconds: float) -> Usage:
    from fedsus.energy.meters.meter import meter_of

    meter = meter_of(machine, settings)
    with meter.phase("train"):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sum(range(10_000))
    return meter.take()


def _sentence(usage: Usage) -> str:
    return (
        f"measured: {usage.total:.3g} J above idle in {usage.seconds:.3g} s ({usage.method}; range {usage.low:.3g} to "
        f"{usage.high:.3g} J), {usage.idle:.3g} J idle\nboundary: {usage.boundary}\nsource: {usage.source}"
    )


def _plain(usage: Usage) -> dict[str, Any]:
    return {name: value for name, value in asdict(usage).items() if name != "grams"} | {"total": usage.total}
