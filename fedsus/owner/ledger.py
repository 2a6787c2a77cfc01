"""What was spent on each data set, on the owner's disk.

A run is charged whole, for all its rounds and spare attempts, when its first plan is admitted. Epsilons and deltas
of runs add up: basic composition holds for runs that were chosen after seeing earlier ones (Rogers et al. 2016,
"Privacy odometers and filters", section 4). Nothing is given back when a run ends early: the tighter
composition inside a run is only valid for a schedule that was fixed beforehand.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedsus.errors import BudgetExhausted, CorruptionError, ProtocolViolation, Refusal
from fedsus.owner.chain import Chain
from fedsus.owner.policy import Cap
from fedsus.types import Clock

RESERVED, RELEASED, REFUNDED = "reserved", "released", "refunded"


@dataclass(frozen=True, slots=True)
class RunSpent:
    """One run on one data set.

    Attributes:
        epsilon: what the whole run was charged; infinity without differential privacy.
        delta: likewise; 0 without differential privacy.
        attempts: how many attempts the charge covers.
        used: attempts that counted: all but the refunded ones.
        released: attempts whose answer left the device.
        epsilon_so_far: what the used attempts amount to, at ``delta``; for the owner to read, never to grant by.
        opened: when, seconds since the epoch.
    """

    data_id: str
    run: str
    specification: str
    epsilon: float
    delta: float
    attempts: int
    used: int
    released: int
    epsilon_so_far: float
    opened: float


@dataclass(slots=True)
class _Run:
    """A run as the entries tell it."""

    specification: str
    epsilon: float
    delta: float
    attempts: int
    opened: float
    states: dict[int, str] = field(default_factory=dict)
    event: str = "null"

    @property
    def private(self) -> bool:
        return math.isfinite(self.epsilon)

    def used(self) -> int:
        return sum(state != REFUNDED for state in self.states.values())


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
        self._runs: dict[tuple[str, str], _Run] = {}
        self._pending: set[tuple[str, str, int]] = set()
        self._log: list[dict[str, Any]] = []
        self._chain = Chain(path, read_only=read_only)
        try:
            for entry in self._chain.entries():
                self._fold(entry)
        except BaseException:
            self._chain.close()
            raise

    def open_run(
        self, data_id: str, run: str, specification: str, epsilon: float, delta: float, attempts: int, *, cap: Cap
    ) -> None:
        """Charge a whole run, once; for a run that is already open, check that nothing changed.

        Args:
            epsilon: of the whole run; infinity for a run without differential privacy, which its owner granted:
                such a run stands outside ``cap`` and makes `spent` infinite.
            cap: the most that all private runs on ``data_id`` may spend together, this one included.

        Raises:
            Refusal: the run is open with another specification.
            BudgetExhausted: the cap does not cover it.
        """
        if not (epsilon >= 0 and 0 <= delta < 1 and attempts >= 1):  # NaN fails as well
            raise Refusal(f"run '{run}': epsilon {epsilon}, delta {delta}, attempts {attempts} are no charge")
        with self._guard:
            known = self._runs.get((data_id, run))
            if known and known.specification != specification:
                raise Refusal(f"data '{data_id}': run '{run}' is not the run that was admitted: its plan changed")
            self._within(data_id, run, known.epsilon if known else epsilon, known.delta if known else delta, cap)
            if known is None:
                private = math.isfinite(epsilon)
                self._append(
                    type="opened",
                    data=data_id,
                    run=run,
                    specification=specification,
                    epsilon=float(epsilon) if private else None,
                    delta=float(delta) if private else 0.0,
                    attempts=attempts,
                )

    def reserve(self, data_id: str, run: str, attempt: int, plan_digest: bytes | str, event_json: str) -> None:
        """Charge one attempt, durably, before anything is trained.

        Args:
            plan_digest: of the plan as received (`fedsus.plan.digest`).
            event_json: what an attempt spends, as `fedsus.owner.admission.Grant.event`; "null" without privacy.

        Raises:
            Refusal: the run was never opened, or the attempt is not newer than the last one.
            BudgetExhausted: more attempts than the run was charged for.
        """
        with self._guard:
            entry = self._runs.get((data_id, run))
            if entry is None:
                raise Refusal(f"data '{data_id}': run '{run}' was not admitted")
            last = max(entry.states, default=0)
            if attempt <= last:
                raise Refusal(
                    f"data '{data_id}': run '{run}': attempt {attempt} is not after {last}; "
                    "the same model is answered again only in a new attempt"
                )
            if attempt > entry.attempts:
                raise BudgetExhausted(
                    f"data '{data_id}': run '{run}': attempt {attempt} of {entry.attempts} that were charged"
                )
            digest = plan_digest if isinstance(plan_digest, str) else plan_digest.hex()
            self._append(type=RESERVED, data=data_id, run=run, attempt=attempt, plan=digest, event=event_json)
            self._pending.add((data_id, run, attempt))

    def release(self, data_id: str, run: str, attempt: int) -> None:
        """Note that the answer of a reserved attempt leaves the device."""
        self._settle(data_id, run, attempt, RELEASED)

    def refund(self, data_id: str, run: str, attempt: int) -> None:
        """Note that nothing of a reserved attempt left the device, nor will. The attempt is not asked again.

        Raises:
            ProtocolViolation: it was released, or reserved before a restart: a crash counts as spent.
        """
        self._settle(data_id, run, attempt, REFUNDED)

    def spent(self, data_id: str) -> tuple[float, float]:
        """Epsilon and delta charged to a data set by all runs; epsilon is infinity after one without privacy."""
        with self._guard:
            mine = [run for (data, _), run in self._runs.items() if data == data_id]
        return float(_exact(run.epsilon for run in mine)), float(_exact(run.delta for run in mine))

    def charged(self, data_id: str) -> Cap:
        """Epsilon and delta charged to a data set by its private runs: what counts against the cap."""
        with self._guard:
            mine = [run for (data, _), run in self._runs.items() if data == data_id and run.private]
        return Cap(float(_exact(run.epsilon for run in mine)), float(_exact(run.delta for run in mine)))

    def data_ids(self) -> list[str]:
        """Data sets that any run was opened on."""
        with self._guard:
            return sorted({data for data, _ in self._runs})

    def runs(self, data_id: str) -> list[RunSpent]:
        """The runs on a data set, oldest first."""
        with self._guard:
            mine = [(name, run, run.used()) for (data, name), run in self._runs.items() if data == data_id]
        return [
            RunSpent(
                data_id=data_id,
                run=name,
                specification=run.specification,
                epsilon=run.epsilon,
                delta=run.delta,
                attempts=run.attempts,
                used=used,
                released=sum(state == RELEASED for state in run.states.values()),
                epsilon_so_far=_so_far(run.event, used, run.delta),
                opened=run.opened,
            )
            for name, run, used in mine
        ]

    def export(self) -> list[dict[str, Any]]:
        """Every entry, in order, as plain data."""
        with self._guard:
            return [dict(entry) for entry in self._log]

    def close(self) -> None:
        """Let another agent use the file."""
        with self._guard:
            self._chain.close()

    def _within(self, data_id: str, run: str, epsilon: float, delta: float, cap: Cap) -> None:
        """Raise unless the private runs, this one included, stay within the cap; sums are exact decimals."""
        if not math.isfinite(epsilon):
            return
        others = [r for key, r in self._runs.items() if key[0] == data_id and key[1] != run and r.private]
        for word, asked, limit, spent in (
            ("epsilon", epsilon, cap.epsilon, _exact(r.epsilon for r in others)),
            ("delta", delta, cap.delta, _exact(r.delta for r in others)),
        ):
            if spent + _exact([asked]) > _exact([limit]):
                raise BudgetExhausted(
                    f"data '{data_id}': run '{run}' asks {word} {asked:.6g}; {float(spent):.6g} of the cap "
                    f"{limit:.6g} is spent"
                )

    def _settle(self, data_id: str, run: str, attempt: int, state: str) -> None:
        with self._guard:
            if (data_id, run, attempt) not in self._pending:
                raise ProtocolViolation(f"run '{run}': attempt {attempt} is not reserved by this process")
            self._append(type=state, data=data_id, run=run, attempt=attempt)
            self._pending.discard((data_id, run, attempt))

    def _append(self, **entry: Any) -> None:
        self._chain.append({**entry, "time": self._clock()}, self._fold)

    def _fold(self, entry: dict[str, Any]) -> None:
        """Take one entry into the state.

        Raises:
            CorruptionError: a type that this version does not know, or a field missing.
        """
        try:
            key = (entry["data"], entry["run"])
            match entry["type"]:
                case "opened":
                    epsilon = math.inf if entry["epsilon"] is None else entry["epsilon"]
                    self._runs[key] = _Run(
                        entry["specification"], epsilon, entry["delta"], entry["attempts"], entry["time"]
                    )
                case "reserved":
                    self._runs[key].states[entry["attempt"]] = RESERVED
                    self._runs[key].event = entry["event"]
                case "released" | "refunded" as state:
                    self._runs[key].states[entry["attempt"]] = state
                case other:
                    raise CorruptionError(f"ledger: row {entry['seq']}: unknown entry '{other}'")
        except KeyError as error:
            raise CorruptionError(f"ledger: row {entry.get('seq')}: {error} is missing") from None
        self._log.append(entry)


def _exact(values: Any) -> Fraction | float:
    """Sum of the numbers as they are written in decimal, without rounding; infinity if one is."""
    total = Fraction(0)
    for value in values:
        if not math.isfinite(value):
            return math.inf
        total += Fraction(repr(float(value)))
    return total


@lru_cache(maxsize=256)
def _so_far(event_json: str, attempts: int, delta: float) -> float:
    """Epsilon of so many equal attempts."""
    if attempts == 0:
        return 0.0
    if event_json == "null" or delta <= 0:
        return math.inf
    import dp_accounting as dpa

    from fedsus.privacy import accounting, events

    return accounting.epsilon(dpa.SelfComposedDpEvent(events.from_json(event_json), attempts), delta)
