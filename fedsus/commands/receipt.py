"""``fedsus receipt``: make, show and verify the signed summary of a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fedsus.errors import ConfigError, FedsusError, ReceiptFault, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedsus.reporting.verification import Evidence

_HOME: Final = ".fedsus/server"
_VARIABLE: Final = "FEDSUS_SERVER_HOME"
_MOST_POLICY: Final = 2**20

_file = click.Path(path_type=Path)


@click.group()
def receipt() -> None:
    """The signed summary of a run: make, show and verify it.

    A run that ends on a server leaves one beside its journal: receipt.json.
    """


@receipt.command()
@click.argument("run", type=_file)
@click.option("--key", type=_file, help="The operator's key.  [default: operator.key of the server's folder]")
@click.option("-o", "--output", type=_file, help="Where to write it.  [default: receipt.json in the run's folder]")
def make(run: Path, key: Path | None, output: Path | None) -> None:
    """Make the receipt of a run that is over, and sign it.

    RUN is the run's folder.
    """
    from fedsus.owner import key_files
    from fedsus.reporting import receipt as receipts
    from fedsus.secagg.keys import fingerprint

    folder = Path(os.environ.get(_VARIABLE) or _HOME).expanduser()
    identity = key_files.load(key or folder / "operator.key", "operator")
    path = output or run / receipts.FILE
    receipts.write(path, receipts.make(run, identity))
    click.echo(f"wrote {path}, signed by the key {fingerprint(identity.public)}")


@receipt.command()
@click.argument("receipts", type=_file, nargs=-1, required=True)
@click.option("--journal", type=_file, help="The run's journal.  [default: journal.jsonl beside the receipt]")
@click.option("--roster", type=_file, help="The federation's signed roster.")
@click.option("--policy", type=_file, help="policy.toml, whose [federation] pins the roster's signers.")
@click.option(
    "--operator",
    "operators",
    metavar="KEY",
    multiple=True,
    help="The operator's public key: operator.key.pub, or its 64 hex digits. May be repeated: any of them may sign.",
)
@click.option("--model", type=_file, help="The model that was released: a model file, or a checkpoint.")
def verify(
    receipts: tuple[Path, ...],
    journal: Path | None,
    roster: Path | None,
    policy: Path | None,
    operators: tuple[str, ...],
    model: Path | None,
) -> None:
    """Check receipts offline: signatures, journal, and every figure anew.

    RECEIPTS are their files, or the runs' folders. Those that hold are told first; of each other, the first thing
    that does not hold. The exit code is
    0 where all hold, 1 where one does not, and 2 where one cannot be checked.
    """
    if policy is not None and roster is None:
        raise ConfigError("--policy pins who signs rosters: name the roster too, with --roster")
    several = len(receipts) > 1
    if several and (journal or model):
        raise ConfigError(f"--{'journal' if journal else 'model'} is of one run: name one receipt, not {len(receipts)}")
    common = _common(roster, policy, operators)
    if not several:
        for line in _verified(receipts[0], common, journal, model):
            click.echo(line)
        return
    faults: list[FedsusError] = []
    for receipt in receipts:
        try:
            first, *more = _verified(receipt, common)
        except FedsusError as error:
            faults.append(error)
            continue
        click.echo("\n".join([f"{receipt}: {first}", *(f"  {line}" for line in more)]))
    for fault in faults:
        click.echo(f"error: {fault}", err=True)
    if faults:
        raise _verdict(faults, len(receipts))


def _verified(receipt: Path, common: Evidence, journal: Path | None = None, model: Path | None = None) -> Sequence[str]:
    """What is told of a receipt that holds."""
    from dataclasses import replace

    from fedsus.envelope import MAX_BYTES
    from fedsus.journal import NAME
    from fedsus.reporting import receipt as receipts
    from fedsus.reporting.told import verified_lines
    from fedsus.reporting.verification import verify as check

    file = _file_of(receipt)
    raw = receipts.read_file(file, MAX_BYTES)
    lines = receipts.read_file(journal or file.parent / NAME, receipts.MOST_JOURNAL)
    evidence = replace(common, journal=lines, model=None if model is None else _hashes(model))
    try:
        return list(verified_lines(check(raw, evidence)))
    except ReceiptFault as fault:
        raise ReceiptFault(f"{file}: does not hold: {fault}") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: cannot be checked: {error}") from None


def _verdict(faults: Sequence[FedsusError], many: int) -> FedsusError:
    """What ends the command where some of several receipts do not hold."""
    unchecked = sum(isinstance(fault, UserError) for fault in faults)
    broken = len(faults) - unchecked
    words = [f"{broken} {'do' if broken > 1 else 'does'} not hold"] if broken else []
    words += [f"{unchecked} cannot be checked"] if unchecked else []
    return (ReceiptFault if broken else ConfigError)(f"of {many} receipts {' and '.join(words)}")


@receipt.command()
@click.argument("receipt", type=_file)
@click.option("--json", "as_json", is_flag=True, help="All that it says, for a program.")
def show(receipt: Path, as_json: bool) -> None:
    """Show what a receipt says. Nothing is checked: see `verify`.

    RECEIPT is its file, or the run's folder.
    """
    from fedsus import envelope
    from fedsus.errors import ProtocolViolation
    from fedsus.reporting import receipt as receipts
    from fedsus.reporting.told import lines

    file = _file_of(receipt)
    try:
        sealed = envelope.decode(receipts.read_file(file, envelope.MAX_BYTES))
        payload = sealed.statement()
    except ProtocolViolation as error:
        raise ConfigError(f"{file}: not a receipt: {error}") from None
    if as_json:
        click.echo(json.dumps(payload, indent=1))
        return
    for line in lines(sealed, payload):
        click.echo(line)


@receipt.command()
def schema() -> None:
    """Print the JSON schema of what a receipt says."""
    from fedsus.reporting.predicate import schema as made

    click.echo(json.dumps(made(), indent=1))


def _file_of(given: Path) -> Path:
    """The receipt itself, where its run's folder may be given."""
    from fedsus.journal import NAME
    from fedsus.reporting.receipt import FILE

    if not given.is_dir():
        return given
    path = given / FILE
    if path.exists():
        return path
    if not (given / NAME).exists():
        raise ConfigError(f"{given}: not a run's folder: it holds neither {FILE} nor {NAME}")
    raise ConfigError(f"{path}: no such file; once the run is over, its operator makes it: fedsus receipt make {given}")


