"""The part of ``fedsus client check`` about secure sums: identity, pins, roster, and what they withstand."""

from __future__ import annotations

from collections.abc import Iterator

from fedsus.errors import ConfigError, FedsusError, UserError
from fedsus.owner import key_files
from fedsus.owner.pinning import read, read_roster
from fedsus.owner.policy import Policy
from fedsus.secagg import thresholds
from fedsus.secagg.roster import Pins, Roster, digest, fingerprint
from fedsus_client.config import AgentConfig
from fedsus_client.findings import Finding, fail, fine, warn
from fedsus_client.membership import PIN, book_of, looked

_INSTALL = "ask the owners who sign it for the newest, then: fedsus client roster FILE"


def secure_sum(agent: AgentConfig, policy: Policy) -> Iterator[Finding]:
    """The findings; what is missing is only a warning where the owner grants `clear_sum` as well."""
    if not policy.exchange.secure_sum:
        return
    grade = warn if policy.exchange.clear_sum else fail
    key = None
    try:
        key = _identity(agent)
        yield fine("identity", f"{agent.identity.signing}, fingerprint {fingerprint(key)}")
    except UserError as error:
        yield grade("identity", str(error), "without it this device takes part in no secure sum")
    if policy.federation is None:
        yield grade("pins", "secure sums are granted, and policy.toml pins no signer", PIN)
        return
    yield _pins(policy.federation.pins)
    try:
        roster = _roster(agent, policy)
    except FedsusError as error:
        yield grade("roster", str(error), _INSTALL)
        return
    pins = policy.federation.pins
    have = len(read_roster(agent.federation.roster).valid_signatures(pins.keys))
    about = f"number {roster.number} of '{roster.federation}', digest {digest(roster).hex()[:16]}"
    yield fine("roster", f"{about}, signed by {have} of the {len(pins.keys)} pinned keys")
    if key is not None:
        name = roster.name_of(key)
        if name is None:
            fix = f"send {key_files.public_file(agent.identity.signing)} to the owners who sign the roster"
            yield grade("member", f"this device ({fingerprint(key)}) is not in the roster", fix)
        else:
            yield fine("member", f"this device is '{name}', one of {len(roster.members)}")
    yield from _strength(roster, policy, grade is fail)


def _identity(agent: AgentConfig) -> str:
    """Public key (hex) of this device's identity.

    Raises:
        ConfigError: the key is missing, broken or usable by others, or the file beside it is of another key.
    """
    file = agent.identity.signing
    key = key_files.load(file, "identity").public.hex()
    public = key_files.public_file(file)
    if public.exists() and key_files.read_public(public, "identity") != key:
        raise ConfigError(f"{public}: not the public half of {file}; remove it and run 'fedsus client enroll'")
    return key


def _pins(pins: Pins) -> Finding:
    text = f"{pins.needed} of {len(pins.keys)} keys sign the roster of '{pins.federation}'"
    if 2 * pins.needed <= len(pins.keys):
        return warn("pins", f"{text}: half or fewer could publish two different ones", "set [federation] needed higher")
    return fine("pins", text)


def _roster(agent: AgentConfig, policy: Policy) -> Roster:
    """The installed roster, looked at as the agent does; nothing is noted."""
    found = read(agent.federation.roster)
    if found is None:
        raise ConfigError(f"{agent.federation.roster}: no roster is installed")
    return looked(book_of(agent, policy), found[0], agent.federation.roster)


def _strength(roster: Roster, policy: Policy, strict: bool) -> Iterator[Finding]:
    """What a sum over the whole roster withstands, by this policy's numbers."""
    grade = fail if strict else warn
    n, wanted = len(roster.members), policy.secure_sum
    colluding = wanted.colluders or thresholds.colluders(n)
    try:
        tolerated = min(thresholds.planned_dropouts(n, wanted.dropout), thresholds.least_tolerance(n, colluding))
        thresholds.solve(n, colluding, tolerated)
    except ConfigError as error:
        yield grade("secure_sum", f"{n} members: {error}", "ask for more members, or set [secure_sum] colluders lower")
        return
    if policy.cohort.minimum > n:
        text = f"the roster has {n} members, [cohort] minimum is {policy.cohort.minimum}"
        yield grade("secure_sum", text, "lower it, or ask for more members")
        return
    text = f"{n} members, of whom {colluding} may work with a lying server"
    if tolerated == 0:
        yield warn("secure_sum", f"{text}: a single device that drops out ends the round", "ask for more members")
    else:
        yield fine("secure_sum", f"{text}: up to {tolerated} may drop out of a round")
    absent = [name for name in wanted.named if roster.index(name) is None]
    if absent:
        yield warn("secure_sum", f"[secure_sum] named: not in the roster: {', '.join(absent)}", "mend the names")
