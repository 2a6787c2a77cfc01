"""An audit in words, and for programs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fedsus.commands.audits.broken import FAULTS
from fedsus.commands.audits.running import delta_of
from fedsus.commands.audits.trial import unit_of
from fedsus.commands.privacy_text import number
from fedsus.protection import ClientCentral

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedsus.commands.audits.running import Finding
    from fedsus.commands.audits.trial import Trial
    from fedsus.commands.privacy_plan import Planned
    from fedsus.privacy.adversaries import Adversary
    from fedsus.privacy.auditing import Bound

VERSION: Final = 1
"""Of the JSON: keys are added within a version, and none is removed or changes its meaning."""

_HEAD: Final = ("released", "against", "rounds", "draws", "delta", "claim", "seen", "")


@dataclass(frozen=True, slots=True)
class Report:
    """One audit of one run.

    Attributes:
        broken: name of the fault that was put in; None for the mechanism as it is.
        notes: what differs between the run and what was audited.
    """

    planned: Planned
    trial: Trial
    broken: str | None
    notes: Sequence[str]
    findings: Sequence[Finding]

    @property
    def refuted(self) -> bool:
        """Whether the draws refute a claim."""
        return any(finding.broken for finding in self.findings)

    def run_claim(self, adversary: Adversary) -> float:
        """Of the whole run, with its spare attempts, at its delta."""
        return self.planned.epsilon(unit_of(self.trial.promised), adversary, self.planned.attempts)


def lines(report: Report) -> list[str]:
    """All that is printed."""
    unit, delta = unit_of(report.trial.promised), delta_of(report.trial.promised)
    findings = report.findings
    head = [f"run '{report.planned.specification.config.name}': what the mechanism gives away of one {unit}"]
    if report.broken is not None:
        head.append(f"broken on purpose: {FAULTS[report.broken].says}")
    head += [f"audited: {note}" for note in report.notes]
    who = sorted({one for finding in findings for one in finding.adversaries})
    spent = ", ".join(f"{number(report.run_claim(one))} against {one}" for one in who)
    head.append(f"claimed for the whole run ({report.planned.attempts} attempts) at delta {delta:g}: {spent}")
    if isinstance(report.trial.promised.privacy, ClientCentral):
        head.append("against the server nothing is claimed: it adds the noise")
    costs = report.trial.promised.costs is not None
    table = _aligned([_HEAD, *(row for finding in findings for row in _rows(finding, costs))])
    return [*head, "", *table, "", _verdict(report)]


def _rows(finding: Finding, costs: bool) -> list[tuple[str, ...]]:
    """At the run's delta, and where the draws show the largest part of the claim."""
    first = finding.bounds[0]
    name = (
        "told" if costs and finding.block == "metrics" else finding.block,
        ", ".join(finding.adversaries),
        "all" if finding.rounds is None else str(finding.rounds),
        str(finding.draws),
    )
    rows = [(*name, *_cells(first))]
    others = [bound for bound in finding.bounds if bound.broken] or [finding.sharpest]
    return rows + [("", "", "", "", *_cells(bound)) for bound in others[-1:] if bound != first]


def _cells(bound: Bound) -> tuple[str, ...]:
    """Claims are rounded up and bounds down, so that what is printed is true."""
    seen = f"{math.floor(bound.lower * 1000) / 1000:.3f}"
    return f"{bound.delta:g}", number(bound.claim), seen, "REFUTED" if bound.broken else ""


def _verdict(report: Report) -> str:
    findings = report.findings
    chance = f"each line fails with a chance of {max(finding.failure for finding in findings):g}"
    if not report.refuted and report.broken is not None:
        return "no claim is refuted: this fault is too small to be seen in so many draws, or hidden by a loose claim"
    if not report.refuted:
        return f"no claim is refuted by these draws; {chance}"
    count = sum(finding.broken for finding in findings)
    found = f"{count} of {len(findings)} claims are refuted; {chance}"
    if report.broken is not None:
        return f"{found}: the audit finds what was broken"
    return f"{found}: draw again, and if it stays, report it as a defect of fedsus"


def plain(report: Report) -> dict[str, Any]:
    """For JSON. Infinite numbers are null."""
    promised = report.trial.promised
    return {
        "version": VERSION,
        "run": report.planned.specification.config.name,
        "unit": unit_of(promised),
        "delta": delta_of(promised),
        "broken": report.broken,
        "refuted": report.refuted,
        "audited": list(report.notes),
        "attempts": report.planned.attempts,
        "findings": [
            {
                "released": finding.block,
                "against": list(finding.adversaries),
                "rounds": finding.rounds,
                "draws": finding.draws,
                "confidence": 1 - finding.failure,
                "claim_of_the_run": {one: _finite(report.run_claim(one)) for one in finding.adversaries},
                "refuted": finding.broken,
                "bounds": [
                    {"delta": bound.delta, "claim": _finite(bound.claim), "seen": bound.lower}
                    for bound in finding.bounds
                ],
            }
            for finding in report.findings
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
