"""The receipt that a run leaves beside its journal, signed with the operator's key, which lies in the server's folder.

Whoever sees the end of a run first writes it: the round loop, the server, or the command that follows or stops the run.
All would write the same bytes, and a receipt that is there is never replaced: devices may have countersigned it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus.errors import ConfigError, FedsusError
from fedsus.owner import key_files
from fedsus.reporting import receipt, summary
from fedsus_server.home import VARIABLE

if TYPE_CHECKING:
    from fedsus.secagg.keys import Identity

KEY: Final = "operator.key"
"""In the server's folder."""

log = logging.getLogger("fedsus.server")


def key_of(home: Path) -> Identity:
    """The operator's key of a server's folder; made where there is none.

    Raises:
        ConfigError: it is there and cannot be used.
        EnvironmentFault: the folder cannot be written.
    """
    path = home / KEY
    if not path.exists():
        try:
            return key_files.create(path, "operator")
        except ConfigError:  # another process was quicker, or its public half alone is there: loading says which
            pass
    return key_files.load(path, "operator")


def leave(folder: Path, home: Path) -> Path | None:
    """The receipt of the run in ``folder``, written where it is missing; None while the run is not over.

    Raises:
        FedsusError: it cannot be made or written, in one line.
    """
    if summary(folder).closed is None:
        return None
    path = folder / receipt.FILE
    if not path.exists():
        raw = receipt.make(folder, key_of(home))
        try:
            receipt.write(path, raw)
        except ConfigError:
            if not path.exists():
                raise
    return path


def leave_quietly(folder: Path, home: Path | None = None) -> None:
    """As `leave`, where nobody waits for it: what fails is a line in the log.

    Args:
        home: the server's folder; None for a round loop, which the server told where it is.
    """
    told = os.environ.get(VARIABLE) if home is None else home
    if told is None:
        return
    try:
        path = leave(folder, Path(told))
    except (FedsusError, OSError) as error:
        log.warning("no receipt: %s; make it: fedsus receipt make %s", error, folder)
        return
    if path is not None:
        log.info("receipt: %s", path)
