"""How much may be spent: ``[budget]`` of run.toml (the operator's, a run) and of policy.toml (the owner's, a day)."""

from __future__ import annotations

from fedsus.strict import Positive, Strict


class Budget(Strict):
    """Caps; what is not given is not capped. Several count at once: whichever is reached first.

    Attributes:
        joules, kwh, grams: energy above idle, and its carbon (g CO2e).
    """

    joules: Positive | None = None
    kwh: Positive | None = None
    grams: Positive | None = None

    @property
    def most_joules(self) -> float | None:
        """The smaller of ``joules`` and ``kwh``, in joules; None where neither is capped."""
        given = [each for each in (self.joules, None if self.kwh is None else self.kwh * 3.6e6) if each is not None]
        return min(given, default=None)
