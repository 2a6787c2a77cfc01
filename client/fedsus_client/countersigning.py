"""``fedsus client countersign``: a device says that a receipt fits what its own ledger holds of the run.

What is compared is what this device knows by itself: the specification that it admitted, the plan of each attempt that
it was asked, and the epsilon that its own events amount to over all attempts that the receipt names. What others
answered, and what the server measured, it cannot know: that is recomputed by ``fedsus receipt verify``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsus import envelope
from fedsus.errors import ConfigError, ProtocolViolation, Refusal
from fedsus.owner import key_files, pinning
from fedsus.owner.charges import epsilon_of
from fedsus.owner.history import History
from fedsus.owner.ledger import Ledger
from fedsus.privacy.stated import INFINITE, TOLERANCE, alike
from fedsus.secagg.keys import fingerprint
from fedsus.secagg.roster import digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedsus.owner.runs import Run
    from fedsus_client.config import AgentConfig

_PREDICATE: Final = "urn:fedsus:receipt:2"

_FILE: Final = "receipt.json"
"""In a run's folder."""


def countersign(agent: AgentConfig, file: Path, output: Path | None) -> Iterator[str]:
    """Compare a receipt with this device's ledger, and sign it; yields lines for the owner.

    Args:
        file: the receipt, or the run's folder that holds it.

    Raises:
        ConfigError: a file is missing or no receipt.
        Refusal: the receipt does not fit the ledger; nothing is written.
    """
    identity = key_files.load(agent.identity.signing, "identity")
    if file.is_dir():
        file = file / _FILE
    found = pinning.read(file, envelope.MAX_BYTES)
    if found is None:
        raise ConfigError(f"{file}: no such file")
    try:
        sealed = envelope.decode(found[0])
        said = sealed.statement()
    except ProtocolViolation as error:
        raise ConfigError(f"{file}: not a receipt: {error}") from None
    if sealed.invalid() is not None:
        raise Refusal(f"{file}: a signature does not fit: the receipt was changed after it was signed")
    if not isinstance(said, dict) or said.get("predicateType") != _PREDICATE:
        raise ConfigError(f"{file}: not a receipt of this version ({_PREDICATE})")
    yield f"signed by the key {fingerprint(bytes.fromhex(sealed.author))}: compare it with the operator's"
    try:
        yield from same_roster(said["predicate"], agent.federation.roster)
        yield from compared(said["predicate"], _entries(agent.ledger), identity.public.hex() == sealed.author)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{file}: not a receipt: {type(error).__name__}: {str(error)[:80]}") from None
    yield "not compared, since no device knows it: what others answered, was measured, configured and released"
    target = output or file
    pinning.write(target, sealed.signed(identity).encode(), 0o644)
    yield f"countersigned: {target}; it says, for all who read it, that this device took part"


def same_roster(predicate: dict[str, Any], installed: Path) -> Iterator[str]:
    """Whether the run's roster is the one that this device accepted, as far as it is still there; a line.

    Raises:
        Refusal: of another federation, or another one of the same number.
    """
    said = predicate["participation"]["roster"]
    if said is None or not installed.exists():
        yield "the receipt names no roster" if said is None else f"{installed}: no roster is here: not compared"
        return
    roster = pinning.read_roster(installed).roster
    if said["federation"] != roster.federation:
        raise Refusal(f"the receipt is of federation '{said['federation']}', this device is in '{roster.federation}'")
    if said["number"] != roster.number:
        yield f"the receipt is of roster {said['number']}, this device has {roster.number} now: not compared"
    elif said["digest"] != digest(roster).hex():
        raise Refusal(f"roster {roster.number} of the receipt is not the one that this device accepted")
    else:
        yield f"roster {roster.number} of '{roster.federation}' is the one that this device accepted"


def _entries(ledger: Path) -> list[dict[str, Any]]:
    if not ledger.exists():
        raise ConfigError(f"{ledger}: no ledger: this device took part in nothing")
    book = Ledger(ledger, lambda: 0.0, read_only=True)
    try:
        return book.export()
    finally:
        book.close()


