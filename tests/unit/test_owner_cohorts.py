"""Which sessions a device joins: each field of one that is not as roster, policy and pins have it is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pacts import NAMES, NOWHERE, a_session, members

from fedsus.errors import Refusal
from fedsus.owner.cohorts import LONGEST_SECONDS, admit_session
from fedsus.owner.policy import Policy
from fedsus.secagg.cohort import drawn, least_colluders
from fedsus.secagg.roster import Roster
from fedsus.secagg.session import Session
from fedsus_simulations.whole.memory import Members

SERVER, OTHER, NOW = "5" * 64, "6" * 64, 100.0
PACT = members(6)
ROSTER = PACT.roster
DRAWN = {"choice": "drawn", "colluders": 2}
NAMED = {"choice": "named", "colluders": 2}


def session(**changes: Any) -> Session:
    return a_session(PACT, **{"server": SERVER, "minimum": 3} | changes)


def drawn_session(size: int = 4, **changes: Any) -> Session:
    fixed = session()
    cohort = drawn(ROSTER, fixed.run, fixed.specification, fixed.attempt, fixed.nonce, size)
    return session(**{"cohort": cohort} | DRAWN | changes)


def admitted(
    one: Session, roster: Roster | None = ROSTER, who: str = "ada", server: str = SERVER, **policy: Any
) -> int:
    return admit_session(one, roster, Policy.model_validate(policy), PACT.identities[who].public, server, NOW)


def test_the_whole_roster_is_joined_at_each_ones_place() -> None:
    assert [admitted(session(), who=name) for name in NAMES] == list(range(6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"federation": "another"}, "of federation 'another'; the roster here of 'simulated'"),
        ({"number": 2}, "uses roster 2 of 'simulated', number 1 is installed: install the newer one"),
        ({"roster": OTHER}, "roster 1 is another one than the one installed here"),
        ({"server": OTHER}, "another server than the one that this device pins"),
        ({"expires": 100}, "ends in 0 s; expected 0 to"),
        ({"expires": 99}, "ends in -1 s; expected 0 to"),
        ({"expires": 101 + LONGEST_SECONDS}, "expected 0 to 604800 s"),
        ({"cohort": (0, 1, 2, 3, 4, 6)}, "names member 6; the roster has 6"),
        ({"cohort": (0, 1, 2, 3, 4)}, "has 5 members and claims to be the whole roster"),
        ({"colluders": 1}, r"1 colluders: at least 2 are needed \(\[secure_sum\] colluders\)"),
        ({"dropouts": 3, "colluders": 2, "threshold": 5}, r"3 of 6 may drop out: the policy allows 2"),
        ({"sigma": 64}, "sigma 64: 128 is needed"),
        ({"dropouts": 2}, "2 planned, but 6 clients with 2 colluders tolerate 0 to 1"),
        ({"threshold": 6}, r"k = 6, t = 6: 6 clients and 2 colluders need a complete one, k = 6, t = 5"),
        ({"rule": "harary", "neighbours": 4, "threshold": 4}, "a harary graph, k = 4, t = 4"),
    ],
)
def test_each_field_that_is_another_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        admitted(session(**changes))


def test_without_grant_roster_or_seat_there_is_no_session() -> None:
    with pytest.raises(Refusal, match=r"\[exchange\] secure_sum is not granted"):
        admitted(session(), exchange={"secure_sum": False})
    with pytest.raises(Refusal, match="no roster is installed: run 'fedsus client roster FILE'"):
        admitted(session(), roster=None)
    stranger = members(1).identities["ada"].public
    with pytest.raises(Refusal, match="this device's identity is not in the cohort"):
        admit_session(session(), ROSTER, Policy(), stranger, SERVER, NOW)
    left_out = next(name for position, name in enumerate(NAMES) if position not in drawn_session().cohort)
    with pytest.raises(Refusal, match="not in the cohort"):
        admitted(drawn_session(), who=left_out)


def test_an_older_roster_of_the_operator_is_named() -> None:
    newer = ROSTER.model_copy(update={"number": 2, "previous": OTHER})
    with pytest.raises(Refusal, match="number 2 is installed: the operator's is too old"):
        admitted(session(), roster=newer)


@pytest.mark.parametrize(("minimum", "fits"), [(4, True), (5, True), (6, False)])
def test_what_counts_is_the_floor_not_what_the_plan_says(minimum: int, fits: bool) -> None:
    """With A = 2 and D = 1 of 6, at least 5 are in a sum, whatever smaller number the plan asks for."""
    one = session(dropouts=1, minimum=1)
    assert one.floor == 5
    if fits:
        assert admitted(one, cohort={"minimum": minimum}) == 0
    else:
        with pytest.raises(Refusal, match="5 survivors: the policy needs 6"):
            admitted(one, cohort={"minimum": minimum})


def test_the_owners_numbers_bind_whatever_the_session_says() -> None:
    assert admitted(session(colluders=1), secure_sum={"colluders": 1}) == 0
    assert admitted(session(colluders=3), secure_sum={"colluders": 3}) == 0
    with pytest.raises(Refusal, match="2 colluders: at least 4 are needed"):
        admitted(session(), secure_sum={"colluders": 4})
    with pytest.raises(Refusal, match="1 of 6 may drop out: the policy allows 0"):
        admitted(session(dropouts=1), secure_sum={"dropout": 0.1})


def test_the_share_of_dropouts_is_exact() -> None:
    """0.29 of 100 are 29; floating point makes it 28.999999999999996."""
    found = Members.of(f"member-{number:03}" for number in range(100))
    policy, key = Policy.model_validate({"secure_sum": {"dropout": 0.29}}), found.identities["member-000"].public

    def join(dropouts: int) -> int:
        return admit_session(a_session(found, dropouts=dropouts), found.roster, policy, key, NOWHERE, NOW)

    assert join(29) == 0
    with pytest.raises(Refusal, match="30 of 100 may drop out: the policy allows 29"):
        join(30)


def test_a_drawn_cohort_is_the_one_that_the_seed_draws() -> None:
    one = drawn_session()
    inside = NAMES[one.cohort[2]]
    assert admitted(one, who=inside) == 2
    with pytest.raises(Refusal, match=r"\[secure_sum\] draws is not granted"):
        admitted(one, who=inside, secure_sum={"draws": False})


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": OTHER},
        {"run": "run-2"},
        {"attempt": 2, "round": 2},
        {"specification": OTHER},
        {"cohort": (0, 1, 2, 3)},
    ],
)
def test_a_drawn_cohort_of_other_randomness_is_refused(changes: dict[str, Any]) -> None:
    one = drawn_session()
    other = session(**DRAWN | {"cohort": one.cohort} | changes)
    if other.cohort == drawn(ROSTER, other.run, other.specification, other.attempt, other.nonce, 4):
        return  # one of fifteen draws is the same
    with pytest.raises(Refusal, match="not the one that the roster's seed draws"):
        admitted(other, who=NAMES[other.cohort[0]])


def test_a_cohort_that_the_server_chose_needs_members_that_the_owner_names() -> None:
    one = session(cohort=(0, 1, 2, 3), **NAMED)
    with pytest.raises(Refusal, match="it names nobody"):
        admitted(one)
    assert admitted(one, secure_sum={"named": ["ben", "cid"]}) == 0
    with pytest.raises(Refusal, match=r"with 1 of the members that \[secure_sum\] names; 2 are needed"):
        admitted(one, secure_sum={"named": ["ben", "fay"]})
    assert admitted(one, secure_sum={"named": ["ben", "fay"], "named_minimum": 1}) == 0


def test_a_small_cohort_withstands_the_whole_rosters_colluders() -> None:
    """A server that chooses can put all colluders of a roster of 20 into one cohort of 8."""
    assert least_colluders("named", 8, 20, None) == 5
    assert least_colluders("named", 4, 20, None) == 4
    assert least_colluders("whole", 20, 20, 7) == 7
    assert least_colluders("drawn", 4, 6, None) == 2
    with pytest.raises(Refusal, match="1 colluders: at least 2 are needed"):
        admitted(session(cohort=(0, 1, 2, 3), choice="named", colluders=1), secure_sum={"named": ["ada"]})
