"""Health: a gRPC service (grpc.health.v1) that says SERVING exactly when devices can connect."""

from __future__ import annotations

import http.client
import ssl
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fedsus.errors import EnvironmentFault

PROBE_PATH: Final = "/v1/fleet/send-node-heartbeat"
_TIMEOUT: Final = 2.0


class Probe:
    """Asks the gateway as a device would, up to node authentication.

    Args:
        host, port: where the gateway listens.
        ca: its authority; None for the system's.
    """

    def __init__(self, host: str, port: int, ca: str | None) -> None:
        self._host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared, not bound)
        self._port = port
        self._context = ssl.create_default_context(cafile=ca)
        # The name is what devices dial, which may not be what this machine dials; dates and chain count.
        self._context.check_hostname = False

    def __call__(self) -> bool:
        """Whether TLS succeeds with a certificate valid now, and node authentication answers (401: no key sent)."""
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=_TIMEOUT, context=self._context)
        try:
            connection.request("POST", PROBE_PATH, body=b"", headers={"content-type": "application/protobuf"})
            return connection.getresponse().status == http.client.UNAUTHORIZED
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class HealthServer:
    """The service on ``host:port``; NOT_SERVING until told otherwise. ``port`` is the one bound (0 chooses)."""

    def __init__(self, host: str, port: int) -> None:
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="health")
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0)])
        self._servicer = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self._server)
        try:
            self.port: int = self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError:
            self.port = 0
        if self.port == 0:
            raise EnvironmentFault(f"health port {port} on {host} is taken; choose another with --health-port, or 0")
        self.serving = True
        self.set(serving=False)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._servicer.enter_graceful_shutdown()
        self._server.stop(0.2).wait(1.0)
        self._pool.shutdown(wait=False)

    def set(self, *, serving: bool) -> None:
        """Change what is answered, where it is another answer."""
        if serving != self.serving:
            self.serving = serving
            status = health_pb2.HealthCheckResponse
            self._servicer.set("", status.SERVING if serving else status.NOT_SERVING)
