"""Encoding an update for each kind of noise, on one core: clip, rotate, round, noise; and the mean back from a sum.

The peer is the same encoding with a difference of two of numpy's Poisson draws for each Skellam draw: what one would
write first, and what has no bound on how far its distribution is off. What is told are processor milliseconds: one
thread does all, so they are those of one core, without the waiting for others who use it too.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from fedsus import plan as plans
from fedsus.encoding import skellam as encoding
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.privacy.noise import SystemNoise
from fedsus.privacy.sampling import SkellamTable
from fedsus.protection import ClientCentral, ClientDistributed, ExampleDistributed, NoPrivacy, Shares
from fedsus.types import LocalUpdate
from fedsus_simulations.benchmarks.result import comparison, figure, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from fedsus.encoding.mechanism import Mechanism
    from fedsus.protection import Privacy
    from fedsus.types import Arrays, Mean, Noise, Ring

T = TypeVar("T")

SIZE: Final = 1 << 20
MOST: Final = 250.0
"""Milliseconds."""

_CLIENTS, _SURVIVORS, _COLLUDERS = 100, 80, 10
_CLIP, _GRANULARITY, _VARIANCE, _BITS = 1.0, 32.0, 1e7, 22
_WARM_UP: Final = 2
_KINDS: Final = ("fixed point", "client unit, distributed", "example unit, distributed", "client unit, central")
FIXED, CLIENT, EXAMPLE, CENTRAL = _KINDS
NUMPY: Final = "numpy's poisson - poisson"
STEPS: Final = ("checks and clipping", "rotation", "dither and rounding", "check of the norm", "Skellam draws")
REST: Final = "scaling, residues, all else"


def run(quick: bool) -> dict[str, Any]:
    """As `measure`, of `SIZE` coordinates."""
    return measure(SIZE, 5 if quick else 30)


def measure(size: int, turns: int) -> dict[str, Any]:
    """Processor milliseconds of each side, one after the other, ``turns`` times; then where those of `CLIENT` go."""
    before, noise, generator = load(), SystemNoise(), np.random.default_rng(1)
    update = LocalUpdate(long(size), 50.0, np.zeros(0), 0, None)
    mechanisms = {kind: mechanism_of(plan_of(kind, size)) for kind in _KINDS}
    table, numpys = SkellamTable(_VARIANCE), _Poisson(_VARIANCE, generator)
    sides: dict[str, Callable[[], object]] = {
        kind: partial(mechanism.encode, update, noise) for kind, mechanism in mechanisms.items()
    }
    encode = partial(mechanisms[CLIENT].encode, update, noise)
    sides[NUMPY] = partial(_with, numpys, encode)
    sides["draws"], sides["draws, numpy"] = partial(table.draw, noise, size), partial(numpys.draw, noise, size)
    for kind, mechanism in mechanisms.items():
        sides[f"mean, {kind}"] = _release(mechanism, mechanism.encode(update, noise), noise)
    spent = _turns(sides, turns)
    parts = _parts(encode, turns)
    notes = [
        f"{size:,} float32 coordinates of norm {2 * _CLIP:g}, clipped to {_CLIP:g}; granularity {_GRANULARITY:g}, "
        f"variance of a share {_VARIANCE:g}, sums mod 2**{_BITS}",
        "processor time, one thread; AES-CTR bits under a key of the operating system, numpy draws from its PCG64",
        f"the table of the sampler is made once a run: {milliseconds(lambda: SkellamTable(_VARIANCE)):.0f} ms",
        f"load average: {before:.1f} before, {load():.1f} after",
    ]
    return {**_compared(spent), "notes": notes, "tables": [_shares(parts)]}


def _compared(spent: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    def against(ours: str, peer: str, most: float | None = None) -> dict[str, Any]:
        mine, other = (figure(spent[side], "ms", side, _WARM_UP) for side in (ours, peer))
        return comparison(mine, other, most=most)

    figures = {"the draws alone": against("draws", "draws, numpy")}
    figures |= {f"encode: {kind}, against {FIXED}": against(kind, FIXED) for kind in _KINDS[1:]}
    means = {kind: f"mean, {kind}" for kind in _KINDS}
    figures |= {f"mean of a sum: {kind}, against {FIXED}": against(means[kind], means[FIXED]) for kind in _KINDS[1:]}
    return {**against(CLIENT, NUMPY, MOST), "figures": figures}


def _turns(sides: Mapping[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Milliseconds of each, in turns, so that a busy machine slows all alike."""
    spent: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(_WARM_UP + turns):
        for side, work in sides.items():
            took = milliseconds(work)
            if turn >= _WARM_UP:
                spent[side].append(took)
    return spent


