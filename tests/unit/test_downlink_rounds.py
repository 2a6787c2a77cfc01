"""Models that travel as differences, over whole runs: bits, bytes, restarts, lying servers, resumed runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from downlink_plans import LAST, NEXT, START, changed, other_difference
from same_run import simulated, whole_devices

from fedsus import plan as plans
from fedsus.config import RunConfig, validate
from fedsus.errors import ConfigError
from fedsus.journal import AttemptAbandoned, RoundReleased, get
from fedsus.reporting import read, released_model
from fedsus.rounds.device_half.answers import Answer, nothing
from fedsus.rounds.device_half.device import Device
from fedsus.rounds.messages import WANTED, request_bytes
from fedsus.rounds.models import Held
from fedsus.rounds.planning.specification import open_run, reference_of
from fedsus.rounds.server_half.server import RunLoop
from fedsus.secagg import wire
from fedsus.secagg.wire import Kind
from fedsus.tasks.heart import HOSPITALS, shipped
from fedsus.tasks.task import DataSource
from fedsus.types import Answered, Ask, Member, Reply, Vector
from fedsus_simulations.whole.memory import Members, devices

METRICS = [{"name": "loss", "low": 0.0, "high": 10.0}, {"name": "accuracy", "low": 0.0, "high": 1.0}]
EXCHANGES = ["clear_sum", "secure_sum"]


def config(exchange: str, rounds: int = 3, **plan: Any) -> RunConfig:
    asked = {
        "rounds": rounds,
        "exchange": exchange,
        "cohort": {"size": 4, "minimum": 4},
        "downlink": {"bits": 8, "block": 32},
        "metrics": METRICS,
    }
    part = {"name": "r", "task": {"name": "heart"}, "server": {"wait_for_devices": 0.0}}
    return validate(part | {"plan": asked | plan}, RunConfig, "run")


def is_difference(raw: bytes) -> bool:
    """Whether a message carries a model as a difference."""
    if not wire.is_secure(raw):
        length = int.from_bytes(raw[5:9], "little")
        return raw[17 + length] == 1
    (frame,) = (frame for frame in wire.frames(raw) if frame.kind == Kind.CONTRIBUTE)
    _, _, model = wire.decode_contribute(wire.split_sid(frame.body)[1], 4)
    return model[0] == 1


def trains(raw: bytes) -> bool:
    return not wire.is_secure(raw) or any(frame.kind == Kind.CONTRIBUTE for frame in wire.frames(raw))


Forge = Callable[[str, bytes], bytes]


@dataclass
class Fleet:
    """Whole devices; notes in which form each of them got each model."""

    devices: dict[str, Device]
    members_: Members | None = None
    forms: list[dict[str, bool]] = field(default_factory=list)
    before: Callable[[int], None] = lambda _: None
    forge: Forge = lambda _, raw: raw

    def members(self) -> Sequence[Member]:
        return [Member(name, name) for name in sorted(self.devices)]

    def ask(self, ask: Ask) -> Iterator[Reply]:
        if trains(ask.request(next(iter(ask.requests)))):
            self.before(len(self.forms))
            self.forms.append({name: is_difference(ask.request(name)) for name in ask.requests})
        for name in ask.requests:
            answer = self.devices[name].answer(self.forge(name, ask.request(name)), lambda: False)
            answer.sent()
            yield Answered(name, answer.body)


@dataclass
class Run:
    """A run of four hospitals in memory."""

    folder: Path
    config: RunConfig

    def __post_init__(self) -> None:
        secure = self.config.plan.exchange == "secure_sum"
        self.pact = Members.of(HOSPITALS) if secure else None
        self.fleet = Fleet(self.fresh())
        open_run(self.folder, "r", self.config, START, time.time, None if self.pact is None else self.pact.roster)

    def fresh(self) -> dict[str, Device]:
        """Devices that hold nothing."""
        sources = {name: DataSource(shipped(name)) for name in HOSPITALS}
        return devices(self.config, sources, "heart", 3, time.time, self.pact)

    def loop(self) -> RunLoop:
        return RunLoop(self.folder, self.fleet, clock=time.time, sleep=lambda _: None)

    def run(self) -> Vector:
        return self.loop().run()

    def of(self, kind: type[Any]) -> list[Any]:
        return [entry for entry in read(self.folder) if isinstance(entry, kind)]


def everybody(form: bool) -> dict[str, bool]:
    return dict.fromkeys(sorted(HOSPITALS), form)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_the_first_model_travels_whole_and_each_later_one_as_a_difference(tmp_path: Path, exchange: str) -> None:
    run = Run(tmp_path / "r", config(exchange))
    final = run.run()
    assert run.fleet.forms == [everybody(False), *[everybody(True)] * 3], "the last evaluation too"
    released = run.of(RoundReleased)
    last = reference_of(get(run.folder, released[2].checkpoint))
    before = get(run.folder, released[1].checkpoint)["model"]
    assert last is not None and not np.array_equal(last, before)
    step = np.abs(before - START).max() / 127
    assert np.abs(last - before).max() <= step, "what clients trained on is the server's model but for half a step"
    assert np.array_equal(released_model(run.folder), final), "what is released is the server's own"


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_devices_and_simulations_are_the_same_run(tmp_path: Path, exchange: str) -> None:
    plan = {"rounds": 3, "exchange": exchange, "cohort": {"size": 3, "minimum": 3}, "metrics": METRICS}
    named = {"name": "r", "task": {"name": "heart"}}
    found = {}
    for bits in (None, 4):
        asked = plan if bits is None else plan | {"downlink": {"bits": bits, "block": 32}}
        run = validate(named | {"plan": asked}, RunConfig, "run")
        folder = tmp_path / str(bits)
        found[bits] = whole_devices(run, folder / "devices", START)
        for masks in () if bits is None else ("none", "real") if exchange == "secure_sum" else ("none",):
            assert simulated(run, masks, folder / masks, START) == found[bits]
    assert found[4][0][3] == found[None][0][3], "nothing differs yet"
    assert found[4][1][3] != found[None][1][3]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_device_that_was_started_again_gets_the_whole_model_and_no_update_is_lost(
    tmp_path: Path, exchange: str
) -> None:
    """All four are in each sum: the plan's minimum."""
    run = Run(tmp_path / "r", config(exchange))
    name, others = sorted(HOSPITALS)[0], sorted(HOSPITALS)[1:]

    def restart(trained: int) -> None:
        if trained == 2:
            device = run.fleet.devices[name]
            device._held = Held()
            if device._sessions is not None:  # the process goes on, the model is gone: the worst case
                device._sessions.held = Held()

    run.fleet.before = restart
    run.run()
    again = [everybody(False), everybody(True), everybody(True), {name: False}, everybody(True)]
    assert run.fleet.forms == again and others
    assert [entry.survivors for entry in run.of(RoundReleased)] == [4, 4, 4, 4] and not run.of(AttemptAbandoned)


