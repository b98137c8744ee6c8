"""A model that learnt scaled numbers is exported so that the user gets the right ones."""

from __future__ import annotations

import torch
from torch import nn

from autopeft.export.scale import fold_scale
from autopeft.workload.dataset import Scale

SCALE = Scale(mean=100.0, deviation=7.0)


def test_a_head_with_a_bias_takes_the_scale_in() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    inputs = torch.randn(5, 4)
    before = model(inputs)
    assert fold_scale(model, SCALE) is None
    assert torch.allclose(model(inputs), 100 + 7 * before, atol=1e-4)


def test_a_head_without_a_bias_leaves_the_scale_to_the_user() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1, bias=False))
    before = model[1].weight.clone()
    assert fold_scale(model, SCALE) == SCALE
    assert torch.equal(model[1].weight, before)


def test_a_head_that_is_not_saved_is_not_touched() -> None:
    model = nn.Sequential(nn.Linear(4, 1))
    model.requires_grad_(False)
    assert fold_scale(model, SCALE) == SCALE
