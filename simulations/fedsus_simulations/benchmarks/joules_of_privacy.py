"""What privacy costs: joules, seconds and bytes of the same run plain, with DP, with a secure sum, both, compressed.

The ratio is plain joules over private joules, of rounds of one execution of this file that were measured alike; the
variants take turns, so that whatever else the machine does hits all of them. docs/energy-of-privacy.md says how the
runs are made, and what their joules do not hold.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsus.costs import PHASES
from fedsus.energy.network import PUBLISHED
from fedsus_simulations.benchmarks import joules_spent, processes, simulate_data
from fedsus_simulations.benchmarks.joules_variants import BOTH, BY_PHASE, COST, DELTA, EPSILON, PLAIN
from fedsus_simulations.benchmarks.result import comparison, figure, load
from fedsus_simulations.benchmarks.utility_kept import Options

if TYPE_CHECKING:
    from fedsus_simulations.benchmarks.joules_spent import Spent
    from fedsus_simulations.benchmarks.result import Result

    Found = Mapping[str, Mapping[str, Sequence[Spent]]]
    """Part -> variant -> runs, one a repetition."""

HOSPITALS: Final = "four hospitals, deployed"
IMAGES: Final = "Fashion-MNIST, ten devices in memory"
WHO: Final = ("devices", "server")


def run(quick: bool, options: Options = Options()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Both parts."""
    from fedsus_simulations.benchmarks.joules_hospitals import Hospitals
    from fedsus_simulations.benchmarks.joules_images import Images

    processes.need_proc()
    before = load()
    repetitions, rounds, each, image_rounds = (2, 3, 300, 3) if quick else (3, 7, 1000, 4)
    with tempfile.TemporaryDirectory(prefix="fs-") as name:
        folder = Path(name)
        files, real = simulate_data.images(options.data, folder / "made")
        found = {
            HOSPITALS: Hospitals(folder / "hospitals", rounds).measure(repetitions),
            IMAGES: Images(folder / "images", files, each, image_rounds).measure(repetitions),
        }
    sizes = {HOSPITALS: f"{rounds} rounds", IMAGES: f"{image_rounds} rounds of {each} images a device"}
    notes = [
        f"{repetitions} repetitions, each of all variants in another order; {'; '.join(map(': '.join, sizes.items()))}",
        f"load average {before:.1f} before, {load():.1f} after",
    ]
    return told(found, core_watts(), notes if real else [*notes, simulate_data.MADE])


def told(found: Found, watts: float | None, notes: Sequence[str]) -> dict[str, Any]:
    """Comparisons, tables and notes.

    Args:
        watts: as `processor_table`.

    Raises:
        RunFailed: runs were not measured alike.
    """
    figures = {}
    for part, variants in found.items():
        joules_spent.check_alike([one for runs in variants.values() for one in runs])
        for name, runs in variants.items():
            if name != PLAIN:
                figures[f"{part}: {name}"] = _compared(f"{part}: {name}", runs, variants[PLAIN])
    top = f"{next(iter(found))}: {BOTH}"
    tables = [cost_table(part, variants) for part, variants in found.items()]
    return {
        **figures.pop(top),
        "figures": figures,
        "tables": [*tables, phase_table(found), processor_table(found, watts), network_table(found)],
        "notes": [*(_measured(part, variants) for part, variants in found.items()), *_NOTES, *notes],
    }


_NOTES: Final = (
    "joules are above idle, of the processes of devices and of the server with its SuperLink; of all rounds but the "
    "first, in which devices load the task and check the run's epsilon",
    "plain / it: plain joules over the variant's, repetition by repetition; 0.5 is twice the energy. Watts a core are "
    "a factor on both sides of a ratio and cancel",
    "a run's processor seconds hold its start (modules of the round loop; of the first run, of torch) and waiting for "
    "messages, which are in no round's joules",
    f"DP: unit example, noise on each device, epsilon {EPSILON:g} and delta {DELTA:g} for the run and its spare "
    "attempts; the table has what these rounds spent. Compressed: models as differences of 8 bits, half of an update's "
    "coordinates (projection), which is sound: the noise is in an update before it is reduced",
)


def _measured(part: str, variants: Mapping[str, Sequence[Spent]]) -> str:
    used = variants[PLAIN][0].both
    low, high = used.low / used.total, used.high / used.total
    sources = "; ".join(dict.fromkeys(used.sources))
    return f"{part}: joules are {used.method}, {low:.2g} to {high:.2g} times as many are possible; source: {sources}"


def _compared(label: str, ours: Sequence[Spent], plain: Sequence[Spent]) -> dict[str, Any]:
    return comparison(
        figure([one.joules for one in ours], "J", "joules a round"),
        figure([one.joules for one in plain], "J", f"{label}, against plain"),
    )


