"""Models that travel as quantized differences: what that costs in accuracy and time, and saves in bytes.

The federations, rounds and learning rates of `fedsus_simulations.benchmarks.compression`; nothing was tuned. The codec
is measured apart, on a model of a million parameters.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus.encoding import downlink
from fedsus.settings.downlink import Downlink
from fedsus_simulations.benchmarks import compression, compression_cases, simulate_data
from fedsus_simulations.benchmarks import utility_runs as runs
from fedsus_simulations.benchmarks.result import comparison, figure
from fedsus_simulations.benchmarks.utility_kept import Kept, Options, mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedsus_simulations.benchmarks.compression_cases import Case
    from fedsus_simulations.benchmarks.utility_kept import Row

BITS: Final = (8, 4, 2)
WHOLE: Final = 32
EPSILONS: Final = (inf, 8.0)
SEEDS: Final = 3
PARAMETERS: Final = 1_000_000

Found = dict[tuple[str, float, int], list["Row"]]
"""Case, epsilon and bits -> runs."""


def run(quick: bool, options: Options = Options()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Each number of bits at each epsilon, with every seed; and the codec."""
    kept = Kept.of(options, "downlink")
    ways, epsilons, seeds = [WHOLE, *BITS], list(EPSILONS), options.seeds or SEEDS
    if quick:
        ways, epsilons, seeds = ways[:2], epsilons[:1], 1
    with tempfile.TemporaryDirectory(prefix="fs-") as name:
        files, real = simulate_data.images(options.data, Path(name) / "images")
        cases = [compression_cases.fashion(files), compression_cases.heart()]
        if quick:
            cases = [replace(case, rounds=2) for case in cases]
        found = {
            (case.name, epsilon, bits): [
                reached(kept, case, files, bits, epsilon, seed) for seed in range(1, seeds + 1)
            ]
            for case in cases
            for epsilon in epsilons
            for bits in ways
        }
    return told(found, codec(3 if quick else 15), [] if real else [simulate_data.MADE])


def reached(kept: Kept, case: Case, folder: Path, bits: int, epsilon: float, seed: int) -> Row:
    """AUC or accuracy in percent, and bytes that a client received in a round after the first, of one run."""
    told_of = {**case.federation.population, "data": case.name}
    asked = {
        "case": case.name,
        "bits": bits,
        "epsilon": None if epsilon == inf else epsilon,
        "seed": seed,
        "how": asdict(replace(case, federation=replace(case.federation, population=told_of))),
    }

    def measured() -> Row:
        made = runs.federated(case.federation, scenario(case, bits, epsilon, seed))
        return {"score": compression.score(case, folder, made.model), "down": made.down}

    return kept.run(asked, measured)


def scenario(case: Case, bits: int, epsilon: float, seed: int) -> dict[str, Any]:
    """One run."""
    found = case.scenario(compression.WHOLE, epsilon, seed)
    if bits != WHOLE:
        found["plan"]["downlink"] = {"bits": bits}
    return found


def codec(turns: int, size: int = PARAMETERS) -> dict[str, Any]:
    """A table: milliseconds of processor time and bytes, for a model and a change of normal numbers."""
    generator = np.random.default_rng(1)
    base = generator.normal(0.0, 0.05, size).astype(np.float32)
    model = base + generator.normal(0.0, 0.003, size).astype(np.float32)
    hashed = _least(lambda: hashlib.sha256(base.data).digest(), turns)
    rows: list[tuple[Any, ...]] = []
    for bits in BITS:
        asked = Downlink.model_validate({"bits": bits})
        raw = downlink.difference(model, base, asked)
        spent = [
            _least(work, turns)
            for work in (
                lambda asked=asked: downlink.difference(model, base, asked),
                lambda raw=raw, asked=asked: downlink.moved(base, raw, asked),
            )
        ]
        left = np.linalg.norm(model - downlink.moved(base, raw, asked)) / np.linalg.norm(model - base)
        rows.append((bits, len(raw), f"{base.nbytes / len(raw):.1f}", *(f"{one:.1f}" for one in spent), f"{left:.3f}"))
    columns = ("bits", "bytes", "times fewer than float32", "encode, ms", "decode, ms", "left for the next difference")
    title = f"the codec, {size:,} parameters, a normal change (SHA-256 of the model: {hashed:.1f} ms)"
    return {"title": title, "columns": columns, "rows": tuple(rows)}


def _least(work: Callable[[], object], turns: int) -> float:
    found = []
    for _ in range(turns):
        began = time.process_time()
        work()
        found.append((time.process_time() - began) * 1e3)
    return min(found)


def told(found: Found, codec: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """The figures: bytes first, and what is missing of the score; less is better."""
    figures, rows = {}, []
    for (case, epsilon, bits), made in found.items():
        whole = found[case, epsilon, WHOLE]
        scores, downs = [row["score"] for row in made], [row["down"] for row in made]
        lost = statistics.mean([row["score"] for row in whole]) - statistics.mean(scores)
        fewer = statistics.mean([row["down"] for row in whole]) / statistics.mean(downs)
        words = ("no DP" if epsilon == inf else f"{epsilon:g}", "whole" if bits == WHOLE else str(bits))
        told_of = (case, *words, len(made), f"{statistics.mean(downs):,.0f}", f"{fewer:.2f}")
        rows.append((*told_of, mean(scores), "" if bits == WHOLE else f"{lost:.2f}"))
        if bits == BITS[0]:
            label = f"{case}, {words[0]}"
            figures[f"{label}: bytes down"] = comparison(_down(made, "8 bits"), _down(whole, "whole"))
            figures[f"{label}: error"] = comparison(_missing(made, "8 bits"), _missing(whole, "whole"))
    top = next(iter(figures))
    columns = ("case", "epsilon", "bits", "seeds", "bytes down", "times fewer", "score, %", "points lost")
    return {
        **figures.pop(top),
        "figures": figures,
        "tables": [{"title": "runs", "columns": columns, "rows": tuple(rows)}, codec],
        "notes": [
            "bytes down: what a client receives in a round after the first, without masks; 0.7 to 0.9 KB of it are the "
            "plan. The first round's model travels whole",
            "fashion: accuracy on the 10,000 test images of a linear model of 7,850 parameters, 100 clients, 15 "
            "rounds; with DP the unit is a client, noise in shares, delta 1e-5",
            "heart: AUC of the rows that all hospitals hold out; 34 parameters, so that the plan outweighs the model",
            "codec: least processor time of one thread",
            *notes,
        ],
    }


def _down(rows: list[Row], what: str) -> dict[str, Any]:
    return figure([row["down"] for row in rows], "bytes", what)


def _missing(rows: list[Row], what: str) -> dict[str, Any]:
    return figure([100 - row["score"] for row in rows], "% missing", what)
