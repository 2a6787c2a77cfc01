"""Options that most commands of ``fedsus client`` have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def agent_option(command: F) -> F:
    """``--agent``."""
    return click.option(
        "--agent",
        "agent_file",
        type=click.Path(path_type=Path),
        default=Path("agent.toml"),
        show_default=True,
        help="The device's configuration.",
    )(command)


def policy_option(command: F) -> F:
    """``--policy``."""
    return click.option(
        "--policy",
        "policy_file",
        type=click.Path(path_type=Path),
        default=None,
        help="What the owner allows.  [default: policy.toml beside the agent's file]",
    )(command)


def beside(agent_file: Path, policy_file: Path | None) -> Path:
    """The policy's file."""
    return policy_file or agent_file.with_name("policy.toml")