def _parts(encode: Callable[[], object], turns: int) -> dict[str, list[float]]:
    """Milliseconds of each step within some encodings."""
    found: dict[str, list[float]] = {step: [] for step in (*STEPS, REST)}
    for turn in range(_WARM_UP + turns):
        with _clocked() as spent:
            whole = milliseconds(encode)
        if turn >= _WARM_UP:
            for step in STEPS:
                found[step].append(spent[step])
            found[REST].append(whole - sum(spent.values()))
    return found


def _shares(parts: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    medians = {step: statistics.median(spent) for step, spent in parts.items()}
    total = sum(medians.values())
    rows = [
        (step, min(parts[step]), middle, max(parts[step]), 100 * middle / total) for step, middle in medians.items()
    ]
    columns = ("step", "min, ms", "median, ms", "max, ms", "%")
    return {"title": f"where an encoding goes ({CLIENT})", "columns": columns, "rows": rows}


@contextmanager
def _clocked() -> Iterator[dict[str, float]]:
    """Clocks around the steps of an encoding: milliseconds by step."""
    spent = dict.fromkeys(STEPS, 0.0)

    def clocked(step: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began = time.process_time()
            result = inner(*arguments)
            spent[step] += (time.process_time() - began) * 1e3
            return result

        return call

    places = (
        (encoding.ClientSkellam, "_checked", STEPS[0]),
        (encoding, "clip_rows", STEPS[0]),
        (encoding, "rotate", STEPS[1]),
        (encoding, "_dithered", STEPS[2]),
        (encoding, "_longer", STEPS[3]),
        (SkellamTable, "draw", STEPS[4]),
    )
    with ExitStack() as stack:
        for owner, name, step in places:
            stack.enter_context(_replaced(owner, name, clocked(step, getattr(owner, name))))
        yield spent


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@dataclass(slots=True)
class _Poisson:
    """Stands in for a `SkellamTable`: floating-point rejection, from a generator that others could predict."""

    variance: float
    generator: np.random.Generator
    rate: float = field(init=False)

    def __post_init__(self) -> None:
        self.rate = self.variance / 2

    def draw(self, noise: Noise, size: int) -> NDArray[np.int64]:
        """As `SkellamTable.draw`."""
        del noise
        return self.generator.poisson(self.rate, size) - self.generator.poisson(self.rate, size)


def _with(table: _Poisson, work: Callable[[], T]) -> T:
    with _replaced(encoding, "skellam", lambda variance: table):
        return work()


def _release(mechanism: Mechanism, ring: Ring, noise: Noise) -> Callable[[], tuple[Arrays, Mean]]:
    """The mean of a sum, in which one client is as often as there are survivors."""
    total: Ring = (ring * np.uint32(_SURVIVORS)) & np.uint32((1 << mechanism.bits) - 1)
    state = mechanism.init()
    return partial(mechanism.release, state, total, _SURVIVORS, noise)


def plan_of(kind: str, size: int) -> plans.Plan:
    """A plan of a run with that noise."""
    scale = _GRANULARITY * float(np.sqrt(1 << (size - 1).bit_length())) / _CLIP
    shares = Shares(scale=scale, variance=_VARIANCE, bits=_BITS, colluders=_COLLUDERS, survivors=_SURVIVORS)
    parts: dict[str, Privacy] = {
        FIXED: NoPrivacy(),
        CLIENT: ClientDistributed(epsilon=3.0, delta=1e-5, clip=_CLIP, shares=shares),
        EXAMPLE: ExampleDistributed(
            epsilon=3.0, delta=1e-5, clip=_CLIP, sampling_rate=0.1, denominator=500.0, shares=shares
        ),
        CENTRAL: ClientCentral(epsilon=3.0, delta=1e-5, clip=_CLIP, noise_multiplier=1.0),
    }
    return plans.Plan(
        run="bench",
        round=1,
        attempt=1,
        rounds=10,
        spare_attempts=1,
        model="0" * 64,
        dimension=size,
        task=plans.TaskPart(name="none"),
        training=plans.Training(),
        privacy=parts[kind],
        encoding=plans.Encoding(),
        cohort=plans.Cohort(size=_CLIENTS, minimum=_SURVIVORS),
        deadline=60.0,
    )


def long(size: int) -> NDArray[np.float32]:
    """A vector that is clipped, (size,)."""
    vector = np.random.default_rng(0).normal(size=size)
    vector *= 2 * _CLIP / np.linalg.norm(vector)
    return vector.astype(np.float32)


def milliseconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1e3
