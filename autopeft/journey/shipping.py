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
from itertools import product

from autopeft.cost.costing import Run
from autopeft.cost.loops import LOOPS
from autopeft.cost.model import run_for
from autopeft.cost.pattern import Pattern
from autopeft.cost.pattern_cache import SHIPPED, PatternCache
from autopeft.cost.tracing.request import TraceRequest
from autopeft.cost.tracing.workers import TracePool
from autopeft.files import write_atomically
from autopeft.hardware.catalog import load_profile
from autopeft.methods.heads import default_task
from autopeft.methods.registry import DEFAULT
from autopeft.space.candidate import Candidate
from autopeft.workload.dataset import Lengths, Workload
from autopeft.workload.models import find_model

_LENGTH = 512
_ROWS = (1, 4)
# The decoders that are asked for most.
_MODELS = (
    *("SmolLM2-135M", "SmolLM2-360M", "Qwen3-0.6B", "Llama-3.2-1B", "Qwen3-1.7B", "gemma-2-2b", "Qwen2.5-3B"),
    *("Llama-3.2-3B", "Mistral-7B-v0.3", "Qwen2.5-7B", "Llama-3.1-8B", "Llama-3.3-70B"),
)


def shipped_requests() -> Iterator[TraceRequest]:
    """Yield the requests whose patterns ship: LoRA and QLoRA of decoders, as they are asked for first."""
    profile = load_profile("l40s")
    for name in _MODELS:
        base = find_model(name)
        workload = Workload(task=default_task(base.family), lengths=Lengths.constant(_LENGTH))
        for candidate in _candidates():
            run = run_for(base, candidate, workload, profile, LOOPS["autopeft"])
            if isinstance(run, Run):
                yield run.request


def main() -> None:
    """Trace what the cache lacks and write the archive."""
    cache, started = PatternCache(), time.monotonic()
    requests = {request.shipped_name: request for request in shipped_requests()}
    lacking = [each for each in requests.values() if cache.traced(each) is None]
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


def _candidates() -> Iterator[Candidate]:
    training = DEFAULT.training.model_copy(update={"precision": "bf16", "max_length": _LENGTH})
    for packing, checkpointing, rows in product(("none", "nf4-dq"), (False, True), _ROWS):
        update = {"gradient_checkpointing": checkpointing, "batch_size": rows}
        said = {"quantization": packing, "training": training.model_copy(update=update)}
        yield DEFAULT.model_copy(update=said)


if __name__ == "__main__":
    main()
