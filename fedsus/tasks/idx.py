"""IDX files, the format of MNIST and its relatives. Needs no torch."""

from __future__ import annotations

import gzip
import math
import zlib
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAX_ROWS: Final = 1_000_000


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes: (n, *shape) uint8.

    Magic number 0x0000, type 0x08, dimensions; then each dimension as a big-endian uint32, then the bytes
    (http://yann.lecun.com/exdb/mnist/).

    Raises:
        DataError: not such a file, other dimensions, or more or fewer bytes than its header says.
    """
    header = 4 + 4 * (1 + len(shape))
    limit = header + MAX_ROWS * math.prod(shape)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) < header or raw[:4] != bytes((0, 0, 8, 1 + len(shape))):
        raise DataError(f"{path}: not an IDX file of bytes with {1 + len(shape)} dimensions")
    rows, *rest = np.frombuffer(raw, ">u4", 1 + len(shape), 4).tolist()
    if tuple(rest) != shape or not 0 < rows <= MAX_ROWS:
        raise DataError(f"{path}: the header says {rows} x {rest}; 1 to {MAX_ROWS} x {list(shape)} is expected")
    if len(raw) != header + rows * math.prod(shape):
        raise DataError(f"{path}: {len(raw) - header} bytes of data; the header says {rows * math.prod(shape)}")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(rows, *shape)
