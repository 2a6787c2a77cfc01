"""The `fedsus` command: finds sub-commands by entry point, and turns errors into one line and an exit code.

A sub-command is a click command under the entry-point group ``fedsus.commands``. Only the one that was asked for
is imported, so that ``fedsus --help`` never waits for torch.

Exit codes: 0 done; 1 another error of fedsus; 2 the user can mend it; 70 a defect of fedsus; 130 interrupted;
141 the reader of standard output went away.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Final, NoReturn

import click

from fedsus import __version__
from fedsus.errors import FedsusError, UserError

GROUP: Final = "fedsus.commands"
FAILED, USER, DEFECT, INTERRUPTED, BROKEN_PIPE = 1, 2, 70, 130, 141

COMMANDS: Final = {
    "demo": ("fedsus-simulations", "Four hospitals train one model on this machine, in about two minutes."),
    "data": ("fedsus", "Fetch a data set, or say how."),
    "model": ("fedsus", "Make an initial model, export a run's model, apply it to a CSV."),
    "privacy": ("fedsus", "What a run spends, against whom, before it starts."),
    "report": ("fedsus", "What a run did and what it cost: pages for people, and a model card."),
    "receipt": ("fedsus", "The signed summary of a run: make, show and verify it."),
    "energy": ("fedsus", "What this machine can measure of its own energy."),
    "federation": ("fedsus", "Make and sign the roster: who belongs to a federation."),
    "client": ("fedsus-client", "Run and look after the device agent."),
    "server": ("fedsus-server", "Run and look after the aggregation server, and its runs."),
    "simulate": ("fedsus-simulations", "Run a federation in memory."),
    "bench": ("fedsus-simulations", "Compare fedsus with its peers, in one run."),
}
"""What the four distributions bring, known without importing them: name -> (distribution, help)."""

_ENVIRONMENT: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})


class Commands(click.Group):
    """A click group that reads its commands from entry points and imports only the one that runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the installed commands: those of fedsus in the order of a first visit, then others."""
        found = _installed()
        return [name for name in COMMANDS if name in found] + sorted(found.keys() - COMMANDS.keys())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now; None where no distribution brings it."""
        found = _installed().get(cmd_name)
        if found is None:
            return None
        command = found.load()
        if not isinstance(command, click.Command):
            raise TypeError(f"entry point '{found.value}' is not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with a better answer to a name that is not there."""
        name = args[0]
        if name not in _installed() and not name.startswith("-"):
            raise click.UsageError(_unknown(name, self.list_commands(ctx)), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in the help text, without importing any."""
        rows = [(name, _help(name)) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _installed() -> dict[str, EntryPoint]:
    """Entry points of the group by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def _help(name: str) -> str:
    """One line about a command that is installed."""
    if name in COMMANDS:
        return COMMANDS[name][1]
    distribution = _installed()[name].dist
    return f"From {distribution.name}." if distribution else ""


def _unknown(name: str, installed: Sequence[str]) -> str:
    """Why ``name`` is not there, and what to do."""
    if name in COMMANDS:
        distribution = COMMANDS[name][0]
        return f"'fedsus {name}' comes with {distribution}, which is not installed here: install its {__version__}"
    close = difflib.get_close_matches(name, [*COMMANDS, *installed], n=2)
    hint = f"did you mean {' or '.join(repr(match) for match in dict.fromkeys(close))}?" if close else ""
    return f"no command '{name}'" + (f"; {hint}" if hint else f"; there are: {', '.join(installed) or 'none'}")


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="fedsus", message="%(prog)s %(version)s")
def cli(debug: bool) -> None:
    """Federated learning that the data owner controls."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run ``fedsus`` with ``args`` (default: those of the process) and exit."""
    sys.exit(run(args))


def run(args: Sequence[str] | None = None) -> int:
    """As `main`; returns the exit code."""
    arguments = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in _leading_options(arguments)
    try:
        code = _invoke(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        message, code = explain(error)
        click.echo(f"error: {message}", err=True)
    return code


def explain(error: Exception) -> tuple[str, int]:
    """One line for a person, and the exit code, of anything that a command raised."""
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "fedsus"
        return f"{_line(error.format_message())} (see '{path} --help')", USER
    if isinstance(error, click.ClickException):
        return _line(error.format_message()), USER
    if isinstance(error, FedsusError):
        return _line(str(error)), USER if isinstance(error, UserError) else FAILED
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT:
        where = f": '{error.filename}'" if error.filename else ""
        return f"{error.strerror or type(error).__name__}{where}", USER
    return (
        f"{type(error).__name__}: {_line(str(error))}; this is a defect of fedsus: "
        "run again as 'fedsus --debug ...' and report what it shows"
    ), DEFECT


def _invoke(arguments: list[str]) -> int:
    """Parse and run; click's own ways to end become exit codes or exceptions."""
    try:
        with cli.make_context("fedsus", arguments) as ctx:
            cli.invoke(ctx)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return USER
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    return 0


def _leading_options(arguments: Sequence[str]) -> list[str]:
    """The options before the sub-command's name."""
    end = next((i for i, argument in enumerate(arguments) if not argument.startswith("-")), len(arguments))
    return list(arguments[:end])


def _line(text: str) -> str:
    """``text`` on one line; what a file says must not write into a terminal."""
    return "".join(one if one.isprintable() else "?" for one in " ".join(text.split()))


def _silence_stdout() -> None:
    """Send what is still buffered nowhere, so that the interpreter's last flush does not complain."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
