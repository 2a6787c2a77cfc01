"""What was spent of an account, and what still fits under a cap.

Runs that were opened before an account had a filter are charged to it whole, each at its own (epsilon, delta). Such
charges add up, also for runs that were chosen after seeing earlier ones (Rogers et al. 2016, "Privacy odometers and
filters", section 4) or that ran at the same time (Vadhan and Wang 2021, "Concurrent composition of differential
privacy"). What they leave of a cap when the filter begins is the filter's: as one more mechanism of that epsilon and
delta, it adds to them in the same way. The other way round nothing could be told: what a filter let pass until now is
no bound that was fixed beforehand, so that an account stays under its filter.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final, TypeAlias

from fedsus.errors import BudgetExhausted, Refusal
from fedsus.owner import filters
from fedsus.owner.caps import Account, Cap, Composition
from fedsus.owner.charges import Charge
from fedsus.privacy.stated import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fedsus.owner.history import History
    from fedsus.owner.runs import Run

Exact: TypeAlias = Fraction | float
"""A sum without rounding, or infinity."""

_RUNS: Final = 'set [privacy] composition = "runs", which charges a run at its own epsilon'
_HIGHEST_CAP: Final = 1000.0
"""`fedsus.owner.caps.EpsilonCap`."""
_DIGITS, _TRIES = 4, 5
"""Of a cap that would do, and how often the last one is raised for it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What was charged to one account.

    Attributes:
        order: of its filter; None where it has none.
        epsilon, delta: of the runs that are charged whole, exact; an epsilon may be infinite.
        tally: events that the filter let pass, with how often.
        used: events of all runs until now, with how often; those that nothing protects are in neither.
        outside: runs that tell its adversary all: without differential privacy, or granted as unlimited.
    """

    account: Account
    order: int | None = None
    epsilon: Exact = Fraction(0)
    delta: Exact = Fraction(0)
    tally: filters.Tally = field(default_factory=Counter)
    used: filters.Tally = field(default_factory=Counter)
    outside: tuple[Run, ...] = ()

    def left_to_filter(self, cap: Cap) -> Cap:
        """What runs that are charged whole leave of a finite cap, rounded down."""
        if not self.epsilon and not self.delta:
            return cap
        return Cap(_less(cap.epsilon, self.epsilon), _less(cap.delta, self.delta))

    def spent(self, cap: Cap) -> float:
        """Epsilon of all that counts against a finite cap, at its delta, as it is charged."""
        if self.order is None or not any(self.tally.values()):
            return float(self.epsilon)
        rest = filters.allowance(self.left_to_filter(cap), self.order).delta
        return float(self.epsilon) + filters.epsilon(filters.divergence(self.tally, self.order), self.order, rest)

    def left(self, cap: Cap) -> float:
        """The share that is left of a finite cap: of its epsilon or delta, or of what its filter may let pass."""
        if cap.epsilon <= 0 or cap.delta <= 0:
            return 0.0
        if self.order is None:
            return min(
                _less(limit, taken) / limit for limit, taken in zip(cap, (self.epsilon, self.delta), strict=True)
            )
        whole = filters.allowance(cap, self.order).divergence
        rest = filters.allowance(self.left_to_filter(cap), self.order).divergence
        return max(rest - filters.divergence(self.tally, self.order), 0.0) / whole


def exact(values: Iterable[float]) -> Exact:
    """Sum of the numbers as they are written in decimal, without rounding; infinity if one is."""
    total = Fraction(0)
    for value in values:
        if not math.isfinite(value):
            return math.inf
        total += Fraction(repr(float(value)))
    return total


def _less(limit: float, taken: Exact) -> float:
    """What is left, rounded down; at least 0."""
    left = exact([limit]) - taken
    return max(math.nextafter(float(left), -math.inf), 0.0)


def standing(history: History, account: Account, without: str | None = None) -> Standing:
    """What was charged to an account by all runs but one."""
    key = account.key
    tally: Counter[str] = Counter()
    used: Counter[str] = Counter()
    whole, outside = [], []
    for run in history.of(account.data):
        if run.name == without:
            continue
        if not run.protects(key):
            outside.append(run)
            continue
        used.update(run.events(key))
        if key in run.filtered:
            tally.update(run.events(key))
        else:
            whole.append(run)
    epsilon, delta = exact(run.whole(key) for run in whole), exact(run.delta for run in whole)
    return Standing(account, history.grant(account).order, epsilon, delta, tally, used, tuple(outside))


def check_run(now: Standing, cap: Cap, run: str, charge: Charge, composition: Composition) -> int | None:
    """Refuse a new run that does not fit whole under a finite cap; the order of its filter, None without one.

    Raises:
        Refusal: as `order_of`.
        BudgetExhausted: with account, asked, spent and cap, and what would fit.
    """
    order = order_of(now, cap, charge, composition)
    if order is None:
        check_whole(now, cap, run, charge)
    else:
        check_filter(now, cap, order, run, charge, charge.times)
    return order


def order_of(now: Standing, cap: Cap, charge: Charge, composition: Composition) -> int | None:
    """The order of an account's filter: as it was fixed, else the best for a run; None where runs are charged whole.

    Raises:
        Refusal: the account has a filter, and the policy would charge runs whole.
    """
    if now.order is not None:
        if composition == "runs":
            raise Refusal(
                f"{now.account}: charged by a Renyi filter until now, which has no epsilon that others could add to: "
                'set [privacy] composition = "renyi" again'
            )
        return now.order
    if composition == "runs":
        return None
    left, event = now.left_to_filter(cap), charge.events[now.account.key]
    if left.epsilon <= 0 or left.delta <= 0 or event == filters.NON_PRIVATE:
        return filters.FALLBACK  # nothing fits at any order: said where it is checked
    return filters.best_order(left, event)


def check_whole(now: Standing, cap: Cap, run: str, charge: Charge) -> None:
    """Refuse a run that, charged whole, does not fit under a finite cap; sums are exact decimals.

    Raises:
        BudgetExhausted: with account, asked, spent and cap.
    """
    epsilon = charge.whole(now.account.key)
    _check_bounded(now, cap, run, charge, math.isfinite(epsilon))
    for word, asked, limit, taken in (
        ("epsilon", epsilon, cap.epsilon, now.epsilon),
        ("delta", charge.delta, cap.delta, now.delta),
    ):
        if taken + exact([asked]) > exact([limit]):
            raise BudgetExhausted(
                f"{now.account}: run '{run}' asks {word} {asked:.6g}; {float(taken):.6g} of the cap {limit:.6g} is "
                f"spent: a run of {word} up to {_less(limit, taken):.6g} would fit"
            )


def check_filter(now: Standing, cap: Cap, order: int, run: str, charge: Charge, attempts: int) -> None:
    """Refuse so many more attempts of a run if they do not fit under a finite cap by its filter.

    Raises:
        BudgetExhausted: with account, asked, spent and cap, and how many attempts would fit.
    """
    more = Counter({charge.events[now.account.key]: attempts})
    asked = filters.divergence(more, order)
    _check_bounded(now, cap, run, charge, math.isfinite(asked))
    left, taken = filters.allowance(now.left_to_filter(cap), order), filters.divergence(now.tally, order)
    together = Counter(now.tally) + more
    if filters.releases(more) and filters.releases(together) > left.releases:
        raise BudgetExhausted(
            f"{now.account}: run '{run}' asks for {filters.releases(together)} releases with Skellam noise in all; of "
            f"the cap {cap} its samplers allow {left.releases}: {_roomier(cap, filters.releases(together))}"
        )
    if filters.divergence(together, order) <= left.divergence:
        return
    fitting = max(math.floor((left.divergence - taken) * attempts / asked * (1 - 1e-9)), 0)
    whole = filters.allowance(cap, order).divergence
    raise BudgetExhausted(
        f"{now.account}: run '{run}' asks {_asked(now, charge, attempts)}"
        f"{min(asked / whole, 99):.0%} of what the cap {cap} lets pass by the Renyi filter of order {order}; "
        f"{1 - now.left(cap):.0%} is spent: "
        f"{f'{fitting} of {attempts} attempts would fit' if fitting else 'nothing of it fits'}; "
        f"{_ways(now, cap, charge, attempts)}"
    )


def _asked(now: Standing, charge: Charge, attempts: int) -> str:
    """A run's own epsilon, as its plan has it, which no filter gives; nothing of single attempts."""
    own = _own(now, charge)
    return f"epsilon {shown(own)}, " if attempts == charge.times and math.isfinite(own) else ""


