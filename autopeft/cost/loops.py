"""Loops: what real training loops do around a step that costs memory, as data. Torch-free.

The same model, adapter and batch take up to twice the memory in another loop: what is kept alive, what is
cast, how the logits are held. Each such detail is a field here, with the stack and version it was read in.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autopeft.errors import UnknownNameError
from autopeft.message import Message
from autopeft.space.candidate import Loss

Kept = Literal["loss", "until-backward", "until-next"]


class Loop(Message):
    """One training loop.

    Attributes:
        stack: the libraries and versions whose code was read.   source: where.
        autocast: forward runs under autocast where the weights are in half precision or AMP is asked for.
        converts_outputs: the outputs are copied to fp32 when forward returns (accelerate under autocast,
            lightning fabric in every half precision).
        keeps: how long the model's outputs live: only the loss leaves forward ("loss"), they live until
            the next forward has returned ("until-next"), or die when backward is over ("until-backward").
        keeps_cache: forward fills a key-value cache, which lives as long as the outputs do.
        adapter_fp32: adapters are kept in fp32 (peft's `autocast_adapter_dtype`), not in the base's dtype.
        kbit_adapter_fp32: the same on a base that bitsandbytes packs; otherwise it is cast to bf16.
        upcasts_kbit: a quantised base goes through `prepare_model_for_kbit_training`: norms, embeddings
            and head to fp32.
        upcasts_logits: the model itself turns its logits to fp32 before it returns them
            (transformers before 4.45), the shifted copy is made of those.
        logits_chunk: the head is applied to this many tokens at a time; 0: to all at once.
        fuses_gelu: a GELU that transformers writes out in operators is one kernel.
        keeps_4bit_inputs: 4-bit layers keep their input as long as the graph lives (bitsandbytes
            before 0.43).
        fused_qkv: query, key and value are one product, so that what attention saves of one keeps all.
        clips: gradients are clipped by their norm.
        zeroes_first: gradients live until the next step begins; otherwise they go when the step ends.
        empties_cache_every: steps after which cached memory is given back; 0: never.
        sorts_batches: within a bucket of rows the longest batch comes first, after short ones.
        moves_whole: the model is moved to the device after it was adapted; otherwise it was there before,
            and what peft makes on the host stays there.
        disables_adapter: the adapter is switched off and on again before training, to score the base
            model; peft then lets LoRA-FA's frozen half collect gradients.
        checkpoints_reentrant: activation checkpointing is torch's reentrant variant.
        warms_allocator: weights are loaded into one block that was taken from the device before
            (transformers 4.50 and later).
        optimizer, loss: what the loop takes by default.
        rows_padded: batches of several rows hold padding, unless packed.
        below, above: how far the truth may lie below and above a prediction (90 % band of the reserved
            peak, as shares of it): how well the loop's details are known.
    """

    name: str
    stack: str
    source: str
    autocast: bool = False
    converts_outputs: bool = False
    keeps: Kept = "loss"
    keeps_cache: bool = False
    adapter_fp32: bool = True
    kbit_adapter_fp32: bool = True
    upcasts_kbit: bool = False
    upcasts_logits: bool = False
    logits_chunk: int = Field(default=0, ge=0)
    fuses_gelu: bool = False
    keeps_4bit_inputs: bool = False
    fused_qkv: bool = False
    clips: bool = True
    zeroes_first: bool = False
    empties_cache_every: int = Field(default=0, ge=0)
    sorts_batches: bool = False
    moves_whole: bool = True
    disables_adapter: bool = False
    checkpoints_reentrant: bool = False
    warms_allocator: bool = True
    optimizer: str = "adamw"
    loss: Loss = "standard"
    rows_padded: bool = True
    below: float = Field(default=0.03, ge=0, lt=1)
    above: float = Field(default=0.06, ge=0)


_LOOPS = (
    Loop(name="autopeft", stack="autopeft's own trainer", source="autopeft/train/step.py"),
    Loop(
        name="plain",
        stack="a PyTorch loop around a transformers model: outputs = model(**batch); outputs.loss.backward()",
        source="https://huggingface.co/docs/transformers/training",
        keeps="until-next",
        keeps_cache=True,
        clips=False,
        below=0.04,
        above=0.08,
    ),
    Loop(
        name="trainer",
        stack="transformers 5 Trainer with bf16 or fp16 mixed precision, accelerate 1.x",
        source="transformers/trainer.py: training_step, compute_loss; accelerate: convert_outputs_to_fp32",
        autocast=True,
        converts_outputs=True,
        upcasts_kbit=True,
        optimizer="adamw-fused",
        below=0.05,
        above=0.1,
    ),
    Loop(
        name="trl",
        stack="TRL SFTTrainer 0.26 to 1.6, which holds all logits; later ones are trl-2026",
        source="trl 1.0.0 and 1.5.0: trl/trainer/sft_trainer.py",
        autocast=True,
        converts_outputs=True,
        kbit_adapter_fp32=False,
        optimizer="adamw-fused",
        below=0.05,
        above=0.1,
    ),
    # Up to 1.14 it goes through chunks of 256 tokens, then through tiles of tokens and vocabulary, and
    # recomputes them in backward; both hold about as little as the fused loss.
    Loop(
        name="trl-2026",
        stack="TRL SFTTrainer from 1.7 on, whose head and loss are computed in pieces",
        source="trl 1.16.0: trl/trainer/sft_trainer.py, trl/kernels/chunked_logprob.py",
        autocast=True,
        converts_outputs=True,
        kbit_adapter_fp32=False,
        optimizer="adamw-fused",
        loss="fused",
        below=0.06,
        above=0.15,
    ),
    Loop(
        name="trainer-2023",
        stack="transformers 4.3x Trainer, torch 2.0: logits upcast in the model, reentrant checkpointing",
        source="transformers 4.31: models/llama/modeling_llama.py, trainer.py",
        autocast=True,
        converts_outputs=True,
        upcasts_kbit=True,
        adapter_fp32=False,
        upcasts_logits=True,
        keeps_4bit_inputs=True,
        checkpoints_reentrant=True,
        warms_allocator=False,
        below=0.12,
        above=0.25,
    ),
    # Its outputs live until the next forward has returned; but the longest batch of all comes first, so they
    # never meet another as long.
    Loop(
        name="litgpt",
        stack="litgpt of October 2023 on lightning fabric, bf16-true",
        source="litgpt/finetune/lora.py, lora.py (LoRAQKVLinear), utils.py (chunked_cross_entropy)",
        converts_outputs=True,
        keeps="until-backward",
        adapter_fp32=False,
        logits_chunk=128,
        fuses_gelu=True,
        keeps_4bit_inputs=True,
        fused_qkv=True,
        clips=False,
        warms_allocator=False,
        rows_padded=False,
        below=0.06,
        above=0.08,
    ),
    Loop(
        name="peft-benchmark",
        stack="PEFT's method_comparison/MetaMathQA/run.py, transformers 5",
        source="https://github.com/huggingface/peft/tree/main/method_comparison/MetaMathQA",
        keeps="until-next",
        keeps_cache=True,
        zeroes_first=True,
        empties_cache_every=10,
        sorts_batches=True,
        moves_whole=False,
        disables_adapter=True,
    ),
)

LOOPS: dict[str, Loop] = {loop.name: loop for loop in _LOOPS}

_ALIASES = {
    "pytorch": "plain",
    "torch": "plain",
    "hf-trainer": "trainer",
    "hf": "trainer",
    "transformers": "trainer",
    "transformers-trainer": "trainer",
    "huggingface": "trainer",
    "trl-sft": "trl",
    "sft": "trl",
    "sfttrainer": "trl",
    "sft-trainer": "trl",
    "trl-sfttrainer": "trl",
    "lit-gpt": "litgpt",
    "lightning": "litgpt",
    "peft": "peft-benchmark",
    "peft-method-comparison": "peft-benchmark",
    "metamathqa": "peft-benchmark",
}


def find_loop(name: str) -> Loop:
    """Return a loop by its name or a usual spelling of it.

    Raises:
        UnknownNameError: there is no such loop.
    """
    plain = name.strip().lower().replace("_", "-").replace(" ", "-")
    plain = _ALIASES.get(plain, plain)
    if plain not in LOOPS:
        raise UnknownNameError("loop", name, LOOPS, hint=f"Loops: {', '.join(LOOPS)}.")
    return LOOPS[plain]
