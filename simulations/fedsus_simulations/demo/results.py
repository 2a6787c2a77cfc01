"""What the demo found: one record, shown as a table and a picture, and written as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus.privacy.stated import shown
from fedsus_simulations.demo.study import ALONE, CLEAR, FEDERATED, HOSPITALS, POOLED, SECURE, Judged

if TYPE_CHECKING:
    from rich.table import Table

    from fedsus_simulations.demo.spread import Repetitions, Spread

FILE: Final = "demo.json"


@dataclass(frozen=True, slots=True)
class Row:
    """One answer at one hospital.

    Attributes:
        judged: of the deployed run; of the first seed where nothing is deployed.
        seeds: the same over the seeds.
        epsilon: what the hospital's own ledger says the run spent; None where nothing was released under DP.
    """

    hospital: str
    judged: Judged
    seeds: list[Judged]
    epsilon: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: a row for each hospital, and what its run cost.

    Attributes:
        moved: bytes between server and devices; None where nothing is deployed.
        seconds: of the deployed run, from opening to close.
        run: folder of the deployed run.
        exchange: how updates were summed; None where nothing is.
        round_seconds, round_bytes: median of the rounds after the first, in which each agent loads its data.
    """

    name: str
    title: str
    rows: list[Row]
    moved: int | None
    seconds: float | None
    run: str | None
    exchange: str | None = None
    round_seconds: float | None = None
    round_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that the closing tables show.

    Attributes:
        data_bytes: size of all hospitals' files.
        same_models: for how many seeds, of ``seeds``, secure and clear sums gave the same model, bit for bit.
    """

    rounds: int
    data_bytes: int
    answers: list[Answer]
    same_models: int
    seeds: int

    def answer(self, name: str) -> Answer:
        """One answer."""
        return next(answer for answer in self.answers if answer.name == name)

    def write(self, folder: Path) -> None:
        """Write demo.json."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True).replace("Infinity", '"infinite"')
        (folder / FILE).write_text(text, encoding="utf-8")


def undeployed(name: str, title: str, spread: Spread) -> Answer:
    """An answer without a federation: the first seed stands for the deployed run."""
    rows = [Row(hospital, spread[name][hospital][0], spread[name][hospital], None) for hospital in HOSPITALS]
    return Answer(name, title, rows, None, None, None)


def ordered(deployed: dict[str, Answer], repetitions: Repetitions) -> list[Answer]:
    """All answers in the order of the table."""
    spread = repetitions.spread
    federated = [
        replace(run, rows=[replace(row, seeds=spread[run.name][row.hospital]) for row in run.rows])
        for run in (deployed[answer.name] for answer in (SECURE, CLEAR, *FEDERATED[1:3]))
    ]
    return [
        undeployed(ALONE, "each hospital alone", spread),
        *federated,
        undeployed(POOLED, "data brought together", spread),
    ]


def table(results: Results) -> Table:
    """The closing table: what each answer is worth at each hospital, and what it cost. Fits 80 columns."""
    from rich import box
    from rich.table import Table

    shown = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title=f"Heart disease, four hospitals, {results.rounds} rounds, held-out patients",
        caption=(
            "AUC with 95% interval (DeLong), '-' below 5 patients of a class; 'seeds': smallest and largest of 5.\n"
            "epsilon: each hospital's own ledger, delta 1e-5. 'moved': bytes between server and hospitals; "
            f"the data are {_size(results.data_bytes)}."
        ),
    )
    shown.add_column("answer, hospital", no_wrap=True)
    for name in ("AUC", "seeds", "accuracy", "seeds", "epsilon"):
        shown.add_column(name, justify="right", no_wrap=True)
    for answer in results.answers:
        shown.add_row(answer.title, *_cost(answer, results), style="bold")
        for number, row in enumerate(answer.rows):
            shown.add_row(
                f"  {HOSPITALS[row.hospital]}",
                _auc(row.judged),
                _range([judged.auc for judged in row.seeds]),
                f"{row.judged.accuracy:.2f}",
                _range([judged.accuracy for judged in row.seeds]),
                _epsilon(row.epsilon),
                end_section=number == len(answer.rows) - 1,
            )
    return shown


