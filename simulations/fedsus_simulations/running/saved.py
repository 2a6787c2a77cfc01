"""What a run folder holds beside journal and blobs, so that a run is resumed from its folder alone.

``scenario.toml``: the scenario as run, options applied; it can be simulated again. ``origin.json``: the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus.config import load
from fedsus.errors import ConfigError, EnvironmentFault
from fedsus.journal.disk import fault
from fedsus_simulations.scenario.config import Scenario

if TYPE_CHECKING:
    from collections.abc import Callable

SCENARIO: Final = "scenario.toml"
ORIGIN: Final = "origin.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a simulation came from.

    Attributes:
        run: identifier.
        data: folder of the data sets, absolute.
        scenario: SHA-256 (hex) of ``scenario.toml``: a run does not go on with another one.
        task: the task's class as ``module:Class``; empty for a built-in one.
        model: file of the initial model, absolute; empty where it is made from the seed.
    """

    run: str
    data: str
    scenario: str = ""
    task: str = ""
    model: str = ""


def save(folder: Path, scenario: Scenario, origin: Origin) -> None:
    """Make a run's folder; complete once ``origin.json`` is there.

    Raises:
        ConfigError: there is a run already.
        EnvironmentFault: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / ORIGIN).exists():
            raise ConfigError(f"{folder}: there is a run already; resume it, or choose another folder")
        text = canonical(scenario).encode()
        whole(folder / SCENARIO, text)
        told = asdict(replace(origin, scenario=hashlib.sha256(text).hexdigest()))
        whole(folder / ORIGIN, (json.dumps(told, indent=1, sort_keys=True) + "\n").encode())
    except OSError as error:
        raise fault(folder, error) from error
    except EnvironmentFault:
        with suppress(OSError):
            (folder / SCENARIO).unlink(missing_ok=True)
            folder.rmdir()
        raise


def saved(folder: Path) -> tuple[Scenario, Origin]:
    """What `save` wrote.

    Raises:
        ConfigError: it is not the folder of a simulation, or the scenario was changed.
    """
    path = folder / ORIGIN
    try:
        origin = Origin(**json.loads(path.read_text(encoding="utf-8")))
        if not all(isinstance(value, str) for value in asdict(origin).values()):
            raise ValueError("not texts")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; is {folder} the folder of a simulation?") from None
    except (OSError, ValueError, TypeError):
        raise ConfigError(f"{path}: not as it was written; the run cannot be resumed") from None
    file = folder / SCENARIO
    scenario = load(file, Scenario)
    if hashlib.sha256(file.read_bytes()).hexdigest() != origin.scenario:
        raise ConfigError(f"{file}: changed since the run began; a new run of it: fedsus simulate {file}")
    return scenario, origin


def canonical(scenario: Scenario) -> str:
    """The scenario as TOML, with every setting that it has."""
    import tomli_w

    return tomli_w.dumps(scenario.model_dump(mode="json", exclude_none=True))


def whole(path: Path, data: bytes) -> None:
    """Write a file at once or not at all."""
    write(path, lambda temporary: _synced(temporary, data))


def write(path: Path, by: Callable[[Path], None]) -> None:
    """Let ``by`` write a temporary file, and put it in its place.

    Raises:
        EnvironmentFault: the disk is full or cannot be written; the old file, if any, is still there.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        by(temporary)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise fault(path, error) from error


def _synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
