"""Whether a receipt holds: offline, from the file, its journal and the federation's roster alone.

Everything is recomputed from the journal and compared, field by field, in the order in which a receipt says it; the
first thing that does not hold is named. An epsilon may differ by what versions of the accountants differ by
(`fedsus.privacy.stated`); nothing else may.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fedsus import envelope
from fedsus.errors import ConfigError, CorruptionError, ProtocolViolation, ReceiptFault, Refusal
from fedsus.journal import RunClosed, RunOpened, fold
from fedsus.plan import canonical
from fedsus.privacy.stated import alike
from fedsus.reporting.predicate import PREDICATE_TYPE, SIMULATED, STATEMENT_TYPE, simulated
from fedsus.reporting.receipt import check_end, entries_of, head_of, payload_of
from fedsus.secagg import roster as rosters
from fedsus.secagg.keys import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedsus.envelope import Envelope
    from fedsus.secagg.roster import Pins, Roster, SignedRoster

_SHOWN: Final = 100
_JOURNAL: Final = Path("journal")
"""In messages."""
_LOSSES: Final = ("predicate", "privacy", "losses")
_Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a receipt is checked against.

    Attributes:
        journal: the journal file's bytes.
        roster: the federation's roster file, decoded; None: nobody's signatures of it are checked.
        pins: whose signatures of the roster count; None: those that it names itself.
        operators: public keys (hex) of which one must have signed; None: the one that the receipt names.
        model: SHA-256 of a model's values, or of a file that holds them, or both; None: not compared.
    """

    journal: bytes
    roster: SignedRoster | None = None
    pins: Pins | None = None
    operators: frozenset[str] | None = None
    model: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """A receipt that holds.

    Attributes:
        payload: what it says, as plain data.
        operator: fingerprint of the operator's key.
        countersigners: names of the members who countersigned, as in the roster.
        notes: what was not checked, a line each.
    """

    payload: dict[str, Any]
    operator: str
    countersigners: tuple[str, ...]
    notes: tuple[str, ...]


def verify(raw: bytes, evidence: Evidence) -> Verified:
    """Check the receipt file's bytes.

    Raises:
        ReceiptFault: it does not hold; names the first thing that does not.
        ConfigError: it cannot be checked: of another version, or something is missing that it takes.
    """
    sealed, payload = _opened(raw)
    _of_operator(sealed, evidence.operators)
    derived = _recomputed(payload, evidence.journal, sealed.author)
    _compare(payload, derived)
    names = _countersigned(sealed, _listed(derived.roster, evidence))
    _same_model(payload, evidence.model)
    notes = tuple(_notes(payload, evidence))
    return Verified(payload, fingerprint(bytes.fromhex(sealed.author)), names, notes)


@lru_cache(maxsize=4)
def _opened(raw: bytes) -> tuple[Envelope, dict[str, Any]]:
    """The envelope, all of whose signatures fit, and the plain data of its payload, which names the first signer."""
    try:
        sealed = envelope.decode(raw)
    except ProtocolViolation as error:
        raise ReceiptFault(f"receipt: {error}") from None
    wrong = sealed.invalid()
    if wrong is not None:
        at = list(sealed.signatures).index(wrong)
        raise ReceiptFault(f"signatures.{at}: the signature of key {wrong[:16]}... does not fit what is signed")
    try:
        payload = sealed.statement()
    except ProtocolViolation as error:
        raise ReceiptFault(str(error)) from None
    for name, wanted in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        said = _at(payload, (name,))
        if said != wanted:
            raise ConfigError(
                f"{name}: {_short(said)}; this fedsus checks {wanted} alone: move it away, and its operator makes "
                "one anew: fedsus receipt make RUN"
            )
    named = _at(payload, ("predicate", "operator"))
    if named != sealed.author:
        raise ReceiptFault(
            f"predicate.operator: the receipt names the key {_short(named)}, and {sealed.author} signed it first"
        )
    return sealed, payload


def _of_operator(sealed: Envelope, operators: frozenset[str] | None) -> None:
    if operators is not None and sealed.author not in operators:
        named = " or ".join(fingerprint(bytes.fromhex(operator)) for operator in sorted(operators))
        raise ReceiptFault(
            f"signatures.0: signed by the key {fingerprint(bytes.fromhex(sealed.author))}, "
            f"and not by the operator's, {named}"
        )


@dataclass(frozen=True, slots=True)
class _Derived:
    """What a journal gives: the statement, its epsilons before they were rounded, and the run's roster."""

    payload: dict[str, Any]
    epsilons: tuple[float, ...]
    roster: Roster | None


def _recomputed(payload: dict[str, Any], journal: bytes, operator: str) -> _Derived:
    """What the journal gives. Which journal it is comes first, for all else follows from it."""
    try:
        check_end(journal, _JOURNAL)
        for name, found in (("head", head_of(journal)), ("entries", journal.count(b"\n"))):
            said = _at(payload, ("predicate", "journal", name))
            if said != found or type(said) is not type(found):
                raise ReceiptFault(
                    f"predicate.journal.{name}: the receipt says {_short(said)}, the journal gives {_short(found)}: "
                    "another run's journal, or one that was cut off or changed"
                )
        return _derived(journal, operator)
    except CorruptionError as error:
        raise ReceiptFault(_short(error, 300)) from None
    except Refusal as error:
        raise ConfigError(f"predicate.privacy.losses: not to be recomputed: {error}") from None


