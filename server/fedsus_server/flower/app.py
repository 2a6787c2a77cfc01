"""The ServerApp: Flower starts it in a process of its own, and it runs the round loop over a run's folder.

All state is in that folder, so Flower may lose, restart or repeat this process: the run goes on where its journal
stands. `nothing` is there because Flower's bundles must name a client part; no device ever asks for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedsus.errors import FedsusError
from fedsus_server import looping, metering

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flwr.app import Context
    from flwr.serverapp import Grid

    from fedsus.config import RunConfig

app = ServerApp()
nothing = ClientApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a folder's round loop to its end.

    Raises:
        FedsusError: the run failed, or another loop has the folder: one line, in the run's ``server.log`` too.
    """
    folder = Path(str(context.run_config["folder"]))
    log = _logger(folder)
    try:
        _loop(grid, folder, log)
    except FedsusError as error:
        log.error("ended: %s", error)
        looping.note_end(folder, str(error))
        raise
    except Exception:
        log.exception("ended by a defect or by the SuperLink")
        raise
    except BaseException as end:
        log.info("stopped by %s", type(end).__name__)
        raise
    finally:
        from fedsus_server import receipts

        receipts.leave_quietly(folder)


def _loop(grid: Grid, folder: Path, log: logging.Logger) -> None:
    from fedsus.reporting import summary
    from fedsus.rounds.planning.specification import specification_of
    from fedsus.rounds.server_half.server import RunLoop
    from fedsus_server.flower.fleet import FlowerFleet

    before = summary(folder)
    if before.opened is None:
        raise FedsusError(f"{folder}: the journal holds no run")
    config = specification_of(before.opened).config
    performance = config.performance
    fleet = FlowerFleet(
        grid._runtime_client,  # type: ignore[attr-defined]
        grid.run.run_id,
        poll=performance.poll,
        workers=performance.workers,
    )
    try:
        meter, intensity = metering.of(config, folder, time.time)
        loop = RunLoop(
            folder,
            fleet,
            clock=time.time,
            sleep=time.sleep,
            meter=meter,
            intensity=intensity,
            waits=partial(looping.note_wait, folder),
        )
        # Only now: the journal's lock is ours.
        looping.note_start(folder)
        log.info("run %s goes on after round %d, process %d", before.run, len(before.rounds), os.getpid())
        with _central(folder, config):
            loop.run()
    finally:
        fleet.close()
    log.info("run %s is over", before.run)


@contextlib.contextmanager
def _central(folder: Path, config: RunConfig) -> Iterator[None]:
    """Central evaluation beside the round loop, where the operator asked for it."""
    if config.server.evaluate is None:
        yield
        return
    from fedsus_server.central import CentralEvaluation

    evaluation = CentralEvaluation(folder, config)
    try:
        yield
    finally:
        evaluation.close()


def _logger(folder: Path) -> logging.Logger:
    """Lines into the run's ``server.log``."""
    logger = logging.getLogger("fedsus.server")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = logging.FileHandler(folder / "server.log", encoding="utf-8")
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    return logger
