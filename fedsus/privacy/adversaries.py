"""What a run spends, for each unit and against each adversary.

    server      works with A clients of each cohort, sees every sum of every attempt, and what its clients know
    clients     A clients with an honest server: they see the models, and know their own shares of the noise
    recipients  of the models: they see what is released, and know nobody's share

Who takes part is public, and no sampling of clients is counted: a server chooses whom it asks, so a cohort drawn at
random amplifies against neither server nor clients; against recipients it would only while roster and participation
stay unpublished. Examples that a device draws itself amplify against everyone.

A release debits every unit. What bounds a client's update bounds what one of its examples, or one patient, can move:
between two updates within the bound lies at most twice the bound. What bounds an example bounds a patient with r rows,
of whom each batch draws some, by how far those move it (`fedsus.privacy.groups`), and says nothing about a client. What
is told beside the gradients is bounded by its range alone: for an example as for all rows of a patient in one client
(`told_by_examples`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from fedsus.privacy import sensitivity
from fedsus.privacy.accounting import dp_sgd_event, drawn
from fedsus.protection import (
    ClientCentral,
    ClientDistributed,
    Distributed,
    ExampleDistributed,
    ExamplePrivacy,
    NoPrivacy,
)

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from fedsus.plan import Plan

Unit: TypeAlias = Literal["example", "patient", "client"]
Adversary: TypeAlias = Literal["server", "clients", "recipients"]
UNITS: Final[tuple[Unit, ...]] = get_args(Unit)
ADVERSARIES: Final[tuple[Adversary, ...]] = get_args(Adversary)
Spent: TypeAlias = Mapping[tuple[Unit, Adversary], "DpEvent"]


def spent(plan: Plan, attempts: int, survivors: int | None = None, rows: int | None = None) -> Spent:
    """What ``attempts`` attempts of a run with this plan spend on each unit against each adversary.

    Args:
        attempts: 1 or more; each counts, whether it released a model or was abandoned.
        survivors: clients in each sum; None for the least that the plan allows.
        rows: most examples of one patient; None where nothing bounds them: a patient is then not protected by
            what protects an example.

    Raises:
        Refusal: fewer survivors than the plan allows.
    """
    import dp_accounting as dpa

    from fedsus.errors import Refusal

    privacy = plan.privacy
    if survivors is not None and isinstance(privacy, Distributed) and survivors < privacy.shares.survivors:
        raise Refusal(f"{survivors} survivors: the noise was calibrated for {privacy.shares.survivors} or more")
    found: dict[tuple[Unit, Adversary], DpEvent] = {}
    for adversary in ADVERSARIES:
        for unit in UNITS:
            event = _once(plan, unit, adversary, survivors, rows)
            once = isinstance(privacy, ClientCentral) and privacy.banded is not None  # one event a run
            found[unit, adversary] = event if once or attempts == 1 else dpa.SelfComposedDpEvent(event, attempts)
    return found


def _once(plan: Plan, unit: Unit, adversary: Adversary, survivors: int | None, rows: int | None) -> DpEvent:
    """One attempt's event."""
    import dp_accounting as dpa

    match plan.privacy:
        case NoPrivacy():
            return dpa.NonPrivateDpEvent()
        case ExamplePrivacy() | ExampleDistributed() as privacy:
            count = {"example": 1, "patient": rows, "client": None}[unit]
            if count is None:
                return dpa.NonPrivateDpEvent()
            if isinstance(privacy, ExamplePrivacy):
                return dp_sgd_event(privacy.noise_multiplier, privacy.sampling_rate, privacy.steps, count)
            gradients = _gradients(plan, privacy, adversary, survivors, count)
            if privacy.shares.metrics is None or not plan.told:
                return gradients
            told = told_by_examples(plan.told, privacy.shares.metrics * _honest(privacy, adversary, survivors))
            return dpa.ComposedDpEvent([gradients, told])
        case ClientDistributed() as privacy:
            return _updates(plan, privacy, adversary, survivors, 1 if unit == "client" else 2)
        case ClientCentral() as privacy:
            return _central(privacy, adversary, 1 if unit == "client" else 2)


