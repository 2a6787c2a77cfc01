"""Hardware, precision and optimizers: what is there is used, what is not there is one clear line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fedsus import plan
from fedsus.errors import ConfigError
from fedsus.learning import optimizers
from fedsus.learning.settings import Compute, TrainSettings, check_precision, resolve

CPU = torch.device("cpu")


@pytest.fixture
def only_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(("cuda", "mps", "best"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_takes_the_best_that_is_there(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, best: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve(Compute()).type == best
    assert resolve(Compute("cpu")).type == "cpu"


@pytest.mark.usefixtures("only_cpu")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps"])
def test_asked_for_but_absent(device: str) -> None:
    with pytest.raises(ConfigError, match=rf"compute\.device = '{device}': not available.*'auto' or 'cpu'"):
        resolve(Compute(device))


@pytest.mark.parametrize("device", ["", "gpu", "cpu:1", "cuda:x", "cuda:-1", "mps:0", "CPU"])
def test_unknown_device(device: str) -> None:
    with pytest.raises(ConfigError, match="expected one of auto, cpu, cuda, mps"):
        resolve(Compute(device))


def test_a_number_beyond_the_last_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve(Compute("cuda:1")) == torch.device("cuda:1")
    with pytest.raises(ConfigError, match=r"has 2 CUDA device"):
        resolve(Compute("cuda:2"))


def test_threads() -> None:
    before = torch.get_num_threads()
    try:
        resolve(Compute("cpu", 2))
        assert torch.get_num_threads() == 2
        resolve(Compute("cpu", 1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ConfigError, match=r"compute\.threads = 0: expected 1 or more"):
        resolve(Compute("cpu", 0))


@pytest.mark.parametrize("has", [{"avx512_bf16": True}, {"amx_bf16": True}, {"bf16": True}])
def test_bfloat16_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch, has: dict[str, bool]) -> None:
    chosen = plan.Training(precision="bfloat16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    check_precision(chosen, CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(has, False))
    check_precision(plan.Training(), CPU)
    with pytest.raises(ConfigError, match="no native bfloat16; use precision = 'float32'"):
        check_precision(chosen, CPU)
    with pytest.raises(ConfigError, match="this mps has no native bfloat16"):
        check_precision(chosen, torch.device("mps"))


def test_the_learning_rate_is_that_of_the_round() -> None:
    training = plan.Training(schedule=plan.Schedule(name="step", factor=0.5, every=2))
    rates = [TrainSettings(training, plan.NoPrivacy(), number, 6).learning_rate for number in range(1, 6)]
    assert rates == [0.1, 0.1, 0.05, 0.05, 0.025]


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.ones(3))


@pytest.mark.parametrize("name", list(optimizers.TABLE))
def test_every_name_of_the_plan_makes_its_optimizer(name: Any) -> None:
    made = optimizers.make(plan.Optimizer(name=name, weight_decay=0.25), [parameter()], 0.5)
    assert type(made) is optimizers.TABLE[name]
    assert made.param_groups[0]["lr"] == 0.5
    assert made.param_groups[0]["weight_decay"] == 0.25


def test_the_table_is_that_of_the_plan() -> None:
    names = plan.Optimizer.model_fields["name"].annotation
    assert set(optimizers.TABLE) == set(names.__args__)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_momentum(name: Any) -> None:
    made = optimizers.make(plan.Optimizer(name=name, momentum=0.9), [parameter()], 0.1)
    assert made.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad", "nadam", "radam"])
def test_momentum_where_there_is_none(name: Any) -> None:
    with pytest.raises(ConfigError, match=rf"optimizer\.momentum = 0\.9: '{name}' has none.*sgd or rmsprop"):
        optimizers.make(plan.Optimizer(name=name, momentum=0.9), [parameter()], 0.1)


def test_nesterov() -> None:
    made = optimizers.make(plan.Optimizer(momentum=0.9, nesterov=True), [parameter()], 0.1)
    assert made.param_groups[0]["nesterov"] is True
    for wrong in (plan.Optimizer(nesterov=True), plan.Optimizer(name="rmsprop", momentum=0.5, nesterov=True)):
        with pytest.raises(ConfigError, match="nesterov"):
            optimizers.make(wrong, [parameter()], 0.1)


def test_sgd_by_hand() -> None:
    """Weight decay is an L2 term: w - lr * (g + decay * w)."""
    weights = parameter()
    weights.grad = torch.tensor([1.0, 2.0, 0.0])
    optimizers.make(plan.Optimizer(weight_decay=0.5), [weights], 0.1).step()
    torch.testing.assert_close(weights.detach(), torch.tensor([0.85, 0.75, 0.95]))
