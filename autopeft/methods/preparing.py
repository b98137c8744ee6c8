"""What a method does with a few batches of the data before it trains: one table, one call of the trainer's.

A preparation changes an adapted model in place, before the optimizer is made; afterwards exactly what
`adapt` says trains. What it decided is kept with a checkpoint and put back from there, never decided
again: another machine might decide otherwise. The cost model does not run it: a method whose preparation
takes more than its training says so in its row (`MethodSpec.preparation`).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from autopeft.methods import masks, starts
from autopeft.methods.preparation import Batches, Kept, Loss, Preparation
from autopeft.space.candidate import Candidate

_PREPARATIONS: dict[str, Preparation] = {
    "fish": masks.by_fisher,
    "lt-sft": masks.by_warm_up,
    "diff-pruning": masks.by_gates,
    "corda": starts.by_covariance,
    "eva": starts.by_activations,
    "lora-ga": starts.by_gradients,
}
# Of those that change more than the values of what trains: what puts that back.
_RETURNS: dict[str, Callable[[nn.Module, Kept], None]] = {
    **dict.fromkeys(("fish", "lt-sft", "diff-pruning"), masks.put_back),
    **dict.fromkeys(("corda", "lora-ga"), starts.put_back),
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


def put_back(model: nn.Module, candidate: Candidate, kept: Kept) -> None:
    """Make an adapted model's matrices and shapes what a preparation made of them, without any data.

    Args:
        model: what `adapt` returned.
        kept: parameters that train and buffers of the prepared model, whose values are for the caller to
            copy.
    """
    found = _RETURNS.get(candidate.method)
    if found is not None:
        found(model, kept)
