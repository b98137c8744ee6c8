"""Unsloth: a script of FastLanguageModel and TRL's trainer (names of Unsloth 2026.10)."""

from __future__ import annotations

from autopeft.errors import UnsupportedError
from autopeft.export.names import TRAIN, VALIDATION
from autopeft.export.recipes.subject import (
    Recipe,
    Subject,
    bits_of,
    lora_of,
    optimizer_of,
    require_precision,
    require_task,
    require_usual_packing,
    said_of,
    schedule_of,
)

_SCRIPT = '''"""{said}."""

from unsloth import FastLanguageModel  # first: it patches the others

import torch
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

model, tokenizer = FastLanguageModel.from_pretrained(
    model_name={model!r},
    max_seq_length={length},
    dtype=torch.{dtype},
    load_in_4bit={four},
    load_in_8bit={eight},
    full_finetuning={full},
)
{adapter}rows = load_dataset("json", data_files={{"train": {train!r}, "validation": {validation!r}}})
SFTTrainer(
    model=model,
    processing_class=tokenizer,
    train_dataset=rows["train"],
    eval_dataset=rows["validation"],
    args=SFTConfig(
        output_dir="trained",
        max_length={length},
        packing={packing},
        per_device_train_batch_size={rows},
        gradient_accumulation_steps={accumulate},
        num_train_epochs={epochs},
        learning_rate={rate!r},
        lr_scheduler_type={schedule!r},
        warmup_steps={warmup},
        weight_decay={decay},
        max_grad_norm={clip},
        optim={optimizer!r},
        bf16={bf16},
        seed={seed},
        eval_strategy="epoch",
        report_to="none",
    ),
).train()
model.save_pretrained("trained")
tokenizer.save_pretrained("trained")
'''
_ADAPTER = """model = FastLanguageModel.get_peft_model(
    model,
    r={rank},
    target_modules={targets!r},
    lora_alpha={alpha},
    lora_dropout={dropout},
    bias="none",
    use_rslora={rslora},
    use_gradient_checkpointing={checkpointing},
    random_state={seed},
)
"""


def write(subject: Subject) -> Recipe:
    """Write the script.

    Raises:
        UnsupportedError: Unsloth cannot do it, and why.
    """
    require_task(subject, "Unsloth", "sft")
    require_precision(subject, "Unsloth")
    require_usual_packing(subject, "Unsloth")
    lora, bits, training = (
        lora_of(subject, "Unsloth"),
        bits_of(subject, "Unsloth"),
        subject.candidate.training,
    )
    if lora is not None and lora.dora:
        raise UnsupportedError(
            "this recipe for Unsloth is of plain LoRA and rsLoRA, not DoRA: take --format trl."
        )
    adapter = ""
    if lora is not None:
        adapter = _ADAPTER.format(
            rank=lora.rank,
            targets=list(lora.targets),
            alpha=lora.alpha,
            dropout=lora.dropout,
            rslora=lora.rslora,
            checkpointing='"unsloth"' if training.gradient_checkpointing else False,
            seed=subject.seed,
        )
    text = _SCRIPT.format(
        said=said_of(subject),
        model=subject.model,
        length=training.max_length,
        dtype="bfloat16" if training.precision == "bf16" else "float32",
        four=bits == 4,
        eight=bits == 8,
        full=lora is None,
        adapter=adapter,
        train=TRAIN,
        validation=VALIDATION,
        packing=training.packing,
        rows=training.batch_size,
        accumulate=training.grad_accum,
        epochs=training.epochs,
        rate=training.learning_rate,
        schedule=schedule_of(subject),
        warmup=training.warmup_share,
        decay=training.weight_decay,
        clip=training.max_grad_norm,
        optimizer=optimizer_of(subject, "Unsloth"),
        bf16=training.precision == "bf16",
        seed=subject.seed,
    )
    return Recipe(
        format="unsloth",
        files={"unsloth_train.py": text},
        command="python unsloth_train.py",
        notes=("Unsloth takes a checkpoint of its own of the base where it has one",),
    )
