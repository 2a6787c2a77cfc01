"""A model as one vector, and which models are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedsus.errors import ConfigError
from fedsus.learning.parameters import Flat, check_model, dimension, flatten, load_into


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(2 * 36, 3))


def test_order_is_that_of_named_parameters() -> None:
    module = network()
    expected = np.concatenate([p.detach().numpy().ravel() for _, p in module.named_parameters()])
    vector = flatten(module)
    assert vector.dtype == np.float32
    assert dimension(module) == vector.size == 20 + 4 + 219
    np.testing.assert_array_equal(vector, expected)


def test_a_copy_on_both_sides() -> None:
    module = network()
    vector = flatten(module)
    vector += 1
    assert not np.array_equal(flatten(module), vector)
    load_into(module, vector)
    np.testing.assert_array_equal(flatten(module), vector)
    vector[:] = 0
    assert flatten(module).any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_round_trip(seed: int) -> None:
    module = network()
    vector = np.random.default_rng(seed).normal(size=dimension(module)).astype(np.float32)
    load_into(module, vector)
    np.testing.assert_array_equal(flatten(module), vector)


def test_frozen_and_tied_parameters_count_once_or_not_at_all() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[0].bias.requires_grad_(False)
    module[1].weight = module[0].weight
    assert dimension(module) == 9 + 3
    before = module[0].bias.detach().clone()
    load_into(module, np.zeros(12, np.float32))
    assert torch.equal(module[0].bias, before)


@pytest.mark.parametrize("shape", [(242,), (244,), (243, 1)])
def test_another_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="243 trainable parameters"):
        load_into(network(), np.zeros(shape, np.float32))


def test_flat_views_stay_one_with_the_module() -> None:
    module = network()
    vector = flatten(module)
    flat = Flat(module, torch.device("cpu"))
    np.testing.assert_array_equal(flatten(module), vector)
    flat.load(torch.from_numpy(2 * vector))
    np.testing.assert_array_equal(flatten(module), 2 * vector)
    module(torch.ones(1, 1, 8, 8)).sum().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in module.parameters() if p.grad is not None])
    assert flat.gradient.any()
    assert torch.equal(flat.gradient, expected)
    flat.gradient.zero_()
    assert not any(p.grad.any() for p in module.parameters() if p.grad is not None)
    np.testing.assert_array_equal(flat.difference(torch.from_numpy(vector)), vector)


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (nn.BatchNorm1d(4), "BatchNorm1d"),
        (nn.BatchNorm2d(4), "BatchNorm2d"),
        (nn.SyncBatchNorm(4), "SyncBatchNorm"),
        (nn.InstanceNorm1d(4, track_running_stats=True), "InstanceNorm1d"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), "_SpectralNorm"),
    ],
)
def test_running_buffers_are_refused_by_name_with_the_fix(module: nn.Module, named: str) -> None:
    whole = nn.Sequential(nn.Linear(4, 4), nn.Sequential(module))
    with pytest.raises(ConfigError, match=rf"task 'mine': module '1\.0.*\({named}\).*GroupNorm") as caught:
        check_model(whole, "mine")
    assert "\n" not in str(caught.value)


def test_what_may_be_trained() -> None:
    check_model(network(), "mine")
    check_model(network(), "mine", private=True)
    constant = nn.Linear(2, 2)
    constant.register_buffer("positions", torch.arange(3))
    check_model(constant, "mine")
    check_model(nn.InstanceNorm1d(4, affine=True), "mine")


@pytest.mark.parametrize(
    "module", [nn.BatchNorm1d(4, track_running_stats=False), nn.LSTM(2, 2), nn.MultiheadAttention(2, 1)], ids=str
)
def test_what_mixes_examples_is_refused_under_privacy(module: nn.Module) -> None:
    check_model(module, "mine")
    with pytest.raises(ConfigError, match=r"task 'mine': .* cannot be trained with example privacy: .+") as caught:
        check_model(module, "mine", private=True)
    assert "\n" not in str(caught.value)


def test_nothing_to_train_and_other_types_are_refused() -> None:
    with pytest.raises(ConfigError, match="no trainable parameter"):
        check_model(nn.Tanh(), "mine")
    with pytest.raises(ConfigError, match=r"parameter 'weight' is torch\.float64"):
        check_model(nn.Linear(2, 2).double(), "mine")
