"""The agent with seeds and with short waits between reconnections: an entry point of the tests alone.

    python seeded_agent.py --agent FILE --policy FILE

The seeds and the noise are those of a simulation's client that is named like the folder of agent.toml.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fedsus.cli import explain
from fedsus.errors import FedsusError
from fedsus.privacy import noise
from fedsus_client.agent import run
from fedsus_client.pace import Backoff
from fedsus_simulations.scenario.seeding import SeededClient

SEED = 7


def main() -> int:
    """Run until SIGTERM; the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--agent", type=Path, required=True)
    parser.add_argument("--policy", type=Path, required=True)
    given = parser.parse_args()
    client = SeededClient(SEED, given.agent.parent.name)
    noise.SystemNoise = lambda: client  # type: ignore[assignment, misc]
    try:
        run(given.agent, given.policy, seeds=client, backoff=Backoff(0.1, 0.5))
    except FedsusError as error:
        message, code = explain(error)
        sys.stderr.write(f"error: {message}\n")
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
