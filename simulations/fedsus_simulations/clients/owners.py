"""What the owners of simulated clients allow: a few policies, each of many clients. Admission runs once a policy."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from fedsus.errors import ConfigError, Refusal
from fedsus.owner.admission import admit
from fedsus.owner.cohorts import check_numbers
from fedsus.rounds.planning.specification import NO_SESSION
from fedsus.secagg import thresholds
from fedsus_simulations.scenario.draws import divided
from fedsus_simulations.scenario.sums import session_of
from fedsus_simulations.whole.memory import granting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fedsus.config import RunConfig
    from fedsus.owner.policy import Policy
    from fedsus.plan import Plan
    from fedsus.secagg.session import Session
    from fedsus_simulations.scenario.owners import OwnersConfig

log = logging.getLogger("fedsus.simulation")

_OFF = 1e-6


@dataclass(slots=True)
class Owners:
    """The owners of a population.

    Args:
        policies: the distinct ones.
        kinds: which of them each client's owner has, (clients,) int8.
        tasks: what is installed on every device, as ``[tasks]`` of agent.toml.
        config: the run as devices would see it: with its masks, where they are left out.
        session: its numbers, where it has masks and somebody's policy could mind them.
    """

    policies: Sequence[Policy]
    kinds: NDArray[np.int8]
    tasks: Mapping[str, str]
    config: RunConfig
    session: Session | None = None
    _judged: tuple[Plan | None, dict[int, bool]] = field(default=(None, {}), init=False)
    _told: set[str] = field(default_factory=set, init=False)

    @classmethod
    def of(
        cls, asked: Sequence[OwnersConfig], config: RunConfig, tasks: Mapping[str, str], seed: int, clients: int
    ) -> Self:
        """The owners that a scenario describes; paths of policies that are left start at the working directory.

        Raises:
            ConfigError: a policy that cannot be read, or shares of more than all clients.
        """
        shares = [one.share for one in asked]
        if sum(shares) > 1.0 + _OFF:
            raise ConfigError(f"owners: their shares add up to {sum(shares):g}; at most 1 is all clients")
        policies = [*(one.read(Path()) for one in asked), granting(config)]
        secure = config.plan.exchange == "secure_sum" and bool(asked)
        session = session_of(config, clients) if secure else None
        found = cls(policies, divided(seed, shares, clients, "owners"), tasks, config, session)
        for kind in range(len(asked)):  # with masks they refuse the session, and no plan ever comes to them
            found._joins(kind)
        return found

    def policy(self, position: int) -> Policy:
        """One client's."""
        return self.policies[int(self.kinds[position])]

    def grant(self, plan: Plan, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these clients' owners allow a plan, (m,) bool. Each distinct policy is asked once."""
        kinds = self.kinds[positions]
        if self._judged[0] is not plan:
            self._judged = plan, {}
        judged, seen = self._judged[1], np.unique(kinds)
        for kind in seen[[int(kind) not in judged for kind in seen]]:
            judged[int(kind)] = self._joins(int(kind)) and self._admits(int(kind), plan)
        allowed = np.zeros(len(self.policies), dtype=np.bool_)
        allowed[list(judged)] = list(judged.values())
        return allowed[kinds]

    def _joins(self, kind: int) -> bool:
        """Whether a policy finds the numbers of the run's sessions strong enough."""
        session = self.session
        if session is None:
            return True
        try:
            check_numbers(session, session.size, joining(self.policies[kind], session.size))
        except Refusal as refusal:
            self._tell(kind, refusal)
            return False
        return True

    def _admits(self, kind: int, plan: Plan) -> bool:
        """Whether a policy allows the plan, with the exchange and cohort that its device would see."""
        meant = self.config.plan
        if meant.exchange != plan.exchange:
            changes = {"exchange": meant.exchange, "session": NO_SESSION, "cohort": meant.cohort}
            plan = plan.model_copy(update=changes)
        try:
            admit(plan, self.policies[kind], self.tasks)
        except Refusal as refusal:
            self._tell(kind, refusal)
            return False
        return True

    def _tell(self, kind: int, refusal: Refusal) -> None:
        """Say once why some clients refuse: in a simulation there is no owner whose log could."""
        text = f"the owners of {np.count_nonzero(self.kinds == kind)} of {len(self.kinds)} clients refuse: {refusal}"
        if text not in self._told:
            self._told.add(text)
            log.warning("%s", text)


def joining(policy: Policy, cohort: int, name: str | None = None) -> Policy:
    """A policy that joins cohorts of the simulation's own draw, with an owner who names the client itself.

    Where it leaves open how many may collude, the rule of the protocol holds within the cohort, as if that were the
    roster: a deployment that draws by the roster's seed has as many in it but for a tiny chance.
    """
    wanted = policy.secure_sum
    changes: dict[str, object] = {"colluders": wanted.colluders or thresholds.colluders(cohort)}
    if name is not None:
        changes |= {"named": [name], "named_minimum": 1}
    joined: Policy = policy.model_copy(update={"secure_sum": wanted.model_copy(update=changes)})
    return joined
