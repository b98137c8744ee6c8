"""What several devices do to the memory and the time of a step, from the estimate of one device.

Sources: ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054: figure 1 for what each stage divides, section 7 for
the volume of communication), ZeRO-Offload (Ren et al. 2021, arXiv:2101.06840), FSDP (Zhao et al. 2023,
arXiv:2304.11277: units that are gathered one ahead of need), DDP (Li et al. 2020, arXiv:2006.15704: buckets).

Where few weights train, gradients, states and buckets are of these only; what full sharding gathers is all
weights, frozen ones too. Left out: the padding of parameters whose first dimension does not divide by the
number of devices; of DeepSpeed the small parameters that it does not shard.
"""

from __future__ import annotations

from typing import NamedTuple

from autopeft.cost.estimate import CostEstimate, MemoryEstimate, MemoryParts, RunTime, TimeEstimate
from autopeft.cost.spread import Spread, SpreadEstimate
from autopeft.errors import UnsupportedError
from autopeft.hardware.profile import HardwareProfile
from autopeft.space.candidate import Candidate
from autopeft.units import MIB, format_bytes, format_speed
from autopeft.workload.base_model import BaseModel

_STATES_SHARED = ("zero1", "zero2", "zero3", "fsdp")
_GRADIENTS_SHARED = ("zero2", "zero3", "fsdp")
_WEIGHTS_SHARED = ("zero3", "fsdp")
_DEEPSPEED = ("zero1", "zero2", "zero3")

GATHERED_LAYERS = 2
"""The layer that computes, and the next one, which is gathered meanwhile (FSDP, section 3.3)."""

_MASTER_BYTES = 12
"""DeepSpeed trains 16-bit weights by way of 32-bit copies with two 32-bit states (ZeRO, section 3.1)."""

_LIVE_PARAMETERS = 10**9
"""DeepSpeed's default for `stage3_max_live_parameters`: so many may stay gathered, if there is room."""

_MOST_NCCL_BYTES = 512 * MIB
_LINK_EFFICIENCY, _BEST_EFFICIENCY, _WORST_EFFICIENCY = 0.8, 1.0, 0.5
"""Share of a link's datasheet speed that collectives of large messages reach."""

_HOST_LINK, _HOST_MEMORY = 16e9, 40e9
"""Bytes a second between device and host (PCIe 4.0 x16, half used), and of its memory to one device."""

_STATE_TRAFFIC = 7 * 4
"""Bytes that a step of Adam on the host reads and writes for a weight: gradient, weight and two states."""

_COLLECTIVE_SECONDS = 30e-6
_BUCKET_BYTES = 25 * MIB
"""DDP's default bucket."""

_WIDER = {"none": 0.05, "ddp": 0.05, "zero1": 0.08, "zero2": 0.08, "zero3": 0.10, "fsdp": 0.10}
"""By how much of the allocated peak the band is wider: only DDP and FSDP were measured, and on a CPU."""

_WORTH_SAYING = 0.01
"""Share of the peak above which it is said what the band's upper end holds."""

_HIDDEN_SIZES = ("hidden_size", "d_model", "n_embd", "dim")


class Held(NamedTuple):
    """What one device holds between two steps, in bytes; without sharding all of it.

    `buckets` are the copies of the gradients that are exchanged.
    """

    weights: int
    quantization: int
    adapter: int
    gradients: int
    optimizer: int
    buckets: int = 0

    @property
    def total(self) -> int:
        """All that is held."""
        return sum(self)


def shared_out(held: Held, spread: Spread, trained: int) -> Held:
    """Return what each device holds on itself of what one device would hold.

    Args:
        held: on one device alone.
        spread: over how many devices, and how.
        trained: number of weights that train.
    """
    kind, ranks = spread.sharding, spread.gpus
    states = held.optimizer
    if kind in _DEEPSPEED and held.adapter <= 2 * trained:
        states = max(states, _MASTER_BYTES * trained)
    if kind in _WEIGHTS_SHARED:
        return held._replace(
            weights=0 if spread.offload else _divided(held.weights, ranks),
            adapter=0 if spread.offload else _divided(held.adapter, ranks),
            gradients=0 if spread.offload else _divided(held.gradients, ranks),
            optimizer=0 if spread.offload else _divided(states, ranks),
        )
    if kind in _STATES_SHARED:
        shares = kind in _GRADIENTS_SHARED
        kept = 0 if spread.offload else _divided(held.gradients, ranks)
        return held._replace(
            gradients=kept if shares else held.gradients,
            optimizer=0 if spread.offload else _divided(states, ranks),
        )
    return held._replace(buckets=held.adapter if kind == "ddp" and ranks > 1 else 0)


