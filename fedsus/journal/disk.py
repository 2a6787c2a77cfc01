"""The few operations that make a file last. A seam: tests cut the power at each of them."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from fedsus.errors import EnvironmentFault

if TYPE_CHECKING:
    from pathlib import Path

    from safetensors import SafetensorError

    from fedsus.types import Arrays


class Disk:
    """The operating system's own."""

    def write(self, file: int, data: bytes) -> None:
        """Write all of ``data`` to a descriptor."""
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]

    def sync(self, file: int) -> None:
        """Return when the file's content is on the disk."""
        os.fsync(file)

    def save(self, path: Path, arrays: Arrays) -> None:
        """Write arrays as safetensors; streams, so no copy is made."""
        dense = {name: array if array.flags.c_contiguous else np.array(array) for name, array in arrays.items()}
        save_file(dense, path)

    def rename(self, old: Path, new: Path) -> None:
        """Put a finished file in its place, at once or not at all."""
        old.replace(new)

    def sync_folder(self, folder: Path) -> None:
        """Return when the folder's names are on the disk."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sync(descriptor)
        finally:
            os.close(descriptor)


def fault(path: Path, error: OSError | SafetensorError) -> EnvironmentFault:
    """What a user sees when a file cannot be written."""
    code = getattr(error, "errno", None)
    full = (errno.ENOSPC, errno.EDQUOT)
    if code in full or any(f"(os error {number})" in str(error) for number in full):  # safetensors keeps no errno
        return EnvironmentFault(
            f"{path}: the disk is full; free some space and start again: the run goes on from there"
        )
    return EnvironmentFault(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}")
