"""``fedsus client check``: everything that can be known before a round is asked, a tick or a fix a line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsus.config import load
from fedsus.errors import ConfigError, FedsusError, UserError
from fedsus.owner.caps import PrivacyPolicy, accounts
from fedsus.owner.feasible import obstacles
from fedsus.owner.ledger import Ledger
from fedsus.owner.policy import Policy, TaskPolicy
from fedsus.plan import Scalar, Training
from fedsus.types import Clock
from fedsus_client import identity
from fedsus_client.config import AgentConfig, load_agent
from fedsus_client.energy_findings import energy
from fedsus_client.findings import Finding, fail, fine, warn
from fedsus_client.probe import authority, probe
from fedsus_client.status import paused, read_status, running
from fedsus_client.summing import secure_sum

if TYPE_CHECKING:
    from fedsus.tasks.task import Task

_HIGH_EPSILON: Final = 10.0


def preflight(agent_file: Path, policy_file: Path, clock: Clock) -> Iterator[Finding]:
    """The findings, as they come; the quick ones first."""
    agent = yield from _file("agent", agent_file, load_agent)
    policy = yield from _file("policy", policy_file, lambda file: load(file, Policy))
    if agent is not None:
        yield from _state(agent)
        key = yield from _key(agent)
    if policy is not None:
        yield from sense(policy)
    if agent is None:
        return
    if policy is not None:
        yield ledger_intact(agent, policy, clock)
        yield from secure_sum(agent, policy)
        yield from energy(agent, policy.budget, clock)
    trusted = authority(agent.server.ca, clock)
    yield trusted
    if trusted.grade != "fail":
        reached = yield from _passing(probe(agent.server, clock))
        if reached and key is not None:
            yield _known(agent, key, clock)
    if policy is not None:
        for name, allowed in policy.tasks.items():
            yield from _task(agent, name, allowed)


def sense(policy: Policy) -> Iterator[Finding]:
    """Whether the policy can grant anything, and whether it grants more than it protects."""
    privacy = policy.privacy
    before = 0
    for finding in _contradictions(policy):
        before += finding.grade == "fail"
        yield finding
    yield from _promises(privacy)
    if policy.exchange.clear_sum:
        yield warn("policy", "clear_sum is granted: the server may see this device's own updates")
    if policy.cohort.minimum < 3:
        yield warn("policy", f"cohort minimum {policy.cohort.minimum}: a sum of so few tells much about each")
    if not before:
        yield fine("policy", f"epsilon {privacy.epsilon:g} at delta {privacy.delta:g} for {', '.join(policy.tasks)}")


def _promises(privacy: PrivacyPolicy) -> Iterator[Finding]:
    """What the caps leave open."""
    if privacy.without_dp:
        yield warn("policy", "runs without differential privacy are granted: their models may remember rows")
    if privacy.epsilon > _HIGH_EPSILON:
        yield warn("policy", f"epsilon {privacy.epsilon:g} promises little", f"most choose {_HIGH_EPSILON:g} or less")
    for adversary in privacy.trusted:
        yield warn("policy", f"trusted: {adversary}: epsilon may be infinite against it")
    if privacy.delta > 1e-3:
        yield warn("policy", f"delta {privacy.delta:g} is large", "choose less than one over the number of rows")


def _contradictions(policy: Policy) -> Iterator[Finding]:
    privacy = policy.privacy
    if not policy.tasks:
        yield fail("policy", "no task is allowed: everything is refused", "add a table [tasks.<name>]")
    if not policy.exchange.secure_sum and not policy.exchange.clear_sum:
        yield fail("policy", "no exchange is granted: everything is refused", "set [exchange] secure_sum = true")
    private = privacy.epsilon > 0 and privacy.delta > 0 and privacy.units and privacy.placements
    if not private and not privacy.without_dp:
        yield fail("policy", "no privacy budget: everything is refused", "set [privacy] epsilon and delta above 0")
    if (privacy.epsilon > 0) != (privacy.delta > 0):
        yield fail("policy", "epsilon and delta must both be above 0 to grant a private run", "set [privacy] both")
    elif private:
        for data in dict.fromkeys(task.data for task in policy.tasks.values()):
            yield from _never(privacy, data)


def _never(privacy: PrivacyPolicy, data: str) -> Iterator[Finding]:
    """What units and placements grant and a cap always refuses."""
    found = obstacles(privacy, data)
    fix = "see [privacy] units, placements, trusted, rows_per_patient and caps"
    grade = warn if privacy.without_dp or None in found.values() else fail
    if not found:
        granted = f"units {', '.join(privacy.units)} with placements {', '.join(privacy.placements)}"
        yield grade("policy", f"no run has {granted}: every run with differential privacy is refused", fix)
    for (unit, placement), why in found.items():
        if why is not None:
            yield grade("policy", f"runs with unit {unit}, placement {placement}, are always refused: {why}", fix)


def ledger_intact(agent: AgentConfig, policy: Policy, clock: Clock) -> Finding:
    """Whether the ledger opens, and what is left."""
    if not agent.ledger.exists() and not agent.ledger.with_name(agent.ledger.name + ".head").exists():
        return fine("ledger", "none yet: nothing was spent")
    try:
        ledger = Ledger(agent.ledger, clock, read_only=True)
    except FedsusError as error:
        return fail("ledger", str(error), "find out who changed it; put back the newest copy of the whole state folder")
    try:
        return _budgets(ledger, policy.privacy)
    except FedsusError as error:
        return fail("ledger", str(error), "run: fedsus client ledger verify")
    finally:
        ledger.close()


def _budgets(ledger: Ledger, privacy: PrivacyPolicy) -> Finding:
    """What is spent of the account of each data set that has least left; a warning where nothing is."""
    told, empty = [], []
    for name in ledger.data_ids():
        capped = []
        for account in accounts(name):
            cap = ledger.cap(account, privacy)
            if cap is not None and cap.finite:
                now = ledger.standing(account)
                capped.append((now.left(cap), account, cap))
        if capped:
            left, account, cap = min(capped)
            told.append(f"{account}: {left:.0%} of epsilon {cap} is left")
            empty += [name] if left <= 0 else []
    text = "intact; " + ("; ".join(told) or "nothing is capped")
    if empty:
        return warn("ledger", text, f"nothing is left of '{empty[0]}'; more is for its owner to grant, or not")
    return fine("ledger", text)


def _file(name: str, file: Path, read: Callable[[Path], Any]) -> Any:
    """Yields one finding; returns what was read, or None."""
    try:
        found = read(file)
    except UserError as error:
        yield fail(name, str(error), "mend the file; 'fedsus client enroll' writes a commented one")
        return None
    yield fine(name, f"{file}")
    return found


def _state(agent: AgentConfig) -> Iterator[Finding]:
    folder = agent.state.folder
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield fail("state", f"{place}: cannot be written", "give it to the user that runs the agent")
    elif place == folder and folder.stat().st_mode & 0o077:
        yield warn("state", f"{folder}: open to other users", f"run: chmod 700 {folder}")
    else:
        yield fine("state", f"{folder}")
    if paused(folder):
        yield warn("state", "paused: every request is refused", "run: fedsus client resume")


def _key(agent: AgentConfig) -> Any:
    """Yields one finding; returns the private key, or None."""
    file = agent.identity.key
    try:
        private, public = identity.load(file)
        if identity.public_file(file).read_bytes().split()[:2] != identity.public_line(public).split()[:2]:
            raise ConfigError(f"{identity.public_file(file)}: not the public half of {file}")
    except FileNotFoundError:
        yield warn("key", f"{identity.public_file(file)}: missing", "the operator needs it only once, to register it")
    except (UserError, OSError) as error:
        yield fail("key", str(error), "without it the server does not know this device")
        return None
    else:
        yield fine("key", f"{file}, fingerprint {identity.fingerprint(public)}")
    return private


def _passing(findings: Iterator[Finding]) -> Any:
    """Yields them all; returns whether none failed."""
    good = True
    for finding in findings:
        good = good and finding.grade != "fail"
        yield finding
    return good


def _known(agent: AgentConfig, key: identity.PrivateKey, clock: Clock) -> Finding:
    """Whether the operator registered the key; a running agent knows it already and is not disturbed."""
    public = identity.public_file(agent.identity.key)
    try:
        status = read_status(agent.state.folder)
    except UserError as error:
        return warn("registration", f"not looked at: {error}")
    if status is not None and running(status):
        if status.detail:  # why the agent is not connected
            fix = f"mend what it says; if the server does not know the key, the operator needs {public}"
            return fail("registration", f"the running agent is {status.state}: {status.detail}", fix)
        return fine("registration", f"the agent is running ({status.state}); see 'fedsus client status'")
    from fedsus_client.flower import FleetConnection

    try:
        connection = FleetConnection(agent.server.address, agent.server.ca_file, key, clock)
        try:
            connection.connect()
        finally:
            connection.close()
    except FedsusError as error:
        return fail("registration", str(error), f"send {public} to the operator")
    return fine("registration", "the server knows this device's key")


def _task(agent: AgentConfig, name: str, allowed: TaskPolicy) -> Iterator[Finding]:
    """Whether an allowed task can be imported and its data are as it wants them."""
    from fedsus.tasks.registry import build, resolve

    where = f"task '{name}'"
    if name not in agent.tasks:
        yield fail(where, "allowed by the policy, not in [tasks] of the agent's file", f'add: {name} = "<task>"')
        return
    try:
        task = build(resolve(agent.tasks[name]), _settings(allowed))
    except FedsusError as error:
        yield fail(where, str(error), "install its package, or mend [tasks]; settings come from the policy")
        return
    yield fine(where, agent.tasks[name])
    data = agent.data.get(allowed.data)
    if data is None:
        yield fail(where, f"data '{allowed.data}' is not in the agent's file", f"add a table [data.{allowed.data}]")
        return
    yield from _data(allowed.data, data.path, data.options, task)


def _settings(allowed: TaskPolicy) -> dict[str, Scalar]:
    """Settings as the policy lists them first; the others stay at the task's default."""
    return {name: rule[0] for name, rule in allowed.settings.items() if isinstance(rule, list) and rule}


def _data(name: str, path: Path, options: Any, task: Task) -> Iterator[Finding]:
    from fedsus.tasks.task import Checked, DataSource

    where, source = f"data '{name}'", DataSource(path, options)
    refused = False
    if isinstance(task, Checked):
        for finding in task.check(source, Training().batch_size):
            refused = refused or finding.severity == "refuse"
            grade = fail if finding.severity == "refuse" else warn
            mend = f"mend the file, or [data.{name}] path in agent.toml: nothing is trained until then"
            yield grade(where, finding.message, mend if grade is fail else "")
    if refused:
        return
    try:
        shard = task.load(source)
    except FedsusError as error:
        yield fail(where, str(error), f"mend the data or [data.{name}]")
        return
    yield fine(where, f"{path}: {shard.size} rows to train on, {len(shard.held_out[0])} held out")