def comparison(results: Results) -> Table:
    """What secure aggregation costs: the same training with it and without. Fits 80 columns."""
    from rich import box
    from rich.table import Table

    clear, secure = results.answer(CLEAR.name), results.answer(SECURE.name)
    shown = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        title="Secure aggregation: the same training without it and with it",
        caption=(
            "AUC and accuracy: means over the hospitals; in brackets over the seeds.\n"
            f"From one seed both give the same model, bit for bit: {results.same_models} of {results.seeds} seeds.\n"
            "The deployed two differ, since each hospital shuffles its patients.\n"
            "A round: the median of those after the first, nothing running beside."
        ),
    )
    shown.add_column("", no_wrap=True)
    for title in ("sums in clear", "secure aggregation", "difference"):
        shown.add_column(title, justify="right", no_wrap=True)
    for measure in ("AUC", "accuracy"):
        means = [_mean([getattr(row.judged, measure.lower()) for row in one.rows]) for one in (clear, secure)]
        worth = [_worth(one, measure.lower()) for one in (clear, secure)]
        shown.add_row(measure, *worth, _more(means[0], means[1], "{:+.2f}"))
    seconds, sizes = (clear.round_seconds, secure.round_seconds), (_kilobytes(clear), _kilobytes(secure))
    shown.add_row("seconds a round", *(_number(value, "{:.2f}") for value in seconds), _more(*seconds, "{:+.2f} s"))
    shown.add_row("kB a round", *(_number(value, "{:.1f}") for value in sizes), _more(*sizes, "{:+.1f} kB"))
    shown.add_row("the server sees", "each hospital's update", "their sum alone", "")
    return shown


def _worth(answer: Answer, measure: str) -> str:
    """Mean over hospitals of the deployed run, and its smallest and largest over the seeds."""
    seeds = [_mean([getattr(row.seeds[number], measure) for row in answer.rows]) for number in range(_repeated(answer))]
    mean = _mean([getattr(row.judged, measure) for row in answer.rows])
    return f"{_number(mean, '{:.2f}')} ({_range(seeds)})"


def _kilobytes(answer: Answer) -> float | None:
    return None if answer.round_bytes is None else answer.round_bytes / 1000


def _repeated(answer: Answer) -> int:
    return min(len(row.seeds) for row in answer.rows)


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _more(less: float | None, more: float | None, form: str) -> str:
    if less is None or more is None:
        return ""
    return form.format(round(more - less, 2) + 0.0)  # no negative zero


def _cost(answer: Answer, results: Results) -> tuple[str, str]:
    """Bytes moved, and seconds, of an answer."""
    if answer.moved is not None:
        return f"{_size(answer.moved)} moved", f"{answer.seconds:.0f} s"
    moved = results.data_bytes if answer.name == POOLED else 0
    return f"{_size(moved)} moved" if moved else "nothing moved", ""


def _auc(judged: Judged) -> str:
    if judged.auc is None:
        return "-"
    return f"{judged.auc:.2f} ({_short(judged.low)}-{_short(judged.high)})"


def _range(values: list[float | None]) -> str:
    there = [value for value in values if value is not None]
    return f"{_short(min(there))}-{_short(max(there))}" if there else "-"


def _short(value: float | None) -> str:
    """Two digits without the leading zero: 0.87 as .87."""
    return "-" if value is None else f"{value:.2f}".removeprefix("0")


def _epsilon(value: float | None) -> str:
    if value is None:
        return ""
    return shown(value)


def _size(count: int) -> str:
    return f"{count / 1000:.0f} kB" if count < 1_000_000 else f"{count / 1e6:.1f} MB"
