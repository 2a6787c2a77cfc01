"""What a benchmark of secure sums asks for, and what was found: a sum in memory, and a cell of the scaling table."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedsus.plan import Strict

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


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
