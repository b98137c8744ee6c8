"""What a method does with a few batches of the data before it trains: one table, one call of the trainer's.

A preparation changes an adapted model in place, before the optimizer is made; afterwards exactly what
`adapt` says trains. The cost model does not run it: a method whose preparation takes more than its
training says so in its row (`MethodSpec.preparation`).
"""

from __future__ import annotations

from torch import nn

from autopeft.methods import masks, starts
from autopeft.methods.preparation import Batches, Loss, Preparation
from autopeft.space.candidate import Candidate

_PREPARATIONS: dict[str, Preparation] = {
    "fish": masks.by_fisher,
    "lt-sft": masks.by_warm_up,
    "diff-pruning": masks.by_gates,
    "corda": starts.by_covariance,
    "eva": starts.by_activations,
    "lora-ga": starts.by_gradients,
}


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
