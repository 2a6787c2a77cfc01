"""What privacy costs: joules, seconds and bytes of the same run plain, with DP, with a secure sum, both, compressed.

The ratio is plain joules over private joules, of rounds of one execution of this file that were measured alike. Each
block has all variants once in a random order, so that whatever else the machine does hits all of them; ratios are
within a block. docs/energy-of-privacy.md says how the runs are made, and what their joules do not hold.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsus_simulations.benchmarks import (
    joules_blocks,
    joules_kept,
    joules_spent,
    joules_tables,
    processes,
    simulate_data,
)
from fedsus_simulations.benchmarks.joules_variants import BITS, BOTH, DELTA, EPSILON, PLAIN, SHARE, VARIANTS
from fedsus_simulations.benchmarks.result import comparison, figure
from fedsus_simulations.benchmarks.utility_kept import Kept, Options

if TYPE_CHECKING:
    from fedsus_simulations.benchmarks.joules_spent import Spent
    from fedsus_simulations.benchmarks.joules_tables import Found
    from fedsus_simulations.benchmarks.joules_variants import Variant
    from fedsus_simulations.benchmarks.result import Result

HOSPITALS: Final = "four hospitals, deployed"
IMAGES: Final = "Fashion-MNIST, ten devices in memory"
BLOCKS: Final = {HOSPITALS: 7, IMAGES: 3}
ROUNDS: Final = {HOSPITALS: 5, IMAGES: 4}


def run(quick: bool, options: Options = Options()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Both parts."""
    from fedsus_simulations.benchmarks.joules_hospitals import Hospitals
    from fedsus_simulations.benchmarks.joules_images import Images

    processes.need_proc()
    kept = Kept.of(options, "joules-of-privacy")
    blocks, rounds, each = BLOCKS, ROUNDS, 1000
    if quick:
        blocks, rounds, each = dict.fromkeys(blocks, 1), dict.fromkeys(rounds, 2), 300
    with tempfile.TemporaryDirectory(prefix="fs-") as name:
        folder = Path(name)
        files, real = simulate_data.images(options.data, folder / "made")
        images = Images(folder / "images", files, each, rounds[IMAGES])

        def hospitals(order: list[Variant], block: int) -> dict[str, Spent]:
            return Hospitals(folder / f"h{block}", rounds[HOSPITALS]).block(order, block)

        asked = {part: {"part": part, "rounds": rounds[part]} for part in blocks}
        asked[IMAGES] |= {"each": each, "real": real}
        measures = {HOSPITALS: hospitals, IMAGES: images.block}
        runs = {
            part: joules_kept.blocks(kept, asked[part], VARIANTS, blocks[part], measure, joules_blocks.SEED)
            for part, measure in measures.items()
        }
    notes = [
        f"{part}: {rounds[part]} rounds a run; {joules_blocks.words(len(loads))}; {joules_blocks.span(loads)}"
        for part, (_, loads) in runs.items()
    ]
    notes += [f"Fashion-MNIST: {each} images a device", *([] if real else [simulate_data.MADE])]
    return told({part: found for part, (found, _) in runs.items()}, core_watts(), notes)


def told(found: Found, watts: float | None, notes: Sequence[str]) -> dict[str, Any]:
    """Comparisons, tables and notes.

    Args:
        watts: as `joules_tables.processor_table`.

    Raises:
        RunFailed: runs were not measured alike.
    """
    figures = {}
    for part, variants in found.items():
        joules_spent.check_alike([one for runs in variants.values() for one in runs])
        for name in variants:
            if name != PLAIN:
                figures[f"{part}: {name}"] = _compared(part, variants, name)
    top = f"{next(iter(found))}: {BOTH}"
    tables = [
        *(joules_tables.cost_table(part, variants) for part, variants in found.items()),
        joules_tables.side_table(found),
        joules_tables.phase_table(found),
        joules_tables.more_table(found),
        joules_tables.processor_table(found, watts),
        joules_tables.network_table(found),
    ]
    measured = [f"{part}: {joules_spent.measured(variants[PLAIN])}" for part, variants in found.items()]
    return {
        **figures.pop(top),
        "figures": figures,
        "tables": tables,
        "notes": [*measured, *([] if watts is None else [_CANCEL]), *_NOTES, *notes],
    }


_CANCEL: Final = (
    "ratios do not depend on the watts: each joule here is processor time times the same watts a core, a factor on "
    "both sides. That of devices and server together takes their cores to draw alike; those of each side alone do not"
)
_NOTES: Final = (
    "joules are above idle, of the processes of devices and of the server with its SuperLink; of all rounds but the "
    "first, in which devices load the task and check the run's epsilon",
    "each block has all runs once, in a random order of its own; plain / it is taken within a block; 0.5 is twice the "
    "energy. 'plain, again' is the very same as plain: how far it is from 1 is what the measurement cannot tell apart",
    "'other / fedsus' in the first table is the median of those ratios. Medians of phases need not add up to those of "
    "rounds",
    "a run's processor seconds hold its start (modules of the round loop; of the first run, of torch) and waiting for "
    "messages, which are in no round's joules",
    f"DP: unit example, noise on each device, epsilon {EPSILON:g} and delta {DELTA:g} for the run and its spare "
    f"attempts; the table has what these rounds spent. Compressed: models as differences of {BITS} bits, {SHARE:g} of "
    "an update's coordinates (projection), which is sound: the noise is in an update before it is reduced",
)


def _compared(part: str, variants: Mapping[str, Sequence[Spent]], name: str) -> dict[str, Any]:
    ours, plain = variants[name], variants[PLAIN]
    sides = comparison(
        figure([one.joules for one in ours], "J", "joules a round"),
        figure([one.joules for one in plain], "J", f"{part}: {name}, against plain"),
    )
    return sides | {"ratio": joules_tables.ratio(variants, name).median}


def core_watts() -> float | None:
    """W of a busy core above idle, where this machine's joules are modelled alone."""
    from fedsus.energy.meters.machine import look
    from fedsus.energy.meters.model import Model
    from fedsus.settings.energy import EnergySettings

    parts = look(EnergySettings()).parts
    return parts[0].core.value if len(parts) == 1 and isinstance(parts[0], Model) else None


def draw(result: Result, folder: Path) -> Sequence[Path]:
    """Write joules-of-privacy.png and .svg."""
    from fedsus_simulations.benchmarks import joules_plot

    return joules_plot.draw(result, folder)
