"""The seeded agent, and beside its agent.toml a list of every secret of secure aggregation that it held.

    python telling_agent.py --agent FILE --policy FILE

So that a test can look for them where they must not be. An entry point of the tests alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO

import seeded_agent

from fedsus.secagg.keys import Agreement
from fedsus.secagg.secret import Secret

FILE = "secrets.seen"


def told(folder: Path) -> set[bytes]:
    """The secrets that an agent of this folder held so far."""
    return {bytes.fromhex(line) for line in (folder / FILE).read_text(encoding="ascii").splitlines()}


def listen(file: IO[str]) -> None:
    """Write down each secret when it is made: wrapped ones, and private keys that are wrapped only when shared out."""
    make, generate = Secret.__init__, Agreement.generate

    def making(secret: Secret, value: bytes | bytearray | memoryview) -> None:
        make(secret, value)
        file.write(f"{bytes(memoryview(value)).hex()}\n")

    def generating() -> Agreement:
        made = generate()
        made.secret()
        return made

    Secret.__init__ = making  # type: ignore[method-assign]
    Agreement.generate = generating  # type: ignore[method-assign]


if __name__ == "__main__":
    agent = Path(sys.argv[sys.argv.index("--agent") + 1])
    with (agent.parent / FILE).open("a", encoding="ascii", buffering=1) as seen:
        listen(seen)
        sys.exit(seeded_agent.main())
