"""Which cohort of a roster is asked, and how many colluders it must withstand."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from fedsus.secagg import thresholds
from fedsus.secagg.graph import permutation
from fedsus.secagg.keys import commitment
from fedsus.secagg.roster import Roster, digest
from fedsus.secagg.session import Session

SIGMA: Final = 128
"""Security parameter of graphs and draws; so large that it covers a server that tries many nonces."""

Choice: TypeAlias = Literal["whole", "drawn", "named"]


def least_colluders(choice: Choice, size: int, members: int, asked: int | None) -> int:
    """The least A that a cohort must withstand.

    Args:
        choice: how it was chosen: the whole roster, drawn by the roster's seed, or by the server.
        size: N, of the cohort.
        members: of the roster.
        asked: colluders in the whole roster, by the owner; None for the rule of the protocol.
    """
    everywhere = thresholds.colluders(members) if asked is None else asked
    if choice == "drawn":
        # At most that many of a random cohort but for a chance of 2**-128, however often a server draws again.
        return max(1, thresholds.drawn_colluders(members, min(everywhere, members), size, SIGMA))
    return min(everywhere, size)  # a server that chooses can put all colluders of the roster into one cohort


def drawn(roster: Roster, run: str, specification: str, attempt: int, nonce: str, size: int) -> tuple[int, ...]:
    """The cohort that the roster's seed draws for one attempt: ``size`` positions in its members, rising."""
    seed = commitment(
        "cohort",
        bytes.fromhex(roster.seed),
        digest(roster),
        run.encode(),
        bytes.fromhex(specification),
        attempt.to_bytes(4, "little"),
        bytes.fromhex(nonce),
    )
    return tuple(sorted(permutation(len(roster.members), seed)[:size]))


def keys(session: Session, roster: Roster) -> list[bytes]:
    """Ed25519 public key of each client of a session's cohort, by index."""
    return [bytes.fromhex(roster.members[position].key) for position in session.cohort]
