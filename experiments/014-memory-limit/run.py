"""No trial that the planner admits runs out of memory: `python experiments/014-memory-limit/run.py`.

Candidates of the spaces that ship are judged under three memory limits for each of three models with data.
Then trials start as autopeft's worker would train them, each in a process of its own that is killed when it
holds more than its limit: one epoch of few rows, so that every batch is seen, the longest too. A trial is one
line of `results.jsonl` and is not repeated; the script can be stopped at any moment.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from autopeft.cost.estimate import CostEstimate
from autopeft.hardware.profile import HardwareProfile, Provenance
from autopeft.methods.registry import complete, find_method, learns
from autopeft.plan.budget import Budget
from autopeft.plan.plan import Fits, Rejected
from autopeft.plan.planner import Planner
from autopeft.space.candidate import Candidate
from autopeft.space.reader import load_space
from autopeft.space.search_space import footprints, only_methods
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset, Workload
from autopeft.workload.demo import demo_dataset, demo_model
from autopeft.workload.measuring import measure
from autopeft.workload.tokens import measure_targets

HERE = Path(__file__).parent
PLAN, RESULTS = HERE / "plan.json", HERE / "results.jsonl"
BATCH_SIZES = (4, 8, 16, 32)
LIMITS = (0.35, 0.6, 0.85)
"""Memory limits, as the share of the candidates that they would admit."""
ADMITTED, REFUSED = 204, 45
"""Trials to start: of those that were admitted, and of those that were refused."""
FIELDS = {"num_hidden_layers": 2, "num_attention_heads": 2}
LOOK_SECONDS = 0.003
"""How often a process is looked at that must not hold more than its limit."""


@dataclass(frozen=True)
class Setting:
    """A model with rows and the spaces that its candidates come from.

    Attributes:
        model_type: of a tiny model of random weights; empty: the demo's own.
        kinds: how many kinds of candidates are costed; each is traced once.
        hidden: width of the tiny model.
    """

    name: str
    kind: Any
    data: str
    model_type: str
    spaces: tuple[str, ...]
    kinds: int
    hidden: int = 128


SETTINGS = (
    Setting("MiniLM on movies", "classification", "movies", "", ("quick", "encoder"), 8),
    Setting("tiny BERT on news", "classification", "news", "bert", ("encoder", "memory-tight"), 10),
    Setting("tiny Llama on chatterbot", "sft", "chatterbot", "llama", ("quick", "memory-tight"), 8),
)


def main() -> None:
    """Plan once, then start what has no line yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="start no trial after so many")
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        loaded = {setting.name: load(setting, Path(folder)) for setting in SETTINGS}
        import autopeft.train.trainer  # noqa: F401 (once, before the processes part)

        tiny = Setting("tiny", "classification", "movies", "bert", (), 0, hidden=8)
        at_start = in_a_process(weigh, load(tiny, Path(folder)))
        if not PLAN.exists():
            jobs = list(plan_all(loaded, at_start["resident_bytes"]))
            PLAN.write_text(json.dumps(jobs, indent=0) + "\n", encoding="utf-8")
        done = {line["job"] for line in results()}
        for number, job in enumerate(json.loads(PLAN.read_text(encoding="utf-8"))):
            if number in done:
                continue
            if time.monotonic() > deadline:
                break
            outcome = in_a_process(
                *(train, loaded[job["setting"]], job["candidate"]), limit=job["limit_bytes"]
            )
            line = {"job": number, **{k: v for k, v in job.items() if k != "candidate"}, **outcome}
            line["fits"] = not outcome["failure"] and outcome["peak_bytes"] <= job["limit_bytes"]
            line["start_bytes"] = at_start["resident_bytes"]
            with RESULTS.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
    print(json.dumps(summary(results()), indent=1))


