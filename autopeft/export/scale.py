"""Scale: a model that learnt scaled numbers gives the user's own, where its head can hold the difference."""

from __future__ import annotations

import torch
from torch import nn

from autopeft.workload.dataset import Scale


def fold_scale(model: nn.Module, scale: Scale) -> Scale | None:
    """Fold a scale into the head: w h + b becomes d (w h + b) + m, where d is the deviation and m the mean.

    Returns:
        What is left to do to the model's output: nothing, or the whole scale where no last layer in fp32
        with a bias is saved with the adapter (heads of decoders have none).
    """
    heads = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.out_features == 1 and module.weight.requires_grad
    ]
    bias = getattr(heads[0], "bias", None) if len(heads) == 1 else None
    if bias is None or bias.dtype != torch.float32:
        return scale
    with torch.no_grad():
        heads[0].weight.mul_(scale.deviation)
        bias.mul_(scale.deviation).add_(scale.mean)
    return None
