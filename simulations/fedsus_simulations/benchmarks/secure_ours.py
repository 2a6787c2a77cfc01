"""The seam between the benchmarks of secure sums and what they measure of fedsus: a part that is missing refuses.

The measuring frame (`secure_round`, `secure_sum`, `secure_scaling`) calls these functions and nothing else of ours.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from fedsus_simulations.benchmarks import processes
from fedsus_simulations.benchmarks.processes import Children
from fedsus_simulations.benchmarks.secure_cases import Case, Cell, Spent

_CELLS_SECONDS: Final = 1800.0


def need_deployment() -> None:
    """Refuse at once where `deployed_rounds` cannot measure, before the peer takes its minutes: nothing is missing."""


def need_cells() -> None:
    """As `need_deployment`, for `cells`."""


def deployed_rounds(folder: Path, clients: int, parameters: int, rounds: int) -> Sequence[float]:
    """Seconds of each round but the first, in the default deployment on loopback, by the journal of the run.

    Args:
        folder: does not exist yet; for everything that the deployment writes.
        parameters: those of the task that trains nothing.

    Raises:
        RunFailed: the journal does not say that each round was a secure sum of all clients.
    """
    from fedsus_simulations.benchmarks import deployed_round

    return deployed_round.ours_once(folder, "secure_sum", clients, parameters, rounds)


def in_memory(case: Case) -> Spent:
    """Run a case here and now; `secure_sum` calls it in a fresh process."""
    from fedsus_simulations.benchmarks import secure_memory

    return secure_memory.measure(case)


def cells(clients: int, sizes: Sequence[int]) -> list[Cell]:
    """Costs of so many clients at each vector size, in a fresh process, for memory is measured.

    Raises:
        RunFailed: the process failed.
    """
    command = [sys.executable, "-m", f"{__package__}.secure_cells", str(clients), *map(str, sizes)]
    with tempfile.TemporaryDirectory(prefix="fedsus-bench-") as name:
        said = Children(Path(name), processes.environment()).call(f"{clients:,} clients", command, _CELLS_SECONDS)
    return TypeAdapter(list[Cell]).validate_json(said)