def load(setting: Setting, folder: Path) -> tuple[BaseModel, Dataset]:
    """Return a setting's model and 64 rows to train on."""
    base = demo_model(setting.kind)
    found = demo_dataset(setting.kind, name=setting.data, train_rows=64)
    dataset = found.model_copy(update={"validation": found.validation[:16], "test": found.test[:16]})
    if not setting.model_type:
        return base, dataset
    import torch
    import transformers

    torch.manual_seed(0)
    place = folder / setting.name.replace(" ", "-")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base.path)
    tokenizer.save_pretrained(place)
    sizes = FIELDS | {"vocab_size": len(tokenizer), "hidden_size": setting.hidden}
    sizes["intermediate_size"] = 4 * setting.hidden
    config = transformers.AutoConfig.for_model(setting.model_type, **sizes)
    head = "AutoModel" if setting.kind == "classification" else "AutoModelForCausalLM"
    getattr(transformers, head).from_config(config).save_pretrained(place)
    from autopeft.workload.models import find_model

    return find_model(str(place)), dataset


@dataclass(frozen=True)
class Known:
    """A cost model of candidates that were costed before."""

    estimates: dict[str, CostEstimate]

    def estimate(self, base: object, candidate: Candidate, *rest: object) -> CostEstimate:
        """Return what was estimated."""
        del base, rest
        return self.estimates[candidate.key]

    def estimate_many(self, base: object, candidates: Sequence[Candidate], *rest: object) -> Any:
        """Return what was estimated."""
        return [self.estimate(base, each, *rest) for each in candidates]


def plan_all(loaded: dict[str, tuple[BaseModel, Dataset]], context: int) -> Iterator[dict[str, Any]]:
    """Judge the candidates of all settings; yield those to start, in an order that mixes everything."""
    from autopeft.cost.model import TracedCostModel

    jobs: dict[str, list[dict[str, Any]]] = {"admitted": [], "refused": []}
    with TracedCostModel(workers=1) as cost_model:
        for setting in SETTINGS:
            base, dataset = loaded[setting.name]
            for candidates in by_length(setting, base, dataset):
                training = candidates[0].training
                lengths = measure(dataset, base, training.max_length)
                workload = Workload(
                    task=dataset.task,
                    lengths=lengths,
                    rows=len(dataset.train),
                    validation_rows=len(dataset.validation),
                    targets=measure_targets(dataset, base, training.max_length),
                    labels=max(1, dataset.outputs),
                )
                asked = {"base": base, "workload": workload, "profile": profile_of(context)}
                plan = Planner(cost_model=cost_model, budget=Budget(), **asked).plan("all", candidates)
                known = Known({fit.candidate.key: fit.estimate for fit in plan.fits})
                highs = sorted(fit.estimate.memory.high_bytes for fit in plan.fits)
                print(setting.name, training.max_length, len(highs), "costed", flush=True)
                for refused in plan.rejected:
                    print("  left out:", refused.candidate.label, refused.reason, flush=True)
                for share in LIMITS:
                    limit = highs[math.floor(share * (len(highs) - 1))]
                    planner = Planner(cost_model=known, budget=Budget(gpu_mem=limit), **asked)
                    for verdict in map(planner.judge, [fit.candidate for fit in plan.fits]):
                        name = "admitted" if isinstance(verdict, Fits) else "refused"
                        jobs[name].append(job_of(setting, limit, verdict))
    dice = random.Random(0)
    chosen = [
        job
        for name, count in (("admitted", ADMITTED), ("refused", REFUSED))
        for job in dice.sample(jobs[name], min(count, len(jobs[name])))
    ]
    dice.shuffle(chosen)
    yield from chosen


def by_length(setting: Setting, base: BaseModel, dataset: Dataset) -> Iterator[list[Candidate]]:
    """Yield candidates of the setting's spaces, those of one length limit together."""
    for name in setting.spaces:
        space = load_space(name)
        able = [each for each in space.methods if learns(find_method(each), base.family, dataset.task)]
        listed = footprints(only_methods(space, able), 400)
        dice, kinds, found = random.Random(name), set(), []
        for candidate in dice.sample(listed, len(listed)):
            kind = candidate.method, candidate.targets, candidate.layers
            if kind not in kinds and len(kinds) >= setting.kinds // len(setting.spaces):
                continue
            kinds.add(kind)
            change = {"batch_size": dice.choice(BATCH_SIZES), "grad_accum": 1, "epochs": 1.0}
            found.append(
                candidate.model_copy(update={"training": candidate.training.model_copy(update=change)})
            )
        yield list({each.footprint: each for each in found}.values())