def gathered_bytes(held: Held, spread: Spread, layers: int, ends: int) -> int:
    """Return what full sharding gathers at once in forward and backward, and the gradients on their way.

    The ends (embedding and head) form a unit of their own with all that is in no layer; it stays gathered
    until backward has passed it.

    Args:
        held: on one device alone.
        spread: over how many devices, and how.
        layers: number of layers, each of which is a unit.
        ends: bytes of embedding and head.
    """
    if spread.sharding not in _WEIGHTS_SHARED or (spread.gpus == 1 and not spread.offload):
        return 0
    inside = max(0, held.weights + held.adapter - ends)
    return ends + (GATHERED_LAYERS * inside + 2 * held.adapter) // max(1, layers)


def exchanged(held: Held, spread: Spread, micro_batches: int) -> int:
    """Return the bytes that each device sends in a step, by rings (ZeRO, section 7).

    Data parallel: the gradients are reduced and spread again. ZeRO-1: they are reduced, the new weights
    spread; ZeRO-2 reduces after each micro-batch. Full sharding gathers all weights for forward and again
    for backward, and reduces the gradients, for each micro-batch.
    """
    ranks, trained = spread.gpus, held.adapter
    if spread.sharding in _WEIGHTS_SHARED:
        volume = micro_batches * (2 * (held.weights + held.adapter) + trained)
    elif spread.sharding == "zero2":
        volume = micro_batches * trained + trained
    else:
        volume = 2 * trained
    return volume * (ranks - 1) // ranks


def offloaded_seconds(held: Held, spread: Spread, micro_batches: int, trained: int) -> float:
    """Return the time of a step that one device waits for the host, were nothing of it hidden."""
    if not spread.offload:
        return 0.0
    moved = 2 * held.adapter
    if spread.sharding in _WEIGHTS_SHARED:
        moved += micro_batches * 2 * (held.weights + held.adapter)
    return (moved / _HOST_LINK + trained * _STATE_TRAFFIC / _HOST_MEMORY) / spread.gpus


def spread_over(
    estimate: CostEstimate,
    spread: Spread,
    base: BaseModel,
    candidate: Candidate,
    profile: HardwareProfile,
) -> CostEstimate:
    """Turn the estimate of one device into that of each of several.

    Raises:
        UnsupportedError: the profile has no link to other devices.
    """
    if spread.alone:
        return estimate
    if spread.gpus > 1 and profile.link_bytes_per_second is None:
        raise UnsupportedError(
            f"several devices need a link, but the profile {profile.name} has no link_bytes_per_second: "
            "add it to the profile, or plan for one device."
        )
    held, trained = held_by_one(estimate), estimate.trainable_params
    training = candidate.training
    sent = exchanged(held, spread, training.grad_accum)
    link = (profile.link_bytes_per_second or _HOST_LINK) * _LINK_EFFICIENCY
    messages = _messages(held, spread, base.layers, training.grad_accum)
    communication = sent / link + messages * _COLLECTIVE_SECONDS
    host = offloaded_seconds(held, spread, training.grad_accum, trained)
    memory = _memory(estimate, held, spread, base, candidate, profile)
    time = _time(estimate.time, spread, communication + host)
    run = None if estimate.run is None else _run(estimate.run, time, spread.gpus)
    return estimate.model_copy(
        update={
            "memory": memory,
            "time": time,
            "run_seconds": None if run is None else run.computed_seconds,
            "run": run,
            "spread": SpreadEstimate(
                spread=spread,
                communication_seconds=communication + host,
                exchanged_bytes=sent,
                host_bytes=_on_host(held, spread, trained),
            ),
            "guesses": (*estimate.guesses, *_guesses(spread, estimate, candidate, profile)),
        }
    )


