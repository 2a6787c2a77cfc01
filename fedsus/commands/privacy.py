"""`fedsus privacy`: what a run spends, against whom, before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import click

from fedsus.commands.privacy_audit import audit

_FILE: Final = click.Path(path_type=Path)
_TASK_HELP: Final = "The task's class as module:Class, where it is one of your own."


@click.group()
def privacy() -> None:
    """What a run spends, against whom, before it starts."""


@privacy.command()
@click.argument("run_toml", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="The same for programs.")
@click.option("--plot", type=_FILE, metavar="FILE", help="Draw epsilon over the rounds; .svg or .png.")
@click.option(
    "--policy", "policy_file", type=_FILE, metavar="FILE", help="An owner's policy.toml: would it admit the run?"
)
@click.option("--model", type=_FILE, metavar="FILE", help="A model file of the run.  [default: the one in RUN_TOML]")
@click.option("--dimension", type=click.IntRange(1, 2_000_000_000), help="Parameters of the model, instead.")
@click.option("--members", type=click.IntRange(1, 10_000_000), help="Of the roster.  [default: of the one in RUN_TOML]")
@click.option("--rows", type=click.IntRange(1, 1_000_000), help="Most rows of one patient, to be told its epsilon too.")
@click.option("--task", "reference", help=_TASK_HELP)
def plan(
    run_toml: Path,
    as_json: bool,
    plot: Path | None,
    policy_file: Path | None,
    model: Path | None,
    dimension: int | None,
    members: int | None,
    rows: int | None,
    reference: str | None,
) -> None:
    """Calibrate the run of RUN_TOML and print its noise, bytes and epsilon; nothing is run.

    RUN_TOML may be a scenario of 'fedsus simulate'. What cannot work is refused here with the line that would be seen
    when the run is opened. The exit code is 1 if the policy of --policy refuses the run, which is said all the same.
    """
    from fedsus.commands import pictures, privacy_admission, privacy_picture, privacy_plan, privacy_text
    from fedsus.commands.privacy_inputs import read
    from fedsus.config import naming

    if plot is not None:
        pictures.check(plot)
    given = read(run_toml, model, dimension, members, reference)
    with naming(run_toml):
        found = privacy_plan.planned(given, rows)
    judged = None if policy_file is None else privacy_admission.judged(found, policy_file)
    if plot is not None:
        privacy_picture.draw(found, judged, plot)
    if as_json:
        said = privacy_plan.plain(found)
        said["policy"] = None
        if judged is not None:
            said["policy"] = {
                "file": str(judged.file),
                "admits": judged.refusal is None,
                "caps": judged.caps,
                "refusal": judged.refusal,
            }
        click.echo(json.dumps(said, indent=1, allow_nan=False))
    else:
        for line in privacy_text.lines(found, judged):
            click.echo(line)
        if plot is not None:
            click.echo(f"{plot}: epsilon over the rounds")
    if judged is not None and judged.refusal is not None:
        raise click.exceptions.Exit(1)


privacy.add_command(audit)
