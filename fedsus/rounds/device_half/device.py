"""The device half of a round: decode, admit, charge, train, encode. No sockets, no strategies, no journal.

A request that is malformed or that the owner does not allow is answered with a refusal that carries no reason;
the reason is in the device's log. Work that is cancelled is not answered at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fedsus import plan as plans
from fedsus.encoding.mechanism import Mechanism
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.encoding.packing import pack
from fedsus.encoding.substitutes import no_update, noised_by_mechanism
from fedsus.errors import Cancelled, FedsusError, ProtocolViolation, Refusal
from fedsus.owner.admission import Grant, admit
from fedsus.owner.charges import events_of
from fedsus.owner.consumption import NO_CONSUMPTION, Consumption
from fedsus.owner.energy_record import Attempt
from fedsus.owner.ledger import Ledger
from fedsus.owner.policy import Policy
from fedsus.plan import Plan
from fedsus.protection import Distributed
from fedsus.rounds.device_half.answers import Answer as Answer
from fedsus.rounds.device_half.answers import hour_of, line, nothing, refused, without_identity
from fedsus.rounds.device_half.prepared import Prepared, PreparedTasks
from fedsus.rounds.device_half.seeds import SeedSource, system_seed
from fedsus.rounds.device_half.sessions import Sessions
from fedsus.rounds.messages import WANTED, Request, decode_request, encode_answer, refusal
from fedsus.rounds.models import Held, Unheld
from fedsus.secagg.wire import is_secure
from fedsus.types import LocalUpdate, Noise, Ring, Stop

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedsus.learning import Trainer
    from fedsus.learning.settings import Compute, TrainSettings
    from fedsus.tasks.task import DataSource

log = logging.getLogger("fedsus.device")


class OwnerReport(Protocol):
    """Receives what the owner may see: metrics of the received model on the held-out part."""

    def __call__(self, run: str, round: int, metrics: Mapping[str, float]) -> None: ...


class Device:
    """One owner's device: answers requests as far as its policy and ledger allow.

    Args:
        policy, ledger: the owner's.
        tasks: the device's own table, name -> built-in name or ``module:Class``.
        sources: data id -> where the data are.
        compute: processor and threads.
        noise: the device's own generator for sampling and noise.
        seeds: training order; `system_seed` outside tests.
        report: where the owner's metrics go; None drops them.
        sessions: the device's part in secure aggregation; None refuses it.
        consumption: what this device uses, and what it may; the one that its sessions have. Nothing is measured
            without.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        ledger: Ledger,
        tasks: Mapping[str, str],
        sources: Mapping[str, DataSource],
        compute: Compute,
        noise: Noise,
        seeds: SeedSource = system_seed,
        report: OwnerReport | None = None,
        sessions: Sessions | None = None,
        consumption: Consumption = NO_CONSUMPTION,
    ) -> None:
        self.policy, self.ledger, self._sessions, self.consumption = policy, ledger, sessions, consumption
        self._tasks, self._prepared = tasks, PreparedTasks(tasks, sources)
        self._compute, self._noise, self._seeds, self._report = compute, noise, seeds, report
        self._held = Held()

    def answer(self, raw: bytes, stop: Stop) -> Answer:
        """Answer one message: a request for `clear_sum`, or phases of secure aggregation.

        Raises:
            Cancelled: ``stop`` said so; nothing was released, and the attempt is refunded.
        """
        if is_secure(raw):
            return self._secure(raw, stop)
        try:
            with self.consumption.phase("load"):
                work = self._charged(raw)
        except Unheld as error:
            log.info("%s", error)
            return Answer(WANTED, nothing)
        except Exception as error:  # also what nobody thought of: no request may end the agent
            return refused(error, refusal(hour_of(error)))
        try:
            ring = work.encoded(stop)
            with self.consumption.phase("encode"):
                body = pack(ring, work.bits)
        except Cancelled:
            raise
        except Exception as error:  # the task is the owner's code: its failure must not reach the server as a reason
            return refused(error)
        return Answer(encode_answer(body), work.sent, plan=work.request.plan)

    def _charged(self, raw: bytes) -> Work:
        """A request in clear that the owner's policy grants, charged."""
        request = decode_request(raw, self._held)
        if request.plan.exchange != "clear_sum":
            raise ProtocolViolation(f"request: in clear, and its plan says '{request.plan.exchange}'")
        self._granted(request.plan)  # before the day is asked of: what is refused anyway hears nothing of it
        self.consumption.join(self.policy.budget, request.plan.run)
        work = self.admit(request)
        self._held.keep(request.plan, request.model)
        self.consumption.working(*_attempt(request.plan))  # not before: a refused one's names are the server's alone
        work.charge()
        return work

    def admit(self, request: Request) -> Work:
        """What the owner's policy grants to a request, with the task and its data, not charged yet.

        Raises:
            Refusal: the policy does not allow it, or the plan does not fit the task.
            DataError: the data do not fit the task.
        """
        with self.consumption.phase("load"):
            grant = self._granted(request.plan)
            mechanism = mechanism_of(request.plan)
            prepared = self._prepared.of(request.plan, grant)
        return Work(self, request, grant, mechanism, prepared)

    def _granted(self, plan: Plan) -> Grant:
        """What the owner's policy grants to a plan, whatever its task and data are."""
        if plan.costs is not None and plan.exchange == "clear_sum":
            raise Refusal("the plan asks for costs in clear: they are told in a secure sum alone")
        return admit(plan, self.policy, self._tasks, self.ledger.grants())

    def _secure(self, raw: bytes, stop: Stop) -> Answer:
        if self._sessions is None:
            return without_identity(raw)
        return self._sessions.answer(raw, self.policy, self.admit, stop)

    def charge(self, request: Request, grant: Grant) -> None:
        """Charge the run, once, and this attempt, durably, before anything is trained."""
        plan, privacy = request.plan, self.policy.privacy
        self.ledger.open_run(grant.data_id, plan.run, grant.charge, privacy)
        digest = plans.digest(request.raw_plan)
        self.ledger.reserve(grant.data_id, plan.run, plan.attempt, plan.round, digest, grant.charge, privacy)

    def commit(self, plan: Plan, grant: Grant, survivors: int) -> None:
        """Charge an attempt for the survivors of its sum. What fails leaves it charged for the fewest."""
        try:
            events = events_of(plan, grant.charge.rows, survivors)
            self.ledger.commit(grant.data_id, plan.run, plan.attempt, survivors, events)
        except FedsusError as error:
            log.warning("charged for the fewest survivors: %s", error)

    def certified(self, plan: Plan, grant: Grant, survivors: int) -> None:
        """The survivors of an attempt are certified, this device among them."""
        if isinstance(plan.privacy, Distributed):
            self.commit(plan, grant, survivors)
        self.consumption.certified(plan.run, plan.attempt)

    def encoded(self, request: Request, prepared: Prepared, mechanism: Mechanism, stop: Stop) -> Ring:
        """Train or evaluate, and encode what may leave: (n,) uint32."""
        from fedsus.learning.settings import TrainSettings

        plan, measured = request.plan, self.consumption.phase
        with measured("evaluate"):
            self._tell_owner(plan, request, prepared)
            update = self._evaluated(request, prepared) if plan.purpose == "evaluate" else None
        if update is None:
            settings = TrainSettings(plan.training, plan.privacy, plan.round, plan.rounds)
            with measured("train"):
                update = self._trained(request, prepared, settings, stop)
            if not plan.metrics:
                # What the plan does not name stays here, whatever the trainer measured.
                update = replace(update, totals=np.zeros(0), held_out=0)
        with measured("encode"):
            return mechanism.encode(replace(update, costs=self._costs(plan)), self._noise)

    def _costs(self, plan: Plan) -> NDArray[np.float64]:
        """What is told of all that was used for the run and not told before, (costs,); empty where nothing is."""
        if not self.policy.reports.costs or not plan.cost_ranges:
            return np.zeros(0)
        return self.consumption.report(_attempt(plan), plan.cost_ranges)

    def _trained(self, request: Request, prepared: Prepared, settings: TrainSettings, stop: Stop) -> LocalUpdate:
        """One update. Where the mechanism adds the noise, a training that fails gives zeros: an answer that is missing
        would tell of the data."""
        plan = request.plan
        seed = self._seeds(plan)
        try:
            trainer = self._trainer(plan, prepared)
            (update,) = trainer.train(request.model, [prepared.shard], settings, [seed], stop)
        except Cancelled:
            raise
        except Exception as error:
            if not noised_by_mechanism(plan):
                raise
            log.warning("training failed, noise alone is sent: %s", line(error))
            return no_update(plan)
        return update

    def _tell_owner(self, plan: Plan, request: Request, prepared: Prepared) -> None:
        """Report the received model's metrics to the owner; a failure of that changes no answer."""
        if self._report is None:
            return
        from fedsus.learning.evaluation import owner_report

        try:
            metrics = owner_report(prepared.task, request.model, prepared.shard.held_out)
            self._report(plan.run, plan.round, metrics)
        except Exception as error:  # the owner's code, the owner's disk
            log.warning("no evaluation for the owner: %s", line(error))

    def _trainer(self, plan: Plan, prepared: Prepared) -> Trainer:
        from fedsus.learning import trainer_for

        kind = type(plan.privacy).__name__
        if kind not in prepared.trainers:
            prepared.trainers[kind] = trainer_for(prepared.task, plan.privacy, self._compute, self._noise)
        return prepared.trainers[kind]

    def _evaluated(self, request: Request, prepared: Prepared) -> LocalUpdate:
        """Metric totals of a model over the held-out part; no change of the model."""
        from fedsus.learning import evaluation
        from fedsus.learning.parameters import load_into

        module = prepared.task.model(0)
        load_into(module, request.model)
        held_out = prepared.shard.held_out
        sums = evaluation.totals(prepared.task, module, held_out)
        return LocalUpdate(np.zeros(0, dtype=np.float32), 0.0, sums, len(held_out[0]), None)


