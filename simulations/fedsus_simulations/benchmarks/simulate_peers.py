"""Peers of the simulators' benchmarks: where they are installed, and their rounds, each run in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedsus.errors import EnvironmentFault, RunFailed
from fedsus_simulations.benchmarks import processes
from fedsus_simulations.benchmarks.processes import Children, say
from fedsus_simulations.benchmarks.result import Number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedsus_simulations.benchmarks.peer_work import Work

PFL_VERSION: Final = "0.6.0"
PFL: Final = f"pfl-research {PFL_VERSION}"
NO_FLOWER: Final = (
    "Flower's simulation engine was left out: it is in no environment here; install it with 'make peers', "
    "or name one that has flwr[simulation] and torch with --peer-venv DIR"
)
_LOOK: Final = (
    "import json, importlib.metadata as m\n"
    "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions() if d.metadata['Name']}))"
)
_RAY: Final = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_MODULES: Final = ("__init__.py", "peer_work.py", "peer_loop.py", "peer_pfl.py", "peer_flower.py")
_SECONDS: Final = 900.0


@dataclass(frozen=True, slots=True)
class Places:
    """What the command line says of the machine.

    Attributes:
        peer_venvs: virtual environments that have a peer, or in which one is to be built.
        data: folder of Fashion-MNIST's files.
    """

    peer_venvs: tuple[Path, ...] = ()
    data: Path | None = None


class Spent(BaseModel):
    """What one side printed: see `peer_work.Rounds`.

    Attributes:
        seconds: of each round, the first too.
        score: loss and accuracy on the test part, after all rounds.
        peak: operations a second of a matrix product.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: Annotated[list[Annotated[Number, Field(gt=0)]], Field(min_length=2)]
    parameters: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    score: tuple[Number, Number] | None
    versions: dict[str, str] = Field(default={})
    peak: Annotated[Number, Field(gt=0)] | None = None


T = TypeVar("T", bound=Spent)


def parse(what: str, output: str, work: Work, parameters: int, kind: type[T]) -> T:
    """What a side printed, among whatever its libraries did.

    Raises:
        RunFailed: it printed nothing of it, or did other work than was asked.
    """
    lines = [line for line in output.splitlines() if line.startswith('{"seconds"')]
    if not lines:
        raise RunFailed(f"benchmark: {what} printed no rounds: {output.strip()[-300:] or '(silent)'}")
    try:
        spent = kind.model_validate_json(lines[-1])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RunFailed(f"benchmark: {what}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    asked = (work.rounds, work.rounds * work.steps, parameters)
    if (len(spent.seconds), spent.steps, spent.parameters) != asked:
        raise RunFailed(
            f"benchmark: {what} made {len(spent.seconds)} rounds of {spent.steps} steps in all with {spent.parameters} "
            f"parameters; {asked[0]}, {asked[1]} and {asked[2]} were asked"
        )
    return spent


def rounds(what: str, python: Path, module: str, folder: Path, work: Work, parameters: int, *arguments: str) -> Spent:
    """Run an adapter to its end by another environment's Python; nothing of it runs on afterwards."""
    code = hand_over(folder / "code")
    environment = processes.environment(PYTHONPATH=str(code), OMP_NUM_THREADS=str(work.threads), **_RAY)
    command = [str(python), "-m", f"{__package__}.{module}", json.dumps(asdict(work)), *arguments]
    return parse(what, run(what, command, folder, environment), work, parameters, Spent)


def run(what: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    """Run a process to its end; what it printed.

    Raises:
        RunFailed: it failed, or took too long; with its last words.
    """
    start = time.monotonic()
    with Children(folder, environment) as children:
        child = children.start(what.replace(" ", "-"), command)
        try:
            code = child.process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"benchmark: {what} took more than {_SECONDS:g} s: {child.last()}") from None
        if code:
            raise RunFailed(f"benchmark: {what} failed: {child.last()}")
        say(f"{what}: {time.monotonic() - start:.1f} s")
        return child.log.read_text(encoding="utf-8", errors="replace")


def hand_over(folder: Path) -> Path:
    """The adapters as a package of their own in ``folder``: a peer's environment has no fedsus and is given none."""
    package = folder.joinpath(*__package__.split("."))
    if not package.exists():
        package.mkdir(parents=True)
        (package.parent / "__init__.py").touch()
        for name in _MODULES:
            shutil.copyfile(Path(__file__).with_name(name), package / name)
    return folder


def installed(environment: Path) -> Mapping[str, str]:
    """Package -> version in a virtual environment; nothing where there is none."""
    python = python_of(environment)
    if not python.exists():
        return {}
    done = subprocess.run(
        [str(python), "-I", "-c", _LOOK], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    try:
        found: Any = json.loads(done.stdout)
    except ValueError:
        return {}
    return {str(name): str(number) for name, number in found.items()}


def python_of(environment: Path) -> Path:
    """Its interpreter."""
    return environment / "bin" / "python"


def flower(places: Places) -> Path | None:
    """The Python of an environment with Flower's simulation engine; None where there is none."""
    for environment in (*places.peer_venvs, Path(sys.prefix)):
        if {"flwr", "ray", "torch"} <= installed(environment).keys():
            return python_of(environment.resolve())
    return None


def pfl(places: Places) -> Path:
    """The Python of an environment with pfl-research: one that was named, this one, or one that is built now.

    Raises:
        EnvironmentFault: a named folder holds something else, or it cannot be built.
    """
    for environment in (*places.peer_venvs, Path(sys.prefix)):
        if _has_pfl(installed(environment)):
            return python_of(environment.resolve())
    for environment in places.peer_venvs:
        if not environment.exists() or (environment.is_dir() and not any(environment.iterdir())):
            return build(environment.resolve())
        if "flwr" not in installed(environment):
            raise EnvironmentFault(
                f"--peer-venv {environment}: has neither pfl {PFL_VERSION} nor flwr; name an environment that has one, "
                "a folder that is not there yet, in which it is built, or none: it is then built in the user's cache"
            )
    own = cache()
    return python_of(own) if _has_pfl(installed(own)) else build(own)


def cache() -> Path:
    """Where the benchmark keeps an environment of its own."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "fedsus" / "peers" / f"pfl-{PFL_VERSION}-torch-{_torch()}-python-{platform.python_version()}"


def build(environment: Path) -> Path:
    """Make a virtual environment with pfl-research and this torch; its Python. Minutes: torch is large.

    Raises:
        EnvironmentFault: it cannot be made; the reason and the way out in one line.
    """
    packages = [f"torch=={_torch()}", f"pfl[pytorch]=={PFL_VERSION}"]
    say(f"building {environment} with {' and '.join(packages)}: some minutes, once")
    python = python_of(environment)
    try:
        environment.parent.mkdir(parents=True, exist_ok=True)
        for command in (
            [sys.executable, "-m", "venv", str(environment)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
            if done.returncode:
                raise OSError((done.stderr or done.stdout).strip().rpartition("\n")[2])
    except BaseException as error:
        shutil.rmtree(environment, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise EnvironmentFault(
            f"{environment}: an environment with {PFL} cannot be built: {error}; make one elsewhere "
            f"(pip install {packages[0]} '{packages[1]}') and name it: --peer-venv DIR"
        ) from error
    return python


def _has_pfl(found: Mapping[str, str]) -> bool:
    return found.get("pfl") == PFL_VERSION and "torch" in found


def _torch() -> str:
    """The version of this environment's torch, without the label of its build."""
    return version("torch").partition("+")[0]
