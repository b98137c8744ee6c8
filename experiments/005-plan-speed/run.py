"""Measure what a plan of over a thousand candidates, one estimate and one replay cost.

    python experiments/005-plan-speed/run.py [--model NAME] [--space NAME|FILE] [--repeats N]

Patterns that are not in the cache are traced first; that is timed apart. Then every measurement is a fresh
process. `AUTOPEFT_CACHE` says where the cache is; what is traced anew has an empty one of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
CODE = "import sys; from autopeft.cli.app import main; main(sys.argv[1:])"
SAMPLE = 60


# What does not ship: the last two are small and large alike.
COLD = {
    "Llama-3.2-3B dora": ("Llama-3.2-3B", "--method", "dora"),
    "Qwen2.5-7B qlora, rank 64, all-linear": (
        *("Qwen2.5-7B", "--method", "qlora", "--rank", "64", "--targets", "all-linear"),
        *("--gradient-checkpointing",),
    ),
    "roberta-large ia3": ("roberta-large", "--method", "ia3"),
    "Llama-3.1-405B lora, all-linear": ("Llama-3.1-405B", "--targets", "all-linear"),
}


def process(*arguments: str, cache: str | None = None) -> tuple[dict[str, float], Any]:
    """Run one command in a fresh process; return what it took and its JSON answer."""
    environment = os.environ | ({} if cache is None else {"AUTOPEFT_CACHE": cache})
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", CODE, *arguments, "--json"], stdout=subprocess.PIPE, env=environment
    ) as child:
        assert child.stdout is not None
        text = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in (0, 1):
        raise SystemExit(f"autopeft {' '.join(arguments)} ended with {child.returncode}")
    taken = {
        "wall_seconds": round(time.perf_counter() - began, 3),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 3),
        "peak_mib": round(used.ru_maxrss / 1024),
    }
    return taken, json.loads(text)


def repeated(repeats: int, *arguments: str, cold: bool = False) -> dict[str, Any]:
    """Run one command in several fresh processes, one after the other; where `cold` with an empty cache."""
    runs = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as empty:
            runs.append(process(*arguments, cache=empty if cold else None)[0])
    return {
        name: {"best": min(one), "median": statistics.median(one)}
        for name in runs[0]
        for one in [[run[name] for run in runs]]
    }


def replays(model: str, space: str, memory: str) -> dict[str, Any]:
    """Time replays on one core, and compare two steps with three."""
    from autopeft.cost.allocator import replay
    from autopeft.cost.expand import Expansion
    from autopeft.cost.loops import LOOPS
    from autopeft.cost.memory import estimate_memory, stream
    from autopeft.cost.model import run_for
    from autopeft.cost.pattern_cache import PatternCache
    from autopeft.journey.inputs import any_gpu, load_inputs
    from autopeft.plan.budget import Budget
    from autopeft.request import Request
    from autopeft.space.search_space import footprints

    request = Request(model=model, space=space, budget=Budget(gpu_mem=memory))
    profile = any_gpu(request.budget.gpu_mem or 0)
    inputs, cache = load_inputs(request, profile), PatternCache()
    candidates = footprints(inputs.space, 10_000)
    loop, seconds, events, equal, worst = LOOPS["autopeft"], 0.0, 0, 0, 0.0
    chosen = candidates[:: max(1, len(candidates) // SAMPLE)]
    replay(np.array([512]), np.array([0, ~0], dtype=np.int32))  # which compiles it, or reads it compiled
    for candidate in chosen:
        run = run_for(inputs.base, candidate, inputs.workload, profile, loop)
        pattern = cache.get(cache.resolve(run.request))
        expansion, rank = Expansion(pattern), candidate.rank or 1
        rows = candidate.training.batch_size
        brief, whole = (expansion.tape(rows, run.lengths[:steps], rank) for steps in (2, 3))
        two, three = (estimate_memory(tape, profile).device_peak_bytes for tape in (brief, whole))
        equal += two == three
        worst = max(worst, abs(two / three - 1))
        sizes, order, empties = stream(brief, loop)
        began = time.process_time()
        replay(sizes, order, empty_cache_at=empties)
        seconds += time.process_time() - began
        events += len(order)
    return {
        "replays": len(chosen),
        "replays_a_cpu_second": round(len(chosen) / seconds),
        "events_a_cpu_second": round(events / seconds),
        "events_a_replay": round(events / len(chosen)),
        "two_steps_equal_three": equal,
        "worst_difference": worst,
    }


def main() -> None:
    """Trace what is lacking, measure, and write results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="Llama-3.2-1B")
    parser.add_argument("--space", default="wide")
    parser.add_argument("--gpu-mem", default="16GB")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    plan = ("plan", "--model", given.model, "--gpu-mem", given.gpu_mem, "--space", given.space)
    estimate = ("estimate", given.model, "--gpu-mem", given.gpu_mem, "--batch-size", "4")
    first, answer = process(*plan)
    process(*estimate)
    loads = os.getloadavg()[0]
    found: dict[str, Any] = {
        "model": given.model,
        "space": Path(given.space).stem,
        "gpu_mem": given.gpu_mem,
        "candidates": len(answer["fits"]) + len(answer["rejected"]),
        "fits": len(answer["fits"]),
        "on_front": sum(each["on_front"] for each in answer["fits"]),
        "first_plan": first,
        "plan": repeated(given.repeats, *plan),
        "estimate": repeated(given.repeats, *estimate),
        "estimate_anew": {
            name: repeated(
                given.repeats, "estimate", *words, "--gpu-mem", "80GB", "--no-max-batch", cold=True
            )
            for name, words in COLD.items()
        },
        "plan_of_usual_models": repeated(given.repeats, "plan", "--gpu-mem", given.gpu_mem, cold=True),
        "replay": replays(given.model, given.space, given.gpu_mem),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": [round(loads, 1), round(os.getloadavg()[0], 1)],
    }
    found["candidates_a_second"] = round(found["candidates"] / found["plan"]["wall_seconds"]["best"])
    found["candidates_a_cpu_second"] = round(found["candidates"] / found["plan"]["cpu_seconds"]["best"])
    found["own_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
