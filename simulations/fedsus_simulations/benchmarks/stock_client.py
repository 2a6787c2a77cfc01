"""One client of Flower's SecAgg+ without Flower around it: its own functions, on one core.

Internal functions of Flower, called as its mod calls them: a test holds them to this.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, Final

import numpy as np

_ME: Final = 1
_BUDGET: Final = 3e8
"""Numbers of masks that are really made, some seconds; beyond, fewer neighbours are run, the rest in proportion."""
_EXAMPLES: Final = 10


@dataclass(frozen=True, slots=True)
class FlowerClient:
    """What one round costs one client.

    Attributes:
        seconds: processor time of keys, shares and masked vector; packing, messages and training left out.
        upload: bytes of its keys, sealed shares and masked vector.
        masked: neighbours that were really masked for; with fewer than asked, seconds are in proportion.
    """

    seconds: float
    upload: int
    masked: int


def measure(neighbours: int, parameters: int) -> FlowerClient:
    """Run one client with ``neighbours`` others and a vector of ``parameters`` float32."""
    masked = min(neighbours, max(2, int(_BUDGET / parameters)))
    shares, sealed, client = _shared(neighbours)
    spent, upload = _masked(client, sealed, masked, parameters)
    if masked < neighbours:
        # By the difference of two runs: what is done once a vector is not scaled.
        fewer, _ = _masked(client, sealed, masked // 2, parameters)
        spent += max(0.0, spent - fewer) / (masked - masked // 2) * (neighbours - masked)
    return FlowerClient(shares + spent, upload, masked)


def _flower() -> Any:
    return import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")


@lru_cache(maxsize=1)
def _shared(neighbours: int) -> tuple[float, list[tuple[int, bytes]], Any]:
    """Seconds of keys and shares, what the others sealed for this client, and its state; once for all vector sizes."""
    from flwr.app import ConfigRecord
    from flwr.supercore.primitives.asymmetric import bytes_to_public_key, generate_key_pairs, public_key_to_bytes

    flower, names, cohort = _flower(), _flower().Key, neighbours + 1
    state = flower.SecAggPlusState(nid=_ME)
    others = {nid: (generate_key_pairs(), generate_key_pairs()) for nid in range(_ME + 1, _ME + cohort)}
    counts: dict[str, Any] = {names.SAMPLE_NUMBER: cohort, names.SHARE_NUMBER: cohort, names.THRESHOLD: cohort // 2 + 1}
    ranges: dict[str, Any] = {
        names.CLIPPING_RANGE: 8.0,
        names.TARGET_RANGE: 1 << 22,
        names.MOD_RANGE: 1 << 32,
        names.MAX_WEIGHT: 1e3,
    }
    public = {str(nid): [public_key_to_bytes(pair[1]) for pair in pairs] for nid, pairs in others.items()}
    start = time.process_time()
    flower._setup(state, ConfigRecord(counts | ranges))
    flower._share_keys(state, ConfigRecord({str(_ME): [state.pk1, state.pk2], **public}))
    spent = time.process_time() - start
    mine, sealed = bytes_to_public_key(state.pk2), []
    for nid, (_, (secret, _public)) in others.items():
        share = flower.share_keys_plaintext_concat(nid, _ME, bytes(36), bytes(36))
        sealed.append((nid, flower.encrypt(flower.generate_shared_key(secret, mine), share)))
    return spent, sealed, state


def _masked(state: Any, sealed: list[tuple[int, bytes]], masked: int, parameters: int) -> tuple[float, int]:
    """Seconds of the masked vector for the first ``masked`` neighbours; bytes of it, all keys and shares."""
    from flwr.app import ConfigRecord
    from flwr.common import ndarrays_to_parameters

    flower, some = _flower(), sealed[:masked]
    state.threshold = min(state.threshold, masked + 1)
    message: dict[str, Any] = {
        flower.Key.CIPHERTEXT_LIST: [text for _, text in some],
        flower.Key.SOURCE_LIST: [nid for nid, _ in some],
    }
    update = ndarrays_to_parameters([np.ones(parameters, dtype=np.float32)])
    start = time.process_time()
    reply = flower._collect_masked_vectors(state, ConfigRecord(message), _EXAMPLES, update)
    spent = time.process_time() - start
    sent = [*reply[flower.Key.MASKED_PARAMETERS], state.pk1, state.pk2, *(text for _, text in sealed)]
    return spent, sum(map(len, sent))
