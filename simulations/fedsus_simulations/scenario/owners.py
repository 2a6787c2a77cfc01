"""``[[owners]]`` of a scenario: what the owners of a share of its clients allow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from fedsus.config import load
from fedsus.owner.policy import Policy
from fedsus.plan import Strict
from fedsus_simulations.scenario.traces import Share


class OwnersConfig(Strict):
    """``[[owners]]``: a share of the clients whose owners have a policy of their own. The rest grant what is asked.

    Attributes:
        share: of the clients; which ones, the seed says.
        policy: a policy.toml, as a data owner writes it, by its path beside the scenario's file; or its tables. In a
            run with secure_sum each client counts as one that its owner names, for cohorts are the simulation's draw.
    """

    share: Share
    policy: Annotated[str, Field(min_length=1)] | Policy

    def read(self, folder: Path) -> Policy:
        """The policy; a path starts at ``folder``.

        Raises:
            ConfigError: it cannot be read.
        """
        return self.policy if isinstance(self.policy, Policy) else load(folder / self.policy, Policy)
