"""Sessions of secure aggregation for tests: a roster in memory, and a session over it as an honest server opens it."""

from __future__ import annotations

import json
from typing import Any

from fedsus.errors import ConfigError
from fedsus.plan import Plan
from fedsus.rounds.messages import model_hash
from fedsus.secagg import thresholds
from fedsus.secagg.roster import digest
from fedsus.secagg.session import Session, encode, session_id
from fedsus.types import Vector
from fedsus_simulations.whole.memory import Members

NOWHERE = "0" * 64
NAMES = ("ada", "ben", "cid", "dov", "eva", "fay")


def members(size: int) -> Members:
    """Fresh identities and their roster."""
    return Members.of(NAMES[:size])


def a_session(found: Members, **changes: Any) -> Session:
    """A session over the whole roster, but for ``changes``; graph and thresholds follow from its numbers."""
    size = len(changes.get("cohort", found.roster.members))
    fields: dict[str, Any] = {
        "federation": found.roster.federation,
        "roster": digest(found.roster).hex(),
        "number": found.roster.number,
        "server": NOWHERE,
        "nonce": "7" * 64,
        "run": "run-1",
        "specification": NOWHERE,
        "round": 1,
        "attempt": 1,
        "cohort": tuple(range(size)),
        "colluders": thresholds.colluders(len(found.roster.members)),
        "dropouts": 0,
        "minimum": 1,
        "expires": 1000,
    } | changes
    try:
        solved = thresholds.solve(size, fields["colluders"], fields["dropouts"])
    except ConfigError:  # a test of numbers that do not work
        solved = thresholds.Thresholds(size, size, "complete")
    numbers = {"rule": solved.rule, "neighbours": solved.neighbours, "threshold": solved.threshold}
    return Session.model_validate(numbers | fields)


def plan_for(model: Vector, session: str | None, **changes: Any) -> Plan:
    """A plan of the run for ``model``, in clear where ``session`` is None; but for ``changes``."""
    asked: dict[str, Any] = {
        "run": "run-1",
        "round": 1,
        "attempt": 1,
        "rounds": 3,
        "spare_attempts": 3,
        "model": model_hash(model),
        "dimension": len(model),
        "task": {"name": "heart"},
        "training": {},
        "privacy": {"unit": "none"},
        "encoding": {},
        "cohort": {"size": 4, "minimum": 3},
        "exchange": "clear_sum" if session is None else "secure_sum",
        "session": session,
        "deadline": 60.0,
    }
    return Plan.model_validate_json(json.dumps(asked | changes))


def sid_of(session: Session) -> bytes:
    """The hash of a session's canonical bytes."""
    return session_id(encode(session))
