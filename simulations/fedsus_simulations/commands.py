"""The commands of this distribution; each imports its body when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from fedsus_simulations.benchmarks.cli import bench

__all__ = ["bench", "demo", "simulate"]

runs_option = click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Where run folders go.",
)


@click.command()
@runs_option
@click.option("--rounds", type=click.IntRange(2, 200), default=20, show_default=True, help="Rounds of each run.")
def demo(runs: Path, rounds: int) -> None:
    """Four hospitals train one model: a server and four agents on this machine, over TLS.

    Compares each hospital alone, the federation without privacy and at epsilon 8 and 3, and the data brought together;
    and the same training with secure aggregation and with sums in clear: what it costs in seconds and bytes.
    """
    from fedsus_simulations.demo.run import main

    main(runs, rounds)


def _scenario_or_other(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is None and not ctx.params.get("resume") and not ctx.params.get("listed"):
        raise click.MissingParameter(ctx=ctx, param=param)
    return value


_SEED: Final = click.IntRange(0, 2**31 - 1)
_FOLDER: Final = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("scenario", required=False, callback=_scenario_or_other)
@click.option(
    "--resume", type=_FOLDER, metavar="RUN", is_eager=True, help="Go on with a run, or a sweep, in its folder."
)
@click.option("--list", "listed", is_flag=True, is_eager=True, help="Show the scenarios that fedsus ships.")
@click.option("--data", type=_FOLDER, help="Where data sets are, by name.  [default: data]")
@runs_option
@click.option("--seed", type=_SEED, help="Instead of the scenario's; all that is random comes from it.")
@click.option("--rounds", type=click.IntRange(1, 100_000), help="Instead of the scenario's.")
@click.option(
    "--set", "changes", multiple=True, metavar="NAME=VALUE", help="Another setting, by dotted name; repeat it."
)
@click.option("--masks", type=click.Choice(["real", "none"]), help="Real masks, or the same sums without.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes that train.")
@click.option("--threads", type=click.IntRange(1, 256), help="Of each worker.")
@click.option("--ray", metavar="auto|ADDRESS", help="Train on a Ray cluster.")
@click.option("--sweep", multiple=True, metavar="NAME=A,B", help="Run once for each value; repeat it for combinations.")
@click.option("--seeds", metavar="1,2,3", help="Run once for each seed.")
@click.option("--single", is_flag=True, help="Leave out the scenario's [sweep].")
@click.option("--client", "clients", multiple=True, metavar="NAME=PATH", help="A client and its data; repeat it.")
@click.option("--task", help="The task's class as module:Class, where the file names one of your own.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on standard output; progress on the other.")
@click.option("--quiet", is_flag=True, help="No progress.")
def simulate(listed: bool, **given: Any) -> None:
    """Run a whole federation in memory: the same rounds, mechanisms and encodings as a deployment.

    SCENARIO is a file, or the name of a scenario that fedsus ships ('fedsus simulate list' shows them). A run.toml is
    one too: its clients are given by --client; without, the task heart takes the four hospitals that fedsus ships.

    With real masks secure aggregation is really run: each client makes its keys, shares and masks. From one --seed real
    masks, none and exchange = "clear_sum" give the same model, bit for bit.
    """
    from fedsus_simulations.running import command as simulating
    from fedsus_simulations.running.options import Options

    if listed or given["scenario"] == "list":
        simulating.show_list()
    else:
        simulating.main(Options(**given))