@lru_cache(maxsize=4)
def _derived(journal: bytes, operator: str) -> _Derived:
    from fedsus.reporting.spending import epsilons
    from fedsus.rounds.planning.specification import specification_of

    entries, head = entries_of(journal, _JOURNAL)
    opened = entries[0]
    if not isinstance(opened, RunOpened) or not isinstance(entries[-1], RunClosed):
        raise CorruptionError("journal: its run is not closed, and a receipt is of a run that is over")
    specification, attempts = specification_of(opened), fold(entries).attempts
    found = tuple(epsilons(specification, attempts).values())
    return _Derived(payload_of(entries, head, operator), found, specification.roster)


def _compare(said: dict[str, Any], derived: _Derived) -> None:
    """Raise at the first difference."""
    for path, one, other in _differences(said, derived.payload, ()):
        if path[:3] == _LOSSES and path[4:] == ("epsilon",) and alike(one, derived.epsilons[int(path[3])]):
            continue
        where = _short(".".join(map(str, path)), 300)
        raise ReceiptFault(f"{where}: the receipt says {_short(one)}, the journal gives {_short(other)}")


def _at(data: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        data = data.get(name) if isinstance(data, dict) else None
    return data


class _Nothing:
    """A field that is not there."""

    def __repr__(self) -> str:
        return "nothing"


_NOTHING: Final = _Nothing()


def _differences(said: Any, found: Any, path: _Path) -> Iterator[tuple[_Path, Any, Any]]:
    """What differs, in the receipt's order: 1, 1.0 and true are three things, and so are 0.0 and -0.0."""
    if type(said) is not type(found):
        yield path, said, found
    elif isinstance(found, dict):
        for name in [*found, *(name for name in said if name not in found)]:
            yield from _differences(said.get(name, _NOTHING), found.get(name, _NOTHING), (*path, name))
    elif isinstance(found, list):
        if len(said) != len(found):
            yield (*path[:-1], f"{path[-1]} (how many)"), len(said), len(found)
        for at, (one, other) in enumerate(zip(said, found, strict=False)):
            yield from _differences(one, other, (*path, at))
    elif repr(said) != repr(found):
        yield path, said, found


def _listed(members: Roster | None, evidence: Evidence) -> Roster | None:
    """The roster whose members may countersign: the journal's, which must be the file's."""
    if evidence.roster is None:
        return members
    given = evidence.roster.roster
    if members is not None and rosters.digest(given) != rosters.digest(members):
        raise ReceiptFault(
            f"predicate.participation.roster: the run's is roster {members.number} of '{members.federation}' "
            f"({rosters.digest(members).hex()[:16]}...); the file holds roster {given.number} of "
            f"'{given.federation}' ({rosters.digest(given).hex()[:16]}...)"
        )
    if evidence.pins is not None:
        try:
            return evidence.roster.verified(evidence.pins)
        except Refusal as error:
            raise ReceiptFault(f"roster: {error}") from None
    have = len(evidence.roster.valid_signatures())
    if have < given.needed:
        raise ReceiptFault(f"roster: {have} of {given.needed} signatures of its own signers")
    return given


def _countersigned(sealed: Envelope, roster: Roster | None) -> tuple[str, ...]:
    """Names of the countersigners, all of whom must be members."""
    if sealed.others and roster is None:
        raise ConfigError(
            "signatures: the run has no roster of its own; whose countersignatures these are, say --roster"
        )
    members = {} if roster is None else {member.key: member.name for member in roster.members}
    names = []
    for at, key in enumerate(sealed.others, start=1):
        name = members.get(key)
        if name is None:
            raise ReceiptFault(f"signatures.{at}: the key {key[:16]}... is of no member of the roster")
        names.append(name)
    return tuple(sorted(names))


def _same_model(payload: dict[str, Any], model: frozenset[str] | None) -> None:
    if model is None:
        return
    named = {one["name"]: one["digest"]["sha256"] for one in payload["subject"]}
    if not model & {named.get("model"), named.get("checkpoint")}:
        said = named.get("model") or named.get("checkpoint") or "no model"
        raise ReceiptFault(f"subject: the receipt is of {said}, the file holds {' / '.join(sorted(model))}")


def _notes(payload: dict[str, Any], evidence: Evidence) -> Iterator[str]:
    if simulated(payload):
        yield SIMULATED
    if evidence.operators is None:
        yield "the operator's key is not pinned: compare its fingerprint with one from the operator, or name --operator"
    if payload["predicate"]["participation"]["roster"] is not None:
        if evidence.roster is None:
            yield "the roster's own signatures were not checked: name the federation's file with --roster"
        elif evidence.pins is None:
            yield "the roster was signed by the signers that it names; which signers you trust, say --policy"
    if evidence.model is None:
        yield "no model was compared with the receipt's: name one with --model"


def _short(value: object, most: int = _SHOWN) -> str:
    """One line, not too long, whatever it is."""
    if isinstance(value, _Nothing):
        return "nothing"
    try:
        text = (
            value
            if isinstance(value, str)
            else str(value)
            if isinstance(value, Exception)
            else canonical(value).decode()
        )
    except (ValueError, TypeError, RecursionError):
        text = type(value).__name__
    text = "".join(one if one.isprintable() else "?" for one in text)
    return text if len(text) <= most else f"{text[: most - 3]}..."
