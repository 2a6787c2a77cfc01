"""The device agent: one process that connects, asks for work, and answers as far as its owner allows.

The main thread keeps the connection, the heartbeat and the clock; those of `Answering` train and answer. A stop is
noticed within one batch; what was not sent by then is not sent.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus.errors import Cancelled, EnvironmentFault, FedsusError, ProtocolViolation
from fedsus.owner.ledger import Ledger
from fedsus_client import identity
from fedsus_client.answering import Answering
from fedsus_client.config import AgentConfig, load_agent
from fedsus_client.failures import ConnectionLost, NotAdmitted, TlsFailure, hands
from fedsus_client.flower import HEARTBEAT_SECONDS, MESSAGE_TYPES, FleetConnection, Incoming
from fedsus_client.logs import start_log
from fedsus_client.metering import Metering
from fedsus_client.pace import Backoff, Pace
from fedsus_client.standing import AWAY_SECONDS, Raised, StandingPolicy
from fedsus_client.status import paused
from fedsus_client.telling import Telling

if TYPE_CHECKING:
    from fedsus.rounds.device_half.device import Answer
    from fedsus.rounds.device_half.seeds import SeedSource

log = logging.getLogger("fedsus.client")
_EXIT_SECONDS: Final = 4.0
_UPLOAD_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.5


class Agent:
    """Answers a server's requests until it is stopped.

    Args:
        config, policy: the owner's files; the policy is read again when it was changed.
        clock: seconds since the epoch.
        seeds: order of training; given by tests alone.
        backoff: waits between reconnections.
    """

    def __init__(
        self,
        config: AgentConfig,
        policy: StandingPolicy,
        *,
        clock: Callable[[], float] = time.time,
        seeds: SeedSource | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._config, self._clock = config, clock
        self._stopped = threading.Event()
        self._backoff = backoff or Backoff()
        self._pace = Pace(config.agent.poll_active, config.agent.poll_idle)
        self._key, _ = identity.load(config.identity.key)
        config.state.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._ledger = Ledger(config.ledger, clock)
        self._metering = Metering(config, clock)
        self._consumption = self._metering.consumption
        self._answering = Answering(config, policy, self._ledger, seeds, clock, self._consumption)
        self._raised, self._heard = Raised(policy), 0.0
        self._confirming = threading.Thread(target=lambda: None)
        self._confirming.start()
        self._owner = Telling(config.state.folder, config.server.address, clock)

    def stop(self) -> None:
        """Ask the agent to end; training stops at the next batch."""
        self._stopped.set()

    def abandon(self) -> None:
        """End this process now, whatever hangs: the ledger is durable at any moment."""
        self._owner.last("stopped")
        log.warning("stopped without waiting for what was under way")
        _leave()

    def run(self) -> None:
        """Connect, answer, reconnect, until `stop`.

        Raises:
            UserError: what the owner's files name cannot be used; known before a server is.
        """
        try:
            self._metering.wait(self._stopped)
            while not self._stopped.is_set():
                try:
                    self._connected()
                    self._stopped.wait(AWAY_SECONDS)  # at once where it is over
                except (ConnectionLost, TlsFailure, NotAdmitted, ProtocolViolation) as error:
                    self._wait_to_reconnect(error)
        finally:
            self._stopped.set()  # whatever ended it: what trains stops at its next batch, and is not waited for longer
            self._owner.last("stopping")
            self._answering.close()
            self._metering.close()
            self._ledger.close()
            self._owner.last("stopped")

    def _connected(self) -> None:
        """One connection, from activation to its loss, the agent's end, or a budget that was raised."""
        server = self._config.server
        connection = FleetConnection(server.address, server.ca_file, self._key, self._clock)
        try:
            number = connection.connect()
            self._heard = self._clock()
            log.info("connected to %s as node %d", server.address, number)
            self._answering.start()
            while not self._stopped.is_set() and not self._raised.due():
                try:
                    self._step(connection)
                    self._backoff.reset()
                except ProtocolViolation as error:
                    # A newer or a hostile server: one that always answers so must not keep this device busy.
                    seconds = self._backoff.wait()
                    log.warning("ignored: %s; next question in %.1f s", error, seconds)
                    self._stopped.wait(seconds)
        finally:
            self._confirming.join(_LOOK_SECONDS)
            connection.close()

    def _step(self, connection: FleetConnection) -> None:
        """Ask once; answer, or wait until the next question is due."""
        self._beat(connection)
        asked = self._clock()
        incoming = self._receive(connection)
        if incoming is None:
            self._stopped.wait(self._pace.wait(self._clock(), asked))
            return
        self._serve(connection, incoming)
        self._pace.answered(self._clock())

    def _receive(self, connection: FleetConnection) -> Incoming | None:
        """Ask for a message. The server may hold the question for long, so another thread waits for the answer."""
        answer: Future[Incoming | None] = Future()
        self._owner.waiting()

        def ask() -> None:
            try:
                answer.set_result(connection.receive())
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=ask, name="receive", daemon=True).start()
        with self._consumption.phase("wait"):
            while not wait_for([answer], timeout=_LOOK_SECONDS).done:
                if self._stopped.is_set():
                    return None
                self._answering.check()
                self._consumption.tick()
                self._owner.waiting()
                self._beat(connection)
        return answer.result()

    def _serve(self, connection: FleetConnection, incoming: Incoming) -> None:
        """Answer one message; what cannot be answered any more is left alone."""
        self._consumption.rest()  # what was used until here belongs to no run
        try:
            with self._consumption.phase("communicate"):
                raw = self._fetch(connection, incoming)
            if raw is None:
                return
            answer = self._answer(connection, incoming, raw)
            if answer is not None and not self._stopped.is_set():
                self._owner.answered(answer)
                self._raised.answered(answer)
                answer.sent()
                with self._consumption.phase("communicate"):
                    self._send(connection, incoming, answer.body)
        finally:
            self._consumption.rest()
        self._confirming.join()
        self._confirming = threading.Thread(target=_confirm, args=(connection, incoming), daemon=True)
        self._confirming.start()

    def _fetch(self, connection: FleetConnection, incoming: Incoming) -> bytes | None:
        if incoming.message_type not in MESSAGE_TYPES:
            log.warning("ignored: a message of type %.40r", incoming.message_type)  # the server's text: one line
            return None
        late = self._clock() - incoming.expires
        if late >= 0:  # also for a device whose clock is ahead: without this line nobody would know why it is left out
            log.warning("ignored: a message that ended %.0f s ago; is the clock right? see: fedsus client check", late)
        # A server that died while it sent left a message that never gets complete.
        end = min(incoming.expires, self._clock() + _UPLOAD_SECONDS)
        while not self._stopped.is_set() and self._clock() < end:
            raw = connection.fetch(incoming)
            if raw is not None:
                return raw
            self._stopped.wait(self._config.agent.poll_active)
        return None

    def _answer(self, connection: FleetConnection, incoming: Incoming, raw: bytes) -> Answer | None:
        """Train in the worker, beating meanwhile; None if it was stopped or came too late."""
        from fedsus.rounds.device_half.answers import Answer, refusal_of

        if paused(self._config.state.folder):
            log.info("refused: the owner paused this device")
            return Answer(refusal_of(raw), lambda: None, "paused by the owner", declined="paused by the owner")

        def stop() -> bool:
            return self._stopped.is_set() or self._clock() >= incoming.expires

        self._owner.tell("training")

        job = self._answering.submit(raw, stop)
        while not wait_for([job], timeout=2 * _LOOK_SECONDS).done:
            self._owner.tell("training")
            self._consumption.tick()
            try:
                self._beat(connection)
            except (ConnectionLost, TlsFailure, NotAdmitted, ProtocolViolation) as error:
                self._heard = self._clock()
                log.warning("%s: %s; training goes on", hands(error), error)
        try:
            return job.result()
        except Cancelled:
            log.warning("stopped while training: nothing was sent")
            return None

    def _send(self, connection: FleetConnection, incoming: Incoming, body: bytes) -> None:
        """Send an answer; the same bytes again if the connection breaks, while it still counts."""
        while True:
            try:
                connection.reply(incoming, body)
                return
            except ConnectionLost as error:
                if self._stopped.is_set() or self._clock() >= incoming.expires:
                    raise
                log.warning("%s: %s; the answer is sent again", hands(error), error)
                self._stopped.wait(min(self._backoff.wait(), 2.0))

    def _beat(self, connection: FleetConnection) -> None:
        now = self._clock()
        if now - self._heard >= 0.4 * HEARTBEAT_SECONDS:
            connection.heartbeat()
            self._heard = now

    def _wait_to_reconnect(self, error: FedsusError) -> None:
        seconds = self._backoff.wait()
        log.warning("%s: %s; next try in %.1f s", hands(error), error, seconds)
        self._owner.tell("connecting", f"{error}; next try in {seconds:.1f} s", force=True)
        self._stopped.wait(seconds)


