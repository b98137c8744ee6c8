"""Profile this machine, predict the step time of many configurations, then measure them in the same session.

    python experiments/007-step-time-cpu/run.py [--threads 1] [--resume] [--only TEXT] [--limit N]

Every configuration runs in a process of its own, with the functions that the trainer runs, on batches of one
length. Weights are random: neither time nor memory depends on them. With one thread the processor time of a
step is compared, so that what others do on the machine counts less; the wall time stands beside it.

A rented core runs faster and slower by the minute. So the same piece of work (products and a GELU) is
timed before and after the profiling and around every measurement: `steady_seconds` is what the step would
have taken at the speed that was profiled. Errors are given for both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from autopeft.cost.model import TracedCostModel
from autopeft.errors import AutopeftError
from autopeft.files import write_atomically
from autopeft.hardware.catalog import load_profile, save_profile
from autopeft.hardware.probe import probe
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Lengths, Task, Workload
from autopeft.workload.models import find_model

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PROFILE = HERE / "profile.yaml"
LORA = {"rank": 8, "targets": "query+value"}
METHODS: dict[str, dict[str, Any]] = {
    "lora": LORA | {"knobs": {"lora_alpha": 16}},
    "dora": LORA,
    "ia3": {},
    "vera": LORA | {"rank": 64},
    "loha": LORA,
    "lokr": LORA,
    "oft": LORA,
    "prefix_tuning": {"knobs": {"virtual_tokens": 10}},
    "bottleneck": {},
    "full": {},
}
# Model, task, and (rows, tokens) of its configurations, taken in turn by the methods.
MODELS: tuple[tuple[str, Task, tuple[tuple[int, int], ...]], ...] = (
    ("all-MiniLM-L6-v2", "classification", ((8, 64), (16, 32), (8, 128), (4, 256))),
    ("SmolLM2-135M", "sft", ((2, 64), (1, 128), (4, 32))),
    ("pythia-70m", "sft", ((4, 64), (2, 128), (8, 32))),
)
LEAST_STEPS, MOST_STEPS, SECONDS = 4, 25, 6.0


class Configuration(NamedTuple):
    """One thing to predict and to measure."""

    model: str
    task: Task
    method: str
    rows: int
    length: int

    @property
    def name(self) -> str:
        """Name it in a line."""
        return f"{self.model} {self.method} {self.rows}x{self.length}"

    @property
    def candidate(self) -> Candidate:
        """Return what is trained."""
        training = Training(batch_size=self.rows, max_length=self.length, precision="fp32", dropout=0.0)
        return Candidate(method=self.method, training=training, **METHODS[self.method])


def configurations() -> list[Configuration]:
    """Return every method on every model, and LoRA in all shapes."""
    found = []
    for model, task, shapes in MODELS:
        for place, method in enumerate(METHODS):
            found.append(Configuration(model, task, method, *shapes[place % len(shapes)]))
        found += [Configuration(model, task, "lora", *shape) for shape in shapes[1:]]
    return found


def measure(configuration: Configuration, threads: int) -> dict[str, float]:
    """Run training steps; return the median of their seconds and the peak of the process."""
    import time

    import ray.tune  # noqa: F401 - what trials run in is part of their memory
    import torch

    from autopeft.cost.tracing.batches import make_batch
    from autopeft.methods.adapt import adapt
    from autopeft.methods.backbone import build_backbone
    from autopeft.train.meter import Meter
    from autopeft.train.optimizers import make_optimizer
    from autopeft.train.step import training_step

    torch.set_num_threads(threads)
    base, candidate = find_model(configuration.model), configuration.candidate
    backbone = build_backbone(base, configuration.task, 2, candidate.training, weights=False)
    model = adapt(backbone, candidate, configuration.task)
    with torch.no_grad():
        for parameter in model.parameters():
            # Fresh memory is all zeros or denormal, which multiply at another speed.
            if not parameter.requires_grad:
                parameter.normal_(0.0, 0.02)
    model.train()
    optimizer = make_optimizer(model, candidate.training)
    batch = make_batch(
        model.config, base.family, configuration.task,
        rows=configuration.rows, length=configuration.length, padded=False, labels=2,
    )  # fmt: skip
    before = reference_seconds()
    meter = Meter(torch.device("cpu"))
    times: list[float] = []
    worked: list[float] = []
    while len(times) < LEAST_STEPS or (len(times) < MOST_STEPS and sum(times) < SECONDS):
        start, begun = time.perf_counter(), time.process_time()
        training_step(model, [batch], optimizer, candidate.training)
        worked.append(time.process_time() - begun)
        times.append(time.perf_counter() - start)
    # The first step makes the optimizer's state.
    wall = statistics.median(times[1:])
    return {
        # One thread's own time is what a step takes where nobody else wants the core.
        "measured_seconds": statistics.median(worked[1:]) if threads == 1 else wall,
        "wall_seconds": wall,
        "reference_seconds": (before + reference_seconds()) / 2,
        "steps": len(times),
        "measured_bytes": meter.peak_bytes,
    }


def reference_seconds() -> float:
    """Time a fixed piece of work, the median of several rounds."""
    import time

    import torch

    left, right = torch.randn(512, 384), torch.randn(384, 1536)
    rounds = []
    for _ in range(30):
        start = time.process_time()
        for _ in range(4):
            torch.nn.functional.gelu(left @ right)
        rounds.append(time.process_time() - start)
    return statistics.median(rounds[5:])


def predict(model: TracedCostModel, configuration: Configuration, profile: Any) -> dict[str, Any]:
    """Predict one configuration."""
    base: BaseModel = find_model(configuration.model)
    workload = Workload(task=configuration.task, labels=2, lengths=Lengths.constant(configuration.length))
    try:
        estimate = model.estimate(base, configuration.candidate, workload, profile)
    except AutopeftError as error:
        return {"status": "unsupported", "reason": str(error)}
    time = estimate.time
    return {
        "status": "ok",
        "predicted_seconds": time.step_seconds,
        "low_seconds": time.low_seconds,
        "high_seconds": time.high_seconds,
        "parts": [time.forward_seconds, time.backward_seconds, time.optimizer_seconds],
        "bound": time.bound,
        "predicted_bytes": estimate.memory.device_peak_bytes,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise what was predicted and measured."""
    from scipy.stats import spearmanr

    good = [row for row in rows if "measured_seconds" in row and row["status"] == "ok"]
    if len(good) < 3:
        return {"rows": len(good)}
    memory = [abs(row["predicted_bytes"] / row["measured_bytes"] - 1) for row in good]
    speeds = [row["reference_seconds"] for row in good]
    found: dict[str, Any] = {"rows": len(good), "machine_speed_varies": max(speeds) / min(speeds) - 1}
    for name in ("measured", "steady"):
        truths = [row[f"{name}_seconds"] for row in good]
        errors = [row["predicted_seconds"] / truth - 1 for row, truth in zip(good, truths, strict=True)]
        inside = [
            row["low_seconds"] <= truth <= row["high_seconds"]
            for row, truth in zip(good, truths, strict=True)
        ]
        found[name] = {
            "error_mean": statistics.mean(map(abs, errors)),
            "error_median": statistics.median(map(abs, errors)),
            "bias": statistics.mean(errors),
            "rank_correlation": float(
                spearmanr([row["predicted_seconds"] for row in good], truths).statistic
            ),
            "band_covers": sum(inside) / len(inside),
        }
    found["memory_error_mean"] = statistics.mean(memory)
    found["memory_error_median"] = statistics.median(memory)
    return found


