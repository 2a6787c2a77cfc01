"""Joules of rounds with fewer bytes, up and down, on whole devices in one process with real masks.

The cases of `compression`, with few devices and rounds; a simulation has neither masks nor devices' own files, so that
its joules would not be theirs. Each block has all ways once in a random order; ratios are within a block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from fedsus.config import RunConfig, validate
from fedsus_simulations.benchmarks import joules_blocks, joules_kept, joules_spent
from fedsus_simulations.benchmarks.joules_images import divided
from fedsus_simulations.benchmarks.joules_memory import Whole
from fedsus_simulations.benchmarks.processes import timed
from fedsus_simulations.benchmarks.result import comparison, figure
from fedsus_simulations.demo.study import HOSPITALS, packaged
from fedsus_simulations.running.simulation import quiet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fedsus.costs import Phase
    from fedsus.tasks.task import DataSource
    from fedsus_simulations.benchmarks.compression_cases import Case
    from fedsus_simulations.benchmarks.joules_spent import Side, Spent
    from fedsus_simulations.benchmarks.utility_kept import Kept

    Found = Mapping[tuple[str, float], Mapping[str, Sequence[Spent]]]
    """Case and epsilon -> way -> runs, one a block."""

WHOLE: Final = "whole"
AGAIN: Final = "whole, again"
TOLD: Final = "projection 0.25"
EPSILONS: Final = (inf, 8.0)
"""Another finite one changes the noise's scale, and no work."""

DEVICES: Final = 10
EACH: Final = 600
ROUNDS: Final = 4
BLOCKS: Final = 3


@dataclass(frozen=True, slots=True)
class Way:
    """What is made smaller.

    Attributes:
        uplink: name and share of the coordinates that are sent.
        bits: of a coordinate of a model's difference; 0 where models are sent whole.
    """

    name: str
    uplink: tuple[str, float] = (WHOLE, 1.0)
    bits: int = 0


WAYS: Final = (
    Way(WHOLE),
    Way(AGAIN),
    *(Way(f"{name} {share:g}", (name, share)) for name in ("projection", "rand_k") for share in (0.5, 0.25, 0.1)),
    *(Way(f"{bits} bits down", bits=bits) for bits in (8, 4, 2)),
    Way("8 bits down, projection 0.25", ("projection", 0.25), 8),
)


def config(case: Case, way: Way, epsilon: float) -> RunConfig:
    """What devices are asked: a case's plan, with a secure sum and its masks."""
    asked = case.scenario(way.uplink, epsilon, 1)
    if way.bits:
        asked["plan"]["downlink"] = {"bits": way.bits}
    return validate({"task": asked["task"], "plan": asked["plan"]}, RunConfig, "benchmark")


def few(case: Case) -> Case:
    """A case with no more than `DEVICES` and `ROUNDS`."""
    federation = case.federation
    if federation.clients > DEVICES:
        federation = replace(federation, clients=DEVICES, colluders=1, dropouts=1)
    return replace(case, federation=federation, rounds=min(case.rounds, ROUNDS))


def measure(
    cases: Sequence[Case], files: Path, folder: Path, kept: Kept, blocks: int, ways: Sequence[Way] = WAYS
) -> tuple[Found, list[float]]:
    """What rounds used, of each case with DP and without, in each way, once a block; load averages.

    Args:
        files: images.
        folder: for journals and devices' files; is made.
        kept: blocks that are there are not measured again.
        blocks: how many.

    Raises:
        RunFailed: a round lost a device, or a figure is missing.
    """
    found: dict[tuple[str, float], Mapping[str, Sequence[Spent]]] = {}
    loads = []
    for case in map(few, cases):
        devices = _whole(case, files, folder / case.name)
        for number, epsilon in enumerate(EPSILONS):
            asked = {"joules": case.name, "epsilon": words(epsilon), "rounds": case.rounds, "each": EACH}
            measure_block = _Blocks(devices, case, epsilon).block
            seed = joules_blocks.SEED + number
            found[case.name, epsilon], told = joules_kept.blocks(kept, asked, ways, blocks, measure_block, seed)
            loads += told
    return found, loads


