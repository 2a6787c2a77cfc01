"""One running federation for all tests of real processes that need no server of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sites import Sites


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    from sites import Sites

    with Sites(tmp_path_factory.mktemp("federation")) as found:
        found.start()
        yield found


@pytest.fixture
def sites(federation: Sites) -> Sites:
    """The federation with all its agents connected."""
    federation.restore()
    return federation
