"""Sums of what parts spent, over intervals of which there may be very many before anybody takes them."""

from __future__ import annotations

from fedsus.energy.meters.spent import Spent


def test_a_counter_that_fails_at_every_reading_is_told_once_a_reason() -> None:
    """Else a meter that is not taken for a day would keep 86,400 lines, and log them all at once."""
    total = Spent(lost=("RAPL package-0 could not be read before",))
    for number in range(1000):
        total += Spent(lost=(f"RAPL package-0 jumped: by {number} J in 1 s", f"GPU 0 jumped: by {number} J in 1 s"))
        total += Spent()
    assert total.lost == (
        "RAPL package-0 could not be read before",
        "RAPL package-0 jumped: by 0 J in 1 s",
        "GPU 0 jumped: by 0 J in 1 s",
    )
    assert (Spent() + total).lost == total.lost
