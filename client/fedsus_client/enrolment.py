"""The keys that ``fedsus client enroll`` makes, and what it says of them."""

from __future__ import annotations

from collections.abc import Iterator

from fedsus.owner import key_files
from fedsus.secagg.keys import Identity
from fedsus.secagg.roster import fingerprint
from fedsus_client import identity
from fedsus_client.config import AgentConfig


def keys(agent: AgentConfig) -> Iterator[str]:
    """Make the keys that are missing; yields lines for the owner.

    Raises:
        ConfigError: a key that is there is broken, or usable by others.
        EnvironmentFault: the folder cannot be written.
    """
    node, signing = agent.identity.key, agent.identity.signing
    kept = node.exists()
    public = identity.load(node)[1] if kept else identity.create(node)
    yield f"{'kept' if kept else 'made'} the node key {node}{'' if kept else ': it never leaves this device'}"
    kept = signing.exists()
    own = _kept(agent) if kept else key_files.create(signing, "identity")
    yield f"{'kept' if kept else 'made'} the identity key {signing}{'' if kept else ': it never leaves this device'}"
    file = identity.public_file(node)
    yield f"\nSend this file to the operator, who lets this device connect: {file}"
    yield f"  fingerprint, to compare by voice: {identity.fingerprint(public)}"
    yield f"  the operator runs: fedsus server devices add NAME {file.name}"
    file = key_files.public_file(signing)
    yield f"Send this file to the owners who sign the roster, who let it take part in sums: {file}"
    yield f"  fingerprint, to compare by voice: {fingerprint(own.public.hex())}"
    yield f"  one of them runs: fedsus federation admit roster.json NAME {file.name}"
    yield f"Ask them for: {agent.federation.roster.name}, and for their fingerprints; pin them in policy.toml"
    if agent.server.ca and not agent.server.ca.exists():
        yield f"Ask the operator for: {agent.server.ca}, and for the address, now '{agent.server.address}'"


def _kept(agent: AgentConfig) -> Identity:
    """The identity that is there; its public half is written again if it is missing."""
    own = key_files.load(agent.identity.signing, "identity")
    if not key_files.public_file(agent.identity.signing).exists():
        key_files.write_public(agent.identity.signing, own.public.hex(), "identity")
    return own
