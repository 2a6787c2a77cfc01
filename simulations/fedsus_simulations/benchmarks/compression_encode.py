"""Processor time of a device that encodes an update whole, or a share of it: choosing, rotating, and what follows."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus.encoding import reduction
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.plan import Encoding, Uplink
from fedsus.privacy.noise import SystemNoise
from fedsus.types import LocalUpdate
from fedsus_simulations.benchmarks import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedsus.plan import Plan

SHARE: Final = 0.25
_TURNS: Final = 7
_KINDS: Final = (encode.FIXED, encode.CLIENT, encode.CENTRAL)
_NAMES: Final = ("whole", "rand_k", "projection")


def table(size: int) -> dict[str, Any]:
    """Medians of some turns, the sides one after the other, of an update of ``size`` coordinates; a `result.Table`."""
    update = LocalUpdate(encode.long(size), 50.0, np.zeros(0), 0, None)
    sides = {(kind, name): _encoding(_plan(kind, name, size), update) for kind in _KINDS for name in _NAMES}
    spent: dict[tuple[str, str], list[float]] = {side: [] for side in sides}
    for _ in range(_TURNS):
        for side, work in sides.items():
            spent[side].append(encode.milliseconds(work))
    medians = {side: statistics.median(values) for side, values in spent.items()}
    rows = []
    for (kind, name), middle in medians.items():
        times = f"{middle / medians[kind, 'whole']:.2f}"
        rows.append((kind, name, min(spent[kind, name]), middle, max(spent[kind, name]), times))
    columns = ("encoding", "uplink", "min, ms", "median, ms", "max, ms", "times whole")
    title = f"processor time of one device a round, {size:,} coordinates, share {SHARE:g}, the round's choice included"
    return {"title": title, "columns": columns, "rows": tuple(rows)}


def _plan(kind: str, name: str, size: int) -> Plan:
    """With noise as for what is sent."""
    if name == "whole":
        return encode.plan_of(kind, size)
    uplink = Uplink.model_validate({"name": name, "share": SHARE})
    changes = {"dimension": size, "encoding": Encoding(uplink=uplink)}
    return encode.plan_of(kind, int(SHARE * size)).model_copy(update=changes)


def _encoding(plan: Plan, update: LocalUpdate) -> Callable[[], object]:
    mechanism, noise = mechanism_of(plan), SystemNoise()

    def work() -> object:
        reduction.chosen.cache_clear()  # a device chooses once a round
        return mechanism.encode(update, noise)

    return work