def compared(predicate: dict[str, Any], entries: list[dict[str, Any]], author: bool = False) -> Iterator[str]:
    """What fits, a line each.

    Args:
        predicate: of the receipt.
        entries: of the ledger.
        author: the device's key is the one that signed first, as an operator.

    Raises:
        Refusal: the first thing that does not fit.
    """
    name = predicate["run"]["name"]
    if author:
        raise Refusal(f"run '{name}': this device's key signed the receipt as its operator's: a key has one purpose")
    history, mine = History(), []
    for entry in entries:
        history.take(dict(entry))
        if entry["type"] == "reserved" and entry["run"] == name:
            mine.append(entry)
    runs = [run for (_, run_name), run in history.runs.items() if run_name == name]
    if not runs:
        raise Refusal(f"run '{name}': this device's ledger knows no such run")
    for run in runs:
        _same_specification(predicate, run)
    yield f"run '{name}': the specification is the one that this device admitted"
    _same_plans(predicate, mine)
    yield f"run '{name}': the plans of {len(mine)} attempts are those that this device was asked"
    attempts = _counted(predicate)
    for run in runs:
        _same_epsilon(predicate, run, attempts)
    yield f"run '{name}': epsilon is what this device's own events amount to over {attempts} attempts"


def _same_specification(predicate: dict[str, Any], run: Run) -> None:
    said = predicate["asked"]["specification"]
    if said != run.specification:
        raise Refusal(
            f"run '{run.name}': the receipt's specification is {str(said)[:16]}..., this device admitted "
            f"{run.specification[:16]}..."
        )


def _same_plans(predicate: dict[str, Any], mine: list[dict[str, Any]]) -> None:
    """Each attempt that was reserved here is in the receipt, with the plan as it was received."""
    plans = {plan["attempt"]: plan for plan in predicate["asked"]["plans"]}
    for entry in mine:
        plan, where = plans.get(entry["attempt"]), f"run '{entry['run']}': attempt {entry['attempt']}"
        if plan is None:
            raise Refusal(f"{where}: this device was asked, and the receipt does not know of it")
        if plan["digest"] != entry["plan"]:
            raise Refusal(
                f"{where}: the receipt's plan is {plan['digest'][:16]}..., this device was sent {entry['plan'][:16]}..."
            )
        if "round" in entry and plan["round"] != entry["round"]:
            raise Refusal(f"{where}: round {plan['round']} in the receipt, this device was asked for {entry['round']}")


def _counted(predicate: dict[str, Any]) -> int:
    """How many attempts the receipt names: each once, none left out, and all of them counted."""
    plans, attempts = predicate["asked"]["plans"], predicate["privacy"]["attempts"]
    if type(attempts) is not int or [plan["attempt"] for plan in plans] != list(range(1, attempts + 1)):
        raise Refusal(f"the receipt counts {attempts} attempts, and names {len(plans)}, not 1, 2, ... in turn")
    return attempts


def _same_epsilon(predicate: dict[str, Any], run: Run, attempts: int) -> None:
    """No account says less than what this device's events amount to."""
    if run.old:
        raise Refusal(f"run '{run.name}': its ledger entries are of a version that holds no events to compare with")
    told = predicate["privacy"]["losses"]
    losses = {f"{loss['unit']}/{loss['adversary']}": loss for loss in told}
    if len(losses) < len(told) or losses.keys() != run.variants[0].keys():
        raise Refusal(f"run '{run.name}': the receipt does not say one epsilon of each unit against each adversary")
    for key, event in run.variants[0].items():
        loss = losses[key]
        found = epsilon_of({event: 1 if run.once else attempts}, run.delta) if attempts else 0.0
        said = loss["epsilon"]
        if said == INFINITE:
            continue  # nothing is promised
        least = math.inf if type(said) is not float else said * (1 + TOLERANCE)
        if type(said) is not float or not (alike(said, found) or found <= least):
            raise Refusal(
                f"run '{run.name}': {key}: the receipt says epsilon {said}, this device's events amount to {found:.6g}"
            )
        if loss["delta"] != run.delta:
            raise Refusal(f"run '{run.name}': {key}: delta {loss['delta']}, this device admitted {run.delta}")
