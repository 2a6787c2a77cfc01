"""What a source over HTTP asks of who opens the connection: fedsus itself opens none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A GET.

    Attributes:
        headers: may hold a token, so that they do not print.
        timeout: seconds for each wait: to connect, to send, for the next bytes.
        largest: bytes of the body at most.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    timeout: float
    largest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """``content`` is the type that the answer gives itself; ``location`` where a redirect leads."""

    status: int
    content: str
    body: bytes = field(repr=False)
    location: str = ""


class Fetch(Protocol):
    """Asks once, follows no redirect, and reads no more of the body than ``largest`` + 1 bytes."""

    def __call__(self, request: Request) -> Answer:
        """Raises:
        EnvironmentFault: not connected, or broken off; one line without the query and the headers.
        """
        ...
