"""Words that more than one layer uses. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dp_accounting import DpEvent

Vector: TypeAlias = NDArray[np.float32]
"""All trainable parameters of a model, flattened in the order of ``named_parameters()``: (d,) float32."""

Ring: TypeAlias = NDArray[np.uint32]
"""Residues mod 2**bits, bits <= 32: (n,) uint32."""

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
"""Saved state by name. Written as safetensors, never pickled."""

Stop: TypeAlias = Callable[[], bool]
"""Asked once a batch; True means: stop now, release nothing (deadline, SIGTERM)."""

Clock: TypeAlias = Callable[[], float]
"""Seconds since the epoch; passed in, so that tests own time."""


def nothing() -> NDArray[np.float64]:
    """An empty block, (0,) float64."""
    return np.zeros(0)


class Noise(Protocol):
    """The device's own source of randomness for noise, sampling and rounding.

    A deployment uses the operating system's generator. Seeded sources exist for tests alone and are
    given to constructors: no plan, file or command reaches them.
    """

    def normal(self, size: int) -> NDArray[np.float64]:
        """Standard normal draws, (size,) float64."""
        ...

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Uniform draws from [0, 1), (size,) float64."""
        ...

    def words(self, size: int) -> NDArray[np.uint64]:
        """Uniform 64-bit words, (size,) uint64; not for writing."""
        ...


@dataclass(frozen=True, slots=True)
class LocalUpdate:
    """What one client proposes in one round, before encoding.

    Attributes:
        delta: the change of the model, (d,) float32; float64 where it is a sum of clipped gradients, whose sensitivity
            rounding would change.
        weight: how much it counts, in examples; 1.0 under differential privacy.
        totals: sums of the task's metrics over the held-out part, (len(bounds),) float64;
            empty under differential privacy, where no metric leaves the device.
        held_out: number of examples behind ``totals``.
        event: what releasing ``delta`` spends; None in a run without differential privacy.
        costs: what the device used since its last report, as `fedsus.costs.Costs.ranges` names it, (costs,) float64;
            empty where the plan asks for none or the owner reports none.
    """

    delta: Vector
    weight: float
    totals: NDArray[np.float64]
    held_out: int
    event: DpEvent | None
    costs: NDArray[np.float64] = field(default_factory=nothing)


@dataclass(frozen=True, slots=True)
class LocalUpdates:
    """What several clients propose, before encoding: row i is what a `LocalUpdate` of client i would say.

    Attributes:
        deltas: (m, d) float32, or float64 as a `LocalUpdate`'s.
        weights: (m,) float64.
        totals: (m, metrics) float64; no columns where nothing was measured.
        held_out: (m,) int64; zeros where nothing was measured.
        event: what releasing any one of them spends; None without differential privacy.
        costs: (m, costs) float64, rows as a `LocalUpdate`'s; None where no client reports any.
    """

    deltas: NDArray[np.float32]
    weights: NDArray[np.float64]
    totals: NDArray[np.float64]
    held_out: NDArray[np.int64]
    event: DpEvent | None = None
    costs: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.deltas)

    def __iter__(self) -> Iterator[LocalUpdate]:
        costs = np.zeros((len(self), 0)) if self.costs is None else self.costs
        rows = zip(self.deltas, self.weights, self.totals, self.held_out, costs, strict=True)
        for delta, weight, totals, held_out, used in rows:
            yield LocalUpdate(delta, float(weight), totals, int(held_out), self.event, used)


