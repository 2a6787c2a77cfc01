"""What a source over HTTP asks of who opens the connection: fedsus itself opens none."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedsus.errors import EnvironmentFault


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A GET.

    Attributes:
        headers: may hold a token, so that they do not print.
        timeout: seconds for each wait: to connect, to send, for the next bytes.
        largest: bytes of the body at most.
        ca: PEM file of the authorities that count; None, and the system's do.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    timeout: float
    largest: int
    ca: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """``content`` is the type that the answer gives itself; ``location`` where a redirect leads."""

    status: int
    content: str
    body: bytes = field(repr=False)
    location: str = ""


class Fetch(Protocol):
    """Asks once, follows no redirect, decodes nothing, and reads little more of the body than ``largest`` bytes."""

    def __call__(self, request: Request) -> Answer:
        """Raises:
        ConfigError: the authorities' file cannot be used.
        EnvironmentFault: not connected, or broken off; one line without the address's query and the headers.
        """
        ...


@contextlib.contextmanager
def closed_after(seconds: float, close: Callable[[], object]) -> Iterator[threading.Event]:
    """Calls ``close`` when the time is over; the event says that it was, whatever the connection says then."""
    late = threading.Event()

    def end() -> None:
        late.set()
        close()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


class Patience:
    """A `Fetch` that takes no longer than the request's timeout in all, whatever comes in between.

    A source that sends a byte now and then keeps each single wait short; so the asking is left to a thread of its own,
    which ends with its connection. Until it has, nothing more is asked.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._late: threading.Thread | None = None

    def __call__(self, request: Request) -> Answer:
        """See `Fetch`.

        Raises:
            EnvironmentFault: likewise, or the time is over.
        """
        if self._late is not None and self._late.is_alive():
            raise EnvironmentFault("the last answer has not ended yet")
        came: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()

        def ask() -> None:
            try:
                came.put(self._fetch(request))
            except BaseException as error:  # given to who asked
                came.put(error)

        thread = threading.Thread(target=ask, name="fedsus-carbon", daemon=True)
        thread.start()
        try:
            answer = came.get(timeout=request.timeout)
        except queue.Empty:
            self._late = thread
            raise EnvironmentFault(f"no whole answer within {request.timeout:g} s") from None
        if isinstance(answer, BaseException):
            raise answer
        return answer
