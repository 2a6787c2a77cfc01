"""Who answers a message: one thread trains, and loads torch first; another answers what needs no training meanwhile.

The phases of a secure sum around training are light. A device that still loads torch, which takes a minute on a small
one, answers them at once, so that no round is lost to its start.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from fedsus.errors import ConfigError, ProtocolViolation
from fedsus.types import Clock, Stop
from fedsus_client.config import AgentConfig
from fedsus_client.loading import load_device
from fedsus_client.standing import StandingPolicy

if TYPE_CHECKING:
    from fedsus.owner.consumption import Consumption
    from fedsus.owner.ledger import Ledger
    from fedsus.rounds.device_half.answers import Answer, Granted
    from fedsus.rounds.device_half.device import Device
    from fedsus.rounds.device_half.seeds import SeedSource
    from fedsus.rounds.device_half.sessions import Sessions
    from fedsus.rounds.messages import Request

log = logging.getLogger("fedsus.client")


class Answering:
    """Answers messages one after the other, as far as the policy that stands then allows.

    Args:
        seeds: order of training; None draws from the operating system.
    """

    def __init__(
        self,
        config: AgentConfig,
        policy: StandingPolicy,
        ledger: Ledger,
        seeds: SeedSource | None,
        clock: Clock,
        consumption: Consumption,
    ) -> None:
        self._config, self._policy, self._ledger, self._seeds, self._clock = config, policy, ledger, seeds, clock
        self._consumption = consumption
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="train")
        self._light = ThreadPoolExecutor(1, thread_name_prefix="light")
        self._sessions: Future[Sessions | None] | None = None
        self.device: Future[Device] | None = None

    def start(self) -> None:
        """Load what answers; a second time does nothing."""
        if self.device is None:
            self._sessions = self._light.submit(self._load_sessions)
            self.device = self._worker.submit(self._load, self._sessions)

    def check(self) -> None:
        """Raise what made loading fail: an agent that can answer nothing ends at once, not at its first request.

        Raises:
            UserError, CorruptionError: as `fedsus_client.aggregation.load_sessions`.
        """
        for loading in (self._sessions, self.device):
            if loading is not None and loading.done():
                loading.result()

    def submit(self, raw: bytes, stop: Stop) -> Future[Answer]:
        """The answer to a message; `start` came before. The next message is submitted when this one is answered."""
        light = self._needs_no_training(raw)
        return (self._light if light else self._worker).submit(self._answer, raw, stop, light)

    def close(self) -> None:
        """Wait for what is under way, drop the rest, and the secrets of sessions."""
        for pool in (self._worker, self._light):
            pool.shutdown(wait=True, cancel_futures=True)
        found = self._sessions
        if found is not None and not found.cancelled() and found.exception() is None:
            sessions = found.result()
            if sessions is not None:
                sessions.close()

    def _load_sessions(self) -> Sessions | None:
        from fedsus_client.aggregation import load_sessions  # late: connecting does not wait for it

        with self._consumption.phase("load"):
            return load_sessions(self._config, self._clock, self._consumption)

    def _load(self, sessions: Future[Sessions | None]) -> Device:
        found, policy = sessions.result(), self._policy.current()
        with self._consumption.phase("load"):
            return load_device(self._config, policy, self._ledger, self._seeds, self._clock, found, self._consumption)

    def _answer(self, raw: bytes, stop: Stop, light: bool) -> Answer:
        from fedsus.rounds.device_half.answers import Answer, nothing, refusal_of, without_identity

        try:
            policy = self._policy.current()
        except ConfigError as error:
            log.warning("refused: %s", error)
            return Answer(refusal_of(raw), nothing, str(error), declined=str(error))
        if light and self._sessions is not None:
            sessions = self._sessions.result()
            return without_identity(raw) if sessions is None else sessions.answer(raw, policy, _untrained, stop)
        if self.device is None:
            raise ProtocolViolation("a message before this device was ready to answer")
        device = self.device.result()
        device.policy = policy
        return device.answer(raw, stop)

    @staticmethod
    def _needs_no_training(raw: bytes) -> bool:
        """Whether a message holds light phases of a secure sum alone."""
        from fedsus.secagg import wire

        try:
            return all(frame.kind not in (wire.Kind.SEALED, wire.Kind.CONTRIBUTE) for frame in wire.frames(raw))
        except ProtocolViolation:  # a clear request, or nonsense: the device refuses it with its reason
            return False


def _untrained(request: Request) -> Granted:
    raise ProtocolViolation("a light phase asks for training")