def _attempt(plan: Plan) -> Attempt:
    return Attempt(plan.run, plan.round, plan.attempt)


@dataclass(frozen=True, slots=True)
class Work:
    """One granted request with its task and data; implements `fedsus.rounds.device_half.answers.Granted`."""

    device: Device
    request: Request
    grant: Grant
    mechanism: Mechanism
    prepared: Prepared

    @property
    def bits(self) -> int:
        """Sums are taken mod 2**bits."""
        return self.mechanism.bits

    def charge(self) -> None:
        """Charge the run, once, and this attempt, durably, before anything is trained."""
        self.device.charge(self.request, self.grant)

    def encoded(self, stop: Stop) -> Ring:
        """Train or evaluate, and encode what may leave: (n,) uint32. What fails is refunded."""
        try:
            return self.device.encoded(self.request, self.prepared, self.mechanism, stop)
        except BaseException:
            self.refund()
            raise

    def sent(self) -> None:
        """Note that the answer leaves the device."""
        self.device.ledger.release(*self._attempt)

    def refund(self) -> None:
        """Note that nothing leaves the device."""
        self.device.consumption.withdrawn(self.request.plan.run, self.request.plan.attempt)
        self.device.ledger.refund(*self._attempt)

    def certified(self) -> Callable[[int], None]:
        """What to call with the number of survivors once they are certified: shares of noise count by it, and what
        was told of costs is not told again."""
        return partial(self.device.certified, self.request.plan, self.grant)

    @property
    def _attempt(self) -> tuple[str, str, int]:
        return self.grant.data_id, self.request.plan.run, self.request.plan.attempt
