"""Train 60 configurations with random weights and hold their peak memory against the prediction.

    python experiments/006-memory-gpu/run.py               # on a CUDA device: reserved and allocated peak
    python experiments/006-memory-gpu/run.py --device cpu  # without one: tiny models, allocated bytes

Three optimizer steps at one known length; on CUDA every configuration runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from autopeft.cost.model import TracedCostModel
from autopeft.errors import AutopeftError
from autopeft.hardware.probe import probe
from autopeft.hardware.profile import HardwareProfile

HERE = Path(__file__).parent
MODELS = ("Llama-3.2-1B", "Qwen2.5-3B", "Llama-3.2-3B", "Mistral-7B-v0.3", "Llama-3.1-8B", "Qwen2.5-14B")
METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lora", {"rank": 16, "targets": "query+value"}),
    ("lora", {"rank": 64, "targets": "all-linear"}),
    ("rslora", {"rank": 32, "targets": "attention"}),
    ("dora", {"rank": 16, "targets": "query+value"}),
    ("ia3", {}),
    ("vera", {}),
    ("loha", {"rank": 16}),
    ("oft", {}),
    ("prefix_tuning", {}),
    ("ln_tuning", {}),
)
# Settings in turn: quantisation, checkpointing, packed, rows, length.
SETTINGS = (
    ("none", False, False, 1, 512),
    ("nf4-dq", True, False, 4, 1024),
    ("none", True, False, 4, 2048),
    ("int8", False, False, 1, 256),
    ("nf4", False, True, 2, 1024),
    ("none", True, True, 1, 8192),
)
TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def configurations(device: str) -> list[dict[str, Any]]:
    """Return all 60: each model with each method, the settings in turn."""
    found = []
    for place, (model, (method, fields)) in enumerate((m, e) for m in MODELS for e in METHODS):
        quantization, checkpointing, packed, rows, length = SETTINGS[
            (place + place // len(METHODS)) % len(SETTINGS)
        ]
        if method not in ("lora", "rslora", "dora"):
            quantization = "none"
        if method == "prefix_tuning":
            checkpointing = False
        found.append(
            {
                "model": "tiny" if device == "cpu" else model,
                "method": method,
                "fields": fields,
                "quantization": "none" if device == "cpu" else quantization,
                "checkpointing": checkpointing,
                "packed": packed,
                "rows": rows,
                "length": length // 32 if device == "cpu" else length,
            }
        )
    return found


def measure(
    case: dict[str, Any], device: str, cost: TracedCostModel, profile: HardwareProfile
) -> dict[str, Any]:
    """Predict three steps, take them, and return both peaks."""
    import torch

    from autopeft.methods.adapt import adapt
    from autopeft.methods.backbone import build_backbone
    from autopeft.space.candidate import Candidate, Training
    from autopeft.train.optimizers import make_optimizer
    from autopeft.train.step import training_step
    from autopeft.workload.base_model import BaseModel
    from autopeft.workload.dataset import Lengths, Workload
    from autopeft.workload.models import find_model

    tiny = BaseModel(name="tiny", family="decoder", config=TINY, source="this file")
    base = tiny if case["model"] == "tiny" else find_model(case["model"])
    training = Training(
        batch_size=case["rows"],
        max_length=case["length"],
        precision="bf16" if device == "cuda" else "fp32",
        gradient_checkpointing=case["checkpointing"],
        packing=case["packed"],
    )
    candidate = Candidate(
        method=case["method"], quantization=case["quantization"], training=training, **case["fields"]
    )
    workload = Workload(task="sft", lengths=Lengths.constant(case["length"]))
    estimate = cost.estimate(base, candidate, workload, profile)
    said: dict[str, Any] = {"predicted_allocated": estimate.memory.allocated_peak_bytes}
    if device == "cpu":
        import numpy as np

        from autopeft.cost.loops import LOOPS
        from autopeft.cost.tracing.record import record
        from autopeft.cost.tracing.take import Job
        from autopeft.methods.registry import complete

        shape = (case["rows"], case["length"])
        job = Job(base, complete(candidate), "sft", 2, "cpu", False, LOOPS["autopeft"], (shape,) * 3)
        take = record(job)
        signed = np.where(take.events >= 0, take.sizes[take.events], -take.sizes[np.invert(take.events)])
        first = take.spans[1].event
        return said | {"measured_allocated": int(np.cumsum(signed)[first - 1 :].max())}
    said["predicted_reserved"] = estimate.memory.reserved_peak_bytes
    model = build_backbone(base, "sft", 2, training, weights=False, quantization=case["quantization"])
    model = adapt(model, candidate, "sft").to(device)
    model.train()
    optimizer = make_optimizer(model, training)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        ids = torch.ones((case["rows"], case["length"]), dtype=torch.int64, device=device)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
        training_step(model, [batch], optimizer, training)
    return said | {
        "measured_allocated": torch.cuda.max_memory_allocated(),
        "measured_reserved": torch.cuda.max_memory_reserved(),
    }


def measured_apart(place: int) -> dict[str, Any]:
    """Measure one configuration in a process of its own, on CUDA."""
    command = [sys.executable, __file__, "--case", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:300]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Measure all configurations, each in a process of its own, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--most", type=int, default=60)
    parser.add_argument("--case", type=int, help="measure this one, in this process")
    arguments = parser.parse_args()
    cases = configurations(arguments.device)[: arguments.most]
    rows = []
    if arguments.device == "cpu" or arguments.case is not None:
        profile = probe(seconds=0.5, context_bytes=400 << 20)
        with TracedCostModel(workers=1, seconds=300) as cost:
            if arguments.case is not None:
                print(json.dumps(measure(cases[arguments.case], arguments.device, cost, profile)))
                return
            for case in cases:
                try:
                    found = measure(case, "cpu", cost, profile)
                except AutopeftError as error:
                    found = {"failed": str(error)}
                rows.append(case | found)
                sys.stderr.write(f"{len(rows)}/{len(cases)} {case['method']} {found}\n")
    else:
        for place, case in enumerate(cases):
            rows.append(case | measured_apart(place))
            sys.stderr.write(f"{place + 1}/{len(cases)} {rows[-1]}\n")
    errors = {
        name: [
            abs(row[f"predicted_{name}"] / row[f"measured_{name}"] - 1)
            for row in rows
            if f"measured_{name}" in row
        ]
        for name in ("allocated", "reserved")
    }
    summary = {
        "device": arguments.device,
        "configurations": len(rows),
        "failed": sum("failed" in row for row in rows),
        **{
            f"{name}_error": {"median": statistics.median(each), "worst": max(each)}
            for name, each in errors.items()
            if each
        },
    }
    (HERE / f"results-{arguments.device}.json").write_text(
        json.dumps({"summary": summary, "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
