"""Cohorts of the server's making: invented members, a victim among its own, draws repeated until they suit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from adversaries import Cell, integers

from fedsus.errors import ConfigError, ProtocolViolation, Refusal
from fedsus.owner import cohorts
from fedsus.owner.cohorts import admit_session
from fedsus.owner.pinning import RosterBook
from fedsus.owner.policy import Policy
from fedsus.secagg import session as sessions
from fedsus.secagg import thresholds
from fedsus.secagg.cohort import drawn, least_colluders
from fedsus.secagg.keys import Identity
from fedsus.secagg.roster import Pins, Roster, RosterMember, SignedRoster, digest, encode
from fedsus.secagg.session import Session
from fedsus.types import Ring

SIGNERS = sorted((Identity.generate() for _ in range(3)), key=lambda one: one.public)
OPERATOR = Identity.generate()
MEMBERS = [Identity.generate() for _ in range(40)]
VICTIM = 7
COLLUDING = range(30, 40)
PINS = {"name": "north", "signers": [one.public.hex() for one in SIGNERS], "needed": 2}


def a_roster(size: int = 40, **changes: Any) -> Roster:
    members = [RosterMember(name=f"m{index:02}", key=MEMBERS[index].public.hex()) for index in range(size)]
    fields: dict[str, Any] = {
        "federation": "north",
        "number": 1,
        "previous": None,
        "signers": tuple(one.public.hex() for one in SIGNERS),
        "needed": 2,
        "seed": "5" * 64,
        "members": tuple(members),
    }
    return Roster.model_validate(fields | changes)


def signed(roster: Roster, *by: Identity) -> bytes:
    found = SignedRoster(roster=roster)
    for one in by:
        found = found.signed(one)
    return encode(found)


def policy(**secure_sum: Any) -> Policy:
    return Policy.model_validate({"federation": PINS, "secure_sum": secure_sum})


def asked(listed: Roster, cohort: tuple[int, ...], choice: str, colluders: int = 1, **changes: Any) -> Session:
    """A session that says as few colluders as the server likes."""
    solved = thresholds.solve(len(cohort), colluders, 0)
    fields: dict[str, Any] = {
        "federation": listed.federation,
        "roster": digest(listed).hex(),
        "number": listed.number,
        "server": "0" * 64,
        "nonce": "1" * 64,
        "run": "run-1",
        "specification": "2" * 64,
        "round": 1,
        "attempt": 1,
        "cohort": cohort,
        "choice": choice,
        "colluders": colluders,
        "dropouts": 0,
        "rule": solved.rule,
        "neighbours": solved.neighbours,
        "threshold": solved.threshold,
        "minimum": 3,
        "expires": 1000,
    }
    return Session.model_validate(fields | changes)


def admitted(session: Session, roster: Roster, owner: Policy) -> int:
    return admit_session(session, roster, owner, MEMBERS[VICTIM].public, "0" * 64, 0.0)


def alone_among_colluders(size: int = 4, declared: int = 1) -> Ring | None:
    """What follows when a device joins such a cohort: its states alone cannot know, and the rest follows the rules."""
    attacked = Cell(size, range(1, size), colluders=declared)
    attacked.advertise()
    attacked.share()
    for index in range(size):
        attacked.open(index)
    attacked.contribute(0)
    attacked.close(range(size), range(size))
    assert attacked.refusals == []
    return attacked.reveal(0)


def test_a_client_that_joins_a_cohort_of_colluders_is_opened() -> None:
    """All the rest of this file is about not joining one."""
    assert np.array_equal(alone_among_colluders(), integers(0))


@pytest.mark.parametrize(
    ("by", "changes", "why"),
    [
        ([OPERATOR], {}, "0 of the 3 pinned keys signed it, 2 must"),
        ([OPERATOR, SIGNERS[0]], {}, "1 of the 3 pinned keys signed it, 2 must"),
        ([OPERATOR], {"signers": (OPERATOR.public.hex(),), "needed": 1}, "0 of the 3 pinned keys signed it, 2 must"),
        ([SIGNERS[1]], {"needed": 1}, "1 of the 3 pinned keys signed it, 2 must"),
        (SIGNERS[:2], {"federation": "south"}, "'north' is pinned"),
    ],
    ids=["operator", "operator and one owner", "its own signers", "fewer needed", "another federation"],
)
def test_a_roster_that_the_owners_did_not_sign_is_not_installed(
    tmp_path: Path, by: list[Identity], changes: dict[str, Any], why: str
) -> None:
    """The operator lists the victim and inventions of its own; Flower's server needs no list at all."""
    raw = signed(a_roster(8, **changes), *by)
    pins = Policy.model_validate({"federation": PINS}).federation
    assert pins is not None
    with pytest.raises(Refusal, match=why):
        RosterBook(tmp_path / "roster", tmp_path / "notes", pins.pins).accept(raw)
    with patch.object(SignedRoster, "verified", lambda self, _: self.roster):
        weak = RosterBook(tmp_path / "roster", tmp_path / "notes", Pins("north", frozenset(), 1)).accept(raw)
    session = asked(weak, tuple(range(8)), "whole", 2)
    assert admit_session(session, weak, policy(), MEMBERS[VICTIM].public, "0" * 64, 0.0) == VICTIM


