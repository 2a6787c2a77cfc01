"""The agent's log: to its terminal, and to a file that does not grow for ever."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from typing import Final

from fedsus_client.config import AgentConfig

_LOG_BYTES: Final = 10_000_000


def start_log(config: AgentConfig, debug: bool) -> None:
    """Begin to write what this process logs, as ``[agent] log_level`` says."""
    config.state.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept = RotatingFileHandler(config.log, maxBytes=_LOG_BYTES, backupCount=3, encoding="utf-8")
    handlers: list[logging.Handler] = [logging.StreamHandler(), kept]
    logging.basicConfig(
        level="DEBUG" if debug else config.agent.log_level.upper(),
        format="%(asctime)s %(levelname)s %(message)s",
        handlers=handlers,
        force=True,
    )
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
