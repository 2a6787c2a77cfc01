"""Pictures that a command writes where ``--plot`` says: equal figures give equal files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsus.errors import ConfigError, EnvironmentFault

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure


def check(file: Path) -> None:
    """Refuse what cannot be drawn, before anything is computed.

    Raises:
        ConfigError: neither .svg nor .png.
        EnvironmentFault: matplotlib is not installed.
    """
    if file.suffix not in (".svg", ".png"):
        raise ConfigError(f"--plot {file}: must end in .svg or .png")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise EnvironmentFault("--plot needs matplotlib, which fedsus[plots] and fedsus-simulations bring") from None


def save(figure: Figure, file: Path) -> None:
    """Write a figure, .svg or .png.

    Raises:
        EnvironmentFault: the file cannot be written.
    """
    try:
        if file.suffix == ".svg":
            figure.savefig(file, metadata={"Date": None})
        else:
            figure.savefig(file, dpi=110, metadata={"Software": None})
    except OSError as error:
        raise EnvironmentFault(f"--plot {file}: cannot be written: {error.strerror or error}") from None
