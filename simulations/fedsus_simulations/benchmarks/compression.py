"""Uplinks that send a share of the coordinates: accuracy, bytes and joules, with DP and without.

    fashion   100 clients, Dirichlet(0.5), a linear model; with DP the unit is a client, noise in shares
    heart     four hospitals, logistic regression; with DP the unit is an example, noise in shares, one step a round

Accuracy and bytes are of simulations; joules of whole devices with masks (`compression_joules`), downlinks too.
A client's update is clipped after the reduction, an example's gradient before: there noise grows by sqrt(d / k)
(`fedsus.encoding.reduction`). All learning rates are as without reduction; nothing was tuned.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from fedsus_simulations.benchmarks import compression_encode, compression_joules, encode, simulate_data
from fedsus_simulations.benchmarks import utility_runs as runs
from fedsus_simulations.benchmarks.compression_cases import DELTA, HEART, Case, fashion, heart
from fedsus_simulations.benchmarks.compression_joules import words
from fedsus_simulations.benchmarks.result import comparison, figure
from fedsus_simulations.benchmarks.utility_kept import Kept, Options, mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedsus.types import Vector
    from fedsus_simulations.benchmarks.utility_kept import Row

EPSILONS: Final[tuple[float, ...]] = (inf, 8.0, 2.0)
SHARES: Final = (0.5, 0.25, 0.1)
NAMES: Final = ("projection", "rand_k")
SEEDS: Final = 5
WHOLE: Final = ("whole", 1.0)


def run(quick: bool, options: Options = Options()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Each share, by each reduction, at each epsilon, with every seed."""
    kept = Kept.of(options, "compression")
    ways = [WHOLE, *((name, share) for name in NAMES for share in SHARES)]
    epsilons, seeds = EPSILONS, options.seeds or SEEDS
    if quick:
        ways, epsilons, seeds = [WHOLE, ("projection", 0.25)], EPSILONS[:2], 1
    with tempfile.TemporaryDirectory(prefix="fs-") as name:
        files, real = simulate_data.images(options.data, Path(name) / "images")
        cases = [heart(), fashion(files)]
        if quick:
            cases = [replace(case, rounds=2) for case in cases]
        found = {
            (case.name, epsilon, how): [reached(kept, case, files, how, epsilon, seed) for seed in range(1, seeds + 1)]
            for case in cases
            for epsilon in epsilons
            for how in ways
        }
        blocks = 1 if quick else compression_joules.BLOCKS
        some = [way for way in compression_joules.WAYS if not quick or way.name in _QUICK]
        joules, loads = compression_joules.measure(cases, files, Path(name) / "joules", kept, blocks, some)
    encoding = compression_encode.table(encode.SIZE // 16 if quick else encode.SIZE)
    notes = [
        *compression_joules.notes(joules, loads),
        *([] if real else [simulate_data.MADE]),
    ]
    more = compression_joules.figures(joules)
    return told(found, notes, compression_joules.table(joules), encoding, more=more)


_QUICK: Final = (compression_joules.WHOLE, compression_joules.TOLD)


def reached(kept: Kept, case: Case, folder: Path, how: tuple[str, float], epsilon: float, seed: int) -> Row:
    """AUC or accuracy in percent, bytes of a client's update, epsilon of the attempts made, and noise, of one run."""
    told_of = {**case.federation.population, "data": case.name}
    asked = {
        "case": case.name,
        "uplink": how[0],
        "share": how[1],
        "epsilon": None if epsilon == inf else epsilon,
        "seed": seed,
        "delta": DELTA,
        "how": asdict(replace(case, federation=replace(case.federation, population=told_of))),
    }

    def measured() -> Row:
        found = runs.federated(case.federation, case.scenario(how, epsilon, seed))
        what = score(case, folder, found.model)
        return {"score": what, "bytes": found.update, "spent": min(found.epsilon, 1e9), "noise": found.noise}

    return kept.run(asked, measured)


def score(case: Case, folder: Path, model: Vector) -> float:
    """AUC of the rows that all hospitals hold out together, or accuracy on the test images; in percent."""
    if case.name == HEART:
        from fedsus_simulations.benchmarks.utility_heart import Heart

        return 100 * Heart(case.rounds).auc(model)
    from fedsus.tasks import registry
    from fedsus.tasks.task import DataSource

    task = registry.build(registry.resolve(case.federation.reference), {})
    return runs.accuracy(task, model, task.load(DataSource(folder)).held_out)


def told(
    found: dict[tuple[str, float, tuple[str, float]], list[Row]],
    notes: list[str],
    *tables: dict[str, Any],
    more: Mapping[str, dict[str, Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """The figures: bytes first, and what is missing of the score; less is better. Then those of others."""
    figures, scores = {}, []
    for case in dict.fromkeys(key[0] for key in found):
        runs_of = {key[1:]: rows for key, rows in found.items() if key[0] == case}
        scores.append({"title": _title(case), "columns": _COLUMNS, "rows": tuple(_rows(runs_of))})
        for (epsilon, how), rows in runs_of.items():
            if how == ("projection", 0.25):
                label = f"{case}, {words(epsilon)}"
                whole = runs_of[epsilon, WHOLE]
                figures[f"{label}: bytes"] = comparison(
                    _figure(rows, "bytes", "bytes", "projection, share 0.25"), _figure(whole, "bytes", "bytes", "whole")
                )
                figures[f"{label}: error"] = comparison(
                    _figure(rows, "score", "% missing", "projection, share 0.25"),
                    _figure(whole, "score", "% missing", "whole"),
                )
    top = next(iter(figures))
    return {
        **figures.pop(top),
        "figures": {**figures, **more},
        "tables": [*scores, *tables],
        "notes": [
            f"epsilon at delta {DELTA:g}, against a server with a tenth of the clients of fashion, or one hospital of "
            "heart; with the default spare attempts for heart, none for fashion",
            "bytes: a client's packed update in one round. Noise in shares pads what is sent to a power of two",
            "fashion: accuracy on the 10,000 test images; a linear model of 7,850 parameters, 15 rounds of one local "
            "epoch, batches of 10, learning rate 0.1, clip 0.5",
            "heart: AUC of the rows that all hospitals hold out; 20 rounds; without DP an epoch in batches of 16 at "
            "learning rate 0.1, with it one step of all rows at 2, clip 1",
            "points lost: by the means, against whole updates at the same epsilon; nothing was tuned",
            *notes,
        ],
    }


_COLUMNS: Final = ("epsilon", "uplink", "share", "seeds", "bytes", "score, %", "points lost", "noise / clip, as sent")


def _title(case: str) -> str:
    return "heart: AUC" if case == HEART else f"{case}: accuracy"


def _rows(found: dict[tuple[float, tuple[str, float]], list[Row]]) -> list[tuple[Any, ...]]:
    rows = []
    for (epsilon, how), made in found.items():
        scores = [row["score"] for row in made]
        whole = statistics.mean([row["score"] for row in found[epsilon, WHOLE]])
        lost = "" if how == WHOLE else f"{whole - statistics.mean(scores):.2f}"
        told_of = (words(epsilon), how[0], f"{how[1]:g}", len(made), f"{made[0]['bytes']:,}")
        rows.append((*told_of, mean(scores), lost, f"{made[0]['noise']:.3f}"))
    return rows


def _figure(rows: list[Row], key: str, unit: str, what: str) -> dict[str, Any]:
    return figure([row[key] if key == "bytes" else 100 - row[key] for row in rows], unit, what)
