"""``[energy]`` of agent.toml and run.toml: how this machine's energy is measured."""

from __future__ import annotations

from typing import Literal

from fedsus.strict import NonNegative, Positive, Strict


class EnergySettings(Strict):
    """``[energy]``.

    Attributes:
        meter: "auto": counters where they can be read, else the model; "counter": counters, and ``missing`` where one
            is not there; "model": the model of the processor alone; "off": nothing is measured, and reports say so.
        watts: what the processor draws above idle with all cores busy; when not given, from a table of processors.
        idle_watts: what the whole machine draws when idle; when not given, what counters showed or the model says.
        missing: what happens when a counter is asked for and not there, or stops: "assume" goes on with the model,
            marked; "refuse" ends it.
    """

    meter: Literal["auto", "counter", "model", "off"] = "auto"
    watts: Positive | None = None
    idle_watts: NonNegative | None = None
    missing: Literal["assume", "refuse"] = "assume"
