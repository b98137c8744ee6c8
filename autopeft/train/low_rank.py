"""AdamW whose moments live in a low-rank projection of the gradient: GaLore and APOLLO.

Written after the papers and with the defaults of their authors' packages (galore_torch and
apollo_torch 1.0: rank 128, a new projection every 200 steps), which are not on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autopeft.methods.adapt import trainable

_RANK = 128
_STEPS_A_PROJECTION = 200
_GALORE_SCALE = 0.25
_GROWTH_LIMIT = 1.01  # APOLLO: how much the norm of an update may grow from one step to the next
_BETAS = (0.9, 0.999)
_EPS = 1e-8


class LowRankAdamW(torch.optim.Optimizer):
    """GaLore (arXiv:2403.03507), or APOLLO (arXiv:2412.05270) where the projection is `random`.

    Only matrices of linear layers wider than the rank are projected, not embeddings or the head;
    other parameters get plain AdamW.
    """

    def __init__(self, model: nn.Module, *, lr: float, weight_decay: float, random: bool) -> None:
        """Take the parameters of `model` that train."""
        projected = _projected(model)
        groups: list[dict[str, Any]] = [
            {
                "params": [p for p in trainable(model) if (id(p) in projected) is low_rank],
                "low_rank": low_rank,
            }
            for low_rank in (True, False)
        ]
        self.random = random
        super().__init__(
            [group for group in groups if group["params"]], {"lr": lr, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step; there is no closure."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: nn.Parameter, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        steps = state["step"] = state.get("step", 0) + 1
        tall = gradient.dim() == 2 and gradient.shape[0] >= gradient.shape[1]
        small = gradient
        if group["low_rank"]:
            if (steps - 1) % _STEPS_A_PROJECTION == 0:
                state["projection"] = _random(gradient) if self.random else _leading(gradient)
            small = gradient @ state["projection"].T if tall else state["projection"].T @ gradient
        if "exp_avg" not in state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(small), torch.zeros_like(small)
        state["exp_avg"].lerp_(small, 1 - _BETAS[0])
        state["exp_avg_sq"].mul_(_BETAS[1]).addcmul_(small, small, value=1 - _BETAS[1])
        update = state["exp_avg"] / state["exp_avg_sq"].sqrt().add_(_EPS)
        if group["low_rank"] and self.random:
            update = _limited(gradient * _growth(update, small), state)
        elif group["low_rank"]:
            update = update @ state["projection"] if tall else state["projection"] @ update
            update.mul_(_GALORE_SCALE)
        rate = group["lr"] * math.sqrt(1 - _BETAS[1] ** steps) / (1 - _BETAS[0] ** steps)
        parameter.add_(update, alpha=-rate)
        if group["weight_decay"] > 0:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])


def _projected(model: nn.Module) -> set[int]:
    """Return the ids of the matrices that are projected."""
    outputs = getattr(model, "get_output_embeddings", lambda: None)()
    linear = (module for module in model.modules() if isinstance(module, nn.Linear) and module is not outputs)
    return {id(each.weight) for each in linear if min(each.weight.shape) > _RANK}


def _leading(gradient: torch.Tensor) -> torch.Tensor:
    """Return the leading singular vectors of the shorter side, shape (rank, n) or (m, rank)."""
    left, _, right = torch.linalg.svd(gradient.float(), full_matrices=False)
    kept = right[:_RANK] if gradient.shape[0] >= gradient.shape[1] else left[:, :_RANK]
    projection: torch.Tensor = kept.to(gradient.dtype, copy=True)
    return projection


def _random(gradient: torch.Tensor) -> torch.Tensor:
    """Return a Gaussian projection that keeps norms in the mean, of the shape of `_leading`."""
    rows, columns = gradient.shape
    shape = (_RANK, columns) if rows >= columns else (rows, _RANK)
    return torch.randn(shape, dtype=gradient.dtype, device=gradient.device).div_(math.sqrt(_RANK))


def _growth(update: torch.Tensor, small: torch.Tensor) -> torch.Tensor:
    """Return by how much AdamW would scale each channel, as APOLLO reads it off the projection."""
    over = 0 if update.shape[0] < update.shape[1] else 1
    above, below = (torch.linalg.vector_norm(each, dim=over, keepdim=True) for each in (update, small))
    factor: torch.Tensor = above / below.add_(_EPS)
    return factor


def _limited(update: torch.Tensor, state: dict[str, Any]) -> torch.Tensor:
    """Keep the norm of an update from growing too fast."""
    norm = torch.linalg.vector_norm(update)
    if "norm" in state:
        limit = torch.clamp(norm / (state["norm"] + _EPS), min=_GROWTH_LIMIT) / _GROWTH_LIMIT
        update, norm = update.div_(limit), norm / limit
    state["norm"] = norm
    return update
