"""Parts that the tests of this folder share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from autopeft.cost.tape import Category, Phase, Span, Tape
from autopeft.hardware.profile import HardwareProfile, Provenance
from autopeft.units import GIB, MIB

CPU = HardwareProfile(
    name="test-cpu",
    device="cpu",
    device_name="two cores",
    total_bytes=16 * GIB,
    usable_bytes=14 * GIB,
    context_bytes=400 * MIB,
    matmul_flops={"float32": 1e11},
    bandwidth_bytes_per_second=1e10,
    dispatch_seconds=1e-5,
    cores=2,
    provenance=Provenance(kind="measured", source="made for tests", date="2026-01-01"),
)


@pytest.fixture(scope="module")
def spared() -> Iterator[None]:
    """Spare the collector what is already there: every recorded step runs it, torch alone makes it slow."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


@pytest.fixture
def cpu() -> HardwareProfile:
    return CPU


@pytest.fixture
def gpu() -> HardwareProfile:
    changes = {"name": "test-gpu", "device": "cuda", "device_name": "NVIDIA L40S", "cores": 0}
    return CPU.model_copy(update=changes)


@pytest.fixture
def tape() -> Tape:
    """One step of two micro-batches by hand: 100 MiB of weights, then activations that come and go.

    Blocks: 0 weights, 1 and 3 saved, 2 and 4 gradients, 5 optimizer state, 6 a working copy.
    """
    spans = (
        Span(-1, 0, Phase.BUILD, 0, 0),
        Span(0, 0, Phase.FORWARD, 1, 0),
        Span(0, 0, Phase.BACKWARD, 2, 1),
        Span(0, 1, Phase.FORWARD, 4, 2),
        Span(0, 1, Phase.BACKWARD, 5, 3),
        Span(0, 1, Phase.OPTIMIZER, 8, 4),
    )
    sizes = [100, 40, 8, 40, 8, 4, 6]
    kinds = ["WEIGHTS", "SAVED", "GRADIENTS", "SAVED", "GRADIENTS", "OPTIMIZER", "TEMPORARY"]
    events = [0, 1, 2, ~1, 3, 4, ~4, ~3, 5, 6, ~6, ~2]
    return Tape(
        target="cpu",
        rows=4,
        lengths=(16,),
        micro_batches=2,
        trainable_params=1,
        total_params=2,
        adapter_bytes=4,
        guesses=(),
        spans=spans,
        names=("aten::mm", "aten::add"),
        dtypes=("float32",),
        block_bytes=np.array(sizes, dtype=np.int64) * MIB,
        block_category=np.array([Category[name] for name in kinds], dtype=np.int8),
        events=np.array(events, dtype=np.int32),
        operators=np.array([0, 0, 0, 0, 1], dtype=np.int32),
        operator_flops=np.array([1e9, 2e9, 1e9, 3e9, 0.0]),
        operator_bytes=np.array([1e6, 1e6, 1e6, 1e6, 1e8]),
        operator_dtype=np.zeros(5, dtype=np.int8),
        operator_kind=np.zeros(5, dtype=np.int8),
    )
