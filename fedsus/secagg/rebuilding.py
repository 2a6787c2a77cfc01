"""Secrets from shares of which some are wrong: a false one costs its holder nothing, and must not cost the round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fedsus.errors import CohortTooSmall, ProtocolViolation
from fedsus.secagg.graph import permutation
from fedsus.secagg.keys import commitment
from fedsus.secagg.secret import Secret
from fedsus.secagg.shares import rebuild

_DRAWS: Final = 64
"""Random sets of holders that are tried when more than one neighbourhood of them is wrong."""

Check = Callable[[bytes], bool]
"""Whether a rebuilt secret is the one that its dealer advertised."""


@dataclass(slots=True)
class Rebuilding:
    """Rebuilds the secrets of one session; remembers who held a wrong share, and reads theirs last.

    Args:
        threshold: t, the shares that rebuild a secret.
    """

    threshold: int
    _wrong: set[int] = field(default_factory=set)

    def secret(self, dealer: int, shares: Mapping[int, bytes], good: Check) -> Secret:
        """A dealer's secret, of its shares by point.

        One wrong share is always survived where there is a share more than t, several mostly where there are many.

        Raises:
            CohortTooSmall: fewer than t shares.
            ProtocolViolation: no set that was tried gives a good secret.
        """
        if len(shares) < self.threshold:
            raise CohortTooSmall(f"openings: {len(shares)} shares of a secret; {self.threshold} are needed")
        points = sorted(shares, key=lambda point: (point in self._wrong, point))
        for tries, chosen in enumerate(_choices(points, self.threshold)):
            secret = self._good(shares, chosen, good)
            if secret is not None:
                if tries:
                    self._blame(shares, chosen, good)
                return Secret(secret)
        raise ProtocolViolation(f"openings: the shares of client {dealer} rebuild no secret that it advertised")

    def _good(self, shares: Mapping[int, bytes], chosen: Sequence[int], good: Check) -> bytes | None:
        try:
            secret = rebuild({point: shares[point] for point in chosen}, self.threshold)
        except ProtocolViolation:
            return None
        return secret if good(secret) else None

    def _blame(self, shares: Mapping[int, bytes], chosen: Sequence[int], good: Check) -> None:
        """Find whose shares do not lie on the polynomial of those that do: each in the place of one of them."""
        for point in shares.keys() - set(chosen):
            if self._good(shares, [*chosen[1:], point], good) is None:
                self._wrong.add(point)


def _choices(points: Sequence[int], threshold: int) -> Iterator[Sequence[int]]:
    """Sets of ``threshold`` points: the first ones, then without each stretch of the spare ones, then drawn ones."""
    yield points[:threshold]
    spare = len(points) - threshold
    if not spare:
        return
    for start in range(0, len(points), spare):
        around = [*points[start:], *points[:start]]
        yield around[spare:]
    for draw in range(_DRAWS):
        order = permutation(len(points), commitment("holders", draw.to_bytes(4, "little")))
        yield [points[place] for place in order[:threshold]]