@dataclass(frozen=True, slots=True)
class _Blocks:
    devices: Whole
    case: Case
    epsilon: float

    def block(self, order: Sequence[Way], number: int) -> dict[str, Spent]:
        """Way -> what its run used, one after the other."""
        made, private = {}, words(self.epsilon).replace(" ", "-")
        with timed(f"joules of {self.case.name}, {words(self.epsilon)}, block {number + 1}"), quiet():
            for place, way in enumerate(order):
                asked = config(self.case, way, self.epsilon)
                made[way.name], _ = self.devices.run(asked, f"{private}-{number}-{place}", number)
        return made


def _whole(case: Case, files: Path, folder: Path) -> Whole:
    from fedsus.tasks import registry
    from fedsus.tasks.task import DataSource

    reference = case.federation.reference
    if case.federation.population["data"] == "heart":
        sources: dict[str, DataSource] = {name: DataSource(packaged(name)) for name in HOSPITALS}
    else:
        shard = registry.build(registry.resolve(reference), case.federation.settings).load(DataSource(files))
        sources = divided(folder / "data", shard, case.federation.clients, EACH)
    return Whole(folder=folder / "runs", reference=reference, sources=sources)


def ratio(ways: Mapping[str, Sequence[Spent]], name: str) -> joules_blocks.Estimate:
    """Joules of whole rounds over those of a way, within each block."""
    return joules_blocks.estimate(joules_spent.ratios(ways[WHOLE], ways[name]))


def table(found: Found) -> dict[str, Any]:
    """A row a way: medians over blocks, and the ratio with its interval."""
    rows = []
    for (case, epsilon), ways in found.items():
        joules_spent.check_alike([one for runs in ways.values() for one in runs])
        for name, runs in ways.items():
            sides = [median([joules_spent.joules(one, who) for one in runs]) for who in joules_spent.SIDES]
            parts = [_phase(runs, "devices", "encode"), _phase(runs, "devices", "crypto")]
            parts.append(_phase(runs, "server", "encode"))
            octets = [round(median([getattr(one, way) / one.rounds for one in runs])) for way in ("sent", "received")]
            told = "1" if name == WHOLE else str(ratio(ways, name))
            rows.append((case, words(epsilon), name, *sides, told, *parts, *octets))
    columns = (
        *("case", "epsilon", "sent", "J, devices", "J, server", "whole / it: median (95 %)"),
        *("J, devices: encode", "J, devices: crypto", "J, server: encode", "bytes down", "bytes up"),
    )
    return {"title": "joules and bytes of a round, all devices and server", "columns": columns, "rows": tuple(rows)}


def _phase(runs: Sequence[Spent], who: Side, phase: Phase) -> float:
    return median([one.phases(who).get(phase, 0.0) for one in runs])


def figures(found: Found) -> dict[str, dict[str, Any]]:
    """A quarter of the coordinates against all, as `result.Comparison`; its ratio is the median within blocks."""
    made = {}
    for (case, epsilon), ways in found.items():
        if TOLD in ways:
            ours, whole = (figure([one.joules for one in ways[name]], "J", name) for name in (TOLD, WHOLE))
            made[f"{case}, {words(epsilon)}: joules"] = comparison(ours, whole) | {"ratio": ratio(ways, TOLD).median}
    return made


def words(epsilon: float) -> str:
    """For a table."""
    return "no DP" if epsilon == inf else f"{epsilon:g}"


def notes(found: Found, loads: Sequence[float]) -> list[str]:
    """How joules were measured."""
    blocks = [
        f"{case}, {words(epsilon)}: {joules_blocks.words(len(ways[WHOLE]))}" for (case, epsilon), ways in found.items()
    ]
    measured = dict.fromkeys(joules_spent.measured(ways[WHOLE]) for ways in found.values())
    return [
        f"joules: of the rounds after the first of {ROUNDS}, above idle, devices and server in one process, secure sum "
        f"with masks: heart's four hospitals, and ten devices of {EACH} images each for fashion. Nothing is sent, so "
        "that neither transport nor networks are in them",
        *measured,
        "whole / it: each block has all ways once in a random order, ratios are within a block; watts a core are a "
        f"factor on both sides and cancel. '{AGAIN}' is the very same as '{WHOLE}': how "
        f"far it is from 1 is what the measurement cannot tell apart; {joules_blocks.span(loads)}",
        *blocks,
    ]
