"""The seam between the benchmarks of secure sums and what they measure of fedsus: a part that is missing refuses.

The measuring frame (`secure_round`, `secure_sum`, `secure_scaling`) calls these functions and nothing else of ours.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from fedsus.plan import Strict
from fedsus_simulations.benchmarks import processes
from fedsus_simulations.benchmarks.processes import Children

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_CELLS_SECONDS: Final = 1800.0


class Case(Strict):
    """One secure sum in memory.

    Attributes:
        clients: in the cohort.
        parameters: coordinates of each client's vector, uint32 mod 2^32.
        neighbours: of a client in the sparse graph, itself not counted, even; None for the graph of the default rule.
        dropping: share of the cohort that drops, each at a random point of the session.
        rounds: sums in a row, each with fresh keys.
        cached: whether checks of signatures that several clients do alike are done once here.
        seed: of vectors and drops; secrets come from the operating system.
    """

    clients: Count
    parameters: Count
    neighbours: Count | None = None
    dropping: Annotated[float, Field(ge=0, lt=1)] = 0.0
    rounds: Count = 1
    cached: bool = False
    seed: int = 1


class Spent(Strict):
    """What the rounds of a `Case` took, in a process of their own, every client's cryptography included.

    Attributes:
        seconds: of each round, from the first key to the decoded sum; the making of the vectors is not in it.
        peak: largest resident set of the process, bytes.
        survivors: clients whose vector is in the sum, of each round.
        exact: whether each sum equals the survivors' vectors, added in clear.
        upload, download: largest bytes of one client in a round, all phases, the model left out.
        notes: what a reader must know: what was cached, with how many threads.
    """

    seconds: Annotated[tuple[Seconds, ...], Field(min_length=1)]
    peak: Count
    survivors: Annotated[tuple[Count, ...], Field(min_length=1)]
    exact: bool
    upload: Count
    download: Count
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_a_round(self) -> Self:
        if len(self.seconds) != len(self.survivors):
            raise ValueError(f"{len(self.seconds)} rounds were timed and {len(self.survivors)} have survivors")
        return self


class Cell(Strict):
    """Costs of one round with so many clients and parameters.

    Attributes:
        neighbours: of a client in the graph of the default rule, itself not counted; clients - 1 when complete.
        how: all clients were run; one server and some clients were; or it follows from other cells.
        client_seconds: processor time of one client, all phases.
        upload, download: bytes of one client, all phases, the model left out.
        server_seconds: of the whole round, waiting for clients left out.
        server_memory: growth of the server's resident set, bytes.
    """

    clients: Count
    parameters: Count
    neighbours: Count
    how: Literal["run", "sampled", "extrapolated"]
    client_seconds: Seconds
    upload: Count
    download: Count
    server_seconds: Seconds
    server_memory: Count


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