def job_of(setting: Setting, limit: int, verdict: Fits | Rejected) -> dict[str, Any]:
    """Return what is to be started, as JSON."""
    memory = verdict.estimate.memory if verdict.estimate else None
    assert memory is not None
    return {
        "setting": setting.name,
        "label": f"{verdict.candidate.label} batch={verdict.candidate.training.batch_size}",
        "admitted": isinstance(verdict, Fits),
        "limit_bytes": limit,
        "predicted_bytes": memory.device_peak_bytes,
        "low_bytes": memory.low_bytes,
        "high_bytes": memory.high_bytes,
        "candidate": verdict.candidate.model_dump(mode="json"),
    }


def profile_of(context: int) -> HardwareProfile:
    """Return a CPU of which only the memory counts."""
    return HardwareProfile(
        name="limited",
        device="cpu",
        device_name="limited",
        total_bytes=1 << 40,
        usable_bytes=1 << 40,
        context_bytes=context,
        matmul_flops={"float32": 1e11, "bfloat16": 1e11},
        bandwidth_bytes_per_second=1e10,
        dispatch_seconds=1e-5,
        cores=1,
        provenance=Provenance(kind="assumed", source="experiment", date="2026-11-22"),
    )


def in_a_process(work: Any, *arguments: Any, limit: int | None = None) -> dict[str, Any]:
    """Do something in a fork of this process and return what it says.

    A process that dies says so; one that is seen to hold more than `limit` bytes is killed.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(sender, *arguments))
    process.start()
    sender.close()
    killed = False
    while not receiver.poll(LOOK_SECONDS):
        if limit is not None and process.pid and status("VmRSS", process.pid) > limit:
            os.kill(process.pid, signal.SIGKILL)
            killed = True
    try:
        found: dict[str, Any] = receiver.recv()
    except EOFError:
        process.join()
        why = "killed at its limit" if killed else f"the process died ({process.exitcode})"
        found = {"failure": why, "peak_bytes": limit if killed else 0}
    process.join()
    return found


def weigh(sender: Connection, loaded: tuple[BaseModel, Dataset]) -> None:
    """Measure what a process holds beside model and rows: after a training of a model of 1 MiB."""
    from autopeft.train.trainer import TrainerFactory

    base, dataset = loaded
    run = TrainerFactory(base=base, dataset=dataset)(complete(Candidate(method="lora", rank=1)), 0)
    run.advance(32)
    sender.send({"resident_bytes": status("VmRSS")})


def train(sender: Connection, loaded: tuple[BaseModel, Dataset], fields: dict[str, Any]) -> None:
    """Train a candidate to its end, as a worker would."""
    from autopeft.search.desk import reason_of
    from autopeft.train.trainer import TrainerFactory

    base, dataset = loaded
    begun = time.process_time()
    try:
        run = TrainerFactory(base=base, dataset=dataset)(Candidate.model_validate(fields), 0)
        report = run.advance(10**9)
    except Exception as error:  # noqa: BLE001 (that it failed is the result)
        sender.send({"failure": reason_of(error), "peak_bytes": status("VmHWM")})
        return
    seconds = time.process_time() - begun
    sender.send(
        {"failure": "", "peak_bytes": report.peak_bytes, "steps": report.step, "cpu_seconds": seconds}
    )


def status(name: str, process: int | str = "self") -> int:
    """Return a size of a process in bytes; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def results() -> list[dict[str, Any]]:
    """Read the lines so far."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Count what went wrong on either side."""
    admitted = [line for line in lines if line["admitted"]]
    refused = [line for line in lines if not line["admitted"]]
    good = [line for line in lines if not line["failure"]]
    covered = [line["low_bytes"] <= line["peak_bytes"] <= line["high_bytes"] for line in good]
    return {
        "admitted": len(admitted),
        "out_of_memory": sum(bool(line["failure"]) for line in admitted),
        "over_the_limit": sum(not line["fits"] and not line["failure"] for line in admitted),
        "refused_and_tried": len(refused),
        "refused_that_fit": sum(line["fits"] for line in refused),
        "band_covers": sum(covered) / max(1, len(covered)),
    }


if __name__ == "__main__":
    main()
