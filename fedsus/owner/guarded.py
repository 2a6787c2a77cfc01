"""A meter's phases that fail nothing that happens inside."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from fedsus.errors import EnvironmentFault, FedsusError

if TYPE_CHECKING:
    from fedsus.costs import Meter, Phase, Usage


class Guarded:
    """A phase of a meter; ``failed`` is told of what fails."""

    __slots__ = ("_context", "_failed", "_meter", "_name")

    def __init__(self, meter: Meter, name: Phase, failed: Callable[[Exception], None]) -> None:
        self._meter, self._name, self._failed = meter, name, failed
        self._context: AbstractContextManager[None] | None = None

    def __enter__(self) -> None:
        try:
            context = self._meter.phase(self._name)
            context.__enter__()
            self._context = context
        except Exception as error:
            self._failed(error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._context is None:
            return
        try:
            self._context.__exit__(kind, error, trace)
        except Exception as fault:
            if fault is error:
                return
            self._failed(fault)


def check(usage: Usage | None) -> None:
    """Refuse what no meter can have measured.

    Raises:
        EnvironmentFault: a number that none can be; written down, it would make the record unreadable.
    """
    if usage is not None and not usage.possible:
        raise EnvironmentFault("a figure that is NaN, negative or beyond any machine")


def line(error: Exception) -> str:
    """An error as one line."""
    text = str(error) if isinstance(error, FedsusError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())
