"""What was spent on each data set, on the owner's disk; see `fedsus.owner.history` for its entries.

Each attempt is reserved before anything is trained, at the fewest survivors that its plan allows; once the survivors of
its sum are certified it is charged for those. It is never charged for less than what may have left: a crash keeps the
reservation, and only what never left is refunded.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsus.errors import BudgetExhausted, ConfigError, ProtocolViolation, Refusal
from fedsus.owner import filters
from fedsus.owner.accounts import Standing, check_filter, check_run, check_whole, standing
from fedsus.owner.caps import Account, Cap, PrivacyPolicy, accounts
from fedsus.owner.chain import Chain
from fedsus.owner.charges import Charge
from fedsus.owner.history import Granted, History, granted_entry, opened_entry
from fedsus.owner.runs import COMMITTED, REFUNDED, RELEASED, RESERVED, Run
from fedsus.owner.runs import RunSpent as RunSpent
from fedsus.types import Clock


class Ledger:
    """One owner's ledger; safe to use from several threads, never from two agents at once.

    Args:
        path: SQLite file; None keeps it in memory, for simulations.
        clock: time of the entries.
        read_only: for looking at it while an agent writes.

    Raises:
        CorruptionError: the file was changed or an older copy put back; it is never repaired.
        EnvironmentFault: another agent uses it, or the disk is full.
    """

    def __init__(self, path: Path | None, clock: Clock, *, read_only: bool = False) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._history = History()
        self._mine: set[tuple[str, str, int]] = set()
        self._chain = Chain(path, read_only=read_only)
        try:
            for entry in self._chain.entries():
                self._history.take(entry)
        except BaseException:
            self._chain.close()
            raise

    def open_run(self, data_id: str, run: str, charge: Charge, policy: PrivacyPolicy) -> None:
        """Open a run whose every attempt fits under every cap; of a run that is open, check that it may go on.

        The order of an account's filter is fixed here, by the first run that its filter lets pass.

        Raises:
            Refusal: the run is open with another specification; or nobody granted a run without privacy.
            BudgetExhausted: a cap does not cover it; names account, asked, spent, cap, and what would fit.
        """
        if not (charge.epsilon >= 0 and 0 <= charge.delta < 1 and charge.attempts >= 1):  # NaN fails as well
            raise Refusal(
                f"run '{run}': epsilon {charge.epsilon}, delta {charge.delta}, attempts {charge.attempts} are no charge"
            )
        with self._guard:
            known = self._history.runs.get((data_id, run))
            if known and known.specification != charge.specification:
                raise Refusal(f"data '{data_id}': run '{run}' is not the run that was admitted: its plan changed")
            if charge.goal is None:
                self._check_unprotected(data_id, policy)
                grants: dict[str, Any] = {}
            else:
                grants = self._check_caps(data_id, run, charge, policy, known)
            if grants:
                self._append(type="granted", data=data_id, by="policy", accounts=grants)
            if known is None:
                self._append(**opened_entry(data_id, run, charge))

    def reserve(
        self,
        data_id: str,
        run: str,
        attempt: int,
        round: int,
        plan_digest: bytes,
        charge: Charge,
        policy: PrivacyPolicy,
    ) -> None:
        """Charge one attempt, durably, before anything is trained. `open_run` came just before.

        Args:
            round: that it is for.
            plan_digest: of the plan as received (`fedsus.plan.digest`).

        Raises:
            Refusal: the run was never opened, or the attempt is not newer than the last one; or, with noise that is
                correlated over rounds, it is not this device's turn.
            BudgetExhausted: more attempts than the run has, or a cap does not cover this one any more.
        """
        with self._guard:
            known = self._history.runs.get((data_id, run))
            if known is None:
                raise Refusal(f"data '{data_id}': run '{run}' was not admitted")
            last = max(known.states, default=0)
            if attempt <= last:
                raise Refusal(
                    f"data '{data_id}': run '{run}': attempt {attempt} is not after {last}; "
                    "the same model is answered again only in a new attempt"
                )
            if attempt > known.attempts:
                raise BudgetExhausted(f"data '{data_id}': run '{run}': attempt {attempt} of {known.attempts}")
            known.check_turn(round)
            if charge.goal is not None:
                self._check_attempt(data_id, known, charge, policy)
            events = None if known.variants[0] == charge.events else dict(charge.events)
            self._append(
                type=RESERVED,
                data=data_id,
                run=run,
                attempt=attempt,
                round=round,
                plan=plan_digest.hex(),
                events=events,
            )
            self._mine.add((data_id, run, attempt))

    def release(self, data_id: str, run: str, attempt: int) -> None:
        """Note that the answer of a reserved attempt leaves the device."""
        self._settle(data_id, run, attempt, RELEASED, (RESERVED,))

    def commit(self, data_id: str, run: str, attempt: int, survivors: int, events: Mapping[str, str]) -> None:
        """Charge an attempt for the survivors that are certified, before its sum can be opened.

        Args:
            events: what it spends with that many (`fedsus.owner.charges.events_of`), account key -> text.

        Raises:
            ProtocolViolation: it is not reserved or released by this process, or was committed before.
        """
        self._settle(data_id, run, attempt, COMMITTED, (RESERVED, RELEASED), survivors=survivors, events=dict(events))

    def refund(self, data_id: str, run: str, attempt: int) -> None:
        """Note that nothing of a reserved attempt left the device, nor will. The attempt is not asked again.

        Raises:
            ProtocolViolation: it was released, or reserved before a restart: a crash counts as spent.
        """
        self._settle(data_id, run, attempt, REFUNDED, (RESERVED,))

    def grant(self, some: list[Account], cap: Cap | None, order: int | None = None) -> None:
        """Grant accounts a cap that stands before the policy's; None: the policy's counts again.

        Args:
            some: accounts of one data set.
            order: of their filters, where it is not fixed yet; None leaves that to the first run.

        Raises:
            ConfigError: the order of a filter is fixed, or out of range.
        """
        with self._guard:
            given: dict[str, Any] = {}
            for account in some:
                fixed = self._history.grant(account).order
                if order is not None and fixed not in (None, order):
                    raise ConfigError(
                        f"{account}: the order of its filter is {fixed}, fixed for ever: leave out --order"
                    )
                if order is not None and cap is not None and cap.finite:
                    filters.allowance(cap, order)
                given[account.key] = None if cap is None else granted_entry(cap, order)
            self._append(type="granted", data=some[0].data, by="owner", accounts=given)

    def grants(self) -> dict[Account, Cap]:
        """What the owner granted in the ledger itself, and did not withdraw."""
        with self._guard:
            found = self._history.granted.items()
            return {account: given.owner for account, given in found if given.owner is not None}

    def granted(self, account: Account) -> Granted:
        """What was granted of an account, by policy or owner."""
        with self._guard:
            return self._history.grant(account)

    def standing(self, account: Account) -> Standing:
        """What was charged to an account."""
        with self._guard:
            return standing(self._history, account)

    def cap(self, account: Account, policy: PrivacyPolicy) -> Cap | None:
        """The cap that counts: the owner's grant in the ledger, else the policy's; None: the account has none."""
        with self._guard:
            return self._cap(account, policy)

    def data_ids(self) -> list[str]:
        """Data sets of which anything is known."""
        with self._guard:
            return self._history.data_ids()

    def runs(self, data_id: str) -> list[RunSpent]:
        """The runs on a data set, oldest first."""
        with self._guard:
            mine = list(self._history.of(data_id))
        return [run.spent() for run in mine]

    def export(self) -> list[dict[str, Any]]:
        """Every entry, in order, as plain data."""
        with self._guard:
            return [dict(entry) for entry in self._history.log]

    def close(self) -> None:
        """Let another agent use the file."""
        with self._guard:
            self._chain.close()

    def _cap(self, account: Account, policy: PrivacyPolicy) -> Cap | None:
        owner = self._history.grant(account).owner
        return policy.cap_of(account) if owner is None else owner

    def _check_unprotected(self, data_id: str, policy: PrivacyPolicy) -> None:
        """Refuse a run without differential privacy unless its owner granted that, in the policy or in the ledger."""
        given = [self._history.grant(account).owner for account in accounts(data_id)]
        if not policy.without_dp and not all(cap is not None and not cap.finite for cap in given):
            raise Refusal("a run without differential privacy: [privacy] without_dp is not granted")

    def _check_caps(
        self, data_id: str, run: str, charge: Charge, policy: PrivacyPolicy, known: Run | None
    ) -> dict[str, Any]:
        """Refuse what does not fit; what is to be written of caps and orders that are new."""
        found: dict[str, Any] = {}
        for account in accounts(data_id):
            cap, given = self._cap(account, policy), self._history.grant(account)
            if cap is None:
                if given.cap is not None:  # protected until now: what is let pass from here on is within no cap
                    found[account.key] = None
                continue
            order = given.order
            if cap.finite:
                now = standing(self._history, account, run)
                if known is None:
                    order = check_run(now, cap, run, charge, policy.composition)
                elif account.key not in known.filtered:
                    check_whole(now, cap, run, charge)
            if (cap, order) != (given.cap, given.order):
                found[account.key] = granted_entry(cap, order)
        return found

    def _check_attempt(self, data_id: str, known: Run, charge: Charge, policy: PrivacyPolicy) -> None:
        """Refuse an attempt that its accounts' filters do not let pass any more."""
        for account in accounts(data_id):
            cap, order = self._cap(account, policy), self._history.grant(account).order
            if cap is None or not cap.finite or order is None or account.key not in known.filtered:
                continue
            if known.once:  # charged whole or not at all
                check_filter(standing(self._history, account, known.name), cap, order, known.name, charge, 1)
            else:
                check_filter(standing(self._history, account), cap, order, known.name, charge, 1)

    def _settle(self, data_id: str, run: str, attempt: int, state: str, before: tuple[str, ...], **more: Any) -> None:
        with self._guard:
            known, key = self._history.runs.get((data_id, run)), (data_id, run, attempt)
            if key not in self._mine or known is None or known.states[attempt] not in before:
                raise ProtocolViolation(f"run '{run}': attempt {attempt} is not reserved by this process")
            self._append(type=state, data=data_id, run=run, attempt=attempt, **more)
            if state in (COMMITTED, REFUNDED):
                self._mine.discard(key)

    def _append(self, **entry: Any) -> None:
        self._chain.append({**entry, "time": self._clock()}, self._history.take)