def held_by_one(estimate: CostEstimate) -> Held:
    """Return what one device holds alone between two steps; gradients are as large as what trains."""
    parts = estimate.memory.parts
    return Held(
        weights=parts.weights,
        quantization=parts.quantization,
        adapter=parts.adapter,
        gradients=parts.adapter,
        optimizer=parts.optimizer,
    )


def ends_bytes(base: BaseModel, precision: str) -> int:
    """Return the bytes of embedding and head, 0 where the configuration does not say."""
    config = {**base.config, **(base.config.get("text_config") or {})}
    width = next((config[name] for name in _HIDDEN_SIZES if isinstance(config.get(name), int)), 0)
    words = config.get("vocab_size")
    if not width or not isinstance(words, int):
        return 0
    matrices = 1 if config.get("tie_word_embeddings", True) or base.family == "encoder" else 2
    return matrices * width * words * (4 if precision == "fp32" else 2)


def _memory(
    estimate: CostEstimate,
    held: Held,
    spread: Spread,
    base: BaseModel,
    candidate: Candidate,
    profile: HardwareProfile,
) -> MemoryEstimate:
    """Exchange what is held for each device's share; activations are those of its own batch."""
    before, trained = estimate.memory, estimate.trainable_params
    share = shared_out(held, spread, trained)
    now = held._replace(gradients=before.parts.gradients)
    passing = shared_out(now, spread, trained)
    ends = min(ends_bytes(base, candidate.training.precision), held.weights + held.adapter)
    most_gathered = gathered_bytes(held, spread, base.layers, ends)
    gathered = 0 if _in_update(before) else most_gathered
    parts = before.parts.model_copy(
        update={
            "weights": share.weights,
            "quantization": share.quantization,
            "adapter": share.adapter,
            "gradients": passing.gradients + share.buckets,
            "optimizer": share.optimizer,
            "temporary": before.parts.temporary + gathered,
        }
    )
    unsure = _live_bytes(held, spread) + _reduced_bytes(held, spread)
    if _in_update(before) and spread.sharding in _STATES_SHARED:
        unsure += max(0, _most_while_computing(before, share, most_gathered) - parts.total)
    return _resized(before, parts, spread, profile, unsure)


def _in_update(memory: MemoryEstimate) -> bool:
    """Whether one device is at its fullest outside forward and backward."""
    return memory.peak_phase not in ("forward", "backward")


def _most_while_computing(before: MemoryEstimate, share: Held, gathered: int) -> int:
    """Return what forward and backward take at most, where one device was at its fullest in the update.

    They took no more than the update, in which the optimizer's working copies, at most as large as what
    trains, come on top of its state. So all that is neither weights nor that state bounds activations,
    logits and gradients; sharding divides none of it.
    """
    parts = before.parts
    state = max(0, parts.optimizer - parts.adapter)
    passing = parts.total - parts.weights - parts.quantization - parts.adapter - state
    return share.total - share.gradients + gathered + passing


def _reduced_bytes(held: Held, spread: Spread) -> int:
    """Return the gradients that a process may keep whole after they were reduced and divided.

    Measured where all weights train, with FSDP and gloo: those of all layers (experiments/009).
    """
    return held.adapter if spread.sharding in _WEIGHTS_SHARED and spread.gpus > 1 else 0


def _live_bytes(held: Held, spread: Spread) -> int:
    """Return what DeepSpeed may keep gathered beyond need."""
    weight = 2 if held.quantization == 0 else 1
    return min(held.weights, _LIVE_PARAMETERS * weight) if spread.sharding == "zero3" else 0


