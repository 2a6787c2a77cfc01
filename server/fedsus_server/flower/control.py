"""The loopback door's control API: node keys and runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from fedsus.errors import EnvironmentFault, UserError


@dataclass(frozen=True, slots=True)
class Device:
    """A registered node key: Flower's number, the operator's name, and whether it is connected."""

    node_id: int
    name: str
    online: bool
    public_key: bytes


@dataclass(frozen=True, slots=True)
class FlowerRun:
    """Flower's view of a submitted run: ``status`` is pending, starting, running or finished."""

    run_id: int
    status: str
    sub_status: str
    details: str
    folder: str


class Control:
    """Requests to a running SuperLink on this machine; see `connect`."""

    def __init__(self, client: Any) -> None:
        self._client = _Translating(client)

    def add(self, name: str, public_key: bytes) -> int:
        """Register a node key (PEM, SubjectPublicKeyInfo) under a name; returns its number."""
        from flwr.proto.control_pb2 import RegisterNodeRequest

        return int(self._client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name)).node_id)

    def remove(self, node_id: int) -> None:
        """Forget a node key: its device is refused from now on."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def devices(self) -> list[Device]:
        """All registered keys, by name."""
        from flwr.proto.control_pb2 import ListNodesRequest

        nodes = self._client.ListNodes(ListNodesRequest()).nodes_info
        known = [n for n in nodes if n.status != "unregistered"]
        return sorted(
            (Device(n.node_id, n.name or str(n.node_id), n.status == "online", n.public_key) for n in known),
            key=lambda device: device.name,
        )

    def submit(self, folder: Path) -> int:
        """Start the round loop over a run folder; returns Flower's number of the run."""
        from flwr.common.serde import user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest

        from fedsus_server.flower import bundle

        request = StartRunRequest(
            fab=bundle.build(), override_config=user_config_to_proto({"folder": str(folder.resolve())})
        )
        response = self._client.StartRun(request)
        if not response.HasField("run_id"):
            raise EnvironmentFault("the SuperLink did not start the run; its log says why")
        return int(response.run_id)

    def stop(self, run_id: int) -> None:
        """End a run's round loop."""
        from flwr.proto.control_pb2 import StopRunRequest

        self._client.StopRun(StopRunRequest(run_id=run_id))

    def runs(self) -> list[FlowerRun]:
        """Flower's runs, newest first."""
        from flwr.common.serde import user_config_from_proto
        from flwr.proto.control_pb2 import ListRunsRequest

        found = []
        for run in self._client.ListRuns(ListRunsRequest()).run_dict.values():
            folder = str(user_config_from_proto(run.override_config).get("folder", ""))
            status = run.status
            found.append(FlowerRun(run.run_id, status.status, status.sub_status, status.details, folder))
        return found


class _Translating:
    """Flower's client with named errors, raised where the request was made."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        method = getattr(self._client, name)

        def call(request: Any) -> Any:
            try:
                return method(request)
            except httpx.TransportError as error:
                raise EnvironmentFault("the server does not answer; start it: fedsus server start") from error
            except httpx.HTTPStatusError as error:
                raise UserError(f"the SuperLink refused: {_reason(error.response)}") from error

        return call


@contextmanager
def connect(loopback_port: int) -> Iterator[Control]:
    """A connection to the control API on this machine; its methods raise:

    Raises:
        EnvironmentFault: no server answers.
        UserError: the server refused; its reason.
    """
    from flwr.supercore.control import ControlHttpClient

    client = ControlHttpClient.from_server_address(f"127.0.0.1:{loopback_port}", True, None, interceptors=[])
    try:
        yield Control(client)
    finally:
        client.close()


def _reason(response: httpx.Response) -> str:
    try:
        content = response.json()
        return str(content.get("detail") or content.get("message") or response.text)
    except (AttributeError, ValueError):
        return response.text.strip() or f"HTTP {response.status_code}"
