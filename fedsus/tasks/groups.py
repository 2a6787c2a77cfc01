"""A data set's own clients: hospitals, persons, roles. How they are named and picked."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Final, TypeVar

import torch

from fedsus.errors import DataError
from fedsus.tasks.task import Shard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fedsus.tasks.task import DataSource

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_OTHER: Final = re.compile(r"[^a-z0-9]+", re.ASCII)
T = TypeVar("T")


def client_name(words: str) -> str:
    """Words of the data as a client's name: lower case, all but letters and digits becomes one hyphen.

    ``"KING HENRY V"`` becomes ``"king-henry-v"``. Empty where the words have no letter and no digit.
    """
    return _OTHER.sub("-", words.lower()).strip("-")


def grouped(where: str, pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """The groups by name, sorted.

    Raises:
        DataError: no group, a name that is no client's name (`fedsus.plan.Name`), or one name twice.
    """
    found: dict[str, T] = {}
    for name, value in pairs:
        if not _NAME.fullmatch(name):
            raise DataError(
                f"{where}: {name!r} cannot name a client; 1 to 64 letters, digits, '_', '.', '-' are expected"
            )
        if name in found:
            raise DataError(f"{where}: two clients would be named '{name}'; rename one")
        found[name] = value
    if not found:
        raise DataError(f"{where}: no client's data here")
    return dict(sorted(found.items()))


def picked(source: DataSource, option: str, groups: Mapping[str, T]) -> Mapping[str, T]:
    """The one group that the owner's ``option`` names; all of them where it names none.

    Raises:
        DataError: there is no such group; the closest name, or the first ones.
    """
    name = source.options.get(option)
    if name is None:
        return groups
    if not isinstance(name, str) or name not in groups:
        close = difflib.get_close_matches(str(name), groups, n=1)
        some = ", ".join(list(groups)[:5]) + (", ..." if len(groups) > 5 else "")
        raise DataError(
            f"option '{option}' = {name!r}: not in {source.path}; "
            + (f"did you mean '{close[0]}'?" if close else f"there are: {some}")
        )
    return {name: groups[name]}


def joined(shards: Iterable[Shard]) -> Shard:
    """All training parts as one, all held-out parts as one; at least one shard."""
    trains, outs = zip(*((shard.train, shard.held_out) for shard in shards), strict=True)
    return Shard(
        train=tuple(torch.cat(parts) for parts in zip(*trains, strict=True)),
        held_out=tuple(torch.cat(parts) for parts in zip(*outs, strict=True)),
    )
