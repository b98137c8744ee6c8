"""What a method does with a few batches of the data before it trains: one table, one call of the trainer's.

A preparation changes an adapted model in place, before the optimizer is made; afterwards exactly what
`adapt` says trains. The cost model does not run it: a method whose preparation takes more than its
training says so in its row (`MethodSpec.preparation`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from autopeft.space.candidate import Candidate

Batches = Iterable[Mapping[str, Tensor]]
Loss = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
Preparation = Callable[[nn.Module, Candidate, Batches, Loss], None]

_PREPARATIONS: dict[str, Preparation] = {}


def prepare(model: nn.Module, candidate: Candidate, batches: Batches, loss: Loss) -> None:
    """Prepare an adapted model for training as its method asks; most methods ask for nothing.

    Args:
        model: what `adapt` returned.
        batches: training batches without end, in the order of training; a preparation takes as many
            as it needs.
        loss: mean loss of a batch, shape ().
    """
    preparation = _PREPARATIONS.get(candidate.method)
    if preparation is not None:
        preparation(model, candidate, batches, loss)