def _confirm(connection: FleetConnection, incoming: Incoming) -> None:
    """Let the server free a message, beside the next question: nobody waits for it, and the run's end frees it too."""
    try:
        connection.confirm(incoming)
    except (FedsusError, RuntimeError) as error:  # the latter: closed meanwhile
        log.debug("confirmation: %s", error)


def run(
    agent_path: Path,
    policy_path: Path,
    debug: bool = False,
    *,
    seeds: SeedSource | None = None,
    backoff: Backoff | None = None,
) -> None:
    """Start an agent from its owner's files and run it until SIGTERM or SIGINT.

    Args:
        seeds, backoff: for the tests' own entry point; no file or option reaches them.

    Raises:
        UserError: a file is missing or wrong, or another agent uses the same state.
    """
    config, policy = load_agent(agent_path), StandingPolicy(policy_path)
    start_log(config, debug)
    try:
        agent = Agent(config, policy, seeds=seeds, backoff=backoff)
    except OSError as error:
        raise EnvironmentFault(f"{config.state.folder}: {error.strerror}") from None

    def end(*_: object) -> None:
        agent.stop()
        # A request, an import or a batch under way may take longer than the owner should wait.
        timer = threading.Timer(_EXIT_SECONDS, agent.abandon)
        timer.daemon = True
        timer.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    agent.run()
    log.info("stopped")
    _leave()


def _leave() -> None:
    """End this process without tearing torch down, which takes seconds on a busy machine: all is written."""
    logging.shutdown()
    os._exit(0)
