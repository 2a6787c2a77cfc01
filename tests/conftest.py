"""What every test shares: property tests without deadlines, since shared machines stall; who may skip; the order."""

from __future__ import annotations

import logging
import signal
from typing import Any

import pytest
from hypothesis import settings

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell without job control starts background commands so, and what they start inherits it: tests of Ctrl-C
    # would wait in vain.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("fedsus", deadline=None, print_blob=True)
settings.load_profile("fedsus")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests with the marker `namespaces` need privilege: skipped aloud without, a failure where they are required."""
    if item.get_closest_marker("namespaces") is None:
        return
    import namespaces

    why = namespaces.missing()
    if why is None:
        return
    if namespaces.required():
        pytest.fail(f"{namespaces.REQUIRE}=1, and network namespaces cannot be made: {why}", pytrace=False)
    pytest.skip(f"needs root and the command 'ip', to make network namespaces: {why}")


FEDERATION = ("test_agent_processes.py", "test_federation_runs.py", "test_simulated_equals_deployed.py")
"""Files whose tests share one federation of processes, which takes long to start: one worker runs them all."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep our order of files: xdist's own begins those with the fewest tests last, which here are the longest."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files of many processes over the first three quarters.

    Two workers then seldom run two of them at once, and neither waits at the end for one that the other has begun.
    """
    long = [item for item in items if item.path.parent.name == "end_to_end"]
    shared = [item for item in long if item.path.name in FEDERATION]
    files: dict[Any, list[pytest.Item]] = {"federation": shared} if shared else {}
    for item in long:
        if item not in shared:
            files.setdefault(item.path, []).append(item)
    rest = [item for item in items if item.path.parent.name != "end_to_end"]
    starts = sorted({item.path: at for at, item in reversed(list(enumerate(rest)))}.values())
    step = 3 * len(starts) // (4 * len(files)) if files else 0
    for number, group in reversed(list(enumerate(files.values()))):
        at = starts[number * step] if number * step < len(starts) else len(rest)
        rest[at:at] = group
    items[:] = rest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """As `--dist loadfile`, which it replaces, with `FEDERATION` as one file."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByFederation(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return "federation" if file.endswith(FEDERATION) else file

    return ByFederation(config, log)


@pytest.fixture(autouse=True)
def _loggers_as_they_begin() -> None:
    """A command that a test before ran in this process may have set levels, and a thread of it may still run."""
    for name in ("fedsus", "fedsus.device", "fedsus.server", "fedsus.simulation"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.NOTSET)
        logger.disabled = False
        logger.filters.clear()
