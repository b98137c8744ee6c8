"""Shipping: the common patterns of the usual models, as the archive that comes with autopeft.

    python -m autopeft.journey.shipping

What this code has traced before is taken from the cache, so it goes on where it was stopped.
"""

from __future__ import annotations

import io
import sys
import time
import zipfile
from collections.abc import Iterator
from itertools import chain, product

from autopeft.cost.costing import Run
from autopeft.cost.loops import LOOPS
from autopeft.cost.model import run_for
from autopeft.cost.pattern import Pattern
from autopeft.cost.pattern_cache import SHIPPED, PatternCache
from autopeft.cost.tracing.request import TraceRequest
from autopeft.cost.tracing.workers import TracePool
from autopeft.files import write_atomically
from autopeft.hardware.catalog import load_profile
from autopeft.journey.overviewing import ways
from autopeft.methods.heads import default_task
from autopeft.methods.registry import DEFAULT
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Lengths, Workload
from autopeft.workload.models import find_model
from autopeft.workload.usual import USUAL

_LENGTH = 512
_FEWEST, _MOST = 256, 16_384
_LARGEST_TRAINED = 15_000_000_000
_ROWS = (1, 4)
# The decoders that are asked for most.
_MODELS = (
    *("SmolLM2-135M", "SmolLM2-360M", "Qwen3-0.6B", "Llama-3.2-1B", "Qwen3-1.7B", "gemma-2-2b", "Qwen2.5-3B"),
    *("Llama-3.2-3B", "Mistral-7B-v0.3", "Qwen2.5-7B", "Llama-3.1-8B", "Llama-3.3-70B"),
)


def shipped_requests() -> Iterator[TraceRequest]:
    """Yield the requests whose patterns ship, each once.

    They are what a plan without a model asks of the usual models, whatever the budget, and LoRA and QLoRA of
    decoders without checkpointing.
    """
    seen: set[str] = set()
    for request in chain(_usual(), _decoders()):
        if request.shipped_name not in seen:
            seen.add(request.shipped_name)
            yield request


def _usual() -> Iterator[TraceRequest]:
    for name in USUAL:
        base = find_model(name)
        for way in ways(DEFAULT):
            if way.method != "full" or (base.parameters or 0) <= _LARGEST_TRAINED:
                yield from _intervals(base, way)


def _decoders() -> Iterator[TraceRequest]:
    for name, packing, rows in product(_MODELS, ("none", "nf4-dq"), _ROWS):
        yield from _request(
            find_model(name), DEFAULT.model_copy(update={"quantization": packing}), rows, _LENGTH
        )


def _intervals(base: BaseModel, candidate: Candidate) -> Iterator[TraceRequest]:
    """Yield a batch of the usual length, and a row of each range of lengths that the model treats alike."""
    usual = min(_LENGTH, base.max_length or _LENGTH)
    yield from _request(base, candidate, max(_ROWS), usual)
    length = min(_FEWEST, usual)
    while length <= min(_MOST, base.max_length or _MOST):
        (request,) = _request(base, candidate, 1, length)
        yield request
        length = request.interval[1] + _FEWEST


def _request(base: BaseModel, candidate: Candidate, rows: int, length: int) -> Iterator[TraceRequest]:
    """Yield the request that is made for rows of one length, in bf16 on a GPU."""
    settings = {"precision": "bf16", "max_length": length, "batch_size": rows}
    training = candidate.training.model_copy(update=settings)
    workload = Workload(task=default_task(base.family), lengths=Lengths.constant(length))
    full = candidate.model_copy(update={"training": training})
    run = run_for(base, full, workload, load_profile("l40s"), LOOPS["autopeft"])
    if isinstance(run, Run):
        yield run.request


def main() -> None:
    """Trace what the cache lacks and write the archive."""
    cache, started = PatternCache(), time.monotonic()
    requests = {request.shipped_name: request for request in shipped_requests()}
    lacking = [
        each for each in requests.values() if cache.resolve(each) is each and cache.traced(each) is None
    ]
    with TracePool(seconds=300) as pool:
        for done, (index, traced) in enumerate(pool.trace_many(lacking), 1):
            request = lacking[index]
            said = f"{request.base.name} {request.candidate.label}, {request.rows} rows"
            if isinstance(traced, Pattern):
                cache.put(request, traced)
            else:
                said += f": {traced}"
            sys.stderr.write(f"{done}/{len(lacking)} {time.monotonic() - started:.0f} s {said}\n")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, request in sorted(requests.items()):
            pattern = cache.traced(request)
            if pattern is not None and pattern.general:
                # With the same time in every entry, the same patterns make the same archive.
                archive.writestr(zipfile.ZipInfo(name), pattern.to_bytes())
    write_atomically(SHIPPED, stream.getvalue())


if __name__ == "__main__":
    main()
