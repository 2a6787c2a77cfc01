"""A session: what is fixed before anyone makes a key, and the hashes that bind everything after it.

    sid         of the session's canonical bytes as received
    root        of sid and the signed adverts in U1: the clients sign it, and a quorum of signatures is a certificate
    transcript  (tid) of root: binds all that comes after phase 0
    plan        of the plan's bytes: fixed at contribute, one a session; it enters masks and later signatures

Sessions may be opened before the model of their round exists, so that their first two phases ride on the last messages
of the round before.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, FailFast, Field, model_validator

from fedsus.errors import ProtocolViolation
from fedsus.plan import Hash, Name, Strict, canonical, strictly
from fedsus.secagg import thresholds
from fedsus.secagg.graph import Graph, complete, harary
from fedsus.secagg.keys import commitment

MAX_BYTES: Final = 1024 * 1024
MAX_COHORT: Final = 100_000


NO_SERVER: Final = "0" * 64
"""What a session names as its server where devices pin none."""


class Phase(IntEnum):
    """What a signature is for, or what a client notes. See `fedsus.secagg.keys.statement`.

    ``ROOT`` is signed beside the shares. ``MASK`` is noted alone: integers were masked for the plan of ``CONTRIBUTE``.
    """

    ADVERTISE = 0
    SHARE = 1
    CONTRIBUTE = 2
    CONFIRM = 3
    UNMASK = 4
    ROOT = 5
    MASK = 6


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Index = Annotated[int, Field(ge=0, lt=MAX_COHORT)]
# Fails at the first bad one: each fault that pydantic collects takes a kilobyte, and a message holds 300,000.
Cohort = Annotated[
    tuple[Index, ...], FailFast(), BeforeValidator(_as_tuple), Field(min_length=3, max_length=MAX_COHORT)
]


class Session(Strict):
    """All that is fixed before phase 0, the same for every client.

    Attributes:
        federation, roster, number: name, hash and number of the roster whose members are asked.
        server: SHA-256 of the certificate that devices pin for the server; zeros where there is none (in memory).
        nonce: 32 fresh bytes.
        run, specification, round, attempt: which attempt of which run; its plan must say the same.
        previous: the session whose last messages carried this one's first; None for one on its own.
        cohort: positions in the roster's members, rising; a client's place in it is its *index*.
        choice: how the cohort was chosen: the whole roster, drawn by the roster's seed, or by the server.
        colluders: A, how many clients may work with a deviating server.
        dropouts: D, how many may fall out.
        rule, neighbours, threshold, sigma: the graph, its degree k, t, and its security parameter.
        minimum: least survivors that the plan asks for; `floor` is what counts.
        expires: seconds since the epoch; nothing is opened afterwards.
    """

    version: Literal[1] = 1
    federation: Name
    roster: Hash
    number: Annotated[int, Field(ge=1, le=10**9)]
    server: Hash
    nonce: Hash
    run: Name
    specification: Hash
    round: Annotated[int, Field(ge=1, le=100_001)]
    attempt: Annotated[int, Field(ge=1, le=300_001)]
    previous: Hash | None = None
    cohort: Cohort
    choice: Literal["whole", "drawn", "named"] = "whole"
    colluders: Annotated[int, Field(ge=1, lt=MAX_COHORT)]
    dropouts: Annotated[int, Field(ge=0, lt=MAX_COHORT)]
    rule: Literal["complete", "harary"]
    neighbours: Annotated[int, Field(ge=2, le=MAX_COHORT)]
    threshold: Annotated[int, Field(ge=2, le=MAX_COHORT)]
    sigma: Annotated[int, Field(ge=40, le=256)] = 128
    minimum: Annotated[int, Field(ge=1, le=MAX_COHORT)]
    expires: Annotated[int, Field(ge=0, le=10**11)]

    @model_validator(mode="after")
    def _consistent(self) -> Session:
        if any(a >= b for a, b in zip(self.cohort, self.cohort[1:], strict=False)):
            raise ValueError("the cohort is not a rising list of positions")
        n, k = self.size, self.neighbours
        if not self.threshold <= k <= n or (self.rule == "complete") != (k == n) or (k < n and k % 2):
            raise ValueError(f"{k} neighbours and threshold {self.threshold} do not fit a cohort of {n}")
        if 2 * self.threshold <= k + self.colluders and self.rule == "complete":
            raise ValueError(
                f"threshold {self.threshold} lets {self.colluders} colluders open both secrets of a client"
            )
        if self.colluders + 2 > n or self.dropouts > n - 3:
            raise ValueError(f"{self.colluders} colluders and {self.dropouts} dropouts leave nobody of {n}")
        return self

    @property
    def size(self) -> int:
        """N, the clients of the cohort."""
        return len(self.cohort)

    @property
    def floor(self) -> int:
        """The least survivors: max(3, A + 2, N - D, minimum)."""
        return thresholds.floor(self.size, self.colluders, self.dropouts, self.minimum)

    @property
    def quorum(self) -> int:
        """Signatures that make a certificate: more than (N + A) / 2."""
        return thresholds.quorum(self.size, self.colluders)

    def graph(self, root: bytes) -> Graph:
        """Who holds whose shares; over the whole cohort, never over a smaller set."""
        if self.rule == "complete":
            return complete(self.size)
        return harary(self.size, self.neighbours, commitment("graph", root))


def encode(session: Session) -> bytes:
    """Canonical bytes of a session."""
    return canonical(session.model_dump(mode="json"))


def decode(raw: bytes) -> Session:
    """The session of canonical bytes.

    Raises:
        ProtocolViolation: too long, unknown or missing fields, values out of range or inconsistent, or not canonical.
    """
    return strictly(raw, Session, "session", MAX_BYTES)


def session_id(raw: bytes) -> bytes:
    """sid: of the session's bytes as received, 32 bytes."""
    return commitment("session", raw)


def root(sid: bytes, adverts: bytes) -> bytes:
    """Root of the signed adverts in U1, in the order of their indices: 32 bytes."""
    return commitment("root", sid, adverts)


def transcript(adverts_root: bytes) -> bytes:
    """tid: binds everything after phase 0, 32 bytes."""
    return commitment("transcript", adverts_root)


def secret_hash(tid: bytes, index: int, secret: bytes) -> bytes:
    """What a client signs of its own mask's secret b before anyone holds a share of it: 32 bytes."""
    return commitment("own mask", tid, index.to_bytes(4, "little"), secret)


def check_set(session: Session, members: int, what: str) -> None:
    """Refuse a set of clients below the session's floor.

    Raises:
        ProtocolViolation: too few.
    """
    if members < session.floor:
        raise ProtocolViolation(f"{what}: {members} of {session.size} clients; at least {session.floor} are needed")
