"""Runs from the operator's side: make, find, stop."""

from __future__ import annotations

import difflib
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus.config import RunConfig, load, naming
from fedsus.errors import ConfigError, EnvironmentFault, ProtocolViolation
from fedsus.journal import NAME, Journal, RunClosed
from fedsus.model_file import read_model, task_of
from fedsus.reporting import released_model, summary
from fedsus.rounds.messages import model_hash
from fedsus.rounds.planning.demands import check_deployed
from fedsus.secagg import roster as rosters
from fedsus_server import looping, metering, processes
from fedsus_server.home import ActiveRun, Home

if TYPE_CHECKING:
    from fedsus.journal import RunState
    from fedsus.types import Clock, Vector

_STOP_SECONDS: Final = 10.0


def prepare(path: Path, clock: Clock) -> tuple[RunConfig, Vector]:
    """A run's configuration and initial model, checked against each other.

    Raises:
        ConfigError: a field of ``run.toml``, a missing file, or a model of another task or other settings; or every
            device would refuse the run.
        CorruptionError: the model file is broken.
    """
    config = load(path, RunConfig)
    with naming(path):
        check_deployed(config)
    file = path.parent / config.server.model
    if not file.exists():
        raise ConfigError(f"{file}: no initial model; make one: fedsus model init {path} -o {file}")
    model, described = read_model(file)
    made = task_of(described)
    if made != config.task:
        what = f"task '{made.name}'" if made.name != config.task.name else "other settings"
        raise ConfigError(
            f"{file}: a model of {what} than [task] of {path}; make one: fedsus model init {path} -o {file}"
        )
    if config.server.evaluate is not None:
        data = (path.parent / config.server.evaluate).resolve()
        if not data.exists():
            raise ConfigError(f"{path}: 'server.evaluate' = '{config.server.evaluate}': no such file")
        config = config.model_copy(update={"server": config.server.model_copy(update={"evaluate": str(data)})})
    config = config.model_copy(update={"carbon": metering.located(config.carbon, path.parent.resolve())})
    metering.check(config, path, clock)
    return config, model


def roster_of(path: Path, config: RunConfig) -> rosters.Roster | None:
    """The roster that ``run.toml`` names, for a secure sum; its signatures are looked at, so that no device is asked
    in vain. What counts are the signers that each device pins.

    Raises:
        ConfigError: missing, not a roster, or without the signatures that it asks for itself.
    """
    if config.plan.exchange != "secure_sum":
        return None
    file = path.parent / config.server.roster
    if not file.exists():
        raise ConfigError(
            f"{file}: no roster; secure_sum needs the one that the federation's owners signed: fedsus federation new "
            '(or set plan.exchange = "clear_sum", which shows this server each update)'
        )
    try:
        with file.open("rb") as opened:
            signed = rosters.decode(opened.read(rosters.MAX_BYTES + 1))
    except OSError as error:
        raise EnvironmentFault(f"{file}: cannot be read: {error.strerror}") from None
    except ProtocolViolation as error:
        raise ConfigError(f"{file}: not a roster: {error}") from None
    have, needed = len(signed.valid_signatures()), signed.roster.needed
    if have < needed:
        raise ConfigError(
            f"{file}: {have} of {needed} signatures; the owners sign with: fedsus federation sign {file} --key FILE"
        )
    return signed.roster


def open_new(path: Path, runs: Path, clock: Clock, ca: str | None = None) -> ActiveRun:
    """Open the journal of a new run of ``run.toml`` below ``runs``.

    Args:
        ca: file of the certificate authority that devices pin for this server; None where there is none.

    Raises:
        ConfigError, CorruptionError: as `prepare`; or the run cannot work as asked.
        EnvironmentFault: the folder cannot be written.
    """
    from fedsus.rounds.planning.specification import open_run
    from fedsus.secagg.session import NO_SERVER
    from fedsus_server import certificates

    config, model = prepare(path, clock)
    roster = roster_of(path, config)
    stamp = datetime.fromtimestamp(clock(), UTC).strftime("%Y%m%dT%H%M%SZ")
    run = f"{config.name[:36]}-{stamp}-{secrets.token_hex(3)}"
    folder = (runs / run).resolve()
    server = NO_SERVER if ca is None else certificates.authority_hash(Path(ca))
    with naming(path):
        open_run(folder, run, config, model, clock, roster, server)
    return ActiveRun(run, str(folder))


