"""The interface between fedsus and what a user wants to learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

    from fedsus.tasks.checks import Finding

Batch: TypeAlias = tuple[Tensor, ...]
"""Tensors whose first dimension is the example: for most tasks ``(inputs, targets)``."""

Forward: TypeAlias = Callable[..., Tensor]
"""A model as a function: an ``nn.Module``, or a functional call with other parameters."""


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where an owner's data are, and the owner's own words about them (agent.toml, ``[data.<id>]``).

    Attributes:
        path: file or folder, absolute.
        options: further keys of the table, for the task to read (``holdout``, ``delimiter``, ...).
    """

    path: Path
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shard:
    """One client's data, in memory: a part to train on and a held-out part. Each has at least one tensor."""

    train: Batch
    held_out: Batch

    @property
    def size(self) -> int:
        """Number of training examples."""
        return len(self.train[0])


@runtime_checkable
class Task(Protocol):
    """What is learned. A class with ``Settings`` and these members, made as ``Task(settings)``.

    Attributes:
        Settings: pydantic model (frozen, ``extra="forbid"``) of what an operator may choose.
        bounds: metric name -> range of its value for one example; the order is the order of ``measure``.
    """

    Settings: ClassVar[type[BaseModel]]
    bounds: Mapping[str, tuple[float, float]]

    def model(self, seed: int) -> nn.Module:
        """A freshly initialised model; the same seed gives the same model."""
        ...

    def load(self, source: DataSource) -> Shard:
        """Read, check and split an owner's data.

        Raises:
            DataError: what is wrong, where, and what is expected.
        """
        ...

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        """Loss of each example, (B,)."""
        ...

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        """Metrics of each example, (B, len(bounds)), each within its bounds."""
        ...


@runtime_checkable
class Scoring(Protocol):
    """A binary task may also rank examples; its owner's evaluation then shows a ROC-AUC."""

    def scores(self, model: Forward, batch: Batch) -> tuple[Tensor, Tensor]:
        """Score and 0/1 label of each example, both (B,)."""
        ...


@runtime_checkable
class Grouped(Protocol):
    """A task whose data belong to many clients by themselves: hospitals, persons, roles. For simulations."""

    def groups(self, source: DataSource) -> Mapping[str, Shard]:
        """The shard of each of the data's own clients, by name, sorted; at least one.

        Names fit `fedsus.plan.Name`; both parts of a shard are that client's alone.

        Raises:
            DataError: what is wrong, where, and what is expected.
        """
        ...


@runtime_checkable
class Checked(Protocol):
    """A task that checks an owner's data before the first round."""

    def check(self, source: DataSource, batch_size: int) -> list[Finding]:
        """What the owner must know of the data; any refusal means that nothing is trained. Raises nothing."""
        ...


@runtime_checkable
class Predicting(Protocol):
    """A task whose model can be applied to rows that carry no label."""

    def inputs(self, source: DataSource) -> Batch:
        """The inputs of all rows, in file order.

        Raises:
            DataError: what is wrong, where, and what is expected.
        """
        ...

    def predict(self, model: Forward, inputs: Batch) -> Tensor:
        """Score of each row, (B,); for more than two classes the most probable class."""
        ...
