"""Seconds of a secure sum in memory: 100 clients, 1,000,000 parameters, all cryptography done; against Flower's.

The peer is Flower's SecAgg+ in its simulation engine, on all cores, with the same number of neighbours. The two run
one after the other, each in a process of its own with whatever that starts.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from fedsus.errors import RunFailed
from fedsus_simulations.benchmarks import processes, secure_ours, stock_simulation
from fedsus_simulations.benchmarks.processes import Children, say, timed
from fedsus_simulations.benchmarks.result import comparison, figure, load
from fedsus_simulations.benchmarks.secure_cases import Case, Spent
from fedsus_simulations.benchmarks.stock_secure import Work
from fedsus_simulations.benchmarks.stock_simulation import Simulated

NEIGHBOURS: Final = 22
"""Of a client of ours: the ring of fedsus needs an even number, so that it has one or two more than the peer."""
SHARES, THRESHOLD = 21, 12
"""Of the peer, a client's own share counted; ours needs three quarters of the neighbours."""
SPARSE, CACHED, COMPLETE, DROPS = "sparse graph", "sparse graph, checks cached", "complete graph", "with drops"
_CASE_SECONDS: Final = 900.0


def cases(quick: bool) -> dict[str, Case]:
    """What ours is asked for."""
    clients, parameters, rounds = (30, 100_000, 2) if quick else (100, 1_000_000, 3)
    found = {
        SPARSE: Case(clients=clients, parameters=parameters, neighbours=NEIGHBOURS, rounds=rounds),
        CACHED: Case(clients=clients, parameters=parameters, neighbours=NEIGHBOURS, rounds=rounds, cached=True),
        COMPLETE: Case(clients=clients, parameters=parameters, rounds=rounds),
    }
    if not quick:
        found[DROPS] = Case(clients=1_000, parameters=100_000, dropping=0.3, cached=True)
    return found


def run(quick: bool) -> dict[str, Any]:
    """Ours in all its cases, then the peer."""
    processes.need_proc()
    stock_simulation.need_ray()
    before, asked = load(), cases(quick)
    with tempfile.TemporaryDirectory(prefix="fedsus-") as name:
        ours = {label: ours_once(Path(name), label, case) for label, case in asked.items()}
        peer = peer_once(Path(name) / "f", asked[SPARSE])
    return body(asked, ours, peer) | {
        "notes": [*_notes(asked, ours), f"load average: {before:.1f} before, {load():.1f} after"]
    }


def ours_once(folder: Path, label: str, case: Case) -> Spent:
    """A case in a fresh process.

    Raises:
        RunFailed: it failed, or its sum is wrong.
    """
    with timed(f"fedsus, {label}, {describe(case)}"):
        command = [sys.executable, "-m", __name__, case.model_dump_json()]
        said = Children(folder, processes.environment()).call(f"fedsus, {label}", command, _CASE_SECONDS)
    try:
        spent = Spent.model_validate_json(said)
    except ValidationError as error:
        raise RunFailed(f"benchmark: fedsus, {label}: {error.errors(include_url=False)[0]['msg']}") from error
    return checked(label, case, spent)


def checked(label: str, case: Case, spent: Spent) -> Spent:
    """What was spent, when the sums are right.

    Raises:
        RunFailed: a sum is wrong, or is not of the clients that the case leaves.
    """
    left = case.clients - int(case.dropping * case.clients)
    if not spent.exact:
        raise RunFailed(f"benchmark: fedsus, {label}: a sum is not that of its survivors' vectors")
    if len(spent.seconds) != case.rounds or any(not left <= count <= case.clients for count in spent.survivors):
        raise RunFailed(
            f"benchmark: fedsus, {label}: {len(spent.seconds)} of {case.rounds} rounds, survivors {spent.survivors}; "
            f"each should have {left} to {case.clients}"
        )
    return spent


def peer_once(folder: Path, case: Case) -> Simulated:
    """The same sum by Flower, one round more for its workers' start, at least two."""
    work = Work(clients=case.clients, size=case.parameters, rounds=2, shares=SHARES, threshold=THRESHOLD)
    with timed(f"Flower's SecAgg+, {describe(case)}, {work.rounds} rounds"):
        peer = stock_simulation.simulate(folder, work)
    say(f"Flower's SecAgg+: {', '.join(f'{spent:.1f}' for spent in peer.seconds)} s")
    return peer


def body(asked: dict[str, Case], ours: dict[str, Spent], peer: Simulated) -> dict[str, Any]:
    """The comparisons: seconds of each case, then memory."""
    flower = figure(peer.seconds[1:], "s", f"Flower's SecAgg+, {describe(asked[SPARSE])}", warm_up=1)
    resident = figure([peer.memory / 1e6], "MB", "Flower's SecAgg+, all its processes")
    targets = {SPARSE: "at most 4 s, and 12 times faster", CACHED: "", COMPLETE: "at most 12 s", DROPS: "at most 240 s"}
    rows = {
        label: comparison(figure(spent.seconds, "s", f"{label}, {describe(asked[label])}"), flower, targets[label])
        for label, spent in ours.items()
    }
    for label, spent in ours.items():
        if label == CACHED:  # needs no more than without
            continue
        row = comparison(figure([spent.peak / 1e6], "MB"), resident, "below 1,500 MB" if label == DROPS else "")
        rows[f"memory, {label}"] = row
    return {**rows.pop(SPARSE), "figures": rows}


def describe(case: Case) -> str:
    """A case in a few words."""
    sizes = f"{case.clients:,} clients x {case.parameters:,}"
    return f"{sizes}, {case.dropping:.0%} drop" if case.dropping else sizes


def _notes(asked: dict[str, Case], ours: dict[str, Spent]) -> list[str]:
    notes = [
        "one round, from fresh keys to the sum, in memory; every client's cryptography is done, on all cores; a vector "
        "is made by one multiplication, in the time; each sum was checked",
        f"the peer: {SHARES} shares, one its own, {THRESHOLD} open a secret; trivial training, no torch; its "
        "first round, in which workers start, is the warm-up; each was checked to have summed",
        "memory: ours is the largest resident set of its one process; the peer's the largest proportional set (PSS, "
        "shared pages counted once) of Ray, its workers and the server together, once a second",
        *(f"{label}: {said}" for label, spent in ours.items() for said in spent.notes),
        *(f"{label}: {spent.upload:,} bytes up and {spent.download:,} down a client" for label, spent in ours.items()),
    ]
    if DROPS in asked:
        many, few = asked[DROPS], asked[SPARSE]
        if many.clients * many.parameters == few.clients * few.parameters:
            notes.append(f"{DROPS}: against {describe(few)} of the peer, as many numbers; nobody drops there")
    else:
        notes.append(
            "quick sizes: 30 clients in place of 100, a tenth of the parameters; targets are of the full sizes, which "
            "have 1,000 clients with drops too"
        )
    return notes


if __name__ == "__main__":
    print(secure_ours.in_memory(Case.model_validate_json(sys.argv[1])).model_dump_json())  # noqa: T201 (the parent reads it)
