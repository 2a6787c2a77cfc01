"""One line of the preflight: what was looked at, how it is, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """``grade`` "fail": the agent cannot work so; "warn": it can, but its owner should know."""

    name: str
    grade: Literal["fine", "warn", "fail"]
    text: str
    fix: str = ""

    def __str__(self) -> str:
        mark = {"fine": "✓", "warn": "!", "fail": "✗"}[self.grade]
        return f"{mark} {self.name}: {self.text}" + (f" -> {self.fix}" if self.fix else "")


def fine(name: str, text: str) -> Finding:
    """A tick."""
    return Finding(name, "fine", text)


def warn(name: str, text: str, fix: str = "") -> Finding:
    """Worth knowing."""
    return Finding(name, "warn", text, fix)


def fail(name: str, text: str, fix: str) -> Finding:
    """To mend, and how."""
    return Finding(name, "fail", text, fix)
