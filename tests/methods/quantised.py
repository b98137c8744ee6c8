"""The contract that every method keeps on a packed base that it claims, as functions that return facts.

bitsandbytes and torchao run on the CPU here. A method that reads packed weights as if they were numbers
trains all the same; that it is wrong shows only where its adapter is loaded on the unpacked weights.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from contract import Fact, _tried, changes, falls, logits_of, reloads, train
from peft import PeftModel
from recordings import faked, real, totals
from torch import nn
from toys import backbone, job_of

from autopeft.cost.tracing.take import Job
from autopeft.workload.base_model import Family

FAMILIES: tuple[Family, ...] = ("decoder", "encoder")
SCHEMES = ("nf4", "int8", "torchao-int8")
BITSANDBYTES = ("nf4", "int8")
"""Those whose tapes are compared: torchao's tensors stand for two, which a recording counts both."""
MUST = ("builds", "trains only its own", "learns", "save/reload", "means the same", "fake = real")
LASTING = ("WEIGHTS", "ADAPTER", "GRADIENTS", "OPTIMIZER", "QUANTIZATION")
"""Categories that are the same to the byte; temporaries are those of CUDA's kernels on fake tensors."""

ROUNDED = {"nf4": 1e-3, "int8": 0.1, "torchao-int8": 1e-3}
"""How far the adapter's effect may be from that on the unpacked weights, as a share of it: int8 rounds
activations too."""


def examine_packed(method: str, family: Family, scheme: str, *, tape: bool = True) -> dict[str, Fact]:
    """Return every fact of the contract for a method on a packed base; only "builds" where it does not.

    Args:
        tape: hold what lasts on the fake tape against the real one too.
    """
    job = job_of(method, family, scheme)
    trained = _tried(lambda: train(job))
    if isinstance(trained, Fact):
        return {"builds": trained}
    facts = {"builds": Fact(True), "trains only its own": changes(trained), "learns": falls(trained)}
    with tempfile.TemporaryDirectory() as folder:
        facts["save/reload"] = _tried(lambda: reloads(trained, Path(folder)))
        if isinstance(trained.model, PeftModel):
            facts["means the same"] = _tried(lambda: means_the_same(trained.model, job, folder))
    if tape and scheme in BITSANDBYTES:
        facts["fake = real"] = _tried(lambda: _same_lasting(job))
    return facts


def means_the_same(model: nn.Module, job: Job, folder: str) -> Fact:
    """Say whether the saved adapter does to the unpacked weights what it does to the packed ones."""
    packed = backbone(job)
    before = logits_of(packed, job)
    unpacked = _unpacked(packed, job)
    plain = logits_of(unpacked, job)
    after = _behind_prompt(logits_of(PeftModel.from_pretrained(unpacked, folder), job), plain)
    effect = _behind_prompt(logits_of(model, job), before) - before
    apart = float((after - plain - effect).norm() / effect.norm())
    return Fact(apart <= ROUNDED[job.candidate.quantization], f"effects {apart:.1e} apart")


def _behind_prompt(logits: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the logits without those of virtual tokens."""
    return logits[:, -like.shape[1] :] if like.dim() == 3 else logits


def _unpacked(packed: nn.Module, job: Job) -> Any:
    """Return the base model with the weights that a packed one stands for."""
    from peft.utils.integrations import dequantize_module_weight

    plain = backbone(job_of(job.candidate.method, job.base.family))
    modules = dict(packed.named_modules())
    for name, module in plain.named_modules():
        other = modules[name]
        if type(module) is type(other) or not hasattr(module, "weight"):
            continue
        with torch.no_grad():
            module.weight.copy_(dequantize_module_weight(other))
    for name, module in plain.named_modules():
        weight = getattr(modules[name], "weight", None)
        if type(weight).__module__.startswith("torchao."):
            module.weight.data = weight.dequantize()
    return plain


def _same_lasting(job: Job) -> Fact:
    mine, its = totals(faked(job)), totals(real(job))
    names = [name for name in LASTING if mine[name] != its[name]]
    return Fact(not names, ", ".join(f"{name.lower()} {mine[name]:,} and {its[name]:,}" for name in names))
