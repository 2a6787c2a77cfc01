"""What `simulate_mlp` and `simulate_cnn` do alike: Fashion-MNIST, 50 clients x 50 samples, batch 10, one epoch."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import nn

from fedsus_simulations.benchmarks import models, peer_work, processes, simulate_data, simulate_ours
from fedsus_simulations.benchmarks.peer_work import Work
from fedsus_simulations.benchmarks.result import comparison, figure, load, machine
from fedsus_simulations.benchmarks.simulate_flops import operations
from fedsus_simulations.benchmarks.simulate_ours import ENCODING, Asked, Run
from fedsus_simulations.benchmarks.simulate_peers import Places
from fedsus_simulations.benchmarks.simulate_rounds import FEDSUS, LOOP, REREAD, Sides, parts_table
from fedsus_simulations.benchmarks.speed_plot import LIMIT

CLIENTS, COHORT, SAMPLES, BATCH = 1200, 50, 50, 10
THREADS: Final = 2
SHARE: Final = 4.0
"""Encoding and the sum may add a quarter to what else there is in a round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One of the two networks.

    Attributes:
        network: its name in `peer_work`.
        rounds: of ours, and of the bare loop and pfl-research, a turn; and one more, which is the warm-up.
        most: seconds a round that ours may take.
        times: how much faster than pfl-research it must be.
        flower: how much faster than Flower's engine.
        masked: clients of the rounds with real masks; 0 leaves them out.
    """

    network: str
    rounds: int
    most: float
    times: float
    flower: float = 80.0
    masked: int = 0


def measure(case: Case, quick: bool, places: Places) -> dict[str, Any]:
    """Ours and its peers in turns, Flower's engine once, then what a round of ours is made of."""
    processes.need_proc()
    before = load()
    with tempfile.TemporaryDirectory(prefix="fs-") as name:
        folder = Path(name)
        files, real = simulate_data.images(places.data, folder / "images")
        simulate_data.hand_over_images(files, folder, CLIENTS, SAMPLES)
        work = Work(
            folder=name,
            model=case.network,
            cohort=COHORT,
            samples=SAMPLES,
            batch=BATCH,
            rounds=1 + case.rounds,
            threads=min(THREADS, machine().cores),
        )
        network = peer_work.network(case.network)
        sides = Sides.of(folder, work, sum(p.numel() for p in network.parameters()), places)
        sides.turns(1 if quick else 2, lambda: ours(FEDSUS, sides, files))
        sides.flower_once(2 if quick else 4)
        if not quick:
            sides.flower_once(2, REREAD, str(files))
        body = sides.compared(case.most, case.times, case.flower)
        parts = ours("fedsus, timed in parts", sides, files, parts=True)
        body["figures"] |= _more(case, sides, parts, files, network)
        initial = peer_work.score(peer_work.begin(work), name)
        body["tables"] = [
            sides.by_turn(),
            parts_table(parts.parts, case.rounds),
            sides.progress(initial[0] if initial else 0.0),
        ]
    notes = sides.notes((before, load()))
    return body | {"notes": notes if real else [*notes, simulate_data.MADE]}


def ours(
    what: str, sides: Sides, files: Path, *, parts: bool = False, work: Work | None = None, masks: str = "none"
) -> Run:
    """A run of ours on the images; one that is timed in parts trains on one thread, so that these add up."""
    work = work or sides.work
    task = {"name": "images", "settings": {"network": work.model}}
    more = {"threads": 1} if parts else {}
    scenario = simulate_ours.scenario(work, CLIENTS, task, files, masks=masks, **more)
    asked = Asked(scenario=scenario, reference=models.IMAGES, root=sides.folder, parts=parts)
    return simulate_ours.once(what, asked, work, sides.parameters)


def _more(case: Case, sides: Sides, parts: Run, files: Path, network: nn.Module) -> dict[str, Any]:
    """Comparisons that are not with a peer: the arithmetic limit, the encoding, the masks."""
    found = {LIMIT: limit(sides, operations(network, (1, 28, 28)))}
    rounds = len(parts.seconds) - 1
    encoding = figure([parts.parts[ENCODING] / rounds], "s", "encoding and the sum", warm_up=1)
    others = sum(spent for name, spent in parts.parts.items() if name != ENCODING)
    found["encoding and sum, against the rest of the round"] = comparison(
        encoding,
        figure([others / rounds], "s", "training, journal, all else", warm_up=1),
        "at most a quarter of the rest",
        times=SHARE if case.network == "mlp" else None,
    )
    if case.masked:
        few = dataclasses.replace(sides.work, cohort=case.masked, rounds=4)
        label = f"{case.masked} clients, masks"
        plain, masked = (
            ours(f"fedsus, {label} {masks}", sides, files, work=few, masks=masks) for masks in ("none", "real")
        )
        found[f"{label} left out, against real ones"] = comparison(
            figure(plain.seconds[1:], "s", f"{label} left out", 1), figure(masked.seconds[1:], "s", f"{label} real", 1)
        )
    return found


def limit(sides: Sides, each: int) -> dict[str, Any]:
    """Ours against the seconds that its layers' operations take at the best rate of a matrix product in the same run.

    Args:
        each: operations of an example.
    """
    work = sides.work
    total = each * work.cohort * work.samples
    best = max(run.peak for run in sides.found[LOOP] if run.peak is not None)
    what = f"{total / 1e9:.3g} GFLOP at {best / 1e9:.3g} GFLOP/s"
    return comparison(sides.figure(FEDSUS), figure([total / best], "s", what))
