"""``fedsus bench``: list the benchmarks, run one, run all."""

from __future__ import annotations

import json
import signal
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedsus.errors import FedsusError, RunFailed
from fedsus_simulations.benchmarks.registry import BENCHMARKS, find

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from fedsus_simulations.benchmarks.result import Comparison, Figure, Result, Table

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
_size = click.option(
    "--quick/--full", "quick", default=False, help="Small sizes, or those of the documentation (default)."
)
_picture = click.option(
    "--plot",
    "picture",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Draw it into a folder, as PNG and SVG.",
)


class Benchmarks(click.Group):
    """``list``, ``all``, and each benchmark by its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The two commands, then the benchmarks."""
        return [*super().list_commands(ctx), *BENCHMARKS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of the two commands, or a benchmark."""
        return super().get_command(ctx, cmd_name) or _command(find(cmd_name).name)


@click.group(cls=Benchmarks)
def bench() -> None:
    """Compare fedsus with its peers, in one run."""


@bench.command("list")
def list_all() -> None:
    """Show what can be measured."""
    width = max(map(len, BENCHMARKS), default=0)
    for row in BENCHMARKS.values():
        click.echo(f"{row.name:<{width}}  {row.summary}")


@bench.command("all")
@_as_json
@_size
def run_all(as_json: bool, quick: bool) -> None:
    """Run every benchmark, one after the other; a failing one does not stop the others."""
    results, failed = [], []
    for name in BENCHMARKS:
        try:
            results.append(measure(name, quick))
        except Exception as error:  # whatever one raises, the others still run; told at the end
            context = click.get_current_context().find_root()
            if context.params.get("debug") or not isinstance(error, FedsusError):
                traceback.print_exc()
            failed.append(f"{name}: {error}")
            continue
        if not as_json:
            show(results[-1])
    if as_json:
        click.echo(json.dumps([result.model_dump() for result in results], indent=1))
    if failed:
        raise RunFailed(f"{len(failed)} of {len(BENCHMARKS)} benchmarks failed: {'; '.join(failed)}")


def _command(name: str) -> click.Command:
    @click.command(name, help=f"Measure {BENCHMARKS[name].summary}.")
    @_as_json
    @_size
    def one(as_json: bool, quick: bool, picture: Path | None = None) -> None:
        result = measure(name, quick)
        if as_json:
            click.echo(result.model_dump_json(indent=1))
        else:
            show(result)
        if picture is not None:
            for path in BENCHMARKS[name].draw(result, picture):
                click.echo(f"wrote {path}", err=True)

    return _picture(one) if BENCHMARKS[name].draws else one


def measure(name: str, quick: bool) -> Result:
    """Run one benchmark; progress goes to stderr."""
    from fedsus_simulations.benchmarks.result import complete

    # As Ctrl-C does: leave through the blocks that stop what was started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    click.echo(f"{name}: {BENCHMARKS[name].summary}", err=True)
    return complete(name, quick, BENCHMARKS[name].run(quick))


def show(result: Result) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table

    sizes = "quick sizes" if result.quick else "full sizes"
    table = Table(title=f"{result.name} ({sizes}), min / median / max", title_justify="left")
    for column in ("what", "ours", "peer", "ratio", "target"):
        table.add_column(column, overflow="fold")
    rows: dict[str, Result | Comparison] = {result.ours.what or result.name: result, **result.figures}
    for label, row in rows.items():
        table.add_row(label, _spread(row.ours), _spread(row.peer), f"{row.ratio:.3g}", row.target)
    console = Console()
    console.print(table)
    for more in result.tables:
        console.print(_plain(more))
    machine = result.machine
    console.print(
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GB; larger ratios are better", highlight=False
    )
    for note in result.notes:
        console.print(f"- {note}", highlight=False)


def _plain(rows: Table) -> RichTable:
    from rich.table import Table

    table = Table(title=rows.title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for column in rows.columns:
        table.add_column(column, overflow="fold", justify="right")
    for row in rows.rows:
        table.add_row(*map(_short, row))
    return table


def _short(cell: str | int | float) -> str:
    """Three digits that count; 10k, 1M for round counts."""
    if isinstance(cell, str):
        return cell
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if isinstance(cell, int) and cell and not cell % size:
            return f"{cell // size:,}{unit}"
    return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"


def _spread(figure: Figure) -> str:
    values = " / ".join(f"{value:.3g}" for value in (figure.min, figure.median, figure.max))
    return f"{values} {figure.unit} (n={figure.n})"
