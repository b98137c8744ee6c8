"""Formulas of sharding against what real processes hold; experiments/009-sharded-memory has the full runs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from autopeft.cost.model import TracedCostModel
from autopeft.cost.pattern_cache import PatternCache
from autopeft.cost.sharding import Held, held_by_one, shared_out
from autopeft.cost.spread import Spread
from autopeft.hardware.catalog import load_profile
from autopeft.space.candidate import Candidate
from autopeft.workload.dataset import Lengths, Workload
from autopeft.workload.models import find_model

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "009-sharded-memory"
CANDIDATE = Candidate(method="lora", rank=8, targets="all-linear", training={"batch_size": 2})


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, dict[str, int]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    program = str(Path(__file__).with_name("two_ranks.py"))
    running = [
        subprocess.Popen(
            [sys.executable, program, str(rank), "2", port], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    done = [rank.communicate(timeout=120) for rank in running]
    assert [rank.returncode for rank in running] == [0, 0], done
    return [json.loads(out) for out, _ in done]


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_of_plain_torch_hold_what_the_formulas_say(two_ranks, sharding: str) -> None:
    half = 4 * 2 * (64 * 64 + 64)  # two of four layers of 64 x 64 in fp32, with their biases
    alone = Held(weights=half, quantization=0, adapter=half, gradients=half, optimizer=2 * half)
    share = shared_out(alone, Spread(gpus=2, sharding=sharding), trained=half // 4)
    for rank in two_ranks:
        assert rank[sharding] == {name: getattr(share, name) for name in rank[sharding]}


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_each_of_two_processes_holds_what_the_formulas_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharding: str
) -> None:
    monkeypatch.syspath_prepend(str(EXPERIMENT))
    from ranks import measure

    base = find_model("SmolLM2-135M")
    base = base.model_copy(update={"config": {**base.config, "num_hidden_layers": 4, "vocab_size": 4096}})
    profile = load_profile("t4").model_copy(update={"device": "cpu"})
    with TracedCostModel(workers=1, cache=PatternCache(tmp_path)) as model:
        workload = Workload(task="sft", lengths=Lengths.constant(32))
        alone = model.estimate(base, CANDIDATE, workload, profile)
    held = shared_out(held_by_one(alone), Spread(gpus=2, sharding=sharding), alone.trainable_params)
    for rank in measure(base, CANDIDATE, 32, 2, sharding, tmp_path):
        for part in ("weights", "adapter", "gradients", "optimizer"):
            assert rank[part] == pytest.approx(getattr(held, part), rel=0.03), part
        assert rank["at_rest"] == pytest.approx(held.total - held.gradients, rel=0.03)
    sys.modules.pop("ranks", None)
