"""Runs the demo: processes, folders, four deployed runs, the closing tables."""

from __future__ import annotations

import shutil
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus.errors import EnvironmentFault
from fedsus.owner import energy_record
from fedsus_simulations.demo import closing, picture, spread
from fedsus_simulations.demo.results import Answer, Results, Row, comparison, ordered, table
from fedsus_simulations.demo.study import (
    COUNTRIES,
    DEPLOYED,
    FEDERATED,
    HOSPITALS,
    SECURE,
    SEEDS,
    Federated,
    grid,
    heart,
    judge,
    packaged,
    sources,
)
from fedsus_simulations.whole.federation import LocalFederation

if TYPE_CHECKING:
    from rich.console import Console

    from fedsus.journal import Entry
    from fedsus.tasks.task import Shard, Task

_PATIENCE: Final = 300.0

AGENT: Final = """\
[tasks]
heart = "heart"

[compute]
device = "cpu"
threads = 1

[data.patients]
path = "data/heart.csv"
"""

POLICY: Final = """\
# The demo compares answers with and without privacy, so its hospitals grant both. A real owner would set neither
# without_dp nor clear_sum, and would choose one epsilon.
[privacy]
epsilon = 11.0
delta = 2e-5
without_dp = true

[cohort]
minimum = 3

[exchange]
# One run of the demo sums in clear, to show what secure aggregation costs: there the server sees this hospital's own
# update. Without this line, the default, a device refuses such a run.
clear_sum = true

[tasks.heart]
data = "patients"
"""


