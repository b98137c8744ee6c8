"""What the contract of methods is tried on: tiny random models, a fixed batch, and a rate for each method."""

from __future__ import annotations

from typing import Any

import torch
from recordings import SMALL

from autopeft.cost.loops import LOOPS
from autopeft.cost.tracing.batches import make_batch
from autopeft.cost.tracing.take import Job
from autopeft.methods.backbone import build_backbone
from autopeft.methods.heads import default_task
from autopeft.methods.registry import METHODS, complete
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel, Family
from autopeft.workload.dataset import Task

ROWS, LENGTH, LABELS = 4, 16, 2


def _base(family: Family, model_type: str, **config: Any) -> BaseModel:
    fields = {"model_type": model_type, **config}
    return BaseModel(name=f"tiny-{model_type}", family=family, source="made for tests", config=fields)


_WIDTHS = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
# No tensor of a step has as many elements as its logits by chance.
_WORDS = 250
# A BERT's class is read off one place; only of weights as large as these does that place see the others.
_FAR = 0.1
_TEXT = {"vocab_size": _WORDS, "max_position_embeddings": 128}
BASES: dict[Family, BaseModel] = {
    "decoder": _base(
        "decoder", "llama", **_WIDTHS, **_TEXT, num_key_value_heads=2, bos_token_id=1, eos_token_id=2
    ),
    "encoder": _base("encoder", "bert", **_WIDTHS, **_TEXT, initializer_range=_FAR),
    "encoder-decoder": _base(
        "encoder-decoder",
        "t5",
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        vocab_size=_WORDS,
        eos_token_id=1,
        pad_token_id=0,
        decoder_start_token_id=0,
    ),
    "vision": _base("vision", "vit", **_WIDTHS, image_size=32, patch_size=8),
}
_WITH_BIASES: dict[Family, BaseModel] = {
    "decoder": _base(
        "decoder",
        "gpt2",
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=128,
        vocab_size=_WORDS,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "encoder-decoder": _base(
        "encoder-decoder",
        "bart",
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        vocab_size=_WORDS,
        max_position_embeddings=128,
    ),
}
# Methods that need biases, which a Llama and a T5 do not have.
_OF_BIASES = ("bitfit",)
# As far as a prompt may go from where it starts: by peft's default hardly anywhere. And short preparations.
_KNOBS: dict[str, dict[str, Any]] = {
    "cpt": {"opt_projection_epsilon": 1.0},
    "fish": {"rows": 4},
    "lt-sft": {"steps": 4},
    "diff-pruning": {"steps": 4},
}
# Learning rates at which a method learns in a few steps, where it is not `_USUAL_RATE`.
_USUAL_RATE = 1e-2
_RATES: dict[str, float] = {
    "adaption_prompt": 0.1,
    "fourierft": 0.1,
    "ia3": 0.05,
    "llama-adapter": 0.1,
    "multitask_prompt_tuning": 0.1,
    "p_tuning": 0.05,
    "prompt_tuning": 0.1,
    "road": 0.05,
    "tinylora": 0.1,
    "trainable_tokens": 0.1,
    "unilora": 0.1,
}
_NO_TOKENS = "a model that sees takes no tokens"
REASONS: dict[str, str] = {
    "adaption_prompt": "peft has it for the attention of Llama, Mistral and GPT-2 alone",
    "llama-adapter": "peft has it for the attention of Llama, Mistral and GPT-2 alone",
    "cartridge": _NO_TOKENS,
    "cpt": "its loss is one of causal language models; without it, it is prompt tuning",
    "lst": "its side network reads the hidden states of one stack of layers, not of two",
    "multitask_prompt_tuning": _NO_TOKENS,
    "p_tuning": _NO_TOKENS,
    "poly": "peft's wrapper of models without tokens does not pass on which task a row is of",
    "prefix_tuning": _NO_TOKENS,
    "prompt_tuning": _NO_TOKENS,
    "shadow": "peft finds its layers in decoders alone",
    "trainable_tokens": "peft trains no head beside the tokens, so it needs a model that writes text",
    "xlora": "it is not saved anyway (see decoder), and reads hidden states that other models do not return",
}
"""Why a method does not claim the families that it does not claim."""


def claimed() -> list[tuple[str, Family]]:
    """Return every method with every family of the contract that it claims to work on."""
    return [(name, family) for family in BASES for name, spec in METHODS.items() if family in spec.families]


def base_of(method: str, family: Family) -> BaseModel:
    """Return the model of a family that a method is tried on."""
    return _WITH_BIASES.get(family, BASES[family]) if method in _OF_BIASES else BASES[family]


def task_of(method: str, family: Family) -> Task:
    """Return what a method is trained for on a family: the usual task, or the one that the method has."""
    usual, spec = default_task(family), METHODS[method]
    return usual if usual in spec.tasks or family not in spec.families else spec.tasks[0]


def job_of(method: str, family: Family, quantization: str = "none") -> Job:
    """Return what the cost model records of a pair."""
    training = Training(max_length=LENGTH, batch_size=ROWS, learning_rate=_RATES.get(method, _USUAL_RATE))
    knobs = SMALL.get(method, {}) | _KNOBS.get(method, {})
    asked = complete(Candidate(method=method, knobs=knobs, training=training, quantization=quantization))
    shapes = ((2, LENGTH // 2), (2, LENGTH))
    base, task = base_of(method, family), task_of(method, family)
    return Job(base, asked, task, LABELS, "cpu", True, LOOPS["autopeft"], shapes)


def toy_batch(job: Job, config: Any) -> dict[str, torch.Tensor]:
    """Return a fixed batch of the shape that the cost model traces, with something to learn in it."""
    batch = make_batch(
        config, job.base.family, job.task, rows=ROWS, length=LENGTH, padded=False, labels=LABELS
    )
    dice = torch.Generator().manual_seed(0)
    if "pixel_values" in batch:
        batch["pixel_values"] = torch.randn(batch["pixel_values"].shape, generator=dice)
    if "input_ids" in batch:
        shape = batch["input_ids"].shape
        end = batch["input_ids"][:, -1:]
        words = torch.randint(4, _WORDS, (shape[0], shape[1] - 1), generator=dice)
        batch["input_ids"] = torch.cat((words, end), dim=1)
        if job.task == "sft" and job.kind == "decoder":
            batch["input_ids"][:, 0] = config.bos_token_id
    if job.task == "classification":
        batch["labels"] = torch.arange(ROWS) % LABELS
    elif job.kind == "encoder-decoder":
        batch["labels"] = torch.randint(4, _WORDS, batch["labels"].shape, generator=dice)
    else:
        batch["labels"] = batch["input_ids"].clone()
    return batch


def backbone(job: Job) -> Any:
    """Return the base model, the same at each call."""
    torch.manual_seed(0)
    candidate = job.candidate
    return build_backbone(
        *(job.base, job.task, job.labels, candidate.training),
        weights=False,
        quantization=candidate.quantization,
    )
