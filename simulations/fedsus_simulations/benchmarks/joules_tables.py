"""The tables of `joules_of_privacy`: what a round costs, whose it is, where it goes, and what was really measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import TYPE_CHECKING, Any, Final

from fedsus.costs import PHASES
from fedsus.energy.network import PUBLISHED
from fedsus_simulations.benchmarks import joules_blocks, joules_spent
from fedsus_simulations.benchmarks.joules_spent import SIDES
from fedsus_simulations.benchmarks.joules_variants import AGAIN, BY_PHASE, COST, PLAIN

if TYPE_CHECKING:
    from fedsus_simulations.benchmarks.joules_spent import Spent, Who

    Found = Mapping[str, Mapping[str, Sequence[Spent]]]
    """Part -> variant -> runs, one a block."""

MORE: Final = "J a round more than plain"


def ratio(variants: Mapping[str, Sequence[Spent]], name: str, who: Who = "both") -> joules_blocks.Estimate:
    """Plain joules over a variant's, within each block."""
    return joules_blocks.estimate(joules_spent.ratios(variants[PLAIN], variants[name], who))


def cost_table(part: str, variants: Mapping[str, Sequence[Spent]]) -> dict[str, Any]:
    """A row a variant: medians over blocks, and the ratio with its interval."""
    rows = []
    for name, runs in variants.items():
        each = [median([joules_spent.joules(one, who) for one in runs]) for who in SIDES]
        ways = [median([getattr(one, way) / one.rounds for one in runs]) for way in ("sent", "received")]
        aucs = [one.auc for one in runs if one.auc is not None]
        rows.append(
            (
                name,
                *each,
                "1" if name == PLAIN else str(ratio(variants, name)),
                median([one.second for one in runs]),
                *map(round, ways),
                f"{mean([one.accuracy for one in runs]):.1f}",
                f"{mean(aucs):.1f}" if aucs else "",
                f"{runs[0].epsilon:.2f}" if runs[0].epsilon else "no DP",
            )
        )
    ends = ("bytes down", "bytes up", "accuracy, %", "AUC, %", "epsilon")
    columns = ("run", "J, devices", "J, server", "plain / it: median (95 %)", "s", *ends)
    return {"title": f"{COST}{part}", "columns": columns, "rows": tuple(rows)}


def side_table(found: Found) -> dict[str, Any]:
    """The ratios of devices and of the server apart: they hold whatever a core of either draws."""
    rows = []
    for part, variants in found.items():
        for name in variants:
            if name != PLAIN:
                sides: tuple[Who, ...] = ("both", *SIDES)
                all_of = [joules_spent.ratios(variants[PLAIN], variants[name], who) for who in sides]
                told = (str(joules_blocks.estimate(one)) for one in all_of)
                rows.append((part, name, *told, f"{min(all_of[0]):.3g} to {max(all_of[0]):.3g}"))
    columns = ("part", "run", "all", "devices alone", "server alone", "all, least to largest block")
    return {"title": "plain joules over a run's, median (95 %)", "columns": columns, "rows": tuple(rows)}


def phase_table(found: Found) -> dict[str, Any]:
    """A row for devices and one for the server of each variant: joules of a round by phase, medians over blocks."""
    rows = []
    for part, variants in found.items():
        for name, runs in variants.items():
            for who in SIDES:
                phases = [median([one.phases(who).get(phase, 0.0) for one in runs]) for phase in PHASES]
                share = median([100 * joules_spent.joules(one, who) / one.joules for one in runs])
                rows.append((part, name, who, runs[0].both.method, *phases, f"{share:.0f}"))
    columns = ("part", "run", "who", "method", *PHASES, "% of the round")
    return {"title": BY_PHASE, "columns": columns, "rows": tuple(rows)}


def more_table(found: Found) -> dict[str, Any]:
    """What a variant takes more than plain, by phase: medians of differences within a block, which say what is paid."""
    rows = []
    for part, variants in found.items():
        for name, runs in variants.items():
            if name in (PLAIN, AGAIN):
                continue
            pairs = list(zip(variants[PLAIN], runs, strict=True))
            for who in SIDES:
                by_phase = [
                    median([it.phases(who).get(phase, 0.0) - one.phases(who).get(phase, 0.0) for one, it in pairs])
                    for phase in PHASES
                ]
                whole = [joules_spent.joules(it, who) - joules_spent.joules(one, who) for one, it in pairs]
                rows.append((part, name, who, *map(_signed, by_phase), str(joules_blocks.estimate(whole))))
    columns = ("part", "run", "who", *PHASES, "all: median (95 %)")
    return {"title": f"{MORE}, medians of differences within a block", "columns": columns, "rows": tuple(rows)}


def _signed(value: float) -> str:
    return f"{value:+.3f}" if abs(value) >= 0.0005 else "0"


def processor_table(found: Found, watts: float | None) -> dict[str, Any]:
    """What is really measured: processor time, of a round and of whole runs; medians.

    Args:
        watts: of a busy core, by which joules were modelled; None where they were counted.
    """
    rows = []
    for part, variants in found.items():
        for name, runs in variants.items():
            whole = [median([one.processor[who] for one in runs]) for who in SIDES]
            rounds: list[float | str] = ["", ""]
            told: float | str = ""
            if watts is not None:
                rounds = [median([sum(one.phases(who).values()) for one in runs]) / watts for who in SIDES]
                told = round(100 * median([_all(one) / sum(one.processor.values()) for one in runs]) / watts)
            rows.append((part, name, *rounds, *whole, median([one.first for one in runs]), told))
    columns = (
        *("part", "run", "s a round, devices", "s a round, server", "s a run, devices", "s a run, server"),
        *("J, first round", "% of a run's s in its rounds' joules"),
    )
    title = "processor seconds: of a round, as in the joules; of a whole run, by the operating system"
    return {"title": title, "columns": columns, "rows": tuple(rows)}


def _all(one: Spent) -> float:
    """J of all rounds."""
    return one.first + one.both.total


def network_table(found: Found) -> dict[str, Any]:
    """The networks' electricity for a round's bytes, if they were sent through the Internet."""
    rows = []
    for part, variants in found.items():
        plain = median([one.octets for one in variants[PLAIN]])
        for name, runs in variants.items():
            octets = median([one.octets for one in runs])
            found_of = PUBLISHED.joules(round(octets))
            span = f"{found_of.low:.3g} to {found_of.high:.3g}"
            rows.append((part, name, round(octets), plain / octets, found_of.value, span))
    columns = ("part", "run", "bytes a round", "plain / it", "J, networks", "range")
    return {"title": f"networks, assumed, in no joules above: {PUBLISHED.source}", "columns": columns, "rows": rows}
