"""The SuperLink process: Flower's server with two doors.

The loopback door has everything (control, runtime, fleet). The network door, the gateway, is a second
application that was given the fleet routes alone: over it, control and runtime paths do not exist. Both share
one state and one event loop.

Run as a supervised child: ``python -m fedsus_server.flower.superlink FILE`` with the settings as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, cast

import uvicorn
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI

from fedsus_server.flower.direct import FLEET, RUNTIME, Direct, known_node, not_found
from fedsus_server.flower.holding import FLEET_SECONDS, RUNTIME_SECONDS, Holding, Mailbox
from fedsus_server.flower.sparing import spare
from fedsus_server.gateway import MAX_BODY, Gateway

_DEAD_TASKS_SECONDS: Final = 1.0
_LAUNCH_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class SuperLinkSettings:
    """What the supervisor asks of its child; all paths absolute.

    ``superexec`` is a file in which the child names the process that starts round loops: it leads a process group
    of its own, which the supervisor must be able to end. Empty: not named. ``max_upload``: longest answer, bytes.
    """

    host: str
    port: int
    loopback_port: int
    certificate: str
    key: str
    ca: str
    database: str
    parent: int
    superexec: str = ""
    max_upload: int = MAX_BODY


def create_app(settings: SuperLinkSettings) -> FastAPI:
    """Flower's whole application, for the loopback door: SQLite, node authentication, no runtime installs."""
    from flwr.common.constant import ISOLATION_MODE_SUBPROCESS, TRANSPORT_TYPE_GRPC_RERE
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
    from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
    from flwr.superlink.main import create_app as create_flower_app

    config = SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host="127.0.0.1",
        port=settings.loopback_port,
        insecure=True,
        certificates=None,
        superexec_auth_secret=None,
        authn_plugin=load_control_authn_plugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=settings.database,
        isolation=ISOLATION_MODE_SUBPROCESS,
        runtime_dependency_install=False,
    )

    class Lifespan(SuperLinkLifespan):
        def startup(self) -> None:
            super().startup()
            if settings.superexec and self.superexec_process is not None:
                Path(settings.superexec).write_text(str(self.superexec_process.pid), encoding="ascii")

    app = create_flower_app(config, Lifespan)
    state = app.state.linkstate_factory.state()
    _let_nodes_return(state)
    _look_for_dead_tasks_less_often(state)
    _let_tasks_start_slowly(state)
    spare(state)
    return app


def _let_nodes_return(state: Any) -> None:
    """A node that is still marked online may activate again.

    Flower refuses that for two heartbeat intervals (60 s) after a device or this process was killed. The node has
    proved its key by then (`direct.FLEET` authenticates first), so activating again is the same as a heartbeat.
    """
    activate = state.activate_node

    def activate_again(node_id: int, heartbeat_interval: float) -> bool:
        return bool(
            activate(node_id, heartbeat_interval) or state.acknowledge_node_heartbeat(node_id, heartbeat_interval)
        )

    state.activate_node = activate_again


def _look_for_dead_tasks_less_often(state: Any, clock: Callable[[], float] = time.monotonic) -> None:
    """Once in `_DEAD_TASKS_SECONDS`, instead of two UPDATE statements in almost every request.

    A task counts as dead 30 s or more after its last heartbeat, so that a second more changes nothing.
    """
    look = state._cleanup_expired_task_tokens
    last = -math.inf

    def look_at_times() -> None:
        nonlocal last
        if clock() - last >= _DEAD_TASKS_SECONDS:
            last = clock()
            look()

    state._cleanup_expired_task_tokens = look_at_times


def _let_tasks_start_slowly(state: Any) -> None:
    """A round loop has `_LAUNCH_SECONDS` from its launch to its first request.

    Flower gives it 30 s and then launches another for the same task, whose token the first does not have. On a machine
    so busy that importing takes longer no launch ever succeeds, and each makes it busier.
    """
    from flwr.supercore.date import now
    from flwr.supercore.state.schema.corestate_models import Task

    claim, tasks = state.claim_task, cast("Any", Task.__table__)

    def claim_for_longer(task_id: int) -> str | None:
        token: str | None = claim(task_id)
        if token is not None:
            until = now() + timedelta(seconds=_LAUNCH_SECONDS)
            with state.session() as session:
                session.execute(tasks.update().where(Task.token == token).values(active_until=until))
        return token

    state.claim_task = claim_for_longer


async def serve(settings: SuperLinkSettings) -> None:
    """Serve both doors until SIGTERM, or until the supervisor is gone."""
    whole = create_app(settings)
    mailbox = Mailbox()
    inside = Holding(Direct(whole, RUNTIME, otherwise=whole), mailbox, RUNTIME_SECONDS)
    fleet = Holding(Direct(whole, FLEET, otherwise=not_found), mailbox, FLEET_SECONDS)
    gateway = Gateway(fleet, known_node(whole), max_body=settings.max_upload)
    # SQLite takes one writer at a time: parallel handlers only wait for each other's locks, in steps of up to 100 ms.
    current_default_thread_limiter().total_tokens = 1
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.certificate, settings.key)
    shared: dict[str, Any] = {"log_config": None, "access_log": False, "timeout_graceful_shutdown": 2, "ws": "none"}
    inner = uvicorn.Config(inside, host="127.0.0.1", port=settings.loopback_port, **shared)
    outer = uvicorn.Config(
        gateway,
        host=settings.host,
        port=settings.port,
        lifespan="off",
        ssl_context_factory=lambda *_: context,
        server_header=False,
        timeout_keep_alive=75,
        **shared,
    )
    doors = [_Door(inner), _Door(outer)]

    def stop() -> None:
        for door in doors:
            door.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with _watch(settings.parent, doors):
        await asyncio.gather(*(door.serve() for door in doors))


class _Door(uvicorn.Server):
    """A uvicorn server whose signals its owner handles, since two share one loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield

    def stop(self) -> None:
        self.should_exit = True


@contextlib.asynccontextmanager
async def _watch(parent: int, doors: list[_Door]) -> AsyncIterator[None]:
    """Stop when the supervisor died, however it died: an orphan would hold the ports."""

    async def look() -> None:
        while os.getppid() == parent:
            await asyncio.sleep(0.5)
        for door in doors:
            door.stop()

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()


def main() -> None:
    """Entry point of the child process."""
    settings = SuperLinkSettings(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
