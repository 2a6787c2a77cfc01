"""Models that travel as differences, over whole runs: bits, bytes, restarts, lying servers, resumed runs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from same_run import simulated, whole_devices

from fedsus import plan as plans
from fedsus.config import RunConfig, validate
from fedsus.errors import ConfigError, ProtocolViolation, RunFailed
from fedsus.journal import AttemptAbandoned, RoundReleased, get
from fedsus.plan import Downlink, Plan
from fedsus.reporting import read, released_model
from fedsus.rounds import models
from fedsus.rounds.answers import Answer, nothing
from fedsus.rounds.device import Device
from fedsus.rounds.messages import WANTED, decode_request, encode_request, model_hash, request_bytes
from fedsus.rounds.models import MOST, Held, Readers, Unheld, reference
from fedsus.rounds.phases import phases_of
from fedsus.rounds.server import RunLoop
from fedsus.rounds.specification import open_run, reference_of
from fedsus.secagg import wire
from fedsus.secagg.wire import Kind
from fedsus.tasks.heart import HOSPITALS, shipped
from fedsus.tasks.task import DataSource
from fedsus.types import Answered, Ask, Forms, Member, Reply, Vector
from fedsus_simulations.whole.memory import Members, devices

START = np.linspace(-1, 1, 34, dtype=np.float32)
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


def other_difference(raw: bytes) -> bytes:
    """The same request with another step in the difference."""
    request = bytearray(raw)
    request[-1] ^= 1
    return bytes(request)


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


def test_a_difference_is_a_quarter_of_a_larger_model_and_only_who_lacks_the_base_gets_more() -> None:
    dimension, generator = 20_000, np.random.default_rng(0)
    model, last = (generator.normal(size=dimension).astype(np.float32) for _ in range(2))
    plan = a_plan(last)
    readers, names = Readers(), ["a", "b", "c"]
    assert len(readers.forms(plan, reference(last, None, plan.downlink), names).common) == 4 * dimension + 1
    readers.forms(plan, reference(last, None, plan.downlink), []).read.update(names)
    made = reference(model, last, plan.downlink)
    forms = readers.forms(plan.model_copy(update={"model": model_hash(made.model)}), made, [*names, "d"])
    assert forms.others == {"d"} and len(forms.common) < dimension * (1 + 2 / 32) + 100
    assert forms.whole is not None and len(forms.whole()) == 4 * dimension + 1


def a_plan(model: Vector, **changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "run": "run",
        "round": 2,
        "attempt": 2,
        "rounds": 9,
        "spare_attempts": 2,
        "model": model_hash(model),
        "dimension": len(model),
        "task": {"name": "heart"},
        "training": {},
        "privacy": {"unit": "none"},
        "encoding": {},
        "downlink": {"bits": 8, "block": 32},
        "cohort": {"size": 4, "minimum": 3},
        "deadline": 9.0,
    }
    return Plan.model_validate(fields | changes)


def changed(model: Vector, last: Vector, **changes: Any) -> tuple[Plan, bytes]:
    """A plan, and its model as a difference."""
    made = reference(model, last, Downlink(bits=8, block=32))
    plan = a_plan(made.model, **changes)
    return plan, b"\1" + bytes.fromhex(made.base) + made.change


def holding(model: Vector, **changes: Any) -> Held:
    held = Held()
    held.keep(a_plan(model, **changes), model)
    return held


LAST, NEXT = START, START + np.float32(0.125)


def test_a_difference_arrives_as_the_model_that_its_plan_names() -> None:
    plan, raw = changed(NEXT, LAST)
    assert model_hash(models.read(plan, raw, holding(LAST))) == plan.model
    whole = decode_request(encode_request(a_plan(NEXT), NEXT))
    assert np.array_equal(whole.model, NEXT)


@pytest.mark.parametrize("held", [None, Held(), holding(NEXT), holding(LAST, run="another")])
def test_without_the_base_the_whole_model_is_asked_for(held: Held | None) -> None:
    plan, raw = changed(NEXT, LAST)
    with pytest.raises(Unheld, match="does not have"):
        models.read(plan, raw, held)


BAD: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda raw: b"", "neither whole nor a difference"),
    "another form": (lambda raw: b"\2" + raw[1:], "neither whole nor a difference"),
    "half a hash": (lambda raw: raw[:20], "neither whole nor a difference"),
    "a truncated difference": (lambda raw: raw[:-3], "difference: "),
    "a difference with more behind it": (lambda raw: raw + b"\0", "difference: "),
    "another difference": (other_difference, "difference: |not the one that the plan names"),
    "a good difference to another model": (lambda raw: changed(NEXT * 2, LAST)[1], "not the one that the plan names"),
    "a difference called whole": (lambda raw: b"\0" + raw[1:], "model of .* bytes, plan says 136"),
    "a whole model of another length": (lambda raw: b"\0" + bytes(132), "model of 132 bytes, plan says 136"),
    "another whole model": (lambda raw: b"\0" + bytes(136), "not the one that the plan names"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_model_is_refused_with_a_reason(case: str) -> None:
    change, why = BAD[case]
    plan, raw = changed(NEXT, LAST)
    with pytest.raises(ProtocolViolation, match=why) as caught:
        models.read(plan, change(raw), holding(LAST))
    assert not isinstance(caught.value, Unheld) and "\n" not in str(caught.value)


def test_a_base_of_another_dimension_is_refused() -> None:
    plan, raw = changed(NEXT, LAST)
    other = plan.model_copy(update={"dimension": 33})
    with pytest.raises(ProtocolViolation, match="a difference to a model of 34, plan says 33"):
        models.read(other, raw, holding(LAST))


def test_a_plan_without_downlink_takes_whole_models_alone() -> None:
    _, raw = changed(NEXT, LAST)
    plan = a_plan(NEXT, downlink=None)
    assert np.array_equal(models.read(plan, NEXT.tobytes(), None), NEXT)
    with pytest.raises(ProtocolViolation, match="plan says 136"):
        models.read(plan, raw, holding(LAST))


def test_a_device_keeps_the_last_model_of_a_few_runs() -> None:
    held = Held()
    for run, model in itertools.product(("a", "b", "c"), (LAST, NEXT)):
        held.keep(a_plan(model, run=run), model)
    assert len(held._models) == MOST
    assert np.array_equal(held.find("c", model_hash(NEXT)), NEXT) and np.array_equal(
        held.find("b", model_hash(NEXT)), NEXT
    )
    for run, model in (("a", NEXT), ("b", LAST), ("c", LAST)):
        with pytest.raises(Unheld):
            held.find(run, model_hash(model))
    held = holding(LAST, downlink=None)
    assert not held._models, "nothing is kept for a run whose models travel whole"


def test_what_is_kept_holds_no_message() -> None:
    raw = bytearray(encode_request(a_plan(LAST), LAST))
    model = decode_request(bytes(raw)).model
    held = holding(model)
    assert held.find("run", model_hash(LAST)).base is None


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


def test_nobody_makes_the_server_send_a_whole_model_twice() -> None:
    """A client that got the whole one and says that it lacks the base lies."""
    forms = Forms(b"difference", frozenset({"new"}), lambda: b"whole")
    requests = dict.fromkeys(("old", "new"), b"")
    first = forms.ask(requests, 1.0)
    assert (first.request("old"), first.request("new")) == (b"difference", b"whole")
    again = forms.again(requests, 1.0)
    assert again is not None
    assert (dict(again.requests), again.request("old")) == ({"old": b""}, b"whole")
    assert forms.again({"new": b""}, 1.0) is None
    assert forms.again({}, 1.0) is None


def test_a_model_that_is_not_finite_ends_the_run_with_its_reason() -> None:
    broken = NEXT.copy()
    broken[3] = np.nan
    with pytest.raises(RunFailed, match="the model cannot be sent: .*NaN or infinity"):
        reference(broken, LAST, Downlink())


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


def test_only_the_answer_to_a_model_can_say_that_the_base_is_missing() -> None:
    (frame,) = wire.frames(wire.frame(Kind.CONTRIBUTE, wanting=True))
    assert frame.wanting and not frame.refused and not frame.body
    with pytest.raises(ProtocolViolation, match="asks nothing"):
        phases_of([frame])
    with pytest.raises(ProtocolViolation, match="status 2"):
        wire.frames(wire.frame(Kind.CONFIRM, wanting=True))
    with pytest.raises(ProtocolViolation, match="lengths do not add up"):
        wire.frames(wire.frame(Kind.CONTRIBUTE, b"x", wanting=True))


@settings(deadline=None, max_examples=100)
@given(tail=st.binary(max_size=80), form=st.sampled_from([b"", b"\0", b"\1", b"\2"]))
def test_any_bytes_are_the_model_of_the_plan_or_one_refusal(tail: bytes, form: bytes) -> None:
    plan, raw = changed(NEXT, LAST)
    for sent in (form + tail, raw[:33] + tail):
        with pytest.raises(ProtocolViolation) as caught:
            models.read(plan, sent, holding(LAST))
        assert "\n" not in str(caught.value)
