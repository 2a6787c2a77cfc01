"""Blocks trained on a Ray cluster, for simulations that outgrow one machine.

Ray does what it is for: it hands tasks to processors, and repeats those whose process or machine is lost, with what
they had made and others still need (its lineage). A block's integers depend on seed, plan, model and block alone, so
a repeated one is the same. Plan and model are put into the object store, from where each machine fetches them once;
sums are added in a tree on the cluster, and one of them comes back.

A process keeps task and data from one task of Ray to the next. Every task asks for the same processors: Ray then
keeps as many processes as there are processors, and ends none that has its data loaded.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus.errors import ConfigError, EnvironmentFault, FedsusError
from fedsus_simulations.clients.blocks import Added, Encoded
from fedsus_simulations.workers.inline import Heard
from fedsus_simulations.workers.process_worker import added, peak_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedsus.rounds.messages import Request
    from fedsus.types import Ring
    from fedsus_simulations.clients.blocks import Block
    from fedsus_simulations.workers.inline import Inline, Recipe
    from fedsus_simulations.workers.training import Outcome

log = logging.getLogger("fedsus.simulation")

_SECONDS: Final = 10.0
"""That a cluster's address has to answer."""
FAN_IN: Final = 8
"""Sums that are added at once."""
_RETRIES: Final = 3
"""How often Ray repeats a task whose process or machine was lost."""
_AHEAD: Final = 2
"""Tasks that are handed over for each one that can run."""

ALONE: Final = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Environment of a cluster that is started here: nothing is reported, and nothing listens but on loopback."""
QUIET: Final = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Tasks that ask for no GPU keep CUDA_VISIBLE_DEVICES, as in later versions of Ray, which else warns of the change."""