def _own(now: Standing, charge: Charge) -> float:
    try:
        return charge.whole(now.account.key)
    except Refusal:
        return math.inf


def _ways(now: Standing, cap: Cap, charge: Charge, attempts: int) -> str:
    """What would let a run pass that its filter does not."""
    ways, least = ["ask for less epsilon"], least_cap(now, cap, charge, attempts)
    if least is not None:
        ways.append(f"grant a cap of epsilon {least:g}{'' if now.order else ', which lets it pass at its best order'}")
    whole = now.epsilon + exact([own]) if math.isfinite(own := _own(now, charge)) else math.inf
    if now.order is None and whole <= exact([cap.epsilon]) and now.delta + exact([charge.delta]) <= exact([cap.delta]):
        ways.append(_RUNS)
    return ", or ".join(ways)


def least_cap(now: Standing, cap: Cap, charge: Charge, attempts: int) -> float | None:
    """The least epsilon, of four digits, with which a cap of this delta lets so many more attempts pass.

    By the order of the account's filter, or, where that is not fixed yet, by the best for such a cap, which the first
    run fixes. Tried, since what is told must hold; None where no cap that may be granted does.
    """
    more = Counter({charge.events[now.account.key]: attempts})
    room = now.left_to_filter(Cap(cap.epsilon, cap.delta))
    if room.delta <= 0 or not math.isfinite(now.epsilon):
        return None
    least = filters.least_epsilon(room, now.order, Counter(now.tally) + more) + float(now.epsilon)
    digits = Context(prec=_DIGITS, rounding=ROUND_CEILING)
    for _ in range(_TRIES):
        if not least <= _HIGHEST_CAP:
            return None
        least = float(digits.create_decimal(Decimal(least)))
        trial = Cap(least, cap.delta)
        order = order_of(now, trial, charge, "renyi")
        if order is not None and _passes(now, trial, order, more):
            return least
        least = math.nextafter(least, math.inf)
    return None


