"""``fedsus receipt``: make, show and verify the signed summary of a run."""

from __future__ import annotations

import click


@click.group()
def receipt() -> None:
    """The signed summary of a run: make, show and verify it."""