def test_whoever_did_not_answer_gets_the_whole_model_next_time(tmp_path: Path) -> None:
    run = Run(tmp_path / "r", config("clear_sum", cohort={"size": 4, "minimum": 3}))
    name = sorted(HOSPITALS)[1]
    run.fleet.forge = lambda client, raw: raw[:-1] if client == name and len(run.fleet.forms) == 2 else raw
    run.run()
    assert run.fleet.forms[2] == everybody(True) | {name: False}
    assert run.fleet.forms[3] == everybody(True)
    assert [entry.survivors for entry in run.of(RoundReleased)] == [4, 3, 4, 4]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_client_that_is_sent_another_difference_refuses_and_the_round_goes_on(
    tmp_path: Path, exchange: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A model of its own would tell the server of one client: the plan's hash is over the model that is made."""
    plan = {"cohort": {"size": 4, "minimum": 3}, "secure_sum": {"dropouts": 1, "colluders": 1}}
    run = Run(tmp_path / "r", config(exchange, rounds=2, **plan))
    name = sorted(HOSPITALS)[2]

    def lie(client: str, raw: bytes) -> bytes:
        return other_difference(raw) if client == name and trains(raw) and len(run.fleet.forms) == 2 else raw

    run.fleet.forge = lie
    run.run()
    assert [entry.survivors for entry in run.of(RoundReleased)] == [4, 3, 4]
    refused = [record.message for record in caplog.records if record.message.startswith("refused: ")]
    assert "not the one that the plan names" in refused[0] or "difference: " in refused[0]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path: Path, exchange: str) -> None:
    class Killed(BaseException): ...

    whole, killed = Run(tmp_path / "a", config(exchange)), Run(tmp_path / "b", config(exchange, spare_attempts=3))
    whole.run()

    def kill(trained: int) -> None:
        if trained == 2:
            raise Killed

    killed.fleet.before = kill
    with pytest.raises(Killed):
        killed.run()
    killed.fleet.before = lambda _: None
    killed.run()
    first, second = ([entry.checkpoint for entry in run.of(RoundReleased)] for run in (whole, killed))
    assert first[:2] == second[:2], "rounds before the server stopped"
    assert killed.fleet.forms[2] == everybody(False), "a server that was started again knows of no client"
    kept = [reference_of(get(run.folder, run.of(RoundReleased)[2].checkpoint)) for run in (whole, killed)]
    assert kept[0] is not None and kept[1] is not None
    assert kept[0].tobytes() == kept[1].tobytes(), "clients train on the same model, whichever way it travelled"


def test_a_device_without_the_base_says_so_before_its_owner_is_charged(tmp_path: Path) -> None:
    run = Run(tmp_path / "r", config("clear_sum"))
    device = next(iter(run.fleet.devices.values()))
    plan, raw = changed(NEXT, LAST, metrics=METRICS)
    answer = device.answer(request_bytes(plans.encode(plan), raw), lambda: False)
    assert answer.body == WANTED and answer.refusal is None
    assert not list(device.ledger.grants())


def test_who_says_twice_that_it_lacks_the_base_is_lost(tmp_path: Path) -> None:
    run = Run(tmp_path / "r", config("clear_sum", cohort={"size": 4, "minimum": 3}))
    name = sorted(HOSPITALS)[0]
    device = run.fleet.devices[name]
    honest = device.answer

    def answer(raw: bytes, stop: Callable[[], bool]) -> Answer:
        return honest(raw, stop) if len(run.fleet.forms) < 2 else Answer(WANTED, nothing)

    device.answer = answer  # type: ignore[method-assign]
    run.run()
    released = run.of(RoundReleased)
    assert [entry.survivors for entry in released] == [4, 3, 3, 3] and [entry.lost for entry in released] == [
        0,
        1,
        1,
        1,
    ]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"bits": 3}, "'plan.downlink.bits' = 3"),
        ({"bits": 16}, "'plan.downlink.bits' = 16"),
        ({"block": 8}, "'plan.downlink.block' = 8"),
        ({"size": 8}, "unknown field 'plan.downlink.size'"),
    ],
)
def test_a_wrong_table_is_one_line(asked: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        config("clear_sum", downlink=asked)
