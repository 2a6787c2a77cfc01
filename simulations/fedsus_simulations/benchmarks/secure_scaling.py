"""What a secure sum costs a client and the server, from 10 to 10,000 clients and 10k to 10M parameters.

The peer is one client of Flower's SecAgg+ with as many neighbours, by its own functions: what a client's cryptography
costs there. Its whole rounds are in `secure_round` and `secure_sum`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsus.errors import RunFailed
from fedsus_simulations.benchmarks import processes, secure_ours, stock_client
from fedsus_simulations.benchmarks.processes import say
from fedsus_simulations.benchmarks.result import comparison, figure, load
from fedsus_simulations.benchmarks.secure_cases import Cell
from fedsus_simulations.benchmarks.stock_client import FlowerClient

if TYPE_CHECKING:
    from fedsus_simulations.benchmarks.result import Result

CLIENTS: Final = (10, 30, 100, 300, 1_000, 3_000, 10_000)
PARAMETERS: Final = (10_000, 100_000, 1_000_000, 10_000_000)
QUICK: Final = 2
SIZE: Final = ("clients", "size", "degree", "how")
CLIENT: Final = (*SIZE, "s", "Flower s", "up KB", "Flower KB", "down KB")
SERVER: Final = (*SIZE, "s", "MB")


def run(quick: bool) -> dict[str, Any]:
    """A table of all sizes; the ratio is of a client's seconds at the largest size that was not extrapolated."""
    processes.need_proc()
    secure_ours.need_cells()
    before, rows = load(), []
    for clients in CLIENTS[:QUICK] if quick else CLIENTS:
        for cell in secure_ours.cells(clients, PARAMETERS[:QUICK] if quick else PARAMETERS):
            flower = stock_client.measure(cell.neighbours, cell.parameters)
            spent = f"client {cell.client_seconds:.3g} s, Flower's {flower.seconds:.3g} s"
            say(f"{clients:,} x {cell.parameters:,} ({cell.how}): {spent}")
            rows.append((cell, flower))
    rows.sort(key=lambda row: (row[0].parameters, row[0].clients))
    return body(rows) | {"notes": [*notes(rows), f"load average: {before:.1f} before, {load():.1f} after"]}


def body(rows: list[tuple[Cell, FlowerClient]]) -> dict[str, Any]:
    """The comparison of the largest size that was measured, and the table.

    Raises:
        RunFailed: every size was extrapolated.
    """
    measured = [(cell, flower) for cell, flower in rows if cell.how != "extrapolated"]
    if not measured:
        raise RunFailed("benchmark: nothing was measured, every size was extrapolated")
    cell, flower = max(measured, key=lambda row: row[0].clients * row[0].parameters)
    size = f"{cell.clients:,} clients x {cell.parameters:,}, {cell.neighbours} neighbours"
    return {
        **comparison(
            figure([cell.client_seconds], "s", f"a client, {size}"), figure([flower.seconds], "s", "Flower's SecAgg+")
        ),
        "figures": {
            f"upload, {size}": comparison(figure([cell.upload / 1e3], "KB"), figure([flower.upload / 1e3], "KB"))
        },
        "tables": tables(rows),
    }


def tables(rows: list[tuple[Cell, FlowerClient]]) -> list[dict[str, Any]]:
    """What a round costs a client, beside Flower's; and the server. A row for each size, in one order."""
    client, server = [], []
    for cell, flower in rows:
        size = (cell.clients, cell.parameters, cell.neighbours, cell.how)
        sent = (cell.upload / 1e3, flower.upload / 1e3, cell.download / 1e3)
        client.append((*size, cell.client_seconds, flower.seconds, *sent))
        server.append((*size, cell.server_seconds, cell.server_memory / 1e6))
    return [
        {"title": "a client, one round", "columns": CLIENT, "rows": client},
        {"title": "the server, one round", "columns": SERVER, "rows": server},
    ]


def notes(rows: list[tuple[Cell, FlowerClient]]) -> list[str]:
    """What was run, sampled and extrapolated, on both sides."""
    words = {"sampled": "one server and one client a size run", "extrapolated": "extrapolated"}
    how = {kind: [cell for cell, _ in rows if cell.how == kind] for kind in words}
    part = [(cell, flower) for cell, flower in rows if flower.masked < cell.neighbours]
    told = [
        f"{words[kind]}: {', '.join(f'{cell.clients:,} x {cell.parameters:,}' for cell in cells) or 'none'}"
        for kind, cells in how.items()
    ]
    if part:
        sizes = ", ".join(f"{c.clients:,} x {c.parameters:,} ({f.masked} of {c.neighbours})" for c, f in part)
        told.append(f"the peer's masks were made for some neighbours, and its seconds scaled to all: {sizes}")
    return [
        *told,
        "in sizes marked 'run' every client was run; size: parameters; degree: neighbours of a client",
        "sampled: all identities and adverts are real and checked by the server; the client sampled does all that it "
        "does in a round, with shares under real keys from its neighbours; what others seal for each other is random "
        "bytes; the server's work on one client, from phase 1 on, times the clients",
        "nobody drops; every check of a signature is done, none cached",
        "s of a client: processor seconds of all its cryptography; up and down: beside the model that is sent",
        "s and MB of the server: without waiting for clients, and growth of its memory",
        "the peer: keys, shares and masked vector of Flower's client with as many neighbours; opening is not in it",
    ]


def draw(result: Result, folder: Path) -> tuple[Path, Path]:
    """Write secure-scaling.png and .svg into ``folder``."""
    from fedsus_simulations.benchmarks import scaling_plot

    client, server = result.tables
    return scaling_plot.draw(client, server, folder)
