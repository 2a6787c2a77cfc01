"""The device half of a round: decode, admit, charge, train, encode. No sockets, no strategies, no journal.

A request that is malformed or that the owner does not allow is answered with a refusal that carries no reason;
the reason is in the device's log. Work that is cancelled is not answered at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from fedsus import plan as plans
from fedsus.encoding.mechanism import Mechanism
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.encoding.packing import pack
from fedsus.encoding.substitutes import no_update, noised_by_mechanism
from fedsus.errors import Cancelled, FedsusError, ProtocolViolation, Refusal
from fedsus.owner.admission import Grant, admit
from fedsus.owner.charges import events_of
from fedsus.owner.ledger import Ledger
from fedsus.owner.policy import Policy
from fedsus.plan import Plan
from fedsus.protection import Distributed
from fedsus.rounds.answers import Answer as Answer
from fedsus.rounds.answers import indifferent, line, refused, without_identity
from fedsus.rounds.messages import Request, decode_request, encode_answer
from fedsus.rounds.seeds import SeedSource, system_seed
from fedsus.rounds.sessions import Sessions
from fedsus.secagg.wire import is_secure
from fedsus.types import LocalUpdate, Noise, Ring, Stop

if TYPE_CHECKING:
    from fedsus.learning import Trainer
    from fedsus.learning.settings import Compute, TrainSettings
    from fedsus.tasks.task import DataSource, Shard, Task

log = logging.getLogger("fedsus.device")

_PREPARED: Final = 4
"""Tasks kept with their data: a policy may allow a range of settings, and each value loads the data once more."""


class OwnerReport(Protocol):
    """Receives what the owner may see: metrics of the received model on the held-out part."""

    def __call__(self, run: str, round: int, metrics: Mapping[str, float]) -> None: ...


@dataclass(slots=True)
class _Prepared:
    """A task with its data and trainers, kept between rounds."""

    task: Task
    shard: Shard
    trainers: dict[str, Trainer] = field(default_factory=dict)


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
    ) -> None:
        self.policy, self.ledger, self._sessions = policy, ledger, sessions
        self._tasks, self._sources = tasks, sources
        self._compute, self._noise, self._seeds, self._report = compute, noise, seeds, report
        self._prepared: dict[str, _Prepared] = {}

    def answer(self, raw: bytes, stop: Stop) -> Answer:
        """Answer one message: a request for `clear_sum`, or phases of secure aggregation.

        Raises:
            Cancelled: ``stop`` said so; nothing was released, and the attempt is refunded.
        """
        if is_secure(raw):
            return self._secure(raw, stop)
        try:
            request = decode_request(raw)
            if request.plan.exchange != "clear_sum":
                raise ProtocolViolation(f"request: in clear, and its plan says '{request.plan.exchange}'")
            work = self.admit(request)
            work.charge()
        except Exception as error:  # also what nobody thought of: no request may end the agent
            return refused(error)
        try:
            body = pack(work.encoded(stop), work.bits)
        except Cancelled:
            raise
        except Exception as error:  # the task is the owner's code: its failure must not reach the server as a reason
            return refused(error)
        return Answer(encode_answer(body), work.sent, plan=request.plan)

    def admit(self, request: Request) -> Work:
        """What the owner's policy grants to a request, with the task and its data, not charged yet.

        Raises:
            Refusal: the policy does not allow it, or the plan does not fit the task.
            DataError: the data do not fit the task.
        """
        grant = admit(request.plan, self.policy, self._tasks, self.ledger.grants())
        mechanism = mechanism_of(request.plan)
        return Work(self, request, grant, mechanism, self._prepare(request.plan, grant))

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

    def _prepare(self, plan: Plan, grant: Grant) -> _Prepared:
        """The task with its data, checked and loaded once; told to the owner's log.

        Raises:
            DataError: the data do not fit the task.
            Refusal: the plan does not fit the task.
        """
        key = plans.canonical([grant.task, grant.data_id, plan.task.settings]).decode()
        prepared = self._prepared.get(key)
        if prepared is None:
            try:
                prepared = self._load(plan, grant)
            except FedsusError:
                raise
            except Exception as error:
                raise Refusal(f"task '{grant.task}': {line(error)}") from error
            while len(self._prepared) >= _PREPARED:
                del self._prepared[next(iter(self._prepared))]
            self._prepared[key] = prepared
        bounds = {metric.name: (metric.low, metric.high) for metric in plan.metrics}
        if plan.metrics and bounds != dict(prepared.task.bounds):
            raise Refusal(f"the plan's metrics {bounds} are not the task's: {dict(prepared.task.bounds)}")
        return prepared

    def _load(self, plan: Plan, grant: Grant) -> _Prepared:
        from fedsus.learning.parameters import check_model, dimension
        from fedsus.tasks import registry
        from fedsus.tasks.checks import refuse
        from fedsus.tasks.task import Checked

        source = self._sources.get(grant.data_id)
        if source is None:
            raise Refusal(f"data '{grant.data_id}' is not in agent.toml: add a table [data.{grant.data_id}]")
        task = registry.build(registry.resolve(self._tasks[grant.task]), plan.task.settings)
        model = task.model(0)
        check_model(model, grant.task, private=plan.private)
        if dimension(model) != plan.dimension:
            raise Refusal(f"the plan's model has {plan.dimension} parameters, the task's {dimension(model)}")
        if isinstance(task, Checked):
            # A private run makes no use of batch_size: as a bound on the rows it would let the server ask for n.
            findings = task.check(source, 1 if plan.private else plan.training.batch_size)
            for finding in findings:
                log.warning("data '%s': %s: %s", grant.data_id, finding.severity, finding.message)
            refuse(findings)
        shard = task.load(source)
        log.info("data '%s': %d rows to train on, %d held out", grant.data_id, shard.size, len(shard.held_out[0]))
        return _Prepared(task, shard)

    def encoded(self, request: Request, prepared: _Prepared, mechanism: Mechanism, stop: Stop) -> Ring:
        """Train or evaluate, and encode what may leave: (n,) uint32."""
        from fedsus.learning.settings import TrainSettings

        plan = request.plan
        self._tell_owner(plan, request, prepared)
        if plan.purpose == "evaluate":
            update = self._evaluated(request, prepared)
        else:
            settings = TrainSettings(plan.training, plan.privacy, plan.round, plan.rounds)
            update = self._trained(request, prepared, settings, stop)
            if not plan.metrics:
                # What the plan does not name stays here, whatever the trainer measured.
                update = replace(update, totals=np.zeros(0), held_out=0)
        return mechanism.encode(update, self._noise)

    def _trained(self, request: Request, prepared: _Prepared, settings: TrainSettings, stop: Stop) -> LocalUpdate:
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

    def _tell_owner(self, plan: Plan, request: Request, prepared: _Prepared) -> None:
        """Report the received model's metrics to the owner; a failure of that changes no answer."""
        if self._report is None:
            return
        from fedsus.learning.evaluation import owner_report

        try:
            metrics = owner_report(prepared.task, request.model, prepared.shard.held_out)
            self._report(plan.run, plan.round, metrics)
        except Exception as error:  # the owner's code, the owner's disk
            log.warning("no evaluation for the owner: %s", line(error))

    def _trainer(self, plan: Plan, prepared: _Prepared) -> Trainer:
        from fedsus.learning import trainer_for

        kind = type(plan.privacy).__name__
        if kind not in prepared.trainers:
            prepared.trainers[kind] = trainer_for(prepared.task, plan.privacy, self._compute, self._noise)
        return prepared.trainers[kind]

    def _evaluated(self, request: Request, prepared: _Prepared) -> LocalUpdate:
        """Metric totals of a model over the held-out part; no change of the model."""
        from fedsus.learning import evaluation
        from fedsus.learning.parameters import load_into

        module = prepared.task.model(0)
        load_into(module, request.model)
        held_out = prepared.shard.held_out
        sums = evaluation.totals(prepared.task, module, held_out)
        return LocalUpdate(np.zeros(0, dtype=np.float32), 0.0, sums, len(held_out[0]), None)


@dataclass(frozen=True, slots=True)
class Work:
    """One granted request with its task and data; implements `fedsus.rounds.answers.Granted`."""

    device: Device
    request: Request
    grant: Grant
    mechanism: Mechanism
    prepared: _Prepared

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
        self.device.ledger.refund(*self._attempt)

    def certified(self) -> Callable[[int], None]:
        """What to call with the number of survivors once they are certified: shares of noise count by it."""
        plan = self.request.plan
        return partial(self.device.commit, plan, self.grant) if isinstance(plan.privacy, Distributed) else indifferent

    @property
    def _attempt(self) -> tuple[str, str, int]:
        return self.grant.data_id, self.request.plan.run, self.request.plan.attempt
