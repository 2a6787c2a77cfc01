"""Identities of simulated clients, made from the scenario's seed. FOR SIMULATIONS ALONE.

(!) Whoever knows the seed knows every signing key. A resumed run needs the keys of its roster again, and no key is
written to a disk for it. Nothing outside simulations reaches this: a device makes its identity of the operating
system's randomness, `fedsus.secagg.keys.Identity.generate`. Masks, shares and channels are fresh in simulations too.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from fedsus.errors import ConfigError
from fedsus.secagg.keys import Identity, Signatures
from fedsus.secagg.roster import MAX_MEMBERS, Roster, RosterMember
from fedsus_simulations.whole.memory import Members

if TYPE_CHECKING:
    from collections.abc import Sequence

_REMEMBERED = 16
"""Signatures a client whose checks are remembered: clients of one process check the same ones."""


def simulated_members(names: Sequence[str], seed: int) -> Members:
    """Guessable identities of all clients, and the roster that lists them.

    Raises:
        ConfigError: more clients than a roster can list.
    """
    if len(names) > MAX_MEMBERS:
        raise ConfigError(
            f'simulation.masks = "real": {len(names)} clients, and a roster lists at most {MAX_MEMBERS}; '
            'use masks = "none", or fewer clients'
        )
    identities = {name: Identity.load(_secret(seed, "identity", name)) for name in sorted(names)}
    roster = Roster(
        federation="simulated",
        number=1,
        previous=None,
        signers=(Identity.load(_secret(seed, "signer")).public.hex(),),
        needed=1,
        seed=_secret(seed, "roster").hex(),
        members=tuple(RosterMember(name=name, key=key.public.hex()) for name, key in identities.items()),
    )
    return Members(roster, identities, Signatures(cache=_REMEMBERED * len(identities)))


def _secret(seed: int, *names: str) -> bytes:
    """32 bytes that are no secret."""
    return hashlib.sha256("/".join(("fedsus simulation", str(seed), *names)).encode()).digest()
