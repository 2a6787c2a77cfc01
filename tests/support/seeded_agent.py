"""The agent with seeds and with short waits between reconnections: an entry point of the tests alone.

    python seeded_agent.py --agent FILE --policy FILE

The seeds and the noise are those of a simulation's client that is named like the folder of agent.toml. Its status
says at once what it does: tests wait for that.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fedsus.cli import explain
from fedsus.errors import FedsusError
from fedsus.privacy import noise
from fedsus_client import agent, telling
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
    telling._SECONDS = 0.0  # type: ignore[misc]
    agent._LOOK_SECONDS = 0.1  # type: ignore[misc]
    try:
        agent.run(given.agent, given.policy, seeds=client, backoff=Backoff(0.1, 0.5))
    except FedsusError as error:
        message, code = explain(error)
        sys.stderr.write(f"error: {message}\n")
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
