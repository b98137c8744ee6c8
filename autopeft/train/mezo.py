"""MeZO: training with forward passes only (Malladi et al. 2023, arXiv:2305.17333, algorithm 1).

    g = (L(theta + e z) - L(theta - e z)) / 2e,   theta <- theta - lr g z,   z ~ N(0, 1)

g estimates the slope of the loss along z. Nothing is kept for a backward, and z is not kept either: it is
drawn again from its seed, one parameter at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

_DISTANCE = 1e-3  # of the authors' code
_MOST_STEPS = 10**7


class Mezo(torch.optim.Optimizer):
    """Zeroth-order SGD: `probe` measures the slope of each micro-batch, `step` goes down it."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float, seed: int = 0
    ) -> None:
        """Take the parameters that train; other seeds walk along other directions."""
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self._seed = seed
        self.slope: torch.Tensor | None = None

    @torch.no_grad()
    def probe(self, loss: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Add the slope of a loss to that of the step; leave the parameters as they were, up to rounding.

        Returns:
            The mean of the loss on both sides, shape ().
        """
        self._shift(_DISTANCE)
        above = loss()
        self._shift(-2 * _DISTANCE)
        below = loss()
        self._shift(_DISTANCE)
        slope = (above - below) / (2 * _DISTANCE)
        self.slope = slope if self.slope is None else self.slope + slope
        return (above + below) / 2

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Go down the slope that was measured since the last step; there is no closure.

        Raises:
            RuntimeError: none was measured.
        """
        del closure
        if self.slope is None:
            raise RuntimeError("mezo reads no gradients: let it probe the loss before its step.")
        for group, parameter, direction in self._directions():
            if group["weight_decay"] > 0:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(direction.mul_(self.slope), alpha=-group["lr"])
        self.slope = None
        first = self.param_groups[0]["params"][0]
        self.state[first]["step"] = self._steps() + 1

    def _steps(self) -> int:
        return int(self.state[self.param_groups[0]["params"][0]].get("step", 0))

    def _shift(self, distance: float) -> None:
        for _, parameter, direction in self._directions():
            parameter.add_(direction, alpha=distance)

    def _directions(self) -> Iterable[tuple[dict[str, Any], nn.Parameter, torch.Tensor]]:
        """Draw the step's z again, parameter by parameter; seeded by the trial's seed and the step."""
        seed = (self._seed * _MOST_STEPS + self._steps()) % 2**63
        generators: dict[torch.device, torch.Generator] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                where = parameter.device
                if where not in generators:
                    generators[where] = torch.Generator(where).manual_seed(seed)
                drawn = torch.randn(
                    parameter.shape, generator=generators[where], device=where, dtype=parameter.dtype
                )
                yield group, parameter, drawn
