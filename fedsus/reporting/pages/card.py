"""A model card as the Hugging Face hub reads it: a YAML head with what the model emitted, and what a reader asks."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

from fedsus.reporting.figures import Absent
from fedsus.reporting.pages.document import Table
from fedsus.reporting.pages.parts import budgets, privacy, summary
from fedsus.reporting.pages.render import _environment, _tidy, document
from fedsus.reporting.pages.words import COLUMNS, cleaned, counted, listed, rows
from fedsus.reporting.predicate import Metric

if TYPE_CHECKING:
    from fedsus.reporting.pages.source import Source

FILL: Final = "FILL IN"
_SEAL: Final = "<!-- sha256 of the lines above, as made: {} -->\n"
_SEALED: Final = re.compile(r"\A(.*)<!-- sha256 of the lines above, as made: ([0-9a-f]{64}) -->\n\Z", re.DOTALL)


def card(source: Source) -> str:
    """The card, with a last line that tells whether anybody edited it."""
    said = source.said
    text = _tidy(
        _environment("markdown")
        .get_template("model-card.md.j2")
        .render(
            head="",
            page=document(source),
            said=said,
            fill=FILL,
            privacy=privacy.section(source),
            budgets=budgets.section(source),
            tiles=summary.tiles(source),
            costs=_costs(source),
            data=_data(source),
            limits=_limits(source),
        )
    )
    text = f"---\n{_head(source)}---\n\n{text}\n"
    return text + _SEAL.format(hashlib.sha256(text.encode()).hexdigest())


def edited(text: str) -> bool:
    """Whether a card is another than the one that was made, so that it must be kept."""
    found = _SEALED.match(text)
    return found is None or hashlib.sha256(found.group(1).encode()).hexdigest() != found.group(2)


def _head(source: Source) -> str:
    """The card's YAML."""
    fields: list[tuple[str, Any]] = [("library_name", "fedsus"), ("tags", _tags(source))]
    if not isinstance(source.said.metrics, Absent):
        known = [cleaned(name) for name, one in source.said.metrics.items() if not isinstance(one, Absent)]
        fields += [("metrics", known)] if known else []
    lines = ["# license: " + FILL]
    lines += [f"{name}: {_yaml(one)}" for name, one in fields]
    carbon = source.said.carbon
    if isinstance(carbon.total, Absent):
        lines.append(f"# co2_eq_emissions: not known: {cleaned(carbon.total.absent)}")
        return "\n".join(lines) + "\n"
    lines.append("co2_eq_emissions:")
    emitted = {
        "emissions": carbon.total.value,
        "source": f"fedsus ({carbon.total.method}): {cleaned(carbon.boundary)}",
        "training_type": "federated training",
        "geographical_location": _where(source),
        "hardware_used": _hardware(source),
    }
    lines += [f"  {name}: {_yaml(one)}" for name, one in emitted.items()]
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    """JSON's strings are YAML's too, but for its pairs of surrogates; markup is escaped, since not every reader takes a
    head for one. YAML 1.1 takes 1e-05, which has no point, for a string.
    """
    if isinstance(value, float):
        digits, power, exponent = repr(value).partition("e")
        return digits + (".0" if power and "." not in digits else "") + power + exponent
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _tags(source: Source) -> list[str]:
    found = ["federated-learning", "pytorch"]
    if source.private:
        found.append("differential-privacy")
    if not isinstance(source.said.secure_sum, Absent):
        found.append("secure-aggregation")
    return found


def _where(source: Source) -> str:
    country = source.specification.config.carbon.country
    server = f"server: {cleaned(country)}" if country else "server: not stated"
    return f"{server}; devices: not told"


def _hardware(source: Source) -> str:
    found = source.said.energy.server
    return f"server: {'not known' if isinstance(found, Absent) else cleaned(found.total.source)}; devices: not told"


def _data(source: Source) -> tuple[str, ...]:
    there = source.said.participation
    roster = f" of {counted(there.roster.members, 'member')} of the federation's roster" if there.roster else ""
    held = [entry.held_out for entry in source.released if entry.metrics and not source.private]
    weights = [entry.weight for entry in source.released if entry.round <= source.specification.config.plan.rounds]
    lines = [
        f"{counted(there.cohort, 'client')}{roster} are asked in each round; nobody but they saw their data.",
        f"Over {counted(len(there.rounds), 'release')}, {there.survivors:,} answers are in the sums.",
    ]
    if source.private:
        lines.append(
            "How many examples they have is not known: under differential privacy no such number leaves a device."
        )
    elif weights:
        lines.append(
            f"The last training round's sum is of {weights[-1]:,.0f} examples"
            + (f"; {held[-1]:,} held-out examples measured the model last." if held else ".")
        )
    return tuple(lines)


def _costs(source: Source) -> Table:
    energy, carbon = source.said.energy, source.said.carbon
    lines = (
        ("Energy, server", energy.server if isinstance(energy.server, Absent) else energy.server.total),
        ("Energy, devices", energy.devices if isinstance(energy.devices, Absent) else energy.devices.total),
        ("Carbon, operational", carbon.total),
        ("Carbon, making the server", carbon.embodied_server),
        ("Carbon, network", carbon.network),
        ("SCI per round", source.said.sci.per_round),
        ("Bytes to the clients", source.said.traffic.total.sent),
        ("Bytes from the clients", source.said.traffic.total.received),
    )
    return Table("Costs", COLUMNS, rows(lines))


def _limits(source: Source) -> tuple[str, ...]:
    found = []
    if not source.private:
        found.append("Trained without differential privacy: the model may give away examples that it was trained on.")
    if source.virtual:
        found.append("Trained in a simulation, not by real participants.")
    if source.said.run.status != "completed":
        found.append(f"Training did not complete: {cleaned(source.said.budgets.ended_by)}.")
    if isinstance(source.said.metrics, Absent):
        found.append(f"Its quality is not known: {cleaned(source.said.metrics.absent)}.")
    else:
        found += [
            f"Its {cleaned(name)} is not known: {cleaned(one.absent)}."
            for name, one in source.said.metrics.items()
            if isinstance(one, Absent)
        ]
    missing = [
        name
        for name, one in (
            ("the server's energy", source.said.energy.server),
            ("the devices' energy", source.said.energy.devices),
        )
        if isinstance(one, Absent)
    ]
    if missing:
        found.append(f"Not counted: {listed(missing)}.")
    if not isinstance(source.said.metrics, Absent) and any(isinstance(m, Metric) for m in source.said.metrics.values()):
        found.append("Quality was measured on the participants' own examples; elsewhere it may be worse.")
    return tuple(found)
