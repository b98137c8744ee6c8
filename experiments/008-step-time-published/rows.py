"""Published runs as questions about time."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from autopeft.cost.loops import Loop, find_loop
from autopeft.errors import UnsupportedError
from autopeft.space.candidate import Candidate
from autopeft.workload.dataset import Lengths

EXPERIMENTS = Path(__file__).parents[1]
# total_tokens of every row: 4,198,051 tokens in 5,000 batches of 4 rows. Published beside them: the 99th
# percentile (604) and the longest (703) batch. Between these a log-normal of that mean.
PEFT_MEAN = 4_198_051 / 20_000
# Alpaca with its prompt template and Llama's tokenizer: mean and spread as its dataset cards describe them;
# the longest row stands in the litgpt table.
ALPACA_MEAN, ALPACA_SIGMA = 120.0, 0.5


class Asked(NamedTuple):
    """One published run.

    Attributes:
        lengths: tokens of its rows.
        device: profile that it ran on.
        measured_seconds: of a step; where only the whole run is published, of that divided by its steps.
    """

    name: str
    source: str
    model: str
    candidate: Candidate
    lengths: Lengths
    device: str
    loop: Loop
    measured_seconds: float


def peft(row: dict[str, str]) -> Asked:
    """Turn a row of PEFT's method comparison into a question."""
    config = json.loads(row["adapter_config"] or "{}")
    candidate = _other("003-memory-peft", "rows").candidate_of(row["peft_type"], config, row["opt"])
    return Asked(
        name=row["experiment"],
        source="peft",
        model="Llama-3.2-3B",
        candidate=candidate,
        lengths=log_normal(PEFT_MEAN, 0.5, 20, 703),
        device="l40s",
        loop=find_loop("peft-benchmark"),
        measured_seconds=float(row["train_time_steps"]) / float(row["max_steps"]),
    )


def litgpt_qwen(row: dict[str, str]) -> Asked:
    """Turn a row of the litgpt and Qwen tables into a question.

    Raises:
        UnsupportedError: it is not predicted, and why.
    """
    if not row["time_value"]:
        raise UnsupportedError("no time was measured.")
    candidate, longest, loop_name = _other("004-memory-litgpt-qwen", "run").question(row)
    loop = find_loop(loop_name)
    seconds = float(row["time_value"])
    lengths = Lengths.constant(longest)
    if loop_name == "litgpt":
        # Chunks of the head's product change memory, not time, and every length would be a trace of its own.
        loop = loop.model_copy(update={"logits_chunk": 0})
        lengths = log_normal(ALPACA_MEAN, ALPACA_SIGMA, 40, longest)
        seconds = seconds * 60 / 1000
    return Asked(
        name=" ".join(row[name] for name in ("model", "method", "quant", "seq", "batch")),
        source="litgpt" if loop_name == "litgpt" else "qwen",
        model=row["model"],
        candidate=candidate,
        lengths=lengths,
        device="a100-80gb" if re.search("80G", row["gpu"]) else "a100-40gb",
        loop=loop,
        measured_seconds=seconds,
    )


def log_normal(mean: float, sigma: float, shortest: int, longest: int) -> Lengths:
    """Return log-normal lengths of a mean, cut at both ends."""
    from math import exp, log
    from statistics import NormalDist

    normal = NormalDist(log(mean) - sigma**2 / 2, sigma)
    inner = [round(exp(normal.inv_cdf(share / 100))) for share in range(1, 100)]
    cut = [min(max(length, shortest), longest) for length in inner]
    return Lengths(percentiles=(shortest, *cut, longest), mean=mean)


def _other(folder: str, module: str) -> ModuleType:
    """Load a module of another experiment, whose folder is no package."""
    name = f"{folder}.{module}"
    if name not in sys.modules:
        place = EXPERIMENTS / folder
        sys.path.insert(0, str(place))
        spec = importlib.util.spec_from_file_location(name, place / f"{module}.py")
        if spec is None or spec.loader is None:
            raise FileNotFoundError(place / f"{module}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
        sys.path.remove(str(place))
    return sys.modules[name]
