"""The owner's own metrics: each model that came, evaluated on the held-out part; the file never leaves the device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fedsus.types import Clock

FILE: Final = "evaluations.jsonl"


class Evaluations:
    """Appends one JSON line for each model: time, run, round, metrics.

    Args:
        folder: the agent's state folder.
        clock: seconds since the epoch.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._file, self._clock = folder / FILE, clock

    def __call__(self, run: str, round: int, metrics: Mapping[str, float]) -> None:
        """Write one line."""
        line = json.dumps({"time": self._clock(), "run": run, "round": round, **metrics}, sort_keys=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
