"""The demo's four hospitals as deployed: a server and four agents, processes of their own, each with its own meter."""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsus.owner.energy_record import history
from fedsus.reporting import read, released_model, summary
from fedsus_simulations.benchmarks import joules_spent, processes
from fedsus_simulations.benchmarks.joules_variants import EPSILON, Variant
from fedsus_simulations.benchmarks.processes import say, timed
from fedsus_simulations.demo import run as demo
from fedsus_simulations.demo.study import HOSPITALS, Federated, heart, judge, packaged, pooled, sources
from fedsus_simulations.whole.federation import LocalFederation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedsus.owner.energy_record import Interval
    from fedsus_simulations.benchmarks.joules_spent import Spent

_POLICY: Final = """\
# Of a benchmark: many runs, and each of them is to be granted.
[privacy]
epsilon = 1000.0
delta = 0.01
without_dp = true

[cohort]
minimum = 3

[exchange]
clear_sum = true

[tasks.heart]
data = "patients"
"""
_PATIENCE: Final = 300.0
_TOLD: Final = ("metrics", "costs")


@dataclass(frozen=True, slots=True)
class Done:
    """One run that ended: where its journal is, and processor seconds of devices and server."""

    variant: str
    folder: Path
    processor: dict[str, float]


@dataclass(slots=True)
class Hospitals:
    """A block: runs of all variants one after the other, on one server and the same four agents.

    Args:
        folder: does not exist yet.
        rounds: of each run.
    """

    folder: Path
    rounds: int

    def block(self, order: Sequence[Variant], number: int) -> dict[str, Spent]:
        """Variant -> what its run used.

        Raises:
            RunFailed: a round lost a device, or a figure is missing.
        """
        with LocalFederation(self.folder, processes.environment(OMP_NUM_THREADS="1")) as federation:
            self._start(federation)
            with timed(f"hospitals, block {number + 1}"):
                done = [self._run(federation, variant) for variant in order]
            for name in federation.clients:  # they write their records when they end
                federation.stop(name)
            records = {name: history(client.state / "energy.jsonl") for name, client in federation.clients.items()}
        return {one.variant: self._spent(one, records) for one in done}

    def _start(self, federation: LocalFederation) -> None:
        from fedsus.learning.parameters import flatten
        from fedsus.model_file import metadata, write_model
        from fedsus.plan import TaskPart

        federation.start_server()
        for hospital in HOSPITALS:
            data = self.folder / hospital / "data"
            data.mkdir(parents=True)
            shutil.copyfile(packaged(hospital), data / "heart.csv")
        federation.wait_for_server()
        for hospital in HOSPITALS:
            federation.add_client(hospital, demo.AGENT, _POLICY)
        federation.register()
        for hospital in HOSPITALS:
            federation.start_agent(hospital)
        write_model(self.folder / "model.safetensors", flatten(heart().model(0)), metadata(TaskPart(name="heart")))
        federation.wait_for_agents()

    def _run(self, federation: LocalFederation, variant: Variant) -> Done:
        import tomli_w

        run_toml = self.folder / f"{variant.file}.toml"
        run_toml.write_text(tomli_w.dumps(asked(variant, self.rounds, run_toml.stem)), encoding="utf-8")
        before = _processor(federation)
        folder = federation.submit(run_toml, self.folder / "runs")
        federation.wait_for_run(folder, _PATIENCE)
        after = _processor(federation)
        say(f"{variant.name}: {after['devices'] - before['devices']:.1f} s of the devices' processor time")
        return Done(variant.name, folder, {who: after[who] - before[who] for who in after})

    def _spent(self, done: Done, records: dict[str, list[Interval]]) -> Spent:
        spent = joules_spent.of_run(read(done.folder), records, self.rounds)
        task = heart()
        shard = pooled([task.load(source) for source in sources(self.folder).values()])
        judged = judge(task, released_model(done.folder), shard.held_out)
        return replace(
            spent,
            processor=done.processor,
            accuracy=100 * judged.accuracy,
            auc=None if judged.auc is None else 100 * judged.auc,
            epsilon=self._epsilon(summary(done.folder).run),
        )

    def _epsilon(self, run: str) -> float:
        """The largest of what the hospitals' own ledgers say; 0 without DP."""
        from fedsus.owner.ledger import Ledger

        found = [0.0]
        for hospital in HOSPITALS:
            ledger = Ledger(self.folder / hospital / "state" / "ledger.sqlite", time.time, read_only=True)
            try:
                found += [one.epsilon_so_far for one in ledger.runs("patients") if one.run == run]
            finally:
                ledger.close()
        return max(epsilon for epsilon in found if math.isfinite(epsilon))


def asked(variant: Variant, rounds: int, name: str) -> dict[str, Any]:
    """The demo's run.toml, without what not all variants can tell: metrics and costs."""
    plain, private = (Federated(name, name, epsilon).fields(rounds) for epsilon in (None, EPSILON))
    plans = [{key: told for key, told in one["plan"].items() if key not in _TOLD} for one in (plain, private)]
    return plain | {"plan": variant.plan(*plans)}


def _processor(federation: LocalFederation) -> dict[str, float]:
    """Processor seconds until now, of the agents and of the server with all that it started."""
    server = federation.process("server").pid
    return {
        "devices": sum(processes.cpu_seconds(federation.process(name).pid) for name in federation.clients),
        "server": sum(_seconds(pid) for pid in (server, *processes.descendants(server))),
    }


def _seconds(pid: int) -> float:
    """0 where it ended meanwhile: its parent's children's time then holds it."""
    try:
        return processes.cpu_seconds(pid)
    except (OSError, IndexError):
        return 0.0
