"""This device's part in secure aggregation: its identity, the roster that its owner's pins accept, its notes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from fedsus.errors import ConfigError
from fedsus.owner import key_files
from fedsus.owner.marks import SessionMarks
from fedsus_client.membership import StandingRoster

if TYPE_CHECKING:
    from fedsus.owner.consumption import Consumption
    from fedsus.rounds.device_half.sessions import Sessions
    from fedsus.types import Clock
    from fedsus_client.config import AgentConfig

log = logging.getLogger("fedsus.client")


def load_sessions(config: AgentConfig, clock: Clock, consumption: Consumption) -> Sessions | None:
    """What answers secure sums; None for a device without an identity, which then refuses them.

    Raises:
        ConfigError: the identity cannot be used.
        CorruptionError, EnvironmentFault: the notes were changed, or another agent uses them.
    """
    from fedsus.rounds.device_half.sessions import Sessions

    if not config.identity.signing.exists():
        text = "%s: no identity key: secure sums are refused; make one with: fedsus client enroll"
        log.warning(text, config.identity.signing)
        return None
    identity = key_files.load(config.identity.signing, "identity")
    marks = SessionMarks(config.state.folder / "sessions.jsonl", clock)
    roster = StandingRoster(config)
    return Sessions(identity, roster, marks, clock, server=_server(config), consumption=consumption)


def _server(config: AgentConfig) -> str:
    """SHA-256 (hex) of the authority that this device pins; zeros where it trusts the system's."""
    ca = config.server.ca
    if ca is None:
        from fedsus.secagg.session import NO_SERVER

        return NO_SERVER
    try:
        return x509.load_pem_x509_certificate(ca.read_bytes()).fingerprint(hashes.SHA256()).hex()
    except (OSError, ValueError):
        raise ConfigError(f"{ca}: not a certificate in PEM form; ask the operator for it") from None