def _common(roster: Path | None, policy: Path | None, operators: Sequence[str]) -> Evidence:
    """What all receipts are checked against."""
    from fedsus.reporting import receipt as receipts
    from fedsus.reporting.verification import Evidence
    from fedsus.secagg import roster as rosters

    signed = pins = None
    if roster is not None:
        from fedsus.errors import ProtocolViolation

        try:
            signed = rosters.decode(receipts.read_file(roster, rosters.MAX_BYTES))
        except ProtocolViolation as error:
            raise ConfigError(f"{roster}: not a roster: {error}") from None
    if policy is not None:
        from fedsus.config import load
        from fedsus.owner.policy import Policy

        receipts.read_file(policy, _MOST_POLICY)  # which `load` takes whatever it is
        given = load(policy, Policy).federation
        if given is None:
            raise ConfigError(f"{policy}: no [federation]: it pins no signers of rosters")
        pins = given.pins
    return Evidence(b"", signed, pins, frozenset(map(_operator, operators)) or None)


def _operator(given: str) -> str:
    """The public key (hex) of a file's name, or as it is."""
    from fedsus.owner.key_files import read_public

    if len(given) == 64 and set(given) <= set("0123456789abcdef"):
        return given
    if not Path(given).exists():
        raise ConfigError(f"--operator {given}: no such file, nor 64 hex digits")
    return read_public(Path(given), "operator")


def _hashes(model: Path) -> frozenset[str]:
    """SHA-256 of a file, and of the model's values where it is a model file."""
    import hashlib

    from fedsus.errors import CorruptionError
    from fedsus.model_file import read_model
    from fedsus.rounds.messages import model_hash

    if model.exists() and not model.is_file():
        raise ConfigError(f"{model}: not a file")
    try:
        with model.open("rb") as file:
            found = {hashlib.file_digest(file, "sha256").hexdigest()}
        found.add(model_hash(read_model(model)[0]))
    except OSError as error:
        raise ConfigError(f"{model}: cannot be read: {error.strerror}") from None
    except CorruptionError:
        pass  # a checkpoint, which has its own hash
    return frozenset(found)
