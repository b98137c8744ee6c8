"""How fast a device multiplies, moves bytes and starts operators: short measurements in torch."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from autopeft.hardware.timing import ROUNDS, Reading, fitting, layer_bytes, read, time_per_call

# Tokens, input and output features of linear layers: of models that people train on a CPU and on a GPU.
_CPU_SHAPES = ((512, 384, 384), (512, 384, 1536), (512, 1536, 384), (1024, 768, 768))
_CUDA_SHAPES = ((4096, 2048, 2048), (4096, 4096, 4096), (4096, 4096, 11008), (4096, 11008, 4096))
_STREAM_BYTES = 128 * 2**20
_CHAIN = 100


def matmul_flops(device: torch.device, dtype: torch.dtype, seconds: float, most_bytes: int) -> Reading:
    """Measure linear layers of usual shapes, FLOP/s; a round is the median over the shapes that fit."""
    shapes = fitting(_CUDA_SHAPES if device.type == "cuda" else _CPU_SHAPES, layer_bytes, most_bytes)
    tasks = [_linear(device, dtype, shape) for shape in shapes]
    share = seconds / ROUNDS / len(tasks)

    def one_round() -> float:
        return statistics.median(flops / time_per_call(call, share, device) for call, flops in tasks)

    with torch.no_grad():
        return read(one_round, warm_up=[call for call, _ in tasks])


def bandwidth(device: torch.device, seconds: float, most_bytes: int) -> Reading:
    """Measure scaling one tensor into another, both far above any cache: bytes moved per second."""
    count = max(min(_STREAM_BYTES, most_bytes // 4) // 4, 2**18)
    source, target = torch.ones(count, device=device), torch.empty(count, device=device)

    def scale() -> None:
        torch.mul(source, 1.5, out=target)

    return read(lambda: 8 * count / time_per_call(scale, seconds / ROUNDS, device), warm_up=[scale])


def directions(device: torch.device, seconds: float, most_bytes: int) -> dict[str, Reading]:
    """Measure reading, writing and copying one tensor far above any cache: bytes moved per second."""
    count = max(min(_STREAM_BYTES, most_bytes // 4) // 4, 2**18)
    source, target = torch.ones(count, device=device), torch.empty(count, device=device)
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "read": (source.sum, 4 * count),
        "write": (lambda: target.fill_(1.0), 4 * count),
        "copy": (lambda: target.copy_(source), 8 * count),
    }
    share = seconds / ROUNDS / len(calls)

    def reading(call: Callable[[], object], moved: int) -> Reading:
        return read(lambda: moved / time_per_call(call, share, device), warm_up=[call])

    return {name: reading(call, moved) for name, (call, moved) in calls.items()}


def host_copy(device: torch.device, seconds: float, most_bytes: int) -> Reading:
    """Measure copying pinned memory of the host to a device: bytes per second."""
    size = max(min(_STREAM_BYTES, most_bytes // 4), 2**20)
    source = torch.ones(size, dtype=torch.uint8).pin_memory()
    target = torch.empty(size, dtype=torch.uint8, device=device)

    def copy() -> None:
        target.copy_(source, non_blocking=True)

    return read(lambda: size / time_per_call(copy, seconds / ROUNDS, device), warm_up=[copy])


def dispatch_seconds(device: torch.device, seconds: float) -> Reading:
    """Measure the time per operator of a chain on eight numbers, forward and backward."""
    start = torch.ones(8, device=device, requires_grad=True)

    def chain() -> None:
        value = start
        for _ in range(_CHAIN):
            value = value * 1.001
        torch.autograd.grad(value, start, torch.ones_like(value))

    # Forward and backward are one multiplication each per link.
    operators = 2 * _CHAIN
    return read(lambda: time_per_call(chain, seconds / ROUNDS, device) / operators, warm_up=[chain])


@contextmanager
def compute_threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads, then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _linear(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int]
) -> tuple[Callable[[], object], float]:
    """Return a call that runs one linear layer, and its FLOPs."""
    tokens, inputs, outputs = shape
    rows = torch.rand(tokens, inputs, device=device).to(dtype)
    weight = torch.rand(outputs, inputs, device=device).to(dtype)
    return lambda: torch.nn.functional.linear(rows, weight), 2.0 * tokens * inputs * outputs
