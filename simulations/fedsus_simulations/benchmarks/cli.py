"""``fedsus bench``: list the benchmarks, run one, run all."""

from __future__ import annotations

import json
import signal
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedsus.errors import FedsusError, RunFailed
from fedsus_simulations.benchmarks.registry import BENCHMARKS, find

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from fedsus_simulations.benchmarks import carbon_hours
    from fedsus_simulations.benchmarks.result import Comparison, Figure, Result, Table
    from fedsus_simulations.benchmarks.simulate_peers import Places
    from fedsus_simulations.benchmarks.utility_kept import Options

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
_size = click.option(
    "--quick/--full", "quick", default=False, help="Small sizes, or those of the documentation (default)."
)
_into = click.option(
    "--into",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write FOLDER/NAME.json too.",
)
_venvs = click.option(
    "--peer-venv",
    "peer_venvs",
    metavar="DIR",
    multiple=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="A virtual environment with pfl 0.6.0 or with flwr[simulation], and torch; repeat it. One that is not there "
    "yet is made, with pfl; without any, it is made in the user's cache.",
)
_data = click.option(
    "--data",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Files of Fashion-MNIST. Default: data/fashion-mnist; images are generated if that is not there.",
)
_features = click.option(
    "--features",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="What scripts/scattering.py wrote; what needs it is left out without.",
)
_resume = click.option(
    "--resume",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep each run's result there, and leave out the runs whose result is there.",
)
_seeds = click.option("--seeds", type=click.IntRange(1, 1000), help="How many; when not given the benchmark's number.")
_trace = click.option(
    "--data",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Files of the trace, SGIP_CAISO_*.csv.gz; without, a series is generated.",
)
_starts = click.option("--starts", type=click.IntRange(1, 100_000), help="How many moments a run starts at.")
_picture = click.option(
    "--plot",
    "picture",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Draw it into a folder, as PNG and SVG.",
)


class Benchmarks(click.Group):
    """``list``, ``all``, ``table``, and each benchmark by its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, then the benchmarks."""
        return [*super().list_commands(ctx), *BENCHMARKS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of the commands, or a benchmark."""
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


@bench.command()
@click.argument("files", metavar="RESULT.json...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--docs",
    metavar="FILE.md",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the tables between this file's markers, the JSON into a folder of its name beside it, and the picture.",
)
def table(files: tuple[Path, ...], docs: Path | None) -> None:
    """Print results as tables in Markdown, from the JSON that --into wrote."""
    from fedsus_simulations.benchmarks.tables import markdown, publish, read

    results = [read(file) for file in files]
    if docs is None:
        click.echo("\n".join(map(markdown, results)))
        return
    for path in publish(results, docs):
        click.echo(f"wrote {path}")


@bench.command("all")
@_as_json
@_into
@_venvs
@_data
@_size
def run_all(as_json: bool, quick: bool, into: Path | None, peer_venvs: tuple[Path, ...], data: Path | None) -> None:
    """Run every benchmark, one after the other; a failing one does not stop the others."""
    results, failed = [], []
    for name, row in BENCHMARKS.items():
        try:
            where = _options(data) if row.seeds or row.data else _places(peer_venvs, data)
            results.append(measure(name, quick, None if row.trace else where))
            _keep(results[-1], into)
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
    row = BENCHMARKS[name]

    @click.command(name, help=f"Measure {row.summary}.")
    @_as_json
    @_into
    @_size
    def one(as_json: bool, quick: bool, into: Path | None, picture: Path | None = None, **where: Any) -> None:
        told = _starts_of if row.trace else _options if row.seeds or row.data else _places
        result = measure(name, quick, told(**where))
        _keep(result, into)
        if as_json:
            click.echo(result.model_dump_json(indent=1))
        else:
            show(result)
        if picture is not None:
            for path in row.draw(result, picture):
                click.echo(f"wrote {path}", err=True)

    if row.peers:
        one = _venvs(_data(one))
    if row.data:
        one = _data(_resume(one))
    if row.seeds:
        one = _data(_features(_resume(_seeds(one))))
    if row.trace:
        one = _trace(_starts(one))
    return _picture(one) if row.draws else one


def _places(peer_venvs: tuple[Path, ...] = (), data: Path | None = None) -> Places:
    from fedsus_simulations.benchmarks.simulate_peers import Places

    return Places(peer_venvs, data)


def _options(
    data: Path | None = None, features: Path | None = None, resume: Path | None = None, seeds: int | None = None
) -> Options:
    from fedsus_simulations.benchmarks.utility_kept import Options

    return Options(data, features, resume, seeds)


def _starts_of(data: Path | None = None, starts: int | None = None) -> carbon_hours.Options:
    from fedsus_simulations.benchmarks import carbon_hours

    return carbon_hours.Options(data, starts)


def _keep(result: Result, into: Path | None) -> None:
    if into is None:
        return
    into.mkdir(parents=True, exist_ok=True)
    file = into / f"{result.name}.json"
    file.write_text(f"{result.model_dump_json(indent=1)}\n", encoding="utf-8")
    click.echo(f"wrote {file}", err=True)


def measure(name: str, quick: bool, places: Places | Options | carbon_hours.Options | None = None) -> Result:
    """Run one benchmark; progress goes to stderr."""
    from fedsus_simulations.benchmarks.result import complete

    # As Ctrl-C does: leave through the blocks that stop what was started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    click.echo(f"{name}: {BENCHMARKS[name].summary}", err=True)
    return complete(name, quick, BENCHMARKS[name].run(quick, places))


def show(result: Result) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table

    sizes = "quick sizes" if result.quick else "full sizes"
    table = Table(title=f"{result.name} ({sizes}), min / median / max", title_justify="left")
    for column in ("what", "ours", "peer", "ratio", "target"):
        table.add_column(column, overflow="fold")
    # A row is named by what ours did, or, where that is always the same, by the peer.
    first = (result.peer.what if result.ours.what == "fedsus" else result.ours.what) or result.name
    rows: dict[str, Result | Comparison] = {first: result, **result.figures}
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
