"""How long the host takes per operator of a training step: a small transformer with LoRA, step by step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from autopeft.hardware.profile import HostSpeed
from autopeft.hardware.timing import now, wait

_LAYERS = 4
_TINY: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
_LEAST_STEPS = 5
# These return without starting a kernel, though their schema does not say so.
_FREE = ("empty", "new_empty", "_unsafe_view", "lift_fresh", "_local_scalar_dense", "set_", "sym_size")


def host_speed(device: torch.device, seconds: float) -> tuple[HostSpeed, float]:
    """Measure the seconds per operator of forward, backward and optimizer, and how far repeats differ.

    Sizes are so small that the operators themselves take next to nothing.
    """
    phases = _step(device)
    counts = []
    for run in phases * 2:
        with _Counter() as counter:
            run()
        counts.append(counter.count)
    found: list[list[float]] = [[], [], []]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found[0]) < _LEAST_STEPS:
        for place, run in enumerate(phases):
            wait(device)
            start = now(device)
            run()
            wait(device)
            found[place].append(now(device) - start)
    # Of the second round: the first optimizer step makes its state.
    per_operator = [
        statistics.median(times) / max(count, 1) for times, count in zip(found, counts[3:], strict=True)
    ]
    quarters = statistics.quantiles(found[0], n=4)
    forward, backward, optimizer = per_operator
    spread = (quarters[2] - quarters[0]) / statistics.median(found[0])
    return HostSpeed(forward=forward, backward=backward, optimizer=optimizer), spread


def _step(device: torch.device) -> list[Callable[[], Any]]:
    """Return the three phases of a step as calls, to be made in turn."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config: Any = LlamaConfig(**_TINY)
    adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model: Any = get_peft_model(LlamaForCausalLM(config), adapter)
    model.to(device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    ids = torch.ones(2, 8, dtype=torch.long, device=device)
    loss: list[Any] = []

    def forward() -> None:
        loss[:] = [model(input_ids=ids, attention_mask=ids, labels=ids).loss]

    def backward() -> None:
        loss[0].backward()

    def optimize() -> None:
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return [forward, backward, optimize]


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators that do work: views and empty tensors do none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        returns = func._schema.returns
        view = any(out.alias_info is not None and not out.alias_info.is_write for out in returns)
        short = func._schema.name.partition("::")[2]
        if not view and not short.startswith(_FREE):
            self.count += 1
        return func(*args, **(kwargs or {}))
