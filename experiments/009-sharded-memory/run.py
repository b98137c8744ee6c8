"""Train with DDP and FSDP in several processes and hold what each rank holds against the formulas.

    python experiments/009-sharded-memory/run.py [--ranks 2 3 4]

The prediction is that of one device, from the trace, shared out by `cost/sharding.py`; nothing is fitted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from ranks import measure

from autopeft.cost.model import TracedCostModel
from autopeft.cost.sharding import held_by_one, shared_out, spread_over
from autopeft.cost.spread import Spread
from autopeft.files import write_atomically
from autopeft.hardware.profile import HardwareProfile, Provenance
from autopeft.space.candidate import Candidate
from autopeft.workload.dataset import Lengths, Workload
from autopeft.workload.models import find_model

HERE = Path(__file__).parent
MODEL, LENGTH = "SmolLM2-135M", 32
CANDIDATES = {
    "lora": Candidate(method="lora", rank=8, targets="all-linear", training={"batch_size": 2}),
    "full": Candidate(method="full", training={"batch_size": 2}),
}
# Of a machine that has no device: only the bytes are asked for.
CPU = HardwareProfile(
    name="cpu",
    device="cpu",
    device_name="cpu",
    total_bytes=2**34,
    usable_bytes=2**34,
    context_bytes=0,
    matmul_flops={"float32": 1e11},
    bandwidth_bytes_per_second=1e10,
    dispatch_seconds=1e-5,
    link_bytes_per_second=1e9,
    provenance=Provenance(kind="assumed", source="for its bytes only", date="2026-11-22"),
)


def main() -> None:
    """Measure and write results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--methods", nargs="+", default=list(CANDIDATES))
    wanted = parser.parse_args()
    base, out = find_model(MODEL), HERE / "results.json"
    rows: list[dict[str, Any]] = json.loads(out.read_text()) if out.exists() else []
    with TracedCostModel() as model:
        for method in wanted.methods:
            candidate = CANDIDATES[method]
            workload = Workload(task="sft", lengths=Lengths.constant(LENGTH))
            alone = model.estimate(base, candidate, workload, CPU)
            for ranks in wanted.ranks:
                for sharding in ("ddp", "fsdp"):
                    spread = Spread(gpus=ranks, sharding=sharding)
                    held = shared_out(held_by_one(alone), spread, alone.trainable_params)
                    peak = spread_over(alone, spread, base, candidate, CPU).memory.allocated_peak_bytes
                    predicted = held._asdict() | {
                        "at_rest": held.total - held.gradients,
                        "peak": peak,
                    }
                    with tempfile.TemporaryDirectory() as folder:
                        measured = measure(base, candidate, LENGTH, ranks, sharding, Path(folder))
                    rows.append(row(method, ranks, sharding, predicted, measured))
                    write_atomically(out, json.dumps(rows, indent=1) + "\n")
                    print(json.dumps(rows[-1]["error"]), method, ranks, sharding, flush=True)


def row(
    method: str, ranks: int, sharding: str, predicted: dict[str, int], measured: list[dict[str, int]]
) -> dict[str, Any]:
    """Put the worst rank of each category beside its prediction."""
    worst = {
        name: max((rank[name] for rank in measured), key=lambda found: abs(found - predicted[name]))
        for name in measured[0]
    }
    return {
        "method": method,
        "ranks": ranks,
        "sharding": sharding,
        "predicted": {name: predicted[name] for name in worst},
        "measured_worst_rank": worst,
        "error": {name: round(predicted[name] / found - 1, 4) for name, found in worst.items() if found},
    }


if __name__ == "__main__":
    main()