@dataclass(frozen=True, slots=True)
class Mean:
    """What the server learns of one round: aggregates over the survivors, nothing about one client.

    Attributes:
        delta: weighted mean update, (d,) float32.
        weight: sum of the weights, in examples; the number of survivors under differential privacy.
        totals: sums of the metrics over all held-out parts, (metrics,) float64; empty under DP.
        held_out: number of examples behind ``totals``; 0 under DP.
        saturated: number of coordinates that were clamped to the encoding's range, over all survivors; with noise in
            shares, of the sum's coordinates that are close to wrapping around; None where nothing is known of either.
        costs: sums of the survivors' reports, noised under DP, (costs,) float64; empty where none were asked for.
    """

    delta: Vector
    weight: float
    totals: NDArray[np.float64]
    held_out: int
    saturated: int | None
    costs: NDArray[np.float64] = field(default_factory=nothing)


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """A client that can be asked: ``id`` addresses it, ``name`` is what the operator calls it."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Ask:
    """One phase of an exchange: what each client receives, and until when replies count.

    A client receives ``request(client)``: its own part, then the common one, or what a few receive in its place; not
    both may be empty.

    Attributes:
        requests: client id -> the part for it alone, ``b""`` where it has none.
        deadline: seconds from now after which a missing reply is `Lost`.
        enough: asked after the replies that came were taken; once it says True, the others are not waited for. Who
            asks must say, for the transport cannot tell an answer from a refusal or nonsense. None waits for all.
        grace: seconds that the others still have once there are ``enough``.
        common: the part that all receive, sent once where the transport can.
        optional: asked too, but once every other client has replied or is lost, the phase ends without them. A phase
            that asks optional clients alone waits for them all.
        phase: what it is called where bytes are counted.
        instead: the common part of those ``others``, sent once too.
        others: clients that receive ``instead`` in place of ``common``.

    Raises:
        ValueError: a client would receive nothing.
    """

    requests: Mapping[str, bytes]
    deadline: float
    enough: Callable[[], bool] | None = None
    common: bytes = b""
    optional: frozenset[str] = frozenset()
    grace: float = 0.0
    phase: str = "contribute"
    instead: bytes = b""
    others: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not (self.common and (self.instead or not self.others)) and not all(
            own or self.shared(client) for client, own in self.requests.items()
        ):
            raise ValueError("a client's request is empty: neither a part of its own nor a common one")

    def shared(self, client: str) -> bytes:
        """The part that ``client`` has in common with others."""
        return self.instead if client in self.others else self.common

    def request(self, client: str) -> bytes:
        """All that ``client`` receives. No copy is made of a part that comes alone."""
        return self.requests[client] + self.shared(client)

    def size(self, client: str) -> int:
        """Bytes of ``request(client)``, which is not made for it."""
        return len(self.requests[client]) + len(self.shared(client))


Bytes: TypeAlias = bytes | bytearray | memoryview


@dataclass(slots=True)
class Forms:
    """One content in two forms of which each client gets the one that it can read; see `fedsus.rounds.models`.

    Attributes:
        common: for all but a few.
        others: who gets the whole content instead.
        whole: makes the form that everybody can read; None where ``common`` is it.
        read: clients whose answers show that they have the content now; added to.
    """

    common: Bytes
    others: frozenset[str] = frozenset()
    whole: Callable[[], Bytes] | None = None
    read: set[str] = field(default_factory=set)

    def framed(self, frame: Callable[[Bytes], bytes]) -> Forms:
        """The same forms within messages; who has read them is noted in this object too."""
        whole = self.whole
        return Forms(frame(self.common), self.others, None if whole is None else lambda: frame(whole()), self.read)

    def ask(self, requests: Mapping[str, bytes], deadline: float, phase: str = "contribute") -> Ask:
        """A phase that sends each client the form that it can read."""
        instead = b"" if self.whole is None or not self.others else bytes(self.whole())
        return Ask(requests, deadline, common=bytes(self.common), instead=instead, others=self.others, phase=phase)

    def again(self, requests: Mapping[str, bytes], deadline: float, phase: str = "contribute") -> Ask | None:
        """The same for clients that could not read it, who get the whole, once; None for nobody, or if it was that."""
        unread = {client: own for client, own in requests.items() if client not in self.others}
        if self.whole is None or not unread:
            return None
        return Ask(unread, deadline, common=bytes(self.whole()), phase=phase)


@dataclass(frozen=True, slots=True)
class Answered:
    """The client's reply."""

    client: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The client's owner does not allow it. No reason: a reason is a release."""

    client: str


@dataclass(frozen=True, slots=True)
class Lost:
    """No reply before the deadline, or a client that went away."""

    client: str


@dataclass(frozen=True, slots=True)
class Partial:
    """The sum of several clients' integers, from a fleet that adds them itself: a simulation without masks.

    No transport makes one: what comes over a wire is `Answered`, one client's.

    Attributes:
        clients: who answered, each of them counted once.
        total: the sum of their integers mod 2**bits, (n,) uint32.
        received: bytes that their answers would have.
    """

    clients: Sequence[str]
    total: Ring
    received: int


Reply: TypeAlias = Answered | Partial | Refused | Lost


@dataclass(frozen=True, slots=True)
class Summed:
    """The result of an exchange.

    Attributes:
        total: the sum mod 2**bits, (n,) uint32.
        survivors: how many are in it.
        refused, lost: how many of the cohort said no, and how many fell out or sent nonsense.
    """

    total: Ring
    survivors: int
    refused: int
    lost: int