@dataclass(slots=True)
class Demo:
    """One demo below one folder.

    Args:
        folder: for the processes' files.
        runs: where run folders go.
        rounds: of each federated run.
        console: where progress is shown.
    """

    folder: Path
    runs: Path
    rounds: int
    console: Console

    def run(self) -> Results:
        """Everything; what was started is stopped, however this ends."""
        with LocalFederation(self.folder, environment={"OMP_NUM_THREADS": "1"}) as federation:
            return self._run(federation)

    def _run(self, federation: LocalFederation) -> Results:
        import tomli_w

        began = time.monotonic()
        self._say(f"files of the server and the four hospitals: {self.folder}")
        federation.start_server()
        for hospital in HOSPITALS:
            data = self.folder / hospital / "data"
            data.mkdir(parents=True)
            shutil.copyfile(packaged(hospital), data / "heart.csv")
        running = federation.wait_for_server()
        self._say(f"server: TLS on 127.0.0.1:{running.port}, four node keys registered")
        for hospital in HOSPITALS:
            federation.add_client(hospital, AGENT + tomli_w.dumps(grid(COUNTRIES[hospital])), POLICY)
        federation.register()
        for hospital in HOSPITALS:
            federation.start_agent(hospital)
        self._write_runs()
        federation.wait_for_agents()
        self._say("agents: all four connected; torch loads while they wait")
        command = [sys.executable, "-m", "fedsus_simulations.demo.spread", str(self.folder), str(self.rounds)]
        federation.start_process("repetitions", command, self.folder / "spread.out")
        task, shards = heart(), {name: heart().load(source) for name, source in sources(self.folder).items()}
        deployed: dict[str, Answer] = {}
        for answer in DEPLOYED:
            if answer is SECURE:
                self._say("repetitions over 5 seeds in memory: waiting for the last, for rounds are timed from here on")
                repetitions = self._repetitions(federation)
            deployed[answer.name] = self._deploy(federation, answer, task, shards)
        answers = ordered(deployed, repetitions)
        results = Results(self.rounds, self._data_bytes(), answers, repetitions.same_models, len(SEEDS))
        self._say(f"done in {time.monotonic() - began:.0f} s; everything is stopped")
        return results

    def _deploy(self, federation: LocalFederation, answer: Federated, task: Task, shards: dict[str, Shard]) -> Answer:
        """One deployed run, watched to its end, and judged at each hospital."""
        from fedsus.reporting import released_model, summary
        from fedsus_server.progress import show

        self.console.rule(answer.title, align="left")
        began = time.monotonic()
        folder = federation.submit(self.folder / f"{answer.name}.toml", self.runs)
        show(self._entries(federation, folder), self.console)
        seconds = time.monotonic() - began
        told = summary(folder)
        if told.model is None:
            raise EnvironmentFault(f"the run ended without a model; {folder / 'server.log'} says why")
        model = released_model(folder)
        rows = [
            Row(name, judge(task, model, shards[name].held_out), [], self._epsilon(name, told.run)) for name in shards
        ]
        timed = [entry for entry in told.rounds if 1 < entry.round <= self.rounds]
        return Answer(
            answer.name,
            answer.title,
            rows,
            told.bytes_sent + told.bytes_received,
            seconds,
            str(folder),
            answer.exchange,
            statistics.median(entry.seconds for entry in timed),
            statistics.median_low([entry.bytes_sent + entry.bytes_received for entry in timed]),
        )

    def _entries(self, federation: LocalFederation, folder: Path) -> Iterator[Entry]:
        """The journal as it grows; ends with the run.

        Raises:
            EnvironmentFault: a process ended, or the run takes too long.
        """
        from fedsus.reporting import follow

        end = time.monotonic() + _PATIENCE

        def stop() -> bool:
            federation.check()
            if time.monotonic() > end:
                raise EnvironmentFault(f"the run takes more than {_PATIENCE:g} s; {folder / 'server.log'} may say why")
            return False

        return follow(folder, stop, poll=0.1)

    def _epsilon(self, hospital: str, run: str) -> float:
        """What the hospital's own ledger says that the run spent so far."""
        from fedsus.owner.ledger import Ledger

        ledger = Ledger(self.folder / hospital / "state" / "ledger.sqlite", time.time, read_only=True)
        try:
            return next(spent.epsilon_so_far for spent in ledger.runs("patients") if spent.run == run)
        finally:
            ledger.close()

    def _repetitions(self, federation: LocalFederation) -> spread.Repetitions:
        federation.wait_for_exit("repetitions", _PATIENCE, self.folder / "spread.out")
        return spread.read(self.folder / spread.FILE)

    def _write_runs(self) -> None:
        """The four run.toml files, and the initial model they share."""
        import tomli_w

        from fedsus.learning.parameters import flatten
        from fedsus.model_file import metadata, write_model

        model = flatten(heart().model(0))
        write_model(self.folder / "model.safetensors", model, metadata(FEDERATED[0].config(self.rounds).task))
        for answer in FEDERATED:
            text = tomli_w.dumps(answer.fields(self.rounds))
            (self.folder / f"{answer.name}.toml").write_text(text, encoding="utf-8")

    def _data_bytes(self) -> int:
        return sum(source.path.stat().st_size for source in sources(self.folder).values())

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


def main(runs: Path, rounds: int) -> None:
    """The ``fedsus demo`` command."""
    from rich.console import Console

    # As Ctrl-C does, also when the terminal is closed: leave through the blocks that stop what was started.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)

    console = Console()
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = (runs / f"demo-{stamp}").resolve()
    results = Demo(folder, runs.resolve(), rounds, console).run()
    console.print(table(results))
    console.print(comparison(results))
    results.write(folder)
    records = [folder / hospital / "state" / energy_record.FILE for hospital in HOSPITALS]
    closed = closing.close(results.answers, folder / "server", records)
    console.print(closing.table(closed))
    for place in (folder, *(Path(answer.run) for answer in results.answers if answer.run)):
        picture.draw(results, place)
    for one in closed:
        console.print(f"{one.answer.title}: {one.report}", highlight=False, soft_wrap=True)
    console.print(f"picture, table as JSON, journals: {folder}", highlight=False, soft_wrap=True)
