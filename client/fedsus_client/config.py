"""``agent.toml``: the device's own configuration. Importing this loads neither torch nor flwr."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PrivateAttr

from fedsus.config import load
from fedsus.errors import ConfigError
from fedsus.owner.energy_record import FILE
from fedsus.plan import Name, Strict
from fedsus.settings.carbon import CarbonSettings
from fedsus.settings.energy import EnergySettings

File = Annotated[Path, Field(strict=False)]
Address = Annotated[str, Field(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$")]
Reference = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+(:[A-Za-z_][A-Za-z0-9_]*)?$")]
Seconds = Annotated[float, Field(ge=0.005, le=3600)]


class ServerPart(Strict):
    """``[server]``.

    Attributes:
        address: "host:port" of the operator's gateway.
        ca: PEM file of the certificate authority that signed the server's certificate; without it the
            system's authorities count.
    """

    address: Address
    ca: File | None = None

    @property
    def ca_file(self) -> str | None:
        """``ca`` as OpenSSL takes it; None for the system's authorities."""
        return None if self.ca is None else str(self.ca)

    @property
    def host(self) -> str:
        """The name that the server's certificate must carry."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """TCP port, 1..65535."""
        return int(self.address.rpartition(":")[2])


class IdentityPart(Strict):
    """``[identity]``: this device's private keys; the public half of each lies beside it, with ``.pub``.

    Attributes:
        key: for the connection; the operator registers its public half.
        signing: for secure sums; the owners who sign the roster admit its public half.
    """

    key: File = Path("node.key")
    signing: File = Path("identity.key")


class FederationPart(Strict):
    """``[federation]``: ``roster`` is the list of members that ``fedsus client roster`` installs."""

    roster: File = Path("roster.json")


class StatePart(Strict):
    """``[state]``: ``folder`` holds the ledger, logs, status and the owner's own metrics. Keep it for ever."""

    folder: File = Path("state")


class ComputePart(Strict):
    """``[compute]``.

    Attributes:
        device: "auto" takes CUDA, then MPS, then the CPU.
        threads: CPU threads for training; all cores when not given.
    """

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$")] = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None


class DataPart(Strict):
    """``[data.<id>]``: ``path``, and further keys for the task to read (``holdout``, ``delimiter``, ...)."""

    model_config = ConfigDict(extra="allow")

    path: File

    @property
    def options(self) -> Mapping[str, Any]:
        """All keys but ``path``."""
        return self.model_extra or {}


class AgentPart(Strict):
    """``[agent]``.

    Attributes:
        poll_idle: seconds between questions to the server while no run asks for this device.
        poll_active: likewise while a round is on.
        log_level: of the agent's log.
    """

    poll_idle: Seconds = 2.0
    poll_active: Seconds = 0.05
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class AgentConfig(Strict):
    """All of ``agent.toml``; see `load_agent`, which makes its paths absolute.

    Attributes:
        tasks: name on the wire -> built-in task, or "module:Class" of an installed package.
    """

    server: ServerPart
    identity: IdentityPart = IdentityPart()
    federation: FederationPart = FederationPart()
    state: StatePart = StatePart()
    compute: ComputePart = ComputePart()
    tasks: dict[Name, Reference]
    data: dict[Name, DataPart]
    energy: EnergySettings = EnergySettings()
    carbon: CarbonSettings = CarbonSettings()
    agent: AgentPart = AgentPart()
    _file: Path = PrivateAttr(Path("agent.toml"))

    @property
    def file(self) -> Path:
        """Where it was read."""
        return self._file

    @property
    def ledger(self) -> Path:
        """The ledger's file."""
        return self.state.folder / "ledger.sqlite"

    @property
    def energy_record(self) -> Path:
        """What this device used."""
        return self.state.folder / FILE

    @property
    def roster_notes(self) -> Path:
        """Which roster was accepted last."""
        return self.state.folder / "roster.noted"

    @property
    def log(self) -> Path:
        """The agent's log file."""
        return self.state.folder / "agent.log"


def load_agent(path: Path) -> AgentConfig:
    """Read agent.toml; relative paths are relative to the file, and absolute in the result.

    Raises:
        ConfigError: missing file, broken TOML, unknown field, wrong type, or value out of range; one line.
    """
    config = load(path, AgentConfig)
    if not 1 <= config.server.port <= 65535:
        raise ConfigError(f"{path}: 'server.address' = '{config.server.address}': the port must be 1..65535")
    folder = path.resolve().parent

    def absolute(file: Path) -> Path:
        return folder / file.expanduser()

    config._file = path
    return config.model_copy(
        update={
            "server": config.server.model_copy(update={"ca": config.server.ca and absolute(config.server.ca)}),
            "identity": IdentityPart(key=absolute(config.identity.key), signing=absolute(config.identity.signing)),
            "federation": FederationPart(roster=absolute(config.federation.roster)),
            "carbon": _absolute(config.carbon, folder),
            "state": StatePart(folder=absolute(config.state.folder)),
            "data": {name: part.model_copy(update={"path": absolute(part.path)}) for name, part in config.data.items()},
        }
    )


def _absolute(carbon: CarbonSettings, folder: Path) -> CarbonSettings:
    """``[carbon]`` with the paths in it absolute; a path of series may be a pattern."""
    series, http = carbon.series, carbon.http
    if series is not None:
        series = series.model_copy(update={"files": str(folder / series.files)})
    if http is not None:
        files = {"token_file": http.token_file, "ca": http.ca}
        http = http.model_copy(update={name: str(folder / file) for name, file in files.items() if file is not None})
    return carbon.model_copy(update={"series": series, "http": http})
