"""The commented files that ``fedsus client enroll`` writes; see client/fedsus_client/files/."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Final

from fedsus.errors import ConfigError, EnvironmentFault

_ADDRESS: Final = re.compile(r'^address = ".*"$', re.MULTILINE)
_HOST_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")


def write_templates(agent_file: Path, address: str | None) -> list[Path]:
    """Write agent.toml and, beside it, policy.toml where they are missing; returns what was written.

    Raises:
        ConfigError: ``address`` is not "host:port", or the agent's file exists and would not get it.
        EnvironmentFault: the folder cannot be written.
    """
    if address is not None and not _HOST_PORT.fullmatch(address):
        raise ConfigError(f"--server '{address}': expected host:port")
    if address is not None and agent_file.exists():
        raise ConfigError(f"{agent_file}: exists already; write '{address}' into [server] address there")
    written = []
    for target, name in ((agent_file, "agent.toml"), (agent_file.with_name("policy.toml"), "policy.toml")):
        if target.exists():
            continue
        text = files("fedsus_client").joinpath("files", name).read_text(encoding="utf-8")
        if name == "agent.toml" and address is not None:
            text = _ADDRESS.sub(f'address = "{address}"', text, count=1)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise EnvironmentFault(f"{target}: cannot be written: {error.strerror}") from None
        written.append(target)
    return written