@dataclass(slots=True)
class OnRay:
    """Implements `fedsus_simulations.clients.blocks.Workers` over a Ray cluster.

    Args:
        ray: the module.
        recipe: reference to the recipe in the object store, with the folders that modules are imported from.
        slots: tasks that can run at the same time.
        threads: processors of each task, and blocks that it trains at the same time.
        owned: whether this process joined the cluster, and leaves it at the end.
    """

    ray: Any
    recipe: Any
    slots: int
    threads: int
    owned: bool
    _key: str = field(default_factory=lambda: secrets.token_hex(8), init=False)
    _heard: Heard = field(default_factory=Heard, init=False)
    _sum: Any = field(init=False)
    _encode: Any = field(init=False)
    _add: Any = field(init=False)

    def __post_init__(self) -> None:
        def remote(function: Any, returns: int) -> Any:
            return self.ray.remote(num_cpus=self.threads, num_returns=returns, max_retries=_RETRIES)(function)

        self._sum, self._encode, self._add = remote(_sum, 2), remote(_encode, 1), remote(_add, 1)

    @classmethod
    def start(cls, recipe: Recipe, address: str) -> OnRay:
        """Join a cluster, or start one.

        Args:
            address: of the cluster; "auto": the one that RAY_ADDRESS names or this machine is part of, else a new one
                of this machine's processors, which listens on loopback alone.

        Raises:
            ConfigError: Ray is not installed, or no machine has as many processors as a task needs.
            EnvironmentFault: no cluster answers at the address.
        """
        ray = _imported(address)
        owned = not ray.is_initialized()
        if owned:
            join(ray, None if address == "auto" else address)
        threads = recipe.scenario.simulation.threads
        machines = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        slots = sum(int(processors // threads) for processors in machines)
        made = cls(ray, ray.put((recipe, tuple(sys.path))), slots, threads, owned)
        if not slots:
            made.close()
            raise ConfigError(
                f"simulation.threads = {threads}: no machine of the Ray cluster has so many processors "
                f"(the largest has {max(machines, default=0):g})"
            )
        try:
            made._ready(len(machines))
        except BaseException:
            made.close()
            raise
        return made

    def _ready(self, machines: int) -> None:
        """Let each processor load its data now, so that what is missing is said before the first round."""
        before = time.monotonic()
        load = self.ray.remote(num_cpus=self.threads, max_retries=_RETRIES)(_load)
        memory = [self._got(told) for told in [load.remote(self._key, [self.recipe]) for _ in range(self.slots)]]
        log.info(
            "Ray: %d blocks at the same time on %d machine(s); ready after %.1f s, with %d MB for each process",
            self.slots * self.threads,
            machines,
            time.monotonic() - before,
            max(memory) // 10**6,
        )

    def totals(self, request: Request, blocks: Sequence[Block]) -> Iterator[Added]:
        """As `Workers`: one sum of all blocks."""
        asked, groups, refused = self.ray.put(request), deque(self._groups(blocks)), set[int]()
        sums: deque[Any] = deque()
        running: dict[Any, Any] = {}
        while groups or running:
            while groups and len(running) < _AHEAD * self.slots:
                told, total = self._sum.remote(self._key, [self.recipe], asked, groups.popleft())
                running[told] = total
            (told,), _ = self.ray.wait(list(running), num_returns=1)
            for outcome in self._got(told):
                refused |= self._heard(request, outcome)
            sums.append(running.pop(told))
            if len(sums) == FAN_IN and (groups or running):
                self._add_up(sums)
        while len(sums) > 1:
            self._add_up(sums)
        total = self._got(sums.pop()) if sums else None
        if total is not None:
            yield Added(range(len(blocks)), total, frozenset(refused))

    def rings(self, request: Request, blocks: Sequence[Block]) -> Iterator[Encoded]:
        """As `Workers`; not many more blocks are trained than were asked for."""
        asked, groups = self.ray.put(request), deque(self._groups(blocks))
        running: deque[Any] = deque()
        while groups or running:
            while groups and len(running) < _AHEAD * self.slots:
                running.append(self._encode.remote(self._key, [self.recipe], asked, groups.popleft()))
            for rings, outcome in self._got(running.popleft()):
                # What comes out of the object store cannot be written; masks are added in place.
                yield Encoded(rings.copy(), self._heard(request, outcome))

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self.owned:
            self.ray.shutdown()

    def _groups(self, blocks: Sequence[Block]) -> list[Sequence[Block]]:
        """Blocks that go together: one for each thread of a task."""
        return [blocks[start : start + self.threads] for start in range(0, len(blocks), self.threads)]

    def _add_up(self, sums: deque[Any]) -> None:
        """Add the first sums on the cluster; theirs comes last."""
        sums.append(self._add.remote(*(sums.popleft() for _ in range(min(FAN_IN, len(sums))))))

    def _got(self, reference: Any) -> Any:
        """What a task returned.

        Raises:
            EnvironmentFault: it was lost more often than it is repeated.
            FedsusError: as the task raised it.
        """
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, FedsusError):
                raise error.cause from None
            raise
        except self.ray.exceptions.RayError as error:
            reason = (str(error).splitlines() or [""])[0]
            raise EnvironmentFault(
                f"Ray lost the same blocks {_RETRIES + 1} times ({type(error).__name__}: {reason}); resume the run "
                "when the cluster is well"
            ) from error


def _imported(address: str) -> Any:
    """Ray, told to stay alone if it starts a cluster."""
    if address == "auto" and not os.environ.get("RAY_ADDRESS"):
        for name, value in ALONE.items():
            os.environ.setdefault(name, value)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise ConfigError(
            "--ray: Ray is not installed here; install it with: python -m pip install 'fedsus-simulations[ray]', "
            "or leave out --ray and set simulation.workers"
        ) from None


def join(ray: Any, address: str | None) -> None:
    """Join the cluster at an address; None: the one that this machine is part of, else a new one.

    Raises:
        ConfigError: this is no address.
        EnvironmentFault: no cluster answers.
    """
    if address is not None:
        _answers(address)
    try:
        ray.init(
            address, include_dashboard=None if address else False, log_to_driver=False, logging_level=logging.ERROR
        )
    except Exception as error:  # Ray raises no narrower type where its own node did not start in time
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        where = address or "auto"
        raise EnvironmentFault(f"--ray {where}: no Ray cluster answers: {reason}") from error


def _answers(address: str) -> None:
    """Refuse an address where nothing listens: Ray itself waits for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"--ray {address}: expected 'auto' or HOST:PORT, as `ray start --head` says it")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS).close()
    except OSError as error:
        raise EnvironmentFault(
            f"--ray {address}: nothing answers there ({error.strerror or error}); start a cluster with "
            "`ray start --head`, or use --ray auto"
        ) from error


# On the cluster:

_here: dict[str, Inline] = {}


def _worker(key: str, recipe: Sequence[Any]) -> Inline:
    """The worker of this process; one of another simulation is forgotten."""
    if key not in _here:
        ray: Any = importlib.import_module("ray")
        made: Recipe
        made, folders = ray.get(recipe[0])
        sys.path += [folder for folder in folders if folder not in sys.path]  # a task of the user's own is there
        _here.clear()
        _here[key] = made.worker()
    return _here[key]


def _load(key: str, recipe: Sequence[Any]) -> int:
    """The most memory of this process, in bytes, once its data are loaded."""
    _worker(key, recipe)
    return peak_memory()


def _sum(key: str, recipe: Sequence[Any], request: Request, blocks: Sequence[Block]) -> tuple[list[Outcome], Ring]:
    """What became of some blocks, and their sum, (size,) uint32."""
    total, outcomes = added(_worker(key, recipe), request, blocks)
    return outcomes, total


def _encode(
    key: str, recipe: Sequence[Any], request: Request, blocks: Sequence[Block]
) -> list[tuple[NDArray[np.uint32], Outcome]]:
    """The integers of some blocks."""
    return list(_worker(key, recipe).encoded(request, blocks))


def _add(*sums: Ring) -> Ring:
    """Sum mod 2**32, (size,) uint32."""
    total = np.array(sums[0])
    for part in sums[1:]:
        np.add(total, part, out=total)
    return total
