"""`fedsus privacy audit`: what a run's mechanism is seen to give away, beside what is claimed of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from fedsus.commands.audits.trial import Draws, Trial
    from fedsus.commands.privacy_plan import Planned
    from fedsus.types import Noise

BROKEN: Final = (
    "half-the-noise",
    "two-thirds-of-the-noise",
    "no-clipping",
    "clip-before-upscale",
    "next-clip",
    "plain-metrics",
    "forgotten-costs",
    "half-the-range",
    "sampled-metrics",
    "plain-weights",
    "all-examples",
    "missing-shares",
    "uncounted-colluder",
    "shared-seed",
)
"""`fedsus.commands.audits.broken.FAULTS`, without importing it."""

_TOGETHER: Final = 10
"""Most rounds that are looked at together: one round of a long run gives little away."""

_FILE: Final = click.Path(path_type=Path)


@click.command()
@click.argument("run_toml", type=_FILE)
@click.option(
    "--draws",
    type=click.IntRange(1000, 100_000_000),
    default=100_000,
    show_default=True,
    help="Releases of each of two inputs that differ by one client, or example.",
)
@click.option("--broken", type=click.Choice(BROKEN), help="Break the mechanism so: the audit must then fail.")
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
@click.option("--plot", type=_FILE, metavar="FILE", help="Draw claims and bounds; .svg or .png.")
@click.option("--model", type=_FILE, metavar="FILE", help="A model file of the run.  [default: the one in RUN_TOML]")
@click.option("--dimension", type=click.IntRange(1, 2_000_000_000), help="Parameters of the model, instead.")
@click.option("--members", type=click.IntRange(1, 10_000_000), help="Of the roster.  [default: of the one in RUN_TOML]")
@click.option("--task", "reference", help="The task's class as module:Class, where it is one of your own.")
def audit(
    run_toml: Path,
    draws: int,
    broken: str | None,
    as_json: bool,
    plot: Path | None,
    model: Path | None,
    dimension: int | None,
    members: int | None,
    reference: str | None,
) -> None:
    """Attack the mechanism of RUN_TOML many times over, and print what that shows beside what is claimed.

    The mechanism is the real one with the run's calibrated noise, on few coordinates and clients. Exit code 1 if the
    draws refute a claim.
    """
    from fedsus.commands import pictures, privacy_plan
    from fedsus.commands.audits import report, running
    from fedsus.commands.privacy_inputs import read
    from fedsus.config import naming
    from fedsus.privacy.noise import SystemNoise

    if plot is not None:
        pictures.check(plot)
    given = read(run_toml, model, dimension, members, reference)
    with naming(run_toml):
        planned = privacy_plan.planned(given, None)
    trial, notes = _trial(planned, broken)
    rounds = sorted({1, min(_TOGETHER, planned.attempts)})
    found = running.findings(trial, _drawn(trial, draws, SystemNoise()), rounds)
    audited = report.Report(planned, trial, broken, notes, found)
    if plot is not None:
        from fedsus.commands.audits import picture

        picture.draw(audited, plot)
    if as_json:
        click.echo(json.dumps(report.plain(audited), indent=1, allow_nan=False))
    else:
        for line in report.lines(audited):
            click.echo(line)
    if audited.refuted:
        raise click.exceptions.Exit(1)


def _trial(planned: Planned, broken: str | None) -> tuple[Trial, list[str]]:
    from fedsus.commands.audits import broken as faults
    from fedsus.commands.audits.small import small
    from fedsus.commands.audits.trial import Trial

    plan, notes = small(planned.specification.first_plan)
    return (Trial(plan, plan) if broken is None else faults.broken(broken, plan)), notes


def _drawn(trial: Trial, draws: int, noise: Noise) -> Draws:
    """All draws, with a bar on a terminal."""
    from fedsus.commands.audits import running

    if not sys.stderr.isatty():
        return running.experiment(trial, draws, noise)
    with click.progressbar(length=running.work(trial, draws), label="drawing", file=sys.stderr) as bar:
        return running.experiment(trial, draws, noise, bar.update)
