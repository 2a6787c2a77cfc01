"""The `fedsus` command: lazy sub-commands, one line an error, exit codes."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from types import ModuleType

import click
import pytest

from fedsus import __version__, cli, errors

Fail = Callable[[BaseException], None]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Installs a command ``fedsus data`` that raises what it is given, and ``fedsus zoo`` that nobody may import."""

    def install(error: BaseException) -> None:
        @click.command()
        @click.option("--rounds", type=int)
        def data(rounds: int) -> None:
            """Raise."""
            raise error

        module = ModuleType("fake_commands")
        module.data = data  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "fake_commands", module)
        points = {
            "data": EntryPoint("data", "fake_commands:data", cli.GROUP),
            "zoo": EntryPoint("zoo", "no_such_module:zoo", cli.GROUP),
        }
        monkeypatch.setattr(cli, "_installed", lambda: points)

    return install


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            errors.ConfigError("run.toml: 'plan.rounds' = 0:\n  at least 1"),
            2,
            "error: run.toml: 'plan.rounds' = 0: at least 1",
        ),
        (errors.EnvironmentFault("port 9092 is taken"), 2, "error: port 9092 is taken"),
        (errors.CorruptionError("journal.jsonl: entry 3"), 1, "error: journal.jsonl: entry 3"),
        (errors.CorruptionError("journal: \x1b[2J\u202e"), 1, "error: journal: ?[2J?"),
        (errors.RunFailed("no attempts left"), 1, "error: no attempts left"),
        (OSError(errno.ENOSPC, "No space left on device", "j"), 2, "error: No space left on device: 'j'"),
        (PermissionError(errno.EACCES, "Permission denied", "k"), 2, "error: Permission denied: 'k'"),
        (click.FileError("a.toml", "gone"), 2, "error: Could not open file 'a.toml': gone"),
        (click.Abort(), 130, "interrupted"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
        (click.exceptions.Exit(3), 3, ""),
    ],
)
def test_an_error_is_one_line_and_a_code(
    fail: Fail,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    monkeypatch.setattr(cli, "_silence_stdout", lambda: None)
    fail(error)
    assert cli.run(["data"]) == code
    assert capsys.readouterr().err == (line + "\n" if line else "")


def test_a_defect_says_so_in_one_line_without_a_traceback(fail: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    fail(ZeroDivisionError("division by zero"))
    assert cli.run(["data"]) == cli.DEFECT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ZeroDivisionError: division by zero; this is a defect")
    assert "fedsus --debug" in line


@pytest.mark.parametrize("error", [ZeroDivisionError("zero"), errors.ConfigError("zero")])
def test_only_debug_shows_the_traceback(fail: Fail, capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    fail(error)
    cli.run(["data"])
    assert "Traceback" not in capsys.readouterr().err
    cli.run(["--debug", "data"])
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data", "--rouns", "3"], ("--rouns", "--rounds", "fedsus data --help")),
        (["data", "--rounds", "many"], ("--rounds", "'many'", "integer")),
        (["--nonsense"], ("--nonsense", "fedsus --help")),
        (["dat"], ("no command 'dat'", "did you mean 'data'?")),
        (["qqqq"], ("no command 'qqqq'", "there are: data, zoo")),
        (["server", "start"], ("'fedsus server' comes with fedsus-server", "not installed", __version__)),
        (["sevrer"], ("did you mean 'server'?",)),
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(
    fail: Fail, capsys: pytest.CaptureFixture[str], arguments: list[str], words: tuple[str, ...]
) -> None:
    fail(AssertionError("not reached"))
    assert cli.run(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_help_lists_the_installed_commands_and_imports_none(fail: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    fail(AssertionError("not reached"))
    assert cli.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "data" in shown
    assert "zoo" in shown
    assert "server" not in shown


def test_no_arguments_shows_the_help(fail: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    fail(AssertionError("not reached"))
    assert cli.run([]) == 2
    assert "Usage: fedsus" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"fedsus {__version__}\n"


def test_main_exits_with_the_code(fail: Fail) -> None:
    fail(errors.UserError("mend me"))
    with pytest.raises(SystemExit) as caught:
        cli.main(["data"])
    assert caught.value.code == 2


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'flwr', 'opacus', 'numpy', 'scipy', 'pydantic', 'cryptography', 'grpc', 'rich'}"
    program = f"import sys, fedsus.cli as c; c.run(['--help']); sys.exit(','.join({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert "Usage: fedsus" in done.stdout


def test_a_reader_that_goes_away_is_quiet() -> None:
    program = "import os, fedsus.cli as c; r, w = os.pipe(); os.close(r); os.dup2(w, 1); c.main(['--version'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (cli.BROKEN_PIPE, "")