def main() -> None:
    """Profile, predict, measure and write the results after every configuration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="of profiling")
    parser.add_argument("--resume", action="store_true", help="keep the profile and the rows there are")
    parser.add_argument("--only", default="")
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--predict-only", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--reference", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reference:
        sys.stdout.write(f"{_reference(arguments.threads)}\n")
        return
    if arguments.measure:
        wanted = next(each for each in configurations() if each.name == arguments.measure)
        sys.stdout.write(json.dumps(measure(wanted, arguments.threads)) + "\n")
        return
    rows: list[dict[str, Any]] = []
    if arguments.resume and PROFILE.exists() and RESULTS.exists():
        profile = load_profile(str(PROFILE))
        before = json.loads(RESULTS.read_text(encoding="utf-8"))
        rows, reference = before["rows"], before["reference_seconds"]
    else:
        start = float(_again("--reference", threads=arguments.threads))
        profile = probe(name="profile", seconds=arguments.seconds, threads=arguments.threads)
        reference = (start + float(_again("--reference", threads=arguments.threads))) / 2
        save_profile(profile, PROFILE)
    known = {row["name"]: row for row in rows}
    chosen = [each for each in configurations() if arguments.only in each.name][: arguments.limit]
    with TracedCostModel(workers=1, seconds=120) as model:
        for configuration in chosen:
            row = known.setdefault(configuration.name, {"name": configuration.name})
            row |= predict(model, configuration, profile)
            if not arguments.predict_only and row["status"] == "ok" and "measured_seconds" not in row:
                row |= measured_apart(configuration, arguments.threads)
            if "measured_seconds" in row:
                row["steady_seconds"] = row["measured_seconds"] * reference / row["reference_seconds"]
            sys.stderr.write(f"{row}\n")
            found: dict[str, Any] = {"threads": arguments.threads, "reference_seconds": reference}
            found |= {"warnings": list(profile.warnings)}
            found |= {"summary": summary(list(known.values())), "rows": list(known.values())}
            write_atomically(RESULTS, (json.dumps(found, indent=1) + "\n").encode())
    print(json.dumps(summary(list(known.values())), indent=1))


def measured_apart(configuration: Configuration, threads: int) -> dict[str, Any]:
    """Measure in a process of its own."""
    try:
        found: dict[str, Any] = json.loads(_again("--measure", configuration.name, threads=threads))
    except subprocess.CalledProcessError as error:
        return {"status": "failed", "reason": error.stderr.strip().splitlines()[-1][:300]}
    return found


def _again(*arguments: str, threads: int) -> str:
    """Run this script in a process of its own; return the last line that it prints."""
    command = [sys.executable, __file__, *arguments, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def _reference(threads: int) -> float:
    import torch

    torch.set_num_threads(threads)
    return reference_seconds()


if __name__ == "__main__":
    main()
