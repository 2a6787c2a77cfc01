"""`fedsus simulate` as a user calls it, and the folder that it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from fedsus import cli


def told(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = cli.run(["simulate", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def only(folder: Path) -> Path:
    """The one thing in a folder."""
    (found,) = folder.iterdir()
    return found
