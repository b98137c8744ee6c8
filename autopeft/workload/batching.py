"""Batching: which rows train together, and how long the padded batches get. Pure and torch-free.

Rows are shuffled, cut into buckets of 20 batches, sorted by length inside each bucket and cut into
batches, which are shuffled again: little padding, and still another order every epoch.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Sequence

from autopeft.errors import UnsupportedError
from autopeft.workload.base_model import Family
from autopeft.workload.dataset import Lengths, Task, Workload

BATCHES_PER_BUCKET = 20
APART = frozenset(
    (
        *("cohere", "cohere2", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "gpt2", "gpt_bigcode"),
        *("gpt_neo", "gpt_neox", "gptj", "granite", "granitemoe", "internlm3", "llama", "llama4_text"),
        *("mistral", "mixtral", "olmo", "olmo2", "olmo3", "olmoe", "phi", "phi3", "phimoe", "qwen2"),
        *("qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2"),
    )
)
"""Model types in which packed rows were seen not to see each other (transformers 5.23, sdpa and eager).

In bloom, falcon, gpt_oss, mpt and opt they do; the others were not tried.
"""


def bucketed_batches(lengths: Sequence[int], batch_size: int, seed: int) -> list[list[int]]:
    """Deal row indices into batches of similar length.

    Args:
        lengths: tokens of each row.
        batch_size: rows of a batch.
        seed: decides the order; one seed an epoch gives one order an epoch.

    Returns:
        Batches of `batch_size` row indices; every row is in exactly one, and at most one batch of
        the epoch is smaller.
    """
    dice = random.Random(seed)
    order = list(range(len(lengths)))
    dice.shuffle(order)
    bucket = batch_size * BATCHES_PER_BUCKET
    batches = []
    for start in range(0, len(order), bucket):
        rows = sorted(order[start : start + bucket], key=lengths.__getitem__)
        batches += [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    dice.shuffle(batches)
    return batches


def pack(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Deal rows into packs of at most `limit` tokens: the longest first, each where it fits best.

    Best-fit decreasing, as TRL's strategy "bfd" does it.

    Args:
        lengths: tokens of each row, none above `limit`.
        limit: tokens of a pack.

    Returns:
        Packs of row indices; every row is in exactly one.
    """
    packs: list[list[int]] = []
    open_packs: list[tuple[int, int]] = []  # (room left, pack), ascending
    for row in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        place = bisect.bisect_left(open_packs, (lengths[row], -1))
        if place == len(open_packs):
            packs.append([])
            room, chosen = limit, len(packs) - 1
        else:
            room, chosen = open_packs.pop(place)
        packs[chosen].append(row)
        bisect.insort(open_packs, (room - lengths[row], chosen))
    return packs


def packed(workload: Workload, limit: int) -> Workload:
    """Return what packs of `limit` tokens make of a workload: rows that are all full, and fewer of them.

    Left out: the little that does not fit.
    """
    lengths = truncate(workload.lengths, limit)
    if lengths.percentiles[0] == limit:
        return workload
    full = workload.rows * lengths.mean / limit
    filled = limit if full >= 1 or not workload.rows else math.ceil(full * limit)
    return workload.model_copy(update={"lengths": Lengths.constant(filled), "rows": math.ceil(full)})


def mean_padded_length(lengths: Lengths, batch_size: int, rows: int = 0) -> float:
    """Return the expected length of a batch of `bucketed_batches`, padded to its longest row.

    Args:
        lengths: token counts of the rows.
        batch_size: rows of a batch.
        rows: rows in all; 0 where unknown (then there are many).
    """
    bucket = batch_size * BATCHES_PER_BUCKET
    total = rows or 10**9
    full = padded_lengths(lengths, batch_size, rows)
    rest = _padded(lengths, batch_size, total % bucket, total) if rows > bucket else []
    full_buckets = total // bucket if rows > bucket else 1
    return (sum(full) * full_buckets + sum(rest)) / (len(full) * full_buckets + len(rest))


def padded_lengths(lengths: Lengths, batch_size: int, rows: int = 0) -> list[float]:
    """Return the expected lengths of the batches of one bucket of `bucketed_batches`, shortest first.

    Derivation: batch k of a bucket of n rows ends with the bucket's ((k + 1) batch_size)-th row, and
    the j-th of n rows drawn from N has the expected rank j (N + 1) / (n + 1) among all. Left out: the
    curvature of the quantile function between two percentiles.
    """
    total = rows or 10**9
    return _padded(lengths, batch_size, min(batch_size * BATCHES_PER_BUCKET, total), total)


def _padded(lengths: Lengths, batch_size: int, size: int, total: int) -> list[float]:
    ends = range(batch_size, size + batch_size, batch_size)
    return [_expected(lengths, min(end, size), size, total) for end in ends]


def truncate(lengths: Lengths, limit: int) -> Lengths:
    """Return the distribution after rows are cut at `limit` tokens."""
    if lengths.longest <= limit:
        return lengths
    cut = tuple(min(length, limit) for length in lengths.percentiles)
    lost = (sum(lengths.percentiles) - sum(cut)) / len(cut)
    return Lengths(percentiles=cut, mean=min(float(limit), max(1.0, lengths.mean - lost)))


def _expected(lengths: Lengths, place: int, drawn: int, total: int) -> float:
    """Return the expected length of the `place`-th shortest of `drawn` out of `total` rows."""
    rank = place * (total + 1) / (drawn + 1)
    at = 100 * (rank - 1) / max(1, total - 1)
    below = min(int(at), 99)
    low, high = lengths.percentiles[below], lengths.percentiles[below + 1]
    return low + (high - low) * (at - below)


def require_packable(family: Family, model_type: str, task: Task) -> None:
    """Check that rows may be packed.

    Raises:
        UnsupportedError: they are no text to be continued, or the model would read across their borders.
    """
    if (family, task) != ("decoder", "sft"):
        raise UnsupportedError(
            f"packing joins the rows of a decoder's supervised fine-tuning, but this is {task} on a {family} "
            "model: leave packing out."
        )
    if model_type not in APART:
        raise UnsupportedError(
            f"packing needs a model that keeps packed rows apart, which {model_type} does not or was not "
            "seen to do: leave packing out."
        )
