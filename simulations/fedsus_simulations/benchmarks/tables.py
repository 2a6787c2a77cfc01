"""Results as Markdown, and in the documentation: tables between markers, the JSON beside them, a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from fedsus.errors import ConfigError
from fedsus_simulations.benchmarks.result import Result
from fedsus_simulations.page_markers import replaced

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fedsus_simulations.benchmarks.result import Comparison, Figure, Table

PICTURE: Final = "simulate"
_PANELS: Final = ("simulate-cnn", "simulate-mlp", "simulate-trivial")
_SEEN: Final = (
    f"![Seconds a round of a simulation: fedsus, a bare loop, pfl-research, Flower's engine](images/{PICTURE}.png)\n"
)
_REACHED: Final = {True: "yes", False: "**no**", None: ""}


def read(file: Path) -> Result:
    """A result that ``--into`` wrote.

    Raises:
        ConfigError: no such file, or not a result.
    """
    try:
        return Result.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "result"
        raise ConfigError(
            f"{file}: not a benchmark's result: {where}: {first['msg']}; make one: fedsus bench NAME --into FOLDER"
        ) from None


def markdown(result: Result) -> str:
    """All that a result holds, but for its name: comparisons, tables, notes."""
    rows: dict[str, Comparison] = {result.peer.what or "peer": result, **result.figures}
    sizes = "quick sizes" if result.quick else "full sizes"
    lines = [
        f"| {sizes}; min / median / max | fedsus | the other | other / fedsus | target | reached |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(_cells(label, row))} |" for label, row in rows.items()),
        "",
    ]
    for table in result.tables:
        lines += [*_table(table), ""]
    versions = ", ".join(f"{name} {number}" for name, number in result.versions.items())
    machine = result.machine
    where = f"{machine.cpu.strip()}, {machine.cores} cores, {machine.memory_gb:g} GB; {versions}"
    return "\n".join([*lines, *(f"- {note}" for note in (*result.notes, where)), ""])


def publish(results: Sequence[Result], docs: Path) -> list[Path]:
    """Write results into the documentation; the files.

    Args:
        docs: a Markdown file with a line ``<!-- NAME -->`` before and ``<!-- end of NAME -->`` after each table;
            the picture, of the simulations that are compared with peers, goes between those of ``simulate``.

    Raises:
        ConfigError: the file or its markers are not there; nothing was written.
    """
    from fedsus_simulations.benchmarks import speed_plot

    try:
        text = docs.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{docs}: cannot be read: {error.strerror}") from None
    for result in results:
        text = replaced(text, result.name, markdown(result), str(docs))
    pictured = any(result.name in _PANELS for result in results)
    if pictured:
        text = replaced(text, PICTURE, _SEEN, str(docs))
    folder = docs.with_suffix("")
    folder.mkdir(exist_ok=True)
    written = []
    for result in results:
        written.append(folder / f"{result.name}.json")
        _write(written[-1], f"{result.model_dump_json(indent=1)}\n")
    _write(docs, text)
    if not pictured:
        return [*written, docs]
    kept = [read(file) for name in _PANELS if (file := folder / f"{name}.json").exists()]
    return [*written, docs, *speed_plot.draw(kept, docs.parent / "images")]


def _cells(label: str, row: Comparison) -> tuple[str, ...]:
    return label, spread(row.ours), spread(row.peer), f"{row.ratio:.3g}", row.target, _REACHED[row.reached]


def spread(figure: Figure) -> str:
    """Three digits that count; one number where there was one measurement."""
    values = (figure.median,) if figure.n == 1 else (figure.min, figure.median, figure.max)
    return f"{' / '.join(map(_number, values))} {figure.unit} (n = {figure.n})"


def _table(table: Table) -> list[str]:
    return [
        f"{table.title[0].upper()}{table.title[1:]}:",
        "",
        f"| {' | '.join(table.columns)} |",
        f"|{'---|' * len(table.columns)}",
        *(f"| {' | '.join(cell if isinstance(cell, str) else _number(cell) for cell in row)} |" for row in table.rows),
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.3g}"


def _write(file: Path, text: str) -> None:
    """Whole or not at all."""
    part = file.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
