"""Right questions of which every pattern ships, so that their answers are computed and nothing is traced."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Bodies = st.SearchStrategy[dict[str, Any]]
MODELS = ("SmolLM2-135M", "Llama-3.1-8B", "Llama-3.3-70B")
GPUS = ("l4", "l40s", "a100-40gb", "h100-sxm")
PACKINGS = ("none", "nf4-dq")
SHARDED = ("zero1", "zero2", "zero3", "fsdp")
LENGTHS = st.integers(1, 512)
RANKS = st.integers(1, 256)
ROWS = st.integers(1, 64)
DOLLARS = st.floats(0.01, 1e6)
RUN = {"examples": st.integers(1, 10**9), "epochs": st.floats(0.01, 1000)}
MONEY = {"price": DOLLARS, "grid_factor": st.floats(0, 10)}


def _body(needed: dict[str, st.SearchStrategy[Any]], **free: st.SearchStrategy[Any]) -> Bodies:
    return st.fixed_dictionaries(needed, optional=free)


def _both(one: Bodies, other: Bodies) -> Bodies:
    return st.builds(lambda first, second: first | second, one, other)


LIMITS = {
    "gpu_mem": st.integers(10**9, 10**12) | st.integers(1, 999).map(lambda size: f"{size}GB"),
    "time": st.floats(0.001, 1e9) | st.just("2h"),
    "params": st.floats(1e-6, 1) | st.just("1%"),
    "adapter_size": st.just("100MB"),
}
SPREADS = (
    _body({"gpus": st.integers(2, 16)}, sharding=st.sampled_from(("ddp", *SHARDED)))
    | _body({"gpus": st.integers(2, 16), "sharding": st.sampled_from(SHARDED), "offload": st.booleans()})
    | st.just({})
)
CANDIDATES = _body(
    {
        "method": st.just("lora"),
        "training": _body({"precision": st.just("bf16"), "batch_size": ROWS}, epochs=RUN["epochs"]),
    },
    rank=RANKS,
    quantization=st.sampled_from(PACKINGS),
)
ON_A_GPU = {"gpu": st.sampled_from(GPUS), "seq_len": LENGTHS, "examples": RUN["examples"]}
SHIPPED: dict[str, Bodies] = {
    "/api/v1/verdict": _both(
        _body(
            {"model": st.sampled_from(MODELS), "candidate": CANDIDATES, **ON_A_GPU},
            budget=_body({}, cost=DOLLARS, **LIMITS),
            **MONEY,
        ),
        SPREADS,
    ),
    "/api/v1/capacity": _both(
        _body(
            {
                "models": st.lists(st.sampled_from(MODELS), min_size=1, max_size=2, unique=True),
                "ways": st.lists(st.sampled_from(("lora", "qlora")), min_size=1, max_size=2, unique=True),
                "gpus": st.lists(st.sampled_from(GPUS), min_size=1, max_size=2, unique=True),
                "seq_len": LENGTHS,
            },
            rank=RANKS,
            batch_size=ROWS,
            runs_per_week=st.floats(0.001, 1e9),
            utilisation=st.floats(0.001, 1),
            **RUN,
            **MONEY,
        ),
        _body(
            {"counts": st.lists(st.integers(2, 16), min_size=1, max_size=2, unique=True)},
            sharding=st.sampled_from(SHARDED),
        )
        | st.just({}),
    ),
}
