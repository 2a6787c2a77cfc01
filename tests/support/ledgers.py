"""A ledger's runs in tests: one clock, one charge, one policy."""

from __future__ import annotations

from pathlib import Path

from charges import charge, policy

from fedsus.owner.caps import Account, PrivacyPolicy
from fedsus.owner.charges import Charge
from fedsus.owner.ledger import Ledger

POLICY = policy()
CHARGE = charge()
SERVER = Account("clinic", "example", "server")
DIGEST = b"\x01" * 32


def now() -> float:
    return 1_700_000_000.0


def reserve(
    ledger: Ledger, run: str, attempt: int, charge: Charge = CHARGE, policy: PrivacyPolicy = POLICY, round: int = 1
) -> None:
    ledger.reserve("clinic", run, attempt, round, DIGEST, charge, policy)


def fill(path: Path) -> None:
    """A ledger with one run, two attempts: five rows."""
    made = Ledger(path, now)
    made.open_run("clinic", "r1", CHARGE, POLICY)
    reserve(made, "r1", 1)
    made.release("clinic", "r1", 1)
    reserve(made, "r1", 2)
    made.close()


def spent(ledger: Ledger, account: Account = SERVER, policy: PrivacyPolicy = POLICY) -> float:
    cap = ledger.cap(account, policy)
    assert cap is not None
    return ledger.standing(account).spent(cap)
