"""The commands of this distribution; each imports its body when it runs."""

from __future__ import annotations

from pathlib import Path

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


@click.command()
@click.argument("run_toml", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--client", "clients", multiple=True, metavar="NAME=PATH", help="A client and its data; repeat it.")
@click.option("--task", "reference", help="The task's class as module:Class, where run.toml names one of your own.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Repeat a run exactly. Default: a fresh one each time.")
@runs_option
def simulate(run_toml: Path, clients: tuple[str, ...], reference: str | None, seed: int | None, runs: Path) -> None:
    """Run a whole federation in memory: the same rounds, mechanisms and encodings as a deployment.

    Secure aggregation, the default exchange of RUN_TOML, is really run: each client makes its keys, shares and masks.
    With exchange = "clear_sum" it is left out; from one --seed both give the same model, bit for bit.

    Without --client, the task heart takes the four hospitals that fedsus ships.
    """
    from fedsus_simulations.simulating import main

    main(run_toml, clients, reference, seed, runs)
