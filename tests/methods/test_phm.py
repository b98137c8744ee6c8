"""Tests of autopeft/methods/phm.py: the matrix is the sum of Kronecker products that the paper writes."""

from __future__ import annotations

import torch
from torch import nn

from autopeft.methods.phm import PhmLinear, slow_matrices

KIND = {"device": torch.device("cpu"), "dtype": torch.float32}


def layer(inside: int, outside: int, count: int) -> tuple[PhmLinear, nn.ParameterDict]:
    torch.manual_seed(0)
    slow = nn.ParameterDict({"default": slow_matrices(count, KIND["device"])})
    return PhmLinear(inside, outside, slow, "default", **KIND), slow


def test_the_matrix_is_a_sum_of_kronecker_products_with_rank_one_factors() -> None:
    made, slow = layer(12, 6, 3)
    expected = sum(
        torch.kron(a, torch.outer(s, t))
        for a, s, t in zip(slow["default"], made.left, made.right, strict=True)
    )
    assert torch.allclose(made.weight(), expected, atol=1e-6)
    hidden = torch.randn(2, 5, 12)
    assert torch.allclose(made(hidden), hidden @ expected.T + made.bias, atol=1e-5)


def test_the_matrix_starts_with_the_variance_of_one_over_its_inputs() -> None:
    made, _ = layer(512, 512, 4)
    assert 0.5 < float(made.weight().var() * 512) < 2


def test_shared_matrices_are_no_parameters_of_the_layer() -> None:
    made, slow = layer(12, 6, 3)
    assert {name for name, _ in made.named_parameters()} == {"left", "right", "bias"}
    made(torch.ones(1, 12)).sum().backward()
    assert slow["default"].grad is not None
