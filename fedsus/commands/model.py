"""`fedsus model`: the initial model of a run, the model that a run released, and what a model says of a CSV."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fedsus.errors import ConfigError, CorruptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedsus.plan import Scalar
    from fedsus.tasks.task import Task
    from fedsus.types import Vector

_FILE: Final = click.Path(path_type=Path)
_TASK_HELP: Final = "Built-in name, or 'module:Class' of a task of your own.  [default: the name in the file]"


@click.group()
def model() -> None:
    """Make an initial model, export a run's model, apply it to a CSV."""


@model.command()
@click.argument("run_toml", type=_FILE)
@click.option("-o", "--output", type=_FILE, default=Path("model.safetensors"), show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--task", "reference", help=_TASK_HELP)
def init(run_toml: Path, output: Path, seed: int, reference: str | None) -> None:
    """Make the initial model of the [task] of RUN_TOML."""
    from fedsus.config import RunConfig, load
    from fedsus.learning.parameters import check_model, flatten
    from fedsus.model_file import metadata, write_model

    config = load(run_toml, RunConfig)
    made = _task(reference or config.task.name, config.task.settings).model(seed)
    check_model(made, config.task.name)
    vector = flatten(made)
    write_model(output, vector, metadata(config.task))
    click.echo(f"{output}: {len(vector)} parameters, task '{config.task.name}', seed {seed}")


@model.command()
@click.argument("run_dir", type=_FILE)
@click.option("-o", "--output", type=_FILE, help="[default: RUN_DIR/model.safetensors]")
def export(run_dir: Path, output: Path | None) -> None:
    """Write the newest released model of the run in RUN_DIR."""
    from fedsus.model_file import metadata, write_model
    from fedsus.reporting import released_model, summary
    from fedsus.rounds.planning.specification import specification_of

    vector = released_model(run_dir)
    opened = summary(run_dir).opened
    if opened is None:
        raise CorruptionError(f"{run_dir}: a released model, but no entry that opened the run")
    config = specification_of(opened).config
    target = output or run_dir / "model.safetensors"
    write_model(target, vector, metadata(config.task))
    click.echo(f"{target}: {len(vector)} parameters, task '{config.task.name}'")


@model.command()
@click.argument("data_file", type=_FILE)
@click.option("--model", "model_file", type=_FILE, required=True, help="A model file (init or export).")
@click.option("--task", "reference", help=_TASK_HELP)
@click.option(
    "--settings", multiple=True, metavar="NAME=VALUE", help="Instead of the settings in the file; repeatable."
)
@click.option("-o", "--output", type=_FILE, help="[default: standard output]")
def predict(
    data_file: Path, model_file: Path, reference: str | None, settings: tuple[str, ...], output: Path | None
) -> None:
    """Apply a model to the rows of DATA_FILE (CSV); writes the rows with a column 'score'. No labels are needed."""
    from fedsus.commands.scoring import score_rows
    from fedsus.model_file import read_model, task_of
    from fedsus.tasks.registry import BUILT_IN

    vector, described = read_model(model_file)
    part = task_of(described)
    if reference in BUILT_IN and reference != part.name:
        raise ConfigError(f"{model_file}: a model of task '{part.name}', not of '{reference}'")
    task = _task(reference or part.name, _settings(settings) if settings else part.settings)
    text = score_rows(task, _module(task, vector, model_file), data_file)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written: {error.strerror}") from None
    click.echo(f"{output}: {len(text.splitlines()) - 1} rows")


def _task(reference: str, settings: Mapping[str, Scalar]) -> Task:
    from fedsus.tasks.registry import BUILT_IN, build, resolve

    if reference not in BUILT_IN and ":" not in reference:
        raise ConfigError(f"task '{reference}' is not built in; say where its class is: --task module:Class")
    return build(resolve(reference), settings)


def _module(task: Task, vector: Vector, model_file: Path):  # type: ignore[no-untyped-def]
    from fedsus.learning.parameters import flatten, load_into

    module = task.model(0)
    expected = len(flatten(module))
    if expected != len(vector):
        raise ConfigError(
            f"{model_file}: {len(vector)} parameters, but the task with these settings has {expected}; other settings?"
        )
    load_into(module, vector)
    return module.eval()


def _settings(pairs: tuple[str, ...]) -> dict[str, Scalar]:
    """``name=value`` pairs; a value is a bool, a whole number, a number or a text, as TOML would read it."""
    found: dict[str, Scalar] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--settings {pair!r}: must be name=value, such as hidden=16")
        found[name] = _value(text)
    return found


def _value(text: str) -> Scalar:
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
