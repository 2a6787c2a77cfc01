"""Flower's SecAgg+ in its simulation engine, in a process of its own: rounds in memory on all cores, by Ray.

``run_simulation`` is deprecated, as is all that SecAgg+ rests on; it is what runs one without a SuperLink.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fedsus.errors import EnvironmentFault, RunFailed
from fedsus_simulations.benchmarks import processes, stock_secure
from fedsus_simulations.benchmarks.processes import Child, Children
from fedsus_simulations.benchmarks.stock_secure import Work

_RAY: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Not a cluster: its servers listen on loopback alone, as they always do on those two systems.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
_LOOK_SECONDS: Final = 1.0
_START_SECONDS: Final = 120.0
_WORK_SECONDS: Final = 5e-6
"""Patience: seconds a round for each parameter of each client; here it takes a tenth of that."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """What the peer needed.

    Attributes:
        seconds: of each round, the first too, in which workers start.
        memory: largest proportional resident set of all its processes together, bytes, looked at once a second.
    """

    seconds: tuple[float, ...]
    memory: int


def need_ray() -> None:
    """Refuse where Flower's simulation engine cannot run.

    Raises:
        EnvironmentFault: Ray is not installed; the way out is in the message.
    """
    if find_spec("ray") is None:
        raise EnvironmentFault(
            "the peer of this benchmark, Flower's simulation engine, needs Ray, which is not installed; in the source "
            f"folder run: {sys.executable} -m pip install -c constraints.txt -e 'simulations[peers]'"
        )


def simulate(folder: Path, work: Work) -> Simulated:
    """Run all rounds; everything that was started has ended afterwards.

    Args:
        folder: does not exist yet. Short: Ray keeps sockets in it, whose paths may have 107 characters.
    """
    need_ray()
    folder.mkdir()
    times, peak = folder / "times.json", 0
    with Children(folder, processes.environment(**_RAY)) as children:
        command = [sys.executable, "-m", __name__, str(folder), json.dumps(asdict(work))]
        child = children.start("stock-simulation", command)
        limit = time.monotonic() + _START_SECONDS + _WORK_SECONDS * work.rounds * work.clients * work.size
        while child.process.poll() is None:
            peak = max(peak, _together(child))
            if time.monotonic() > limit:
                raise RunFailed(f"benchmark: Flower's simulation took too long; see its last words: {child.last()}")
            time.sleep(_LOOK_SECONDS)
        if child.process.returncode or len(stock_secure.marks(times)) <= work.rounds:
            raise RunFailed(f"benchmark: Flower's simulation failed: {child.last()}")
    return Simulated(tuple(stock_secure.seconds(stock_secure.marks(times))), peak)


def _together(child: Child) -> int:
    total = 0
    for pid in [child.pid, *processes.descendants(child.pid)]:
        with suppress(OSError):
            total += processes.memory(pid, "Pss")
    return total


def main(folder: Path, work: Work) -> None:
    """All rounds in this process and its workers."""
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    server = ServerApp()

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        stock_secure.serve(grid, context, work, folder / "times.json")

    run_simulation(
        server_app=server,
        client_app=stock_secure.client_app(torch=False),
        num_supernodes=work.clients,
        backend_config={"client_resources": {"num_cpus": 1}, "init_args": {"_temp_dir": str(folder / "r")}},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Work(**json.loads(sys.argv[2])))
