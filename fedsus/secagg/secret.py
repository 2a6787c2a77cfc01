"""Bytes that must not be shown, stored or copied by accident."""

from __future__ import annotations

from typing import NoReturn

from fedsus.errors import ProtocolViolation


class Secret:
    """Secret bytes that print as ``<secret>``, cannot be pickled or copied, and can be wiped.

    Comparison and hash are by identity: there is nothing here to time. ``wipe`` zeroes the one copy that this object
    owns. Python cannot promise that no other copy stays in memory: ``reveal`` returns immutable bytes, libraries and
    the allocator make copies of their own, and pages may be swapped out. Wiping shortens the time in which a secret
    can be found; it is no proof that it is gone.
    """

    __slots__ = ("_data",)

    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        self._data: bytearray | None = bytearray(memoryview(value))  # an int would otherwise become zero bytes

    def reveal(self) -> bytes:
        """The bytes. Pass them on at once rather than keep them in a variable.

        Raises:
            ProtocolViolation: it was wiped.
        """
        if self._data is None:
            raise ProtocolViolation("secret: it was wiped, and answers nothing more")
        return bytes(self._data)

    @property
    def size(self) -> int:
        """Its length in bytes; 0 once it was wiped."""
        return 0 if self._data is None else len(self._data)

    def wipe(self) -> None:
        """Overwrite the bytes with zeros and mark them gone; a second time does nothing."""
        if self._data is not None:
            self._data[:] = bytes(len(self._data))
            self._data = None

    def __repr__(self) -> str:
        return "<secret>"

    def __format__(self, spec: str) -> str:
        return repr(self)  # an unknown format is no reason for an error that quotes things

    def __getstate__(self) -> NoReturn:  # every protocol of pickle and both kinds of copy ask for it
        raise TypeError("a secret cannot be copied or pickled")
