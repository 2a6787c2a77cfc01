"""Questions before what cannot be taken back."""

from __future__ import annotations

import sys

import click

from fedsus.errors import ConfigError


def agreed(question: str, otherwise: str) -> bool:
    """Whether somebody says yes to ``question``.

    Args:
        otherwise: what then did not happen, "nothing was granted".

    Raises:
        ConfigError: nobody can answer.
        Abort: they break off.
    """
    try:
        return click.confirm(question)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        click.echo()
        raise ConfigError(f"{otherwise}: nobody answers here; --yes goes on without asking") from None
