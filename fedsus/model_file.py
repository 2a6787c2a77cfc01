"""A model on disk: one safetensors file, which holds the flat vector and says what it belongs to.

One tensor ``model``, (d,) float32, and text metadata ``task``, ``settings`` (canonical JSON) and ``fedsus`` (version).
Imports no torch: the server reads this file too.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from typing import TYPE_CHECKING, Final

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedsus import __version__
from fedsus.errors import ConfigError, CorruptionError, EnvironmentFault
from fedsus.plan import TaskPart, canonical

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fedsus.types import Vector

_TENSOR: Final = "model"
_KEYS: Final = ("task", "settings", "fedsus")


def metadata(task: TaskPart) -> dict[str, str]:
    """What a model file says of itself."""
    return {"task": task.name, "settings": canonical(dict(task.settings)).decode(), "fedsus": __version__}


def task_of(described: Mapping[str, str]) -> TaskPart:
    """The task that `metadata` described.

    Raises:
        CorruptionError: the settings are not the JSON object of a task.
    """
    try:
        return TaskPart.model_validate({"name": described["task"], "settings": json.loads(described["settings"])})
    except (KeyError, ValueError, RecursionError):
        raise CorruptionError(
            "the model file's metadata do not describe a task; export or initialise it again"
        ) from None


def write_model(path: Path, vector: Vector, metadata: Mapping[str, str]) -> None:
    """Write a model file: the old one stays until the new one is complete and on disk.

    Raises:
        ConfigError: ``vector`` is not (d,) float32 and finite.
        EnvironmentFault: the file cannot be written (no such folder, no permission, disk full).
    """
    if vector.ndim != 1 or vector.dtype != np.float32 or not np.isfinite(vector).all():
        raise ConfigError(f"{path}: a model is one finite float32 vector; got {vector.dtype} {vector.shape}")
    raw = save({_TENSOR: np.ascontiguousarray(vector)}, metadata=dict(metadata))
    try:
        _replace(path, raw)
    except OSError as error:
        raise EnvironmentFault(f"{path}: cannot be written: {error.strerror}") from None


def read_model(path: Path) -> tuple[Vector, dict[str, str]]:
    """The vector (d,) float32 and the metadata of a model file.

    Raises:
        ConfigError: no such file, or it cannot be read.
        CorruptionError: not a safetensors file, cut short, or not a model's.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path}: {'a folder' if path.is_dir() else 'no such file'}; make one with: fedsus model init"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            names, described = list(file.keys()), file.metadata() or {}
            vector = file.get_tensor(_TENSOR) if names == [_TENSOR] else None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise CorruptionError(f"{path}: not a whole model file: {error}") from None
    if vector is None or vector.ndim != 1 or vector.dtype != np.float32:
        raise CorruptionError(f"{path}: not a model file: one float32 vector named '{_TENSOR}' is expected")
    if not np.isfinite(vector).all():
        raise CorruptionError(f"{path}: the model has values that are not finite")
    absent = [key for key in _KEYS if key not in described]
    if absent:
        raise CorruptionError(f"{path}: the metadata lack '{absent[0]}'")
    return vector, described


def _replace(path: Path, raw: bytes) -> None:
    """Temporary file beside ``path``, flushed to disk, then renamed over it; the folder too."""
    name = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with name.open("xb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        name.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            name.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
