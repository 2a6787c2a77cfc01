"""What is checked of an owner's data before the first round, and how it is told to the owner."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from fedsus.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

Severity = Literal["refuse", "warn"]

SEVERITIES: Mapping[str, Severity] = MappingProxyType(
    {
        "columns": "refuse",
        "types": "refuse",
        "missing": "refuse",
        "classes": "refuse",
        "batch": "refuse",
        "extra": "warn",
        "range": "warn",
        "duplicates": "warn",
    }
)
"""The checks and what a task does about them unless it declares otherwise.

columns: a named column is not there; types: a cell is not what the column holds; missing: more of a column is
missing than the task allows; classes: every row has the same label; batch: fewer training rows than a batch; extra: a
column that the task does not read; range: a number outside the column's plausible range, which is then clamped;
duplicates: equal rows.
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found: one line for the owner. A refusal means that nothing is trained."""

    check: str
    severity: Severity
    message: str


class Findings:
    """Collects findings with the severities that a task declares."""

    def __init__(self, declared: Mapping[str, Severity] = MappingProxyType({})) -> None:
        self._severities = {**SEVERITIES, **declared}
        self.all: list[Finding] = []

    def add(self, check: str, message: str) -> None:
        """Record one finding of ``check``."""
        self.all.append(Finding(check, self._severities[check], message))

    def ended_by(self, error: DataError) -> list[Finding]:
        """All findings of a check that could not go on, with its error unless a refusal says it already."""
        if not any(finding.severity == "refuse" for finding in self.all):
            self.all.append(Finding("columns", "refuse", str(error)))
        return self.all


def refuse(findings: Sequence[Finding]) -> None:
    """Raise the first refusal.

    Raises:
        DataError: its one line; further refusals are counted.
    """
    refusals = [finding for finding in findings if finding.severity == "refuse"]
    if refusals:
        more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
        raise DataError(refusals[0].message + more)


def one_class(where: str, labels: Sequence[Hashable], findings: Findings) -> None:
    """A model cannot learn to tell classes apart from rows of one class."""
    found = set(labels)
    if len(found) == 1:
        findings.add("classes", f"{where}: all {len(labels)} rows have the label {found.pop()}; two classes are needed")


def too_few(where: str, rows: int, batch_size: int, findings: Findings) -> None:
    """A shard needs at least one batch of training rows."""
    if rows < batch_size:
        findings.add("batch", f"{where}: {rows} training rows, fewer than a batch of {batch_size}; add rows")


def duplicates(where: str, rows: Sequence[Hashable], findings: Findings) -> None:
    """Equal rows are often one person twice, whom per-row privacy then protects half as well."""
    again = sum(count - 1 for count in Counter(rows).values())
    if again:
        some = "row is a duplicate" if again == 1 else "rows are duplicates"
        findings.add("duplicates", f"{where}: {again} {some} of another; if one person is behind them, remove them")
