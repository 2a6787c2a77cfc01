"""Numbers out of a pickled ``.npy`` file, without running what the file says.

A pickle is a program: it may name any function and have it called, and numpy's own reconstruction trusts the flags that
a pickled dtype brings. So neither `pickle.load` nor ``numpy.load(allow_pickle=True)`` sees such a file here. The
opcodes are read first, and any that plain lists, dictionaries, texts and arrays do not need refuses the file; the four
names that arrays need stand for inert objects of ours, every other name refuses; numbers are then taken from the raw
bytes, once their length is that of the shape.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.lib import format as npy

from fedsus.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

MAX_BYTES: Final = 64 * 1024 * 1024
_MOST_MEMOS: Final = 100_000
"""A memo's index sizes a table in memory; a file could ask for 2**32 places."""

_OPCODES: Final = frozenset(
    {
        *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "NONE", "NEWTRUE", "NEWFALSE"),
        *("BININT", "BININT1", "BININT2", "BINUNICODE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    }
)


class _Described:
    """What a pickle says of an array or a dtype: its arguments and its state, nothing made of them."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Array(_Described):
    """State: (version, shape, `_Type`, column-major, bytes or a list of objects)."""


class _Type(_Described):
    """Arguments: (code, ...); state: (version, byte order, ...)."""


class _Encode:
    """How protocol 2 writes bytes. Without a dictionary, so that no pickle can change it."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise ValueError("bytes in an encoding other than latin1")
        return text.encode("latin-1")


_STAND_INS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "numpy.core.multiarray._reconstruct": _Array,
        "numpy._core.multiarray._reconstruct": _Array,
        "numpy.ndarray": "numpy.ndarray",
        "numpy.dtype": _Type,
        "_codecs.encode": _Encode(),
    }
)


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _STAND_INS.get(f"{module}.{name}")
        if found is None:
            raise ValueError(f"it names {module}.{name}, which is no data")
        return found


def read_pickled(path: Path) -> dict[str, Any]:
    """The dictionary that a ``.npy`` file of one pickled object holds; its arrays are for `numbers`.

    Raises:
        DataError: not such a file, larger than 64 MiB, or a pickle that needs more than data.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise DataError(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        found = _inside(raw)
    except Exception as error:  # a hostile pickle can make the reader raise almost anything
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DataError(f"{path}: not a pickled .npy file of plain data: {reason[:120]}") from None
    return found


def _inside(raw: bytes) -> dict[str, Any]:
    file = io.BytesIO(raw)
    if npy.read_magic(file) != (1, 0):
        raise ValueError("another version of .npy")
    shape, _, kind = npy.read_array_header_1_0(file)
    if shape != () or kind != np.dtype(object):
        raise ValueError("it does not hold one object")
    start = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name not in _OPCODES:
            raise ValueError(f"the opcode {opcode.name} is not needed for data")
        if opcode.name == "LONG_BINPUT" and int(argument or 0) >= _MOST_MEMOS:
            raise ValueError("too many memos")
    file.seek(start)
    root = _Reader(file).load()
    content = root.state[4][0] if isinstance(root, _Array) and isinstance(root.state, tuple) else None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError("the object is no dictionary")
    return content


def numbers(value: Any, dimensions: int) -> NDArray[np.float64]:
    """An array that a pickle describes, as float64: little-endian float64 or int64.

    Raises:
        ValueError: not such an array, other dimensions, a length that is not the shape's, or not finite.
    """
    state = value.state if isinstance(value, _Array) else None
    if not isinstance(state, tuple) or len(state) != 5:
        raise ValueError("not an array")
    _, shape, kind, column_major, raw = state
    if not (isinstance(shape, tuple) and len(shape) == dimensions and all(type(n) is int and n > 0 for n in shape)):
        raise ValueError(f"not an array of {dimensions} dimensions with something inside")
    code = kind.arguments[0] if isinstance(kind, _Type) and kind.arguments else None
    order = kind.state[1] if isinstance(kind, _Type) and isinstance(kind.state, tuple) else None
    if code not in ("f8", "i8") or order != "<":
        raise ValueError("not little-endian float64 or int64")
    if not isinstance(raw, bytes) or len(raw) != 8 * math.prod(shape):
        raise ValueError("more or fewer bytes than its shape says")
    values = np.frombuffer(raw, f"<{code}").reshape(shape, order="F" if column_major else "C").astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    return values
