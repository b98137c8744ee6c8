"""Two recordings of one job, on fake tensors and on real ones, and how they are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from autopeft.cost.tape import Category
from autopeft.cost.tracing.initialisers import initialised_on_fakes
from autopeft.cost.tracing.record import record
from autopeft.cost.tracing.shims import traced_as
from autopeft.cost.tracing.take import Job, Take
from autopeft.cost.tracing.trace import _FakeMode

# peft's defaults are for large models; these suit matrices of 64 columns.
SMALL: dict[str, dict[str, Any]] = {
    "adamss": {"r": 16, "num_subspaces": 4},
    "adapterdrop": {"dropped": 1},
    "c3a": {"block_size": 8},
    "fourierft": {"n_frequency": 50},
    "road": {"group_size": 8},
    "shira": {"r": 4},
    "unilora": {"theta_d_length": 32},
    "vblora": {"vector_length": 16, "num_vectors": 16},
    "velora": {"velora_config": {"num_groups": 8}},
    "waveft": {"n_frequency": 50},
}
# Methods that differ in temporaries or in how parameters are cut: why, and by how much the peaks differ.
UNLIKE: dict[str, tuple[str, float]] = {
    "adamss": ("how many rows a cluster gets depends on the weights, their sum does not", 0.0),
    "cpt": ("how its loss is weighed depends on how many targets a row holds", 0.001),
    "frod": ("a sparse product takes other pieces on a CPU than on a GPU, whose ways the fake takes", 0.0),
    "loha": ("draws a number on the host for each matrix", 0.0),
    "lokr": ("draws a number on the host for each matrix", 0.0),
    "shira": ("a CPU turns a sparse gradient into other pieces than a GPU, whose ways the fake takes", 0.015),
}
LASTING = ("WEIGHTS", "ADAPTER", "GRADIENTS", "OPTIMIZER", "QUANTIZATION", "LOGITS")
"""Categories that are the same to the byte even where temporaries differ."""


def faked(job: Job) -> Take:
    shims = traced_as(
        job.target,
        padded=job.padded,
        packed=job.packed,
        causal_padded=job.padded and job.kind not in ("encoder-decoder", "speech"),
        reads_values=job.reads_values,
    )
    with _FakeMode(allow_non_fake_inputs=True), shims, initialised_on_fakes():
        return record(job)


def real(job: Job) -> Take:
    """Record real tensors.

    Where something is added in place to a view (the output of a linear layer with a bias is one), autograd
    remakes the view by strides, and by what it was only for tensors with a dispatch of their own, as fake
    ones have. Remaking by strides takes one more temporary in backward; here both do the same.
    """
    with torch.autograd._force_original_view_tracking(True):
        return record(job)


def blocks_of(take: Take) -> np.ndarray:
    """Return what building leaves behind and what the steps make, without what building made for a moment."""
    first = take.spans[take.bounds(0)[0]].event
    built = take.events[:first]
    left = np.setdiff1d(built[built >= 0], np.invert(built[built < 0]))
    steps = take.events[first:]
    return np.concatenate((left, steps[steps >= 0]))


def totals(take: Take) -> dict[str, int]:
    """Return bytes by category and numbers of events and operators."""
    blocks = blocks_of(take)
    found = {
        category.name: int(take.sizes[blocks[take.categories[blocks] == category]].sum())
        for category in Category
    }
    first = take.spans[take.bounds(0)[0]]
    return found | {"events": len(take.events) - first.event, "operators": len(take.operators)}


def peak_of(take: Take) -> int:
    """Return the most bytes held in a step."""
    sizes = take.sizes[np.where(take.events >= 0, take.events, np.invert(take.events))]
    level = np.cumsum(np.where(take.events >= 0, sizes, -sizes))
    return int(level[take.spans[take.bounds(0)[0]].event :].max())