def cost_table(part: str, variants: Mapping[str, Sequence[Spent]]) -> dict[str, Any]:
    """A row a variant: medians over repetitions, and the ratio with its spread."""
    rows = []
    for name, runs in variants.items():
        ratio = joules_spent.ratios(variants[PLAIN], runs)
        spread = f"{min(ratio):.2f} / {statistics.median(ratio):.2f} / {max(ratio):.2f}"
        each = {who: statistics.median([sum(one.phases(who).values()) for one in runs]) for who in WHO}
        bytes_of = [statistics.median([getattr(one, way) / one.rounds for one in runs]) for way in ("sent", "received")]
        aucs = [one.auc for one in runs if one.auc is not None]
        rows.append(
            (
                name,
                *each.values(),
                "1" if name == PLAIN else spread,
                statistics.median([one.second for one in runs]),
                *map(round, bytes_of),
                f"{statistics.mean([one.accuracy for one in runs]):.1f}",
                f"{statistics.mean(aucs):.1f}" if aucs else "",
                f"{runs[0].epsilon:.2f}" if runs[0].epsilon else "no DP",
            )
        )
    ways = ("bytes down", "bytes up", "accuracy, %", "AUC, %", "epsilon")
    columns = ("run", "J, devices", "J, server", "plain / it: min / median / max", "s", *ways)
    return {"title": f"{COST}{part}", "columns": columns, "rows": tuple(rows)}


def phase_table(found: Found) -> dict[str, Any]:
    """A row for devices and one for the server of each variant: joules of a round by phase, means over repetitions."""
    rows = [
        (
            part,
            name,
            who,
            runs[0].both.method,
            *(statistics.mean([one.phases(who).get(phase, 0.0) for one in runs]) for phase in PHASES),
        )
        for part, variants in found.items()
        for name, runs in variants.items()
        for who in WHO
    ]
    return {"title": BY_PHASE, "columns": ("part", "run", "who", "method", *PHASES), "rows": tuple(rows)}


def processor_table(found: Found, watts: float | None) -> dict[str, Any]:
    """What is really measured: processor time, of a round and of whole runs; medians.

    Args:
        watts: of a busy core, by which joules were modelled; None where they were counted.
    """
    rows = []
    for part, variants in found.items():
        for name, runs in variants.items():
            whole = [statistics.median([one.processor[who] for one in runs]) for who in WHO]
            rounds: list[float | str] = ["", ""]
            told: float | str = ""
            if watts is not None:
                rounds = [statistics.median([sum(one.phases(who).values()) for one in runs]) / watts for who in WHO]
                told = round(100 * statistics.median([_all(one) / sum(one.processor.values()) for one in runs]) / watts)
            rows.append((part, name, *rounds, *whole, statistics.median([one.first for one in runs]), told))
    columns = (
        *("part", "run", "s a round, devices", "s a round, server", "s a run, devices", "s a run, server"),
        *("J, first round", "% of a run's s in its rounds' joules"),
    )
    title = "processor seconds: of a round, as in the joules; of a whole run, by the operating system"
    return {"title": title, "columns": columns, "rows": tuple(rows)}


def _all(one: Spent) -> float:
    """J of all rounds."""
    return one.first + one.both.total


def core_watts() -> float | None:
    """W of a busy core above idle, where this machine's joules are modelled alone."""
    from fedsus.energy.machine import look
    from fedsus.energy.model import Model
    from fedsus.settings.energy import EnergySettings

    parts = look(EnergySettings()).parts
    return parts[0].core.value if len(parts) == 1 and isinstance(parts[0], Model) else None


def network_table(found: Found) -> dict[str, Any]:
    """The networks' electricity for a round's bytes, if they were sent through the Internet."""
    rows = []
    for part, variants in found.items():
        plain = statistics.median([one.octets for one in variants[PLAIN]])
        for name, runs in variants.items():
            octets = statistics.median([one.octets for one in runs])
            found_of = PUBLISHED.joules(round(octets))
            span = f"{found_of.low:.3g} to {found_of.high:.3g}"
            rows.append((part, name, round(octets), plain / octets, found_of.value, span))
    columns = ("part", "run", "bytes a round", "plain / it", "J, networks", "range")
    return {"title": f"networks, assumed, in no joules above: {PUBLISHED.source}", "columns": columns, "rows": rows}


def draw(result: Result, folder: Path) -> Sequence[Path]:
    """Write joules-of-privacy.png and .svg."""
    from fedsus_simulations.benchmarks import joules_plot

    return joules_plot.draw(result, folder)
