"""Numbers and names for people: units that fit, ranges, methods, nothing that a browser could take for its own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from fedsus.costs import worst
from fedsus.reporting.figures import Absent, Figure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fedsus.reporting.figures import How, Quantity

LONGEST: Final = 600
"""Characters of a text that somebody else wrote."""

_SCALES: Final[dict[str, tuple[tuple[float, float, str], ...]]] = {  # from this value on, divided by that
    "J": ((3.6e6, 3.6e6, "kWh"), (3600.0, 3600.0, "Wh"), (0.0, 1.0, "J")),
    "g CO2e": ((1e6, 1e6, "t CO2e"), (1e3, 1e3, "kg CO2e"), (0.1, 1.0, "g CO2e"), (1e-4, 1e-3, "mg CO2e")),
    "B": ((1e9, 1e9, "GB"), (1e6, 1e6, "MB"), (1e3, 1e3, "kB"), (0.0, 1.0, "bytes")),
    "s": ((172_800.0, 86_400.0, "days"), (7200.0, 3600.0, "hours"), (120.0, 60.0, "minutes"), (0.0, 1.0, "seconds")),
}
_SMALLEST: Final = {"g CO2e": (1e-6, "µg CO2e")}

METHODS: Final[dict[How, str]] = {
    "counter": "read from a hardware counter",
    "modelled": "modelled",
    "assumed": "assumed",
    "counted": "counted exactly",
    "computed": "computed",
    "summed": "summed over the devices",
}


def cleaned(text: object) -> str:
    """One line of printable characters, not too long, whatever it is."""
    line = "".join(one if one.isprintable() else " " if one.isspace() else "?" for one in str(text)).strip()
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def digits(value: float) -> str:
    """Three digits that count; thousands apart; never an exponent where a person would not want one."""
    if value == 0:
        return "0"
    value = float(f"{value:.3g}") if abs(value) < 999.5 else value
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 1e-4:
        return f"{value:.{max(2 - math.floor(math.log10(abs(value))), 0)}f}"
    return f"{value:.2e}"


def scale(most: float, unit: str) -> tuple[float, str]:
    """What to divide values up to ``most`` by, and the name of the unit that is left."""
    if most == 0:
        return 1.0, {"B": "bytes", "s": "seconds"}.get(unit, unit)
    for start, factor, name in _SCALES.get(unit, ((0.0, 1.0, unit),)):
        if abs(most) >= start:
            return factor, name
    return _SMALLEST[unit]


def amount(value: float, unit: str, most: float | None = None) -> str:
    """A value with its unit: "1.25 kWh", "52 J"; in the unit that suits ``most`` where one is given."""
    base, per, what = unit.partition("/")
    factor, name = scale(value if most is None else most, base)
    return f"{digits(value / factor)} {name}{f' per {what}' if per else ''}"


def span(found: Figure, most: float | None = None) -> str:
    """A figure's range in the unit of its value, or of ``most``; whether it is exact, where it has none."""
    if found.low == found.high:
        return "exact" if found.method in ("counted", "computed") else "range not known"
    base, per, what = found.unit.partition("/")
    factor, name = scale((found.value or found.high) if most is None else most, base)
    return f"{digits(found.low / factor)} to {digits(found.high / factor)} {name}{f' per {what}' if per else ''}"


def value(found: Quantity) -> str:
    """A figure's value alone; "not known" where there is none."""
    return "not known" if isinstance(found, Absent) else amount(found.value, found.unit)


def rows(figures: Sequence[tuple[str, Quantity]]) -> tuple[tuple[str, str, str, str, str], ...]:
    """Name, value, range, method and source of each, as `COLUMNS`; all in the unit that suits the largest value."""
    largest: dict[str, float] = {}
    for _, found in figures:
        if isinstance(found, Figure):
            largest[found.unit] = max(abs(found.value), largest.get(found.unit, 0.0))
    return tuple(_row(name, found, largest) for name, found in figures)


def _row(name: str, found: Quantity, largest: Mapping[str, float]) -> tuple[str, str, str, str, str]:
    if isinstance(found, Absent):
        return name, "not known", "-", "-", cleaned(found.absent)
    most = largest[found.unit]
    return (
        name,
        amount(found.value, found.unit, most),
        span(found, most),
        METHODS[found.method],
        cleaned(found.source),
    )


COLUMNS: Final = ("", "Value", "Range", "How it was found", "Source")


def detail(found: Figure) -> str:
    """Range and method in a few words."""
    if found.low == found.high:
        return METHODS[found.method]
    return f"range {span(found)}, {METHODS[found.method]}"


def total(parts: Sequence[Quantity], source: str) -> Quantity:
    """The sum of what is known: ranges add up as if all erred alike; as good as the worst part."""
    known = [part for part in parts if isinstance(part, Figure)]
    if not known:
        reasons = dict.fromkeys(part.absent for part in parts if isinstance(part, Absent))
        return Absent(absent="; ".join(reasons) or "nothing was counted")
    certain = [part.method for part in known if part.method in ("counter", "modelled", "assumed")]
    return Figure(
        value=math.fsum(part.value for part in known),
        low=math.fsum(part.low for part in known),
        high=math.fsum(part.high for part in known),
        unit=known[0].unit,
        method=worst(*(method for method in certain if method in ("counter", "modelled", "assumed"))),
        source=source,
    )


def chance(delta: float) -> str:
    """A small probability in words."""
    return f"1 in {digits(1 / delta)}"


def listed(names: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    all_names = list(names)
    return " and ".join([", ".join(all_names[:-1]), all_names[-1]]) if len(all_names) > 1 else "".join(all_names)


def counted(number: int, what: str) -> str:
    """ "1 round", "2 rounds"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
