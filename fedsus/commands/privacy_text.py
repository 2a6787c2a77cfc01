"""A planned run in words, for a terminal or a letter."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Final

from fedsus.commands.privacy_plan import Planned, noise_of, sentence, warnings
from fedsus.commands.privacy_told_text import costs, told
from fedsus.privacy.adversaries import ADVERSARIES, UNITS
from fedsus.privacy.stated import shown
from fedsus.protection import ClientCentral, ClientDistributed, Distributed, ExamplePrivacy, NoPrivacy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedsus.commands.privacy_admission import Judged
    from fedsus.privacy.adversaries import Adversary

WIDTH: Final = 110
_INDENT: Final = 11


def lines(plan: Planned, judged: Judged | None) -> list[str]:
    """All that is printed."""
    specification, asked = plan.specification, plan.specification.config.plan
    private = not isinstance(specification.privacy, NoPrivacy)
    head = (
        f"run '{specification.config.name}': task '{specification.config.task.name}', {specification.dimension} "
        f"parameters ({plan.inputs.origin}), {asked.rounds} rounds and {asked.spares} spare attempts"
    )
    facts = [("protects", sentence(plan)), *_cohort(plan)]
    facts += [*_budget(plan), *_noise(plan)] if private else []
    facts += [*costs(plan), ("bytes", _bytes(plan))]
    facts += [("warning", text) for text in warnings(plan)]
    printed = [line for name, text in facts for line in _fact(name, text)]
    tables = ["", *_units(plan), "", *_rounds(plan)] if private else []
    if judged is None:
        return [head, *printed, *tables]
    verdict = "admits this run" if judged.refusal is None else f"refuses this run: {judged.refusal}"
    return [head, *printed, *tables, "", f"{judged.file}: {verdict}"]


def against(plan: Planned, who: Adversary) -> str:
    """An adversary, with its helpers."""
    if who == "recipients":
        return who
    count = plan.colluders
    if count is None:
        return "the server" if who == "server" else "other clients"
    some = "s" * (count != 1)
    return f"the server with {count} client{some}" if who == "server" else f"{count} other client{some}"


def number(epsilon: float) -> str:
    """Rounded up, so that what is printed is true; "none" where nothing protects."""
    return "none" if math.isinf(epsilon) else shown(epsilon)


def size(count: float) -> str:
    """Bytes for people, decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _fact(name: str, text: str) -> list[str]:
    wrapped = textwrap.wrap(text, WIDTH - _INDENT, break_long_words=False, break_on_hyphens=False)
    return [f"{name if at == 0 else '':<{_INDENT}}{line}" for at, line in enumerate(wrapped)]


def _cohort(plan: Planned) -> list[tuple[str, str]]:
    asked = plan.specification.config.plan
    of = "" if plan.inputs.members is None else f" of {plan.inputs.members} members"
    text = f"{asked.cohort.size}{of} a round; a sum is opened of {plan.least} or more"
    if plan.found is not None:
        text += f"; {plan.found.colluders} may work with a lying server, {plan.found.dropouts} may fall out"
    return [("cohort", text)]


def _budget(plan: Planned) -> list[tuple[str, str]]:
    specification = plan.specification
    privacy, asked = specification.privacy, specification.config.plan.privacy
    unit, who = specification.goal
    spends = plan.epsilon(unit, who, plan.attempts)
    whom = "everyone" if isinstance(privacy, ExamplePrivacy) else against(plan, who)
    text = (
        f"epsilon {asked.epsilon:g} at delta {plan.delta:g} for each {unit}, against {whom}: the run spends "
        f"{number(spends)} with all its spare attempts"
    )
    return [("budget", text), *told(plan)]


def _noise(plan: Planned) -> list[tuple[str, str]]:
    noise, privacy = noise_of(plan), plan.specification.privacy
    if noise is None:
        return []
    one = "gradient" if privacy.unit == "example" else "update"
    what = f"a {'batch' if isinstance(privacy, ExamplePrivacy) else 'round'}'s mean {one}"
    text = (
        f"multiplier {noise.multiplier:.4g} of clip {noise.clip:g}; in {what} {noise.deviation:.3g} a coordinate, "
        f"{noise.length:.3g} in length, where one {one} moves it by {noise.clip / noise.divisor:.3g} at most"
    )
    found = [("noise", text)]
    if isinstance(privacy, ExamplePrivacy):
        drawn = f"{privacy.steps} batches a round, each row in one of them with a chance of {privacy.sampling_rate:g}"
        found.append(("", drawn + "; devices draw them, and nobody learns who is in"))
    if isinstance(privacy, ClientCentral) and privacy.banded is not None:
        bands, most = privacy.banded.bands, privacy.banded.participations
        text = f"correlated over {bands} rounds, in which later noise takes back a part of earlier; a client takes part"
        found.append(("", f"{text} in at most {most} rounds, {bands} or more apart"))
    if noise.share is not None and noise.share_variance is not None and noise.scale is not None:
        found.append(
            (
                "",
                f"each client adds {100 * noise.share:.3g} % of it, a Skellam variance of {noise.share_variance:.4g} "
                f"steps; {noise.scale:.5g} steps in 1, sums mod 2^{noise.bits}",
            )
        )
    if isinstance(privacy, ClientDistributed | ClientCentral) and privacy.full_weight is not None:
        found.append(("", f"a client with n rows counts min(n / {privacy.full_weight:g}, 1)"))
    return found


def _bytes(plan: Planned) -> str:
    sent, rounds = plan.sent, plan.specification.config.plan.rounds
    rest = "secure sum" if plan.found is not None else "header"
    return (
        f"a client sends {size(sent.total)} in a round: {size(sent.update)} of update and {size(sent.overhead)} of "
        f"{rest}; {size(sent.total * rounds)} in {rounds} rounds"
    )


def _units(plan: Planned) -> list[str]:
    """Epsilon for each unit and adversary; twice where survivors make a difference."""
    size = plan.specification.config.plan.cohort.size
    worst = plan.table()
    head = [f"epsilon of the whole run ({plan.attempts} attempts)", *(against(plan, who) for who in ADVERSARIES)]
    rows = [[f"  {_unit(plan, unit)}", *(number(worst[unit][who]) for who in ADVERSARIES)] for unit in UNITS]
    if isinstance(plan.specification.privacy, Distributed) and plan.least < size:
        best = plan.table(size)
        rows = [[f"  {_unit(plan, unit)}", *(number(worst[unit][who]) for who in ADVERSARIES)] for unit in UNITS]
        rows.insert(0, [f"with {plan.least} survivors, the least", "", "", ""])
        rows += [[f"with all {size} surviving", "", "", ""]]
        rows += [[f"  {_unit(plan, unit)}", *(number(best[unit][who]) for who in ADVERSARIES)] for unit in UNITS]
    return _aligned([head, *rows])


def _unit(plan: Planned, unit: str) -> str:
    return f"patient with {plan.rows} rows" if unit == "patient" and plan.rows is not None else unit


def _rounds(plan: Planned) -> list[str]:
    rounds, (unit, _) = plan.specification.config.plan.rounds, plan.specification.goal
    head = [f"epsilon of one {unit}", *(against(plan, who) for who in ADVERSARIES)]
    rows = []
    for done, attempts, found in plan.over_rounds():
        spares = f" and {attempts - done} spare attempts" if attempts > done else f" ({100 * done / rounds:.0f} %)"
        name = f"  after {done} round{'s' * (done != 1)}{spares}"
        rows.append([name, *(number(found[who]) for who in ADVERSARIES)])
    return _aligned([head, *rows])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
