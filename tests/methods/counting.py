"""How many of a model's parameters a method trains, counted on fake tensors."""

from __future__ import annotations

import torch

from autopeft.cost.tracing.initialisers import initialised_on_fakes
from autopeft.cost.tracing.shims import traced_as
from autopeft.cost.tracing.trace import _FakeMode
from autopeft.errors import UnsupportedError
from autopeft.methods.adapt import adapt, trainable
from autopeft.methods.backbone import build_backbone
from autopeft.methods.heads import default_task
from autopeft.methods.registry import METHODS, complete
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.models import find_model

_DIGITS = 4


def share_of(method: str, name: str) -> float | None:
    """Return the trained share of a model of the catalogue under a method's defaults, to a few digits.

    None where the method has nothing to train there, as BitFit in a model without biases.
    """
    base, spec = find_model(name), METHODS[method]
    usual = default_task(base.family)
    task = usual if usual in spec.tasks else spec.tasks[0]
    asked = complete(Candidate(method=method, training=Training(max_length=64, precision="bf16")))
    modes = _FakeMode(allow_non_fake_inputs=True), traced_as("cuda", padded=False), initialised_on_fakes()
    with modes[0], modes[1], modes[2], torch.no_grad():
        model = build_backbone(base, task, 2, asked.training, weights=False)
        total = sum(p.numel() for p in model.parameters())
        try:
            trained = sum(p.numel() for p in trainable(adapt(model, asked, task)))
        except UnsupportedError:
            return None
    return float(f"{trained / total:.{_DIGITS}g}")
