"""What every test shares: property tests without deadlines, since shared machines stall; and who may skip."""

from __future__ import annotations

import signal

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
