"""Where LoRA starts: initialisations that need data, and those that take their start out of the weights.

PiSSA, OLoRA, CorDA and LoRA-GA subtract s B0 A0 from each matrix W. What they save is given back as
plain LoRA of twice the rank on W itself: W - s B0 A0 + s B A = W + s [B, -B0] [A; A0].
"""

from __future__ import annotations

import copy
import io
import itertools
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.eva import initialize_lora_eva_weights
from peft.tuners.lora.loraga import preprocess_loraga
from safetensors.torch import load_file, save_file
from torch import nn

from autopeft.errors import InputError, TrialError
from autopeft.files import write_atomically
from autopeft.methods.lora_variants import Variant
from autopeft.methods.preparation import Batches, Kept, Loss
from autopeft.space.candidate import Candidate

BATCHES = 8
"""Batches that a start is worked out from."""

_MOST_PASSES = 200
_ADAPTER = "default"
_START_A, _START_B = "lora_start_A_default", "lora_start_B_default"  # peft saves what is called so
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"


def require_room(model: nn.Module, variant: Variant) -> None:
    """Check that each matrix has the directions that a variant starts from.

    Raises:
        InputError: a rank is too large.
    """
    for name, layer in _layers(model) if variant.directions else ():
        rank, sides = layer.r[_ADAPTER], (layer.out_features, layer.in_features)
        most = (sides[1] if variant.of_input else min(sides)) // variant.directions
        if rank > most:
            place = name.removeprefix("base_model.model.")
            raise InputError(
                f"{variant.name}'s rank must be at most {most} at {place} ({sides[0]} x {sides[1]}), but got "
                f"{rank}: it starts from that many directions of it; lower the rank, or choose other targets."
            )


def keep_starts(model: nn.Module) -> None:
    """Keep where each LoRA layer starts as buffers, which are saved with its weights."""
    for _, layer in _layers(model):
        layer.register_buffer(_START_A, layer.lora_A[_ADAPTER].weight.detach().clone())
        layer.register_buffer(_START_B, layer.lora_B[_ADAPTER].weight.detach().clone())


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Save an adapter so that it loads on the base model as it was before it was adapted."""
    model.save_pretrained(str(folder))
    if not any(hasattr(layer, _START_A) for _, layer in _layers(model)):
        return
    tensors = load_file(folder / _WEIGHTS)
    for name in [name for name in tensors if name.endswith(_START_A)]:
        place = name.removesuffix(_START_A)
        first, last = tensors.pop(name), tensors.pop(place + _START_B)
        a, b = f"{place}lora_A.weight", f"{place}lora_B.weight"
        tensors[a] = torch.cat((tensors[a], first), dim=0)
        tensors[b] = torch.cat((tensors[b], -last), dim=1)
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    fields = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    roots = 2**0.5 if fields["use_rslora"] else 2
    fields |= {"r": 2 * fields["r"], "lora_alpha": roots * fields["lora_alpha"]}
    for name, factor in (("rank_pattern", 2), ("alpha_pattern", roots)):
        fields[name] = {module: factor * value for module, value in (fields.get(name) or {}).items()}
    fields |= {"init_lora_weights": True, "corda_config": None, "lora_ga_config": None}
    write_atomically(folder / _CONFIG, json.dumps(fields, indent=2))


def by_activations(model: nn.Module, candidate: Candidate, batches: Batches, loss: Loss) -> None:
    """Start along the main directions of what enters each matrix (EVA, arXiv:2410.07170)."""
    del candidate, loss
    few: list[Any] = list(itertools.islice(batches, BATCHES))
    passes = itertools.count(1)

    def forward(its: nn.Module, batch: dict[str, torch.Tensor]) -> None:
        if next(passes) > _MOST_PASSES:  # peft goes on until every layer has settled
            raise TrialError(
                f"EVA found no start in {_MOST_PASSES} batches: the rows of a batch must have at least as "
                "many tokens as the rank, and better many more; raise the batch size or lower the rank."
            )
        its(**batch)

    with redirect_stdout(io.StringIO()):  # peft prints of each batch that is too small
        initialize_lora_eva_weights(
            model,
            few,
            forward_fn=forward,
            prepare_model_inputs_fn=None,
            prepare_layer_inputs_fn=_rows_of,
            gather_distributed_inputs=False,
            show_progress_bar=False,
        )


def by_gradients(model: nn.Module, candidate: Candidate, batches: Batches, loss: Loss) -> None:
    """Start along the gradient of each matrix (LoRA-GA, arXiv:2407.05000)."""
    del candidate
    few = list(itertools.islice(batches, BATCHES))

    def step() -> None:
        for batch in few:
            loss(model, batch).backward()  # type: ignore[no-untyped-call]

    config = _at_bases(model)
    preprocess_loraga(model, config, step)
    for _, layer in _layers(model):
        layer.lora_ga_init(_ADAPTER, config.lora_ga_config)
    _settle(model)


def by_covariance(model: nn.Module, candidate: Candidate, batches: Batches, loss: Loss) -> None:
    """Start as what the data use most of each matrix (CorDA, arXiv:2406.05223, its IPM mode)."""
    del candidate
    few = list(itertools.islice(batches, BATCHES))

    def run() -> None:
        for batch in few:
            for row in range(len(batch["labels"])):  # peft counts the tokens of one row
                loss(model, {name: value[row : row + 1] for name, value in batch.items()})

    config = _at_bases(model)
    preprocess_corda(model, config, run_model=run)
    for _, layer in _layers(model):
        layer.corda_init(_ADAPTER, "corda")
    _settle(model)


@torch.no_grad()
def put_back(model: nn.Module, kept: Kept) -> None:
    """Take the starts that were found before out of the matrices, and put back those that are out now."""
    for name, layer in _layers(model):
        weight = layer.get_base_layer().weight
        first, last = (kept[f"{name}.{start}"].to(weight.device) for start in (_START_A, _START_B))
        for a, b, sign in ((layer.lora_start_A_default, layer.lora_start_B_default, 1), (first, last, -1)):
            start = sign * layer.scaling[_ADAPTER] * (b.float() @ a.float())
            weight.data = (weight.data.float() + (start.T if layer.fan_in_fan_out else start)).to(
                weight.dtype
            )
        setattr(layer, _START_A, first)
        setattr(layer, _START_B, last)


def _settle(model: nn.Module) -> None:
    """Have the new factors trained, and kept as what was taken out of the weights."""
    for _, layer in _layers(model):
        for part in (layer.lora_A[_ADAPTER], layer.lora_B[_ADAPTER]):
            part.weight.requires_grad_(True)
    keep_starts(model)


def _at_bases(model: Any) -> LoraConfig:
    """Return the adapter's configuration, its targets named as the wrapped matrices are."""
    config: LoraConfig = copy.deepcopy(model.peft_config[_ADAPTER])
    config.target_modules = [f"{name}.base_layer" for name, _ in _layers(model)]
    return config


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _rows_of(layer_input: Any, model_input: object, layer_name: str) -> torch.Tensor:
    """Return what enters a matrix as rows of features."""
    del model_input, layer_name
    entered = layer_input[0] if isinstance(layer_input, tuple) else layer_input
    rows: torch.Tensor = entered.reshape(-1, entered.shape[-1])
    return rows
