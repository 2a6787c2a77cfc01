"""How many neighbours, shares and survivors keep a session both closed and likely to finish.

Of n clients at most A (``colluding``) help the server and D (``dropouts``) are planned to drop out; k hold the shares
of each client, t shares rebuild a secret. The conditions on sparse graphs are those of Bell et al. (CCS 2020, the
semi-malicious setting) and one more, since here the server chooses who drops out. Every client recomputes the numbers
and must find the same, so all is decided in exact integers. HG(n, A, k) is the hypergeometric count of A marked
clients among k of n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final, Literal

from fedsus.errors import ConfigError

SPARSE_FROM: Final = 200  # clients; smaller cohorts use the complete graph
LEAST: Final = 3  # clients; of two, each finds the other's input as the sum less its own
MAX_DEGREE: Final = 4096  # bounds a client's shares (0.4 MB), and what it computes here for a plan that it then refuses


@dataclass(frozen=True)
class Thresholds:
    """The graph of a session.

    Attributes:
        neighbours: k, the holders of each client's shares; on the complete graph all N, the client itself included.
        threshold: t, the shares that rebuild a secret.
        rule: which graph.
    """

    neighbours: int
    threshold: int
    rule: Literal["complete", "harary"]


def colluders(n: int, gamma: float | None = None) -> int:
    """A = max(1, ceil(gamma * n)); gamma is by default 0.25 below 200 clients and 0.1 from there on.

    Raises:
        ConfigError: gamma is not in 0..1.
    """
    if gamma is None:
        gamma = 0.25 if n < SPARSE_FROM else 0.1
    return max(1, math.ceil(_exact(gamma, "gamma") * n))


def planned_dropouts(n: int, delta: float) -> int:
    """D = floor(delta * n).

    Raises:
        ConfigError: delta is not in 0..1.
    """
    return math.floor(_exact(delta, "delta") * n)


def quorum(n: int, colluding: int) -> int:
    """The signatures of a certificate: the least integer above (n + A) / 2. Any two certificates then share an honest
    client, which signs once.
    """
    return (n + colluding) // 2 + 1


def floor(n: int, colluding: int, dropouts: int, minimum: int = 0) -> int:
    """The least survivors for which a client helps to unmask: max(3, A + 2, n - D, minimum)."""
    return max(LEAST, colluding + 2, n - dropouts, minimum)


def least_tolerance(n: int, colluding: int) -> int:
    """The dropouts after which a certificate, and on the complete graph t shares, can still be had.

    Raises:
        ConfigError: fewer than 3 clients, no colluder, or fewer than two honest clients.
    """
    if n < LEAST:
        raise ConfigError(f"cohort: {n} clients cannot hide one's update from the others; at least {LEAST} can")
    if not 1 <= colluding <= n - 2:
        raise ConfigError(f"colluders: {colluding} of {n} clients; allowed are 1 to {n - 2}, or ask more clients")
    return n - quorum(n, colluding)


def complete(n: int, colluding: int, dropouts: int) -> Thresholds:
    """The complete graph: k = n, t = floor((k + A) / 2) + 1. As 2t > n + A, both secrets of a client cannot be rebuilt
    however the honest clients are divided between them, with colluders who give both shares.

    Raises:
        ConfigError: the planned dropouts leave fewer than t clients, or as `least_tolerance`.
    """
    _check(n, colluding, dropouts)
    return Thresholds(n, quorum(n, colluding), "complete")


@lru_cache(maxsize=64)
def sparse(n: int, colluding: int, dropouts: int, sigma: int = 128, eta: int = 20, active: bool = True) -> Thresholds:
    """The Harary graph of the least even degree k for which all of these hold, and its t.

    (1) Honest survivors stay connected: n (n - k - 1) / 2 * prod_{j < k} (A + D - j) / (n - j) <= 2**-(sigma + 1).
    (2) Not both secrets: t = ceil((t1 + k - 1.25) / 2) + 1, more than half of the holders and t1, the least number that
        the colluders among them exceed with Pr[HG(n, A, k) > t1] <= 2**-(sigma + 1) / n.
    (3) Survivors suffice: t <= t2 = max{t: Pr[HG(n, n - D, k) < t] <= 2**-eta / n}.
    (4) If ``active``: dropouts of the server's choice do not cut the ring. A client beside a gap of k / 2 places finds
        t neighbours only with t - k / 2 colluders in the gap, and it takes two gaps:
        n (n - k - 1) / 2 * Pr[HG(n, A, k / 2) >= t - k / 2]**2 <= 2**-(sigma + 1), which raises t.

    Raises:
        ConfigError: no such k up to n - 2 (n - 1 would be everybody) and up to 4096, too many dropouts for a
            certificate, or as `least_tolerance`.
    """
    _check(n, colluding, dropouts)
    k = _connected(n, colluding + dropouts, sigma)
    while k <= min(n - 2, MAX_DEGREE):
        # Two more neighbours raise t2 by at most 2; t, and what (4) asks at its weakest (n - k - 1 = 1), by at least 1.
        # So where t2 falls short by s, the next s - 1 even degrees do too.
        t = (_exceeded(n, colluding, k, math.comb(n, k) // (n << (sigma + 1))) + k) // 2 + 1
        most = k - _exceeded(n, dropouts, k, math.comb(n, k) // (n << eta))
        short = t - most
        if short <= 0:
            t = max(t, _uncut(n, colluding, k, n * (n - k - 1) << sigma)) if active else t
            if t <= most:
                return Thresholds(k, t, "harary")
            short = _uncut(n, colluding, k, n << sigma) - most
        k += 2 * max(1, short)
    raise ConfigError(
        f"cohort: {n} clients with {colluding} colluders and {dropouts} dropouts need more than"
        f" {min(n - 2, MAX_DEGREE)} neighbours each; plan fewer dropouts or fewer colluders"
    )


def solve(n: int, colluding: int, dropouts: int, sigma: int = 128, eta: int = 20) -> Thresholds:
    """`complete` below 200 clients, `sparse` against an active server from there on; raises as they do."""
    if n < SPARSE_FROM:
        return complete(n, colluding, dropouts)
    return sparse(n, colluding, dropouts, sigma, eta)


@lru_cache(maxsize=64)
def drawn_colluders(roster: int, roster_colluders: int, cohort: int, sigma: int = 128) -> int:
    """The least a with Pr[HG(roster, roster_colluders, cohort) > a] <= 2**-sigma: A of a cohort drawn fairly.

    With sigma = 128 that holds too for a server that tries as many draws as it can compute.

    Raises:
        ConfigError: more colluders than the roster has clients, or a cohort that is not in 1..roster.
    """
    if not 1 <= cohort <= roster:
        raise ConfigError(
            f"cohort: {cohort} clients cannot be drawn from a roster of {roster}; allowed are 1 to {roster}"
        )
    if not 0 <= roster_colluders <= roster:
        raise ConfigError(f"colluders: {roster_colluders} of a roster of {roster}; allowed are 0 to {roster}")
    return _exceeded(roster, roster_colluders, cohort, math.comb(roster, cohort) >> sigma)


def _check(n: int, colluding: int, dropouts: int) -> None:
    tolerated = least_tolerance(n, colluding)
    if not 0 <= dropouts <= tolerated:
        raise ConfigError(
            f"dropouts: {dropouts} planned, but {n} clients with {colluding} colluders tolerate 0 to {tolerated};"
            f" plan fewer, or ask at least {colluding + 2 * dropouts + 1} clients"
        )


def _connected(n: int, bad: int, sigma: int) -> int:
    """The least even k of condition (1), or one beyond the largest degree."""
    k, chosen, ways = 2, bad * (bad - 1), n * (n - 1)  # prod_{j < k} of (bad - j), and of (n - j)
    while k <= MAX_DEGREE and n * (n - k - 1) * chosen << sigma > ways:
        chosen *= (bad - k) * (bad - k - 1)
        ways *= (n - k) * (n - k - 1)
        k += 2
    return k


def _uncut(n: int, colluding: int, k: int, odds: int) -> int:
    """The least t with odds * Pr[HG(n, A, k / 2) >= t - k / 2]**2 <= 1."""
    half = k // 2
    limit = math.isqrt(math.comb(n, half) ** 2 // odds)
    return half + _exceeded(n, colluding, half, limit) + 1


def _exceeded(n: int, marked: int, draws: int, limit: int) -> int:
    """The least u that more than u marked ones are drawn in at most ``limit`` of the comb(n, draws) ways."""
    u = min(marked, draws)
    least = max(0, marked + draws - n)
    ways = math.comb(marked, u) * math.comb(n - marked, draws - u)
    while u > least and ways <= limit:
        limit -= ways
        ways = ways * u * (n - marked - draws + u) // ((marked - u + 1) * (draws - u + 1))
        u -= 1
    return u


def _exact(share: float, name: str) -> Fraction:
    """The decimal that the number prints as: 0.1 * 1000 is 100, and its ceiling not 101."""
    if not 0 <= share <= 1:
        raise ConfigError(f"{name}: {share} is not in 0..1")
    return Fraction(str(share))
