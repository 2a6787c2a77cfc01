"""Which phases of secure aggregation a message asks a device for, and whether a plan is its session's."""

from __future__ import annotations

from collections.abc import Sequence

from fedsus import plan as plans
from fedsus.errors import ProtocolViolation
from fedsus.plan import Plan
from fedsus.protection import Distributed
from fedsus.secagg.session import Session
from fedsus.secagg.wire import Frame, Kind


def phases_of(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames by phase: a client's own part of CONTRIBUTE goes with it.

    Raises:
        ProtocolViolation: what only answers say, one phase twice, or an own part without its phase.
    """
    found: list[list[Frame]] = []
    for frame in frames:
        if frame.refused or frame.wanting:
            raise ProtocolViolation("message: a refusal asks nothing")
        if found and found[-1][-1].kind == Kind.SEALED:
            if frame.kind != Kind.CONTRIBUTE:
                raise ProtocolViolation("message: sealed shares without a request to contribute")
            found[-1].append(frame)
        else:
            found.append([frame])
    kinds = [group[-1].kind for group in found]
    if Kind.SEALED in kinds or len(set(kinds)) < len(kinds):
        raise ProtocolViolation("message: a phase twice, or sealed shares alone")
    return found


def check_plan(plan: Plan, session: Session, sid: bytes) -> None:
    """Refuse a plan that is not the one its session was opened for.

    Raises:
        ProtocolViolation: it names another exchange, session, run, round, attempt or cohort.
    """
    for word, asked, fixed in (
        ("exchange", plan.exchange, "secure_sum"),
        ("session", plan.session, sid.hex()),
        ("run", plan.run, session.run),
        ("round", plan.round, session.round),
        ("attempt", plan.attempt, session.attempt),
        ("specification", plans.specification(plan), session.specification),
        ("cohort.size", plan.cohort.size, session.size),
        ("cohort.minimum", plan.cohort.minimum, session.minimum),
    ):
        if asked != fixed:
            raise ProtocolViolation(f"plan: its {word} {asked} is not its session's: {fixed}")
    if isinstance(plan.privacy, Distributed):
        shares = plan.privacy.shares
        if shares.colluders != session.colluders:
            raise ProtocolViolation(
                f"plan: its noise counts {shares.colluders} colluders, its session {session.colluders}"
            )
        if session.floor < shares.survivors:
            raise ProtocolViolation(
                f"plan: its noise needs {shares.survivors} survivors, its session opens a sum of {session.floor}"
            )
