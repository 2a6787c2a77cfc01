"""The ``fedsus simulate`` command: a run in memory, watched like a deployed one."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus.config import RunConfig, load
from fedsus.errors import ConfigError
from fedsus_simulations.memory import simulate

if TYPE_CHECKING:
    from fedsus.reporting import RunSummary
    from fedsus.tasks.task import DataSource
    from fedsus.types import Vector

_EXCHANGES: Final = {
    "secure_sum": "every client makes its keys, shares, masks and signatures, as a device does",
    "clear_sum": "no masks: in a deployment the server would see each client's update",
}


def main(run_toml: Path, clients: Sequence[str], reference: str | None, seed: int | None, runs: Path) -> None:
    """Simulate ``run_toml``, show its progress, and leave a run folder with journal, model and picture."""
    import logging

    from rich.console import Console

    # Ours first: a library that finds no handler adds one of its own form.
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    from fedsus.reporting import follow, summary
    from fedsus_server.progress import show
    from fedsus_simulations import curves

    config = load(run_toml, RunConfig)
    sources = _sources(config, clients)
    model = _initial_model(run_toml, config, reference, seed)
    run = f"{config.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    folder, console = runs.resolve() / run, Console()
    exchange = config.plan.exchange
    console.print(f"simulated run {run}: {len(sources)} clients in memory", highlight=False, soft_wrap=True)
    console.print(f"exchange {exchange}: {_EXCHANGES[exchange]}", highlight=False, soft_wrap=True)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(simulate, config, folder, run, model, sources, reference=reference, seed=seed)
        show(follow(folder, job.done, poll=0.05), console)
        job.result()
    told = summary(folder)
    drawn = curves.draw(told, folder)
    picture = f", {drawn[0].name}" if drawn else ""
    console.print(_moved(exchange, told), highlight=False, soft_wrap=True)
    console.print(f"{told.status}: journal, blobs{picture} in {folder}", highlight=False, soft_wrap=True)
    console.print(f"its model: fedsus model export {folder} -o model.safetensors", highlight=False, soft_wrap=True)


def _moved(exchange: str, run: RunSummary) -> str:
    """Which exchange ran, and the bytes that it would have put on the wire."""
    from fedsus_server.progress import size

    both = size(run.bytes_sent + run.bytes_received)
    ways = f"{size(run.bytes_sent)} to the clients and {size(run.bytes_received)} from them"
    return f"{exchange} ran {len(run.rounds)} times: {both}, {ways}, models included"


def _sources(config: RunConfig, clients: Sequence[str]) -> dict[str, DataSource]:
    """Client name -> data, from NAME=PATH options; the shipped hospitals without any."""
    from fedsus.tasks.task import DataSource

    if not clients:
        if config.task.name != "heart":
            raise ConfigError(f"task '{config.task.name}' needs data: give --client NAME=PATH for each client")
        from fedsus.tasks.heart import HOSPITALS, shipped

        return {hospital: DataSource(shipped(hospital)) for hospital in HOSPITALS}
    found: dict[str, DataSource] = {}
    for text in clients:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"--client {text!r}: expected NAME=PATH")
        if name in found:
            raise ConfigError(f"--client {text!r}: '{name}' is given twice")
        if not Path(path).exists():
            raise ConfigError(f"--client {text!r}: {path}: no such file or folder")
        found[name] = DataSource(Path(path).resolve())
    return found


def _initial_model(run_toml: Path, config: RunConfig, reference: str | None, seed: int | None) -> Vector:
    """The model that run.toml names if the file is there, else a fresh one."""
    file = run_toml.resolve().parent / config.server.model
    if file.exists():
        from fedsus.model_file import read_model, task_of

        vector, described = read_model(file)
        if task_of(described) != config.task:
            raise ConfigError(f"{file}: made for another task or other settings; make it again: fedsus model init")
        return vector
    from fedsus.learning.parameters import flatten
    from fedsus.tasks import registry

    task = registry.build(registry.resolve(reference or config.task.name), config.task.settings)
    return flatten(task.model(seed if seed is not None else time.time_ns() % 2**31))