def exchange_line(folder: Path) -> str:
    """What this server will see of the run in ``folder``: one line for the operator."""
    from fedsus.rounds.planning.specification import specification_of
    from fedsus.rounds.planning.withstood import numbers

    opened = summary(folder).opened
    if opened is None:
        raise EnvironmentFault(f"{folder}: the journal holds no run")
    specification = specification_of(opened)
    asked, roster = specification.config.plan, specification.roster
    if roster is None:
        return "exchange: clear sum: this server sees each client's encoded update; every owner must have granted it"
    found = numbers(asked, roster)
    return (
        f"exchange: secure sum over {asked.cohort.size} of the {len(roster.members)} members of roster "
        f"{roster.number} of '{roster.federation}': {found.colluders} may work with a lying "
        f"server, {found.dropouts} may fall out"
    )


def caution_lines(folder: Path) -> list[str]:
    """What the operator should know of the privacy of the run in ``folder``; nothing of a run without."""
    from fedsus.rounds.planning.cautions import cautions
    from fedsus.rounds.planning.specification import specification_of

    opened = summary(folder).opened
    if opened is None:
        raise EnvironmentFault(f"{folder}: the journal holds no run")
    specification = specification_of(opened)
    if specification.privacy.unit == "none":
        return []
    members = None if specification.roster is None else len(specification.roster.members)
    return [f"! {text}" for text in cautions(specification, members)]


def cost_lines(folder: Path) -> list[str]:
    """What the operator should know of the budget and the schedule of the run in ``folder``."""
    from fedsus.rounds.planning.specification import specification_of

    opened = summary(folder).opened
    return [] if opened is None else metering.lines(specification_of(opened).config)


def find(home: Home, runs: Path, name: str) -> Path:
    """The folder of a run, by its identifier, the beginning of it, or its path.

    Raises:
        ConfigError: none, or more than one.
    """
    for folder in (runs / name, Path(name)):
        if (folder / NAME).is_file():
            return folder.resolve()
    known = {Path(run.folder).name: Path(run.folder) for run in home.active()}
    known |= {path.parent.name: path.parent.resolve() for path in runs.glob(f"*/{NAME}")}
    matches = [folder for run, folder in sorted(known.items()) if run.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        found = ", ".join(folder.name for folder in matches[:5])
        raise ConfigError(f"'{name}' fits {len(matches)} runs, write more of the name: {found}")
    close = difflib.get_close_matches(name, known, n=1)
    others = "see: fedsus server runs" if known else f"none is in {runs}; name another folder with --runs"
    raise ConfigError(f"no run '{name}'; " + (f"did you mean '{close[0]}'?" if close else others))


def check_open(folder: Path) -> None:
    """Raises:
    ConfigError: the run is over.
    """
    closed = summary(folder).closed
    if closed is not None:
        why = "" if closed.because is None else f" ({closed.because})"
        model = "" if closed.model is None else f", from its model if you like: fedsus model export {folder} -o FILE"
        raise ConfigError(
            f"run {folder.name} is {closed.reason}{why}; start a new one: fedsus server run run.toml{model}"
        )


def stop(home: Home, folder: Path, clock: Clock) -> bool:
    """End a run's round loop and close its journal as stopped; False if it was closed before.

    Works without a server too. A resubmission under way ends at the closed journal.

    Raises:
        EnvironmentFault: the journal is held by a process that does not end.
    """
    noted = next((run for run in home.active() if Path(run.folder) == folder), None)
    if noted is not None:
        home.forget(noted.run)
        _stop_flower(home, noted)
    limit = time.monotonic() + _STOP_SECONDS
    while True:
        loop = looping.of(folder)
        if loop is not None:
            processes.end(loop.pid, loop.start, patience=3.0)
        try:
            with Journal.open(folder, clock) as journal:
                if journal.state.closed is not None:
                    return False
                journal.append(_closing(folder, journal.state))
                return True
        except EnvironmentFault:
            if time.monotonic() > limit:
                raise
            time.sleep(0.1)


def _closing(folder: Path, state: RunState) -> RunClosed:
    """The last entry of a run that its operator ends."""
    because = "the operator stopped it"
    if state.released is None:
        return RunClosed(reason="stopped", model=None, because=because)
    found = model_hash(released_model(folder))
    return RunClosed(reason="stopped", model=state.checkpoint, model_hash=found, because=because)


def _stop_flower(home: Home, run: ActiveRun) -> None:
    """Tell Flower, where a server runs, so that it starts no round loop of a submission under way."""
    from fedsus.errors import FedsusError
    from fedsus_server.flower import control

    running = home.running()
    if running is None or run.flower_run is None:
        return
    try:
        with control.connect(running.loopback_port) as connected:
            connected.stop(run.flower_run)
    except FedsusError:
        return  # what counts is the journal