def _resized(
    before: MemoryEstimate, parts: MemoryParts, spread: Spread, profile: HardwareProfile, unsure: int
) -> MemoryEstimate:
    """Keep what the allocator takes beyond the tensors in proportion, and widen the band.

    `unsure` are the bytes that there may be besides; the band reaches as far.
    """
    allocated = parts.total
    context = before.device_peak_bytes - before.reserved_peak_bytes
    scale = allocated / max(1, before.allocated_peak_bytes)
    reserved = int(before.reserved_peak_bytes * scale)
    device = reserved + context
    wider = int(_WIDER[spread.sharding] * allocated)
    buffers = _MOST_NCCL_BYTES if profile.device == "cuda" and spread.gpus > 1 else 0
    return before.model_copy(
        update={
            "parts": parts,
            "allocated_peak_bytes": allocated,
            "reserved_peak_bytes": reserved,
            "device_peak_bytes": device,
            "low_bytes": device - int((before.device_peak_bytes - before.low_bytes) * scale) - wider,
            "high_bytes": device
            + int((before.high_bytes - before.device_peak_bytes) * scale)
            + wider
            + buffers
            + unsure,
        }
    )


def _time(alone: TimeEstimate, spread: Spread, waiting: float) -> TimeEstimate:
    """Add the exchange to a step: half of what could be hidden behind the computing is taken to be."""
    lower, upper = max(alone.step_seconds, waiting), alone.step_seconds + waiting
    step = (lower + upper) / 2
    best = waiting * _LINK_EFFICIENCY / _BEST_EFFICIENCY
    worst = waiting * _LINK_EFFICIENCY / _WORST_EFFICIENCY
    return alone.model_copy(
        update={
            "step_seconds": step,
            "tokens_per_second": spread.gpus * alone.tokens_per_second * alone.step_seconds / step,
            "lower_seconds": max(alone.lower_seconds, waiting),
            "upper_seconds": alone.upper_seconds + waiting,
            "low_seconds": max(alone.low_seconds, best),
            "high_seconds": alone.high_seconds + worst,
            "bound": "communication" if waiting > alone.step_seconds else alone.bound,
        }
    )


def _run(alone: RunTime, time: TimeEstimate, devices: int) -> RunTime:
    """Share the steps of a run out; the last one is taken even where it is not full.

    `ceil(ceil(rows / batch) / devices)` is `ceil(rows / (batch * devices))`, so the steps of one device say
    enough.
    """
    steps = _divided(alone.steps, devices)
    return alone.model_copy(
        update={
            "steps": steps,
            "training_seconds": steps * time.step_seconds,
            "data_seconds": alone.data_seconds * steps / alone.steps,
            "evaluation_seconds": alone.evaluation_seconds / devices,
        }
    )


def _messages(held: Held, spread: Spread, layers: int, micro_batches: int) -> int:
    """Return how many collectives a step takes."""
    if spread.gpus == 1:
        return 0
    if spread.sharding in _WEIGHTS_SHARED:
        return micro_batches * 3 * (layers + 1)
    return 1 + held.adapter // _BUCKET_BYTES


def _on_host(held: Held, spread: Spread, trained: int) -> int:
    if not spread.offload:
        return 0
    here = shared_out(held, spread.model_copy(update={"offload": False}), trained)
    there = shared_out(held, spread, trained)
    return spread.gpus * (here.total - there.total)


def _guesses(
    spread: Spread, estimate: CostEstimate, candidate: Candidate, profile: HardwareProfile
) -> tuple[str, ...]:
    made = []
    if spread.gpus > 1:
        speed = format_speed(profile.link_bytes_per_second or 0)
        made.append(f"links of {speed} used at {_LINK_EFFICIENCY:.0%}, half of the exchange hidden")
    if spread.offload:
        made.append(
            f"host reached at {format_speed(_HOST_LINK)}; its own Adam at {format_speed(_HOST_MEMORY)}"
        )
    kept = _reduced_bytes(held_by_one(estimate), spread)
    if kept > _WORTH_SAYING * estimate.memory.allocated_peak_bytes:
        made.append(f"whole gradients gone once they are reduced; kept, they take {format_bytes(kept)} more")
    if _in_update(estimate.memory) and spread.sharding in _STATES_SHARED:
        made.append(
            "peak taken to stay in the update; the band reaches to what forward and backward may take"
        )
    if spread.sharding in _WEIGHTS_SHARED and candidate.quantization != "none":
        made.append("packed weights sharded as others, their scales on every device")
    return tuple(made)


def _divided(amount: int, ranks: int) -> int:
    return -(-amount // ranks)
