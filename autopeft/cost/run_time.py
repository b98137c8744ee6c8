"""Run time: what a whole training run takes, from its first byte to its last evaluation. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from autopeft.cost.estimate import RunTime, TimeEstimate
from autopeft.hardware.profile import HardwareProfile
from autopeft.workload.batching import padded_lengths
from autopeft.workload.dataset import Workload

# Weights are read from a local drive and copied to the device; both assumed where nothing is measured.
_DRIVE_BYTES_PER_SECOND = 1e9
_COPY_BYTES_PER_SECOND = 8e9
# Gathering, padding and copying a batch of rows that were tokenised before.
_BATCH_SECONDS, _ROW_SECONDS = 2e-4, 1e-5
# Lengths that stand for those of all batches.
_POINTS = 5


def representative_lengths(workload: Workload, batch_size: int) -> list[int]:
    """Return lengths that stand for equal shares of the batches of an epoch."""
    padded = padded_lengths(workload.lengths, batch_size, workload.rows)
    size = math.ceil(len(padded) / _POINTS)
    groups = [padded[start : start + size] for start in range(0, len(padded), size)]
    return [max(1, round(sum(group) / len(group))) for group in groups]


def mean_over_lengths(estimate: Callable[[int], TimeEstimate], lengths: Sequence[int]) -> TimeEstimate:
    """Return the mean of estimates at several lengths: a short step is bound otherwise than a long one.

    Args:
        estimate: gives the time at a length.
        lengths: each stands for an equal share of the steps.
    """
    found = {length: estimate(length) for length in set(lengths)}
    middle = found[sorted(lengths)[len(lengths) // 2]]
    names = [name for name in TimeEstimate.model_fields if name not in ("bound", "tokens_per_second")]
    means = {name: sum(getattr(found[each], name) for each in lengths) / len(lengths) for name in names}
    tokens = sum(found[each].tokens_per_second * found[each].step_seconds for each in lengths)
    seconds = sum(found[each].step_seconds for each in lengths)
    return TimeEstimate(**means, bound=middle.bound, tokens_per_second=tokens / seconds if seconds else 0.0)


def run_time(
    time: TimeEstimate,
    workload: Workload,
    profile: HardwareProfile,
    *,
    epochs: float,
    batch_size: int,
    grad_accum: int,
    weight_bytes: int,
    evaluations: int,
    evaluated_share: float = 1.0,
) -> RunTime:
    """Return the time of a whole run: loading, its steps and its evaluations.

    Args:
        evaluations: how often the validation rows are evaluated.
        evaluated_share: tokens of an evaluated row as a share of those of a training row, which is a whole
            pack where rows are packed.
    """
    rows_per_step = batch_size * grad_accum
    steps = max(1, math.ceil(workload.rows * epochs / rows_per_step))
    copied = profile.host_to_device_bytes_per_second or _COPY_BYTES_PER_SECOND
    load = weight_bytes / _DRIVE_BYTES_PER_SECOND
    if profile.device != "cpu":
        load += weight_bytes / copied
    padded = padded_lengths(workload.lengths, batch_size, workload.rows)
    return RunTime(
        load_seconds=load,
        training_seconds=steps * time.step_seconds,
        data_seconds=steps * (grad_accum * _BATCH_SECONDS + rows_per_step * _ROW_SECONDS),
        evaluation_seconds=(
            evaluations * workload.validation_rows * time.evaluation_row_seconds * evaluated_share
        ),
        steps=steps,
        padding_share=max(0.0, 1 - workload.lengths.mean * len(padded) / sum(padded)),
    )
