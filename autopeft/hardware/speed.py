"""How fast a device multiplies, moves bytes and starts operators: short measurements in torch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

_ROUNDS = 5
# Tokens, input and output features of linear layers: of models that people train on a CPU and on a GPU.
_CPU_SHAPES = ((512, 384, 384), (512, 384, 1536), (512, 1536, 384), (1024, 768, 768))
_CUDA_SHAPES = ((4096, 2048, 2048), (4096, 4096, 4096), (4096, 4096, 11008), (4096, 11008, 4096))
_STREAM_BYTES = 128 * 2**20
_CHAIN = 100


@dataclass(frozen=True)
class Reading:
    """A measured quantity: the median of its rounds, and (largest - smallest) / median."""

    value: float
    spread: float


def matmul_flops(device: torch.device, dtype: torch.dtype, seconds: float) -> Reading:
    """Measure linear layers of usual shapes, FLOP/s; a round is the median over the shapes."""
    shapes = _CUDA_SHAPES if device.type == "cuda" else _CPU_SHAPES
    tasks = [_linear(device, dtype, shape) for shape in shapes]
    share = seconds / _ROUNDS / len(tasks)

    def one_round() -> float:
        return statistics.median(flops / _time_per_call(call, share, device) for call, flops in tasks)

    with torch.no_grad():
        return _read(one_round, warm_up=[call for call, _ in tasks])


def bandwidth(device: torch.device, seconds: float, most_bytes: int) -> Reading:
    """Measure scaling one tensor into another, both far above any cache: bytes moved per second."""
    count = max(min(_STREAM_BYTES, most_bytes // 4) // 4, 2**18)
    source, target = torch.ones(count, device=device), torch.empty(count, device=device)

    def scale() -> None:
        torch.mul(source, 1.5, out=target)

    return _read(lambda: 8 * count / _time_per_call(scale, seconds / _ROUNDS, device), warm_up=[scale])


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
    return _read(lambda: _time_per_call(chain, seconds / _ROUNDS, device) / operators, warm_up=[chain])


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


def _read(one_round: Callable[[], float], warm_up: list[Callable[[], object]]) -> Reading:
    for call in warm_up:
        call()
    rounds = [one_round() for _ in range(_ROUNDS)]
    middle = statistics.median(rounds)
    return Reading(middle, (max(rounds) - min(rounds)) / middle)


def _time_per_call(call: Callable[[], object], seconds: float, device: torch.device) -> float:
    """Return the mean seconds of a call, over as many as fit into `seconds` but at least one."""
    calls = 1
    while True:
        _wait(device)
        start = time.perf_counter()
        for _ in range(calls):
            call()
        _wait(device)
        taken = max(time.perf_counter() - start, 1e-9)
        # The last batch is most of the share: enough calls that reading the clock costs nothing.
        if taken * 2 > seconds:
            return taken / calls
        calls = max(calls + 1, min(calls * 8, int(calls * (seconds - taken) / taken)))
        seconds -= taken


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