def _honest(privacy: Distributed, adversary: Adversary, survivors: int | None) -> int:
    """Shares of noise in the sum that the adversary does not know."""
    shares = privacy.shares
    here = shares.survivors if survivors is None else survivors
    return here if adversary == "recipients" else here - shares.colluders


def _gradients(
    plan: Plan, privacy: ExampleDistributed, adversary: Adversary, survivors: int | None, count: int
) -> DpEvent:
    from fedsus.privacy.events import SkellamDpEvent

    size = sensitivity.padded(plan.coordinates)
    moved = sensitivity.example_update(privacy.clip, privacy.shares.scale, size)
    variance = privacy.shares.variance * _honest(privacy, adversary, survivors)
    return drawn(SkellamDpEvent(moved.l1, moved.l2, variance), privacy.sampling_rate, count)


def told_by_examples(count: int, variance: float) -> DpEvent:
    """One attempt's event of ``count`` metrics and costs beside a sum of gradients, of one example or one patient.

    An example more, or any number of them in one client, may move that client's block from one corner of its range to
    the opposite one: a mean over few, the time that training took. That is `METRIC_STEPS` a coordinate, and no more: a
    coordinate is within half of that of zero whatever happens. Means and costs are clamped; no rows held out, a metric
    that fails or is no number, a report that is negative, no number or not made, all have a place within. So it does
    not matter what decides whether a device reports. Nothing else of the block leaves: clamped figures are not counted.

    **Not sampled**: held-out rows are in every round, and time tells of the batch. The gradients beside it keep their
    amplification all the same. Given all releases before, the noised sum of gradients among them, the block is a
    mixture over batches of Skellam laws whose means lie in the range, with one and with the other data. Renyi
    divergence is jointly quasi-convex (van Erven and Harremoes 2014, Theorem 13), so two mixtures are no further apart
    than the two furthest laws: this event, whatever the block says of the batch. And each round's batch is drawn
    afresh, so that given all releases before, the gradients' event is the sampled one. They compose, adaptively.

    Held-out rows must not reach the gradients: trainers measure after them, and what fails there is no failure of the
    training. Not counted, here as elsewhere, is time itself: others wait for a device that trains longer.

    Args:
        variance: of each coordinate, in steps squared: of the noise that the adversary cannot subtract.
    """
    from fedsus.privacy.events import SkellamDpEvent

    moved = sensitivity.client_metrics(count).times(2)
    return SkellamDpEvent(moved.l1, moved.l2, variance)


def _updates(
    plan: Plan, privacy: ClientDistributed, adversary: Adversary, survivors: int | None, times: int
) -> DpEvent:
    import dp_accounting as dpa

    from fedsus.privacy.events import SkellamDpEvent

    shares, honest = privacy.shares, _honest(privacy, adversary, survivors)
    size = sensitivity.padded(plan.coordinates)
    moved = sensitivity.client_update(privacy.clip, shares.scale, size).times(times)
    update = SkellamDpEvent(moved.l1, moved.l2, shares.variance * honest)
    if shares.metrics is None or not plan.told:
        return update
    told = sensitivity.client_metrics(plan.told).times(times)
    return dpa.ComposedDpEvent([update, SkellamDpEvent(told.l1, told.l2, shares.metrics * honest)])


def _central(privacy: ClientCentral, adversary: Adversary, times: int) -> DpEvent:
    import dp_accounting as dpa

    if adversary == "server":
        return dpa.NonPrivateDpEvent()
    events = [dpa.GaussianDpEvent(privacy.noise_multiplier / times)]
    if privacy.metrics is not None:
        told = dpa.GaussianDpEvent(privacy.metrics / times)
        banded = privacy.banded  # whose one event covers the updates of all rounds; metrics are noised in each
        events.append(told if banded is None else dpa.SelfComposedDpEvent(told, banded.participations))
    if privacy.adaptive is not None:  # one client moves the count by a half either way: half in absolute value
        events.append(dpa.GaussianDpEvent(2 * privacy.adaptive.noise / times))
    return events[0] if len(events) == 1 else dpa.ComposedDpEvent(events)
