"""Whether a session of secure aggregation may be joined: its cohort and its numbers, all recomputed.

A server that picks who is asked would pick one victim and its own colluders. So a cohort is the whole roster, or was
drawn by randomness that the roster's signers fixed, or holds enough members that this device's owner names.
"""

from __future__ import annotations

from typing import Final

from fedsus.errors import ConfigError, Refusal
from fedsus.owner.policy import Policy
from fedsus.secagg import thresholds
from fedsus.secagg.cohort import SIGMA, drawn, least_colluders
from fedsus.secagg.roster import Roster, digest
from fedsus.secagg.session import Session

LONGEST_SECONDS: Final = 7 * 86_400


class NotInCohort(Refusal):
    """A session of others. The message that brings it may carry a phase for this device: nobody's fault."""


def admit_session(session: Session, roster: Roster | None, policy: Policy, key: bytes, server: str, now: float) -> int:
    """This device's index in the cohort, if its owner's policy allows the session.

    Args:
        roster: the newest that was accepted here; None where there is none.
        key: Ed25519 public key of this device's identity, 32 bytes.
        server: hash of the certificate that this device pins.
        now: seconds since the epoch.

    Raises:
        Refusal: with the reason, for the device's own log.
    """
    if not policy.exchange.secure_sum:
        raise Refusal("exchange 'secure_sum': [exchange] secure_sum is not granted")
    if roster is None:
        raise Refusal("no roster is installed: run 'fedsus client roster FILE', and pin its signers in [federation]")
    _roster(session, roster)
    if session.server != server:
        raise Refusal("the session is of another server than the one that this device pins")
    if not now < session.expires <= now + LONGEST_SECONDS:
        raise Refusal(f"the session ends in {session.expires - now:.0f} s; expected 0 to {LONGEST_SECONDS} s")
    if session.cohort[-1] >= len(roster.members):
        raise Refusal(f"the cohort names member {session.cohort[-1]}; the roster has {len(roster.members)}")
    _cohort(session, roster, policy)
    check_numbers(session, len(roster.members), policy)
    members = [roster.members[position].key for position in session.cohort]
    if key.hex() not in members:
        raise NotInCohort("this device's identity is not in the cohort")
    return members.index(key.hex())


def _roster(session: Session, roster: Roster) -> None:
    if session.federation != roster.federation:
        raise Refusal(f"the session is of federation '{session.federation}'; the roster here of '{roster.federation}'")
    if session.number != roster.number:
        newer = session.number > roster.number
        raise Refusal(
            f"the session uses roster {session.number} of '{roster.federation}', number {roster.number} is installed: "
            + ("install the newer one: fedsus client roster FILE" if newer else "the operator's is too old")
        )
    if session.roster != digest(roster).hex():
        raise Refusal(f"the session's roster {session.number} is another one than the one installed here")


def _cohort(session: Session, roster: Roster, policy: Policy) -> None:
    wanted = policy.secure_sum
    if session.choice == "whole":
        if session.size != len(roster.members):
            raise Refusal(f"the cohort has {session.size} members and claims to be the whole roster")
    elif session.choice == "drawn":
        if not wanted.draws:
            raise Refusal("a cohort that was drawn: [secure_sum] draws is not granted")
        if session.cohort != drawn(
            roster, session.run, session.specification, session.attempt, session.nonce, session.size
        ):
            raise Refusal("the cohort is not the one that the roster's seed draws")
    else:
        names = {roster.members[position].name for position in session.cohort}
        there = sum(name in names for name in wanted.named)
        if not wanted.named or there < wanted.named_needed:
            raise Refusal(
                f"a cohort that the server chose, with {there} of the members that [secure_sum] names; "
                f"{wanted.named_needed} are needed" + ("" if wanted.named else ": it names nobody")
            )


def check_numbers(session: Session, members: int, policy: Policy) -> None:
    """Recompute what a session withstands.

    Args:
        members: how many the roster has.

    Raises:
        Refusal: less than the policy asks for, or a graph that does not give it.
    """
    least = least_colluders(session.choice, session.size, members, policy.secure_sum.colluders)
    if session.colluders < least:
        raise Refusal(f"{session.colluders} colluders: at least {least} are needed ([secure_sum] colluders)")
    most = thresholds.planned_dropouts(session.size, policy.secure_sum.dropout)
    if session.dropouts > most:
        raise Refusal(
            f"{session.dropouts} of {session.size} may drop out: the policy allows {most} ([secure_sum] dropout)"
        )
    if session.sigma != SIGMA:
        raise Refusal(f"sigma {session.sigma}: {SIGMA} is needed")
    try:
        needed = thresholds.solve(session.size, session.colluders, session.dropouts)
    except ConfigError as error:
        raise Refusal(str(error)) from None
    if (session.rule, session.neighbours, session.threshold) != (needed.rule, needed.neighbours, needed.threshold):
        raise Refusal(
            f"a {session.rule} graph, k = {session.neighbours}, t = {session.threshold}: "
            f"{session.size} clients and {session.colluders} colluders need a {needed.rule} one, "
            f"k = {needed.neighbours}, t = {needed.threshold}"
        )
    if session.floor < policy.cohort.minimum:
        raise Refusal(f"{session.floor} survivors: the policy needs {policy.cohort.minimum} ([cohort] minimum)")