def _passes(now: Standing, cap: Cap, order: int, more: filters.Tally) -> bool:
    left, together = filters.allowance(now.left_to_filter(cap), order), Counter(now.tally) + Counter(more)
    enough = not filters.releases(more) or filters.releases(together) <= left.releases
    return enough and filters.divergence(together, order) <= left.divergence


def _roomier(cap: Cap, releases: int) -> str:
    """Which cap leaves enough of its delta to so many releases with Skellam noise."""
    if releases > filters.MOST_RELEASES:
        return "more than any account does, ever"
    largest = filters.largest_epsilon(cap.delta, releases)
    if largest is None:
        return "raise the cap's delta"
    return f"lower the cap's epsilon to {largest:g}, the largest that does, or raise its delta"


def _check_bounded(now: Standing, cap: Cap, run: str, charge: Charge, finite: bool) -> None:
    """Refuse what nothing bounds, and tell how its owner may let it pass."""
    if finite and cap.epsilon > 0 and cap.delta > 0:
        return
    account = now.account
    if finite:
        raise BudgetExhausted(
            f"{account}: run '{run}' asks for differential privacy; the cap is {cap}: set [privacy] epsilon and delta"
        )
    if charge.events[f"{account.unit}/recipients"] != charge.events[account.key]:
        way = 'the server adds the noise: [privacy] trusted = ["server"] grants that'
    elif account.unit == "patient":
        way = "[privacy] rows_per_patient says how many rows one has at most; without it noise for examples is none"
    else:
        way = (
            f"its noise is for examples: leave '{account.unit}' out of [privacy] units, or add [[privacy.caps]] with "
            f'unit = "{account.unit}" and unlimited = true'
        )
    raise BudgetExhausted(f"{account}: run '{run}' asks epsilon infinite; the cap is {cap}: {way}")