def test_without_a_roster_no_session_is_joined() -> None:
    session = asked(a_roster(8), tuple(range(8)), "whole", 2)
    with pytest.raises(Refusal, match="no roster is installed"):
        admit_session(session, None, policy(), MEMBERS[VICTIM].public, "0" * 64, 0.0)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"roster": "3" * 64}, "another one than the one installed"),
        ({"number": 2}, "number 1 is installed: install the newer one"),
        ({"federation": "south"}, "of federation 'south'"),
        ({"server": "4" * 64}, "of another server"),
        ({"expires": 0}, "ends in 0 s"),
        ({"expires": 10**6}, "expected 0 to"),
    ],
    ids=str,
)
def test_a_session_of_something_else_is_refused(changes: dict[str, Any], why: str) -> None:
    roster = a_roster(8)
    assert admitted(asked(roster, tuple(range(8)), "whole", 2), roster, policy()) == VICTIM
    with pytest.raises(Refusal, match=why):
        admitted(asked(roster, tuple(range(8)), "whole", 2, **changes), roster, policy())


PICKED = (VICTIM, 30, 31, 32)
LIES: dict[str, tuple[Callable[[Roster], Session], str]] = {
    "whole": (lambda roster: asked(roster, PICKED, "whole"), "claims to be the whole roster"),
    "drawn": (lambda roster: asked(roster, PICKED, "drawn"), "not the one that the roster's seed draws"),
    "named": (lambda roster: asked(roster, PICKED, "named"), "a cohort that the server chose, with [01] of"),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("owner", [{}, {"named": ["m01", "m02"]}, {"named": ["m01", "m30"]}], ids=str)
def test_a_cohort_that_the_server_picked_is_refused_whatever_it_is_called(lie: str, owner: dict[str, Any]) -> None:
    roster = a_roster()
    make, why = LIES[lie]
    session = make(roster)
    with pytest.raises(Refusal, match=why):
        admitted(session, roster, policy(**owner))
    with patch.object(cohorts, "_cohort", lambda *_: None), patch.object(cohorts, "check_numbers", lambda *_: None):
        assert admitted(session, roster, policy(**owner)) == 0


def test_members_that_the_owner_names_are_counted_and_the_numbers_still_hold() -> None:
    """With two named ones there, a server that chose the rest is withstood as if it chose all other colluders."""
    roster = a_roster()
    owner = policy(named=["m01", "m02"])
    with pytest.raises(Refusal, match="at least 4 are needed"):
        admitted(asked(roster, (1, 2, VICTIM, 30), "named"), roster, owner)


def ground(roster: Roster, size: int) -> Session:
    """Draw with new nonces until everybody but the victim is a colluder."""
    for attempt in range(1, 200_000):
        nonce = attempt.to_bytes(32, "little").hex()
        cohort = drawn(roster, "run-1", "2" * 64, 1, nonce, size)
        if VICTIM in cohort and set(cohort) - {VICTIM} <= set(COLLUDING):
            return asked(roster, cohort, "drawn", nonce=nonce)
    raise AssertionError("not ground")


def test_a_small_draw_is_ground_in_moments_and_its_numbers_are_refused() -> None:
    roster = a_roster()
    session = ground(roster, 3)
    with patch.object(cohorts, "check_numbers", lambda *_: None):
        assert session.cohort[admitted(session, roster, policy())] == VICTIM
    with pytest.raises(Refusal, match="1 colluders: at least 3 are needed"):
        admitted(session, roster, policy())
    with pytest.raises(ConfigError, match="allowed are 1 to 1"):
        thresholds.solve(3, 3, 0)
    assert np.array_equal(alone_among_colluders(3), integers(0))


def test_a_draw_withstands_whatever_grinding_reaches() -> None:
    """More colluders than A in a draw: at most 2**-128 of them, so no number of nonces finds one."""
    for members, size in ((40, 10), (100, 20), (1000, 50), (1000, 200)):
        everywhere = thresholds.colluders(members)
        least = least_colluders("drawn", size, members, None)
        assert least == max(1, thresholds.drawn_colluders(members, everywhere, size, 128))
        assert least > size * everywhere / members, "more than a fair draw has"


def fairly(roster: Roster) -> tuple[str, tuple[int, ...]]:
    """A draw of 30 with the victim."""
    for number in range(1000):
        cohort = drawn(roster, "run-1", "2" * 64, 1, f"{number:064x}", 30)
        if VICTIM in cohort:
            return f"{number:064x}", cohort
    raise AssertionError("never drawn")


def test_draws_that_the_owner_does_not_grant_are_refused() -> None:
    roster = a_roster()
    nonce, cohort = fairly(roster)
    least = least_colluders("drawn", 30, 40, None)
    session = asked(roster, cohort, "drawn", least, nonce=nonce)
    assert session.cohort[admitted(session, roster, policy())] == VICTIM
    with pytest.raises(Refusal, match="draws is not granted"):
        admitted(session, roster, policy(draws=False))


@pytest.mark.parametrize("field", ["nonce", "run", "specification", "attempt"])
def test_a_draw_is_of_one_attempt(field: str) -> None:
    """A cohort that once was drawn is not brought again."""
    roster = a_roster()
    nonce, cohort = fairly(roster)
    other = {"nonce": "9" * 64, "run": "run-2", "specification": "8" * 64, "attempt": 2}[field]
    session = asked(roster, cohort, "drawn", least_colluders("drawn", 30, 40, None), **{"nonce": nonce, field: other})
    with pytest.raises(Refusal, match="not the one that the roster's seed draws"):
        admitted(session, roster, policy())


@pytest.mark.parametrize(
    ("changes", "owner", "why"),
    [
        ({"colluders": 1}, {}, "1 colluders: at least 2 are needed"),
        ({"colluders": 2}, {"colluders": 4}, "2 colluders: at least 4 are needed"),
        ({"colluders": 2, "dropouts": 2}, {"dropout": 0.2}, "2 of 8 may drop out: the policy allows 1"),
        ({"colluders": 5}, {}, None),
    ],
    ids=str,
)
def test_the_owners_numbers_count(changes: dict[str, Any], owner: dict[str, Any], why: str | None) -> None:
    roster = a_roster(8)
    session = asked(roster, tuple(range(8)), "whole", **changes)
    if why is None:
        assert admitted(session, roster, policy(**owner)) == VICTIM
    else:
        with pytest.raises(Refusal, match=why):
            admitted(session, roster, policy(**owner))


def test_too_few_survivors_for_the_owner_are_refused() -> None:
    roster = a_roster(8)
    owner = Policy.model_validate({"federation": PINS, "cohort": {"minimum": 9}})
    with pytest.raises(Refusal, match="8 survivors: the policy needs 9"):
        admitted(asked(roster, tuple(range(8)), "whole", 2), roster, owner)


def test_a_cohort_without_this_device_or_beyond_the_roster_is_refused() -> None:
    roster, smaller = a_roster(8), a_roster(7)
    with pytest.raises(Refusal, match="not in the cohort"):
        admit_session(asked(roster, tuple(range(8)), "whole", 2), roster, policy(), OPERATOR.public, "0" * 64, 0.0)
    session = asked(smaller, tuple(range(8)), "whole", 2)
    with pytest.raises(Refusal, match="the cohort names member 7"):
        admitted(session, smaller, policy())


def test_a_member_twice_in_a_cohort_is_no_session() -> None:
    twice = asked(a_roster(8), tuple(range(8)), "whole", 2).model_copy(update={"cohort": (0, 1, 2, 3, 4, 7, 7, 7)})
    with pytest.raises(ProtocolViolation, match="not a rising list"):
        sessions.decode(sessions.encode(twice))
