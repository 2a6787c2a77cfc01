"""What a run is going to spend and send, from its configuration alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fedsus.commands.privacy_told import Told, told_beside
from fedsus.encoding.costs import told_devices, told_rounding, told_spread
from fedsus.errors import Refusal
from fedsus.privacy.adversaries import ADVERSARIES, UNITS, Adversary, Unit, spent
from fedsus.privacy.factorisation import sensitivity
from fedsus.privacy.sensitivity import padded
from fedsus.protection import ClientCentral, ClientDistributed, Distributed, ExamplePrivacy, NoPrivacy
from fedsus.rounds.planning import cautions, demands
from fedsus.rounds.planning.calibrated import calibrated
from fedsus.rounds.planning.specification import Specification
from fedsus.rounds.planning.withstood import Numbers, numbers
from fedsus.rounds.server_half.traffic import Upload, upload

if TYPE_CHECKING:
    from fedsus.commands.privacy_inputs import Inputs
    from fedsus.protection import Privacy

VERSION: Final = 1
"""Of the JSON: keys are added within a version, and none is removed or changes its meaning."""

_SHARES: Final = (0.1, 0.25, 0.5)


@dataclass(frozen=True, slots=True)
class Noise:
    """How much, in units of the update unless it says steps.

    Attributes:
        multiplier: standard deviation over the clip, of what the adversary cannot subtract, in the sum that is
            protected: of one batch, one round, or with ``bands`` all rounds.
        deviation: of one coordinate of what is released and divided: a batch's mean gradient, a round's mean update.
        length: of the noise in that, over all coordinates; one update or gradient in it is ``clip / divisor`` long.
        divisor: what the sum is divided by.
        share: of the noise of a sum, what one client adds; None where no client adds a share.
        share_variance: in steps squared, of one coordinate; None likewise.
        scale: steps in one unit; None likewise.
        bits: sums are taken mod 2**bits.
    """

    multiplier: float
    clip: float
    deviation: float
    length: float
    divisor: float
    share: float | None
    share_variance: float | None
    scale: float | None
    bits: int


@dataclass(frozen=True, slots=True)
class Planned:
    """A calibrated run: what it fixes, and what follows.

    Attributes:
        found: of a secure sum; None of one in clear.
        rows: most rows of one patient; None where nobody said.
    """

    inputs: Inputs
    specification: Specification
    found: Numbers | None
    sent: Upload
    rows: int | None = None

    @property
    def attempts(self) -> int:
        """Rounds and spares."""
        return self.specification.attempts

    @property
    def delta(self) -> float:
        """Of the run; 0 without privacy."""
        privacy = self.specification.privacy
        return 0.0 if isinstance(privacy, NoPrivacy) else privacy.delta

    @property
    def least(self) -> int:
        """Fewest survivors of a sum that is released."""
        privacy, asked = self.specification.privacy, self.specification.config.plan
        if isinstance(privacy, Distributed):
            return privacy.shares.survivors
        if self.found is None:
            return asked.cohort.minimum
        return max(asked.cohort.minimum, asked.cohort.size - self.found.dropouts, self.found.colluders + 2, 3)

    @property
    def colluders(self) -> int | None:
        """A; None where the sum is in clear."""
        privacy = self.specification.privacy
        if isinstance(privacy, Distributed):
            return privacy.shares.colluders
        return None if self.found is None else self.found.colluders

    def epsilon(self, unit: Unit, adversary: Adversary, attempts: int, survivors: int | None = None) -> float:
        """Infinity where nothing protects, or too little for an accountant."""
        from fedsus.privacy.accounting import epsilon

        if isinstance(self.specification.privacy, NoPrivacy):
            return math.inf
        events = spent(self.specification.first_plan, attempts, survivors, self.rows)
        try:
            return epsilon(events[unit, adversary], self.delta)
        except Refusal:
            return math.inf

    def table(self, survivors: int | None = None) -> dict[Unit, dict[Adversary, float]]:
        """Of the whole run, spare attempts included; ``survivors`` in each sum, None for the least."""
        return {unit: {who: self.epsilon(unit, who, self.attempts, survivors) for who in ADVERSARIES} for unit in UNITS}

    def over_rounds(self) -> list[tuple[int, int, dict[Adversary, float]]]:
        """(rounds, attempts, epsilon of the protected unit) at the least survivors: nothing spare but in the last."""
        rounds, (unit, _) = self.specification.config.plan.rounds, self.specification.goal
        steps = sorted({1, rounds, *(math.ceil(rounds * share) for share in _SHARES)})
        points = [(step, step) for step in steps] + [(rounds, self.attempts)] * (self.attempts > rounds)
        return [
            (done, attempts, {who: self.epsilon(unit, who, attempts) for who in ADVERSARIES})
            for done, attempts in points
        ]


def planned(inputs: Inputs, rows: int | None = None) -> Planned:
    """Calibrate a run as it will be when it opens, and refuse what cannot open.

    Raises:
        ConfigError: see `fedsus.rounds.planning.calibrated` and `fedsus.rounds.planning.demands`.
    """
    config, members = inputs.config, inputs.members
    if not inputs.simulated:
        demands.check_deployed(config)

    def spends(privacy: Privacy, attempts: int) -> float:
        return Specification(config.name, config, privacy, dimension=inputs.dimension).epsilon(attempts)

    specification = Specification(
        config.name, config, calibrated(config, inputs.dimension, members, spends), dimension=inputs.dimension
    )
    found = numbers(config.plan, members) if config.plan.exchange == "secure_sum" else None
    sent = upload(specification.first_plan, None if found is None else found.thresholds)
    return Planned(inputs, specification, found, sent, rows)


def noise_of(plan: Planned) -> Noise | None:
    """None without privacy."""
    privacy, dimension = plan.specification.privacy, plan.specification.dimension
    bits = plan.specification.config.plan.encoding.bits
    match privacy:
        case NoPrivacy():
            return None
        case ExamplePrivacy():
            sum_deviation, divisor = privacy.noise_multiplier * privacy.clip, privacy.denominator
            multiplier = privacy.noise_multiplier
        case ClientCentral():
            banded = privacy.banded
            factor = 1.0 if banded is None else sensitivity(banded.bands, banded.participations)
            sum_deviation, divisor = privacy.noise_multiplier * privacy.clip * factor, float(plan.least)
            multiplier = privacy.noise_multiplier
        case _:
            return _in_shares(plan, privacy, dimension)
    deviation = sum_deviation / divisor * _longer(plan)
    length = deviation * math.sqrt(dimension)
    return Noise(multiplier, privacy.clip, deviation, length, divisor, None, None, None, bits)


def _in_shares(plan: Planned, privacy: Distributed, dimension: int) -> Noise:
    shares = privacy.shares
    honest = shares.survivors - shares.colluders
    divisor = float(shares.survivors) if isinstance(privacy, ClientDistributed) else privacy.denominator
    deviation = math.sqrt(shares.variance * shares.survivors) / shares.scale / divisor * _longer(plan)
    return Noise(
        multiplier=math.sqrt(shares.variance * honest) / shares.scale / privacy.clip,
        clip=privacy.clip,
        deviation=deviation,
        length=deviation * math.sqrt(dimension),
        divisor=divisor,
        share=1 / honest,
        share_variance=shares.variance,
        scale=shares.scale,
        bits=shares.bits,
    )


def _longer(plan: Planned) -> float:
    """How much longer the noise is for a reduced uplink: with the client unit it is not (fedsus.encoding.reduction)."""
    first = plan.specification.first_plan
    return math.sqrt(first.dimension / first.coordinates) if first.privacy.unit == "example" else 1.0


def sentence(plan: Planned) -> str:
    """Who is protected from whom."""
    privacy, size = plan.specification.privacy, plan.specification.config.plan.cohort.size
    with_help = f"a server that works with up to {plan.colluders} of the {size} clients of a cohort"
    match privacy:
        case NoPrivacy():
            return "nobody is protected: there is no differential privacy in this run"
        case ExamplePrivacy():
            return "each row of a device's data, from everyone, the server included: its own device adds the noise"
        case ClientCentral():
            return (
                "all that one client has, from who receives the models, and not from the server, which adds the noise"
            )
        case ClientDistributed():
            return f"all that one client has, from everyone, also from {with_help}"
        case _:
            return f"each row of any client's data, from everyone, also from {with_help}"


def warnings(plan: Planned) -> list[str]:
    """What should be known, one line each."""
    found = cautions.cautions(plan.specification, plan.inputs.members)
    if plan.specification.privacy.unit == "example" and plan.rows is None:
        found.append("a patient with several rows is not covered by the epsilon of one: --rows R says how much it is")
    return found


def plain(plan: Planned) -> dict[str, Any]:
    """For JSON. Infinite numbers are null: nothing protects."""
    specification, asked = plan.specification, plan.specification.config.plan
    privacy, noise = specification.privacy, noise_of(plan)
    private = not isinstance(privacy, NoPrivacy)
    return {
        "version": VERSION,
        "run": specification.config.name,
        "task": specification.config.task.name,
        "unit": privacy.unit,
        "placement": asked.privacy.where if private else None,
        "exchange": asked.exchange,
        "protects": sentence(plan),
        "rounds": asked.rounds,
        "spare_attempts": asked.spares,
        "dimension": specification.dimension,
        "padded_dimension": padded(specification.first_plan.coordinates) if isinstance(privacy, Distributed) else None,
        "cohort": {
            "size": asked.cohort.size,
            "members": plan.inputs.members,
            "colluders": plan.colluders,
            "dropouts": None if plan.found is None else plan.found.dropouts,
            "least_survivors": plan.least,
        },
        "budget": _budget(plan),
        "costs": _costs(plan),
        "noise": None if noise is None else {name: getattr(noise, name) for name in Noise.__slots__},
        "bytes_sent_by_a_client": {
            "update": plan.sent.update,
            "overhead": plan.sent.overhead,
            "round": plan.sent.total,
            "run": plan.sent.total * asked.rounds,
        },
        "epsilon": {"least_survivors": _finite(plan.table()), "all_survive": _finite(plan.table(asked.cohort.size))},
        "over_rounds": [
            {"rounds": done, "attempts": attempts, "epsilon": _row(found)}
            for done, attempts, found in plan.over_rounds()
        ],
        "warnings": warnings(plan),
    }


def _budget(plan: Planned) -> dict[str, Any] | None:
    privacy, asked = plan.specification.privacy, plan.specification.config.plan.privacy
    if isinstance(privacy, NoPrivacy):
        return None
    (unit, adversary), told = plan.specification.goal, told_beside(plan.specification, plan.inputs.members)
    return {
        "epsilon": privacy.epsilon,
        "delta": privacy.delta,
        "spends": plan.epsilon(unit, adversary, plan.attempts),
        "unit": unit,
        "adversary": adversary,
        "metrics_share": asked.metrics_share if plan.specification.first_plan.told else 0.0,
        "metrics": [metric.name for metric in plan.specification.first_plan.metrics],
        "told": None if told is None else {name: getattr(told, name) for name in Told.__slots__},
        "told_devices": told_devices(plan.specification.first_plan, plan.specification.config.plan.cohort.size),
    }


def _costs(plan: Planned) -> dict[str, Any] | None:
    """What devices tell of their costs, of one round in which all survive; None where nothing is asked."""
    first, size = plan.specification.first_plan, plan.specification.config.plan.cohort.size
    if plan.specification.config.plan.costs is None:
        return None
    return {
        "most": {name: high for name, (_, high) in first.cost_ranges.items()},
        "deviation": told_spread(first, size),
        "rounding": told_rounding(first, size),
    }


def _finite(table: dict[Unit, dict[Adversary, float]]) -> dict[str, dict[str, float | None]]:
    return {unit: _row(row) for unit, row in table.items()}


def _row(row: dict[Adversary, float]) -> dict[str, float | None]:
    return {who: value if math.isfinite(value) else None for who, value in row.items()}
