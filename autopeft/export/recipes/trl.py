"""TRL: the file of `trl sft --config` or `trl dpo --config` (names of TRL 1.16)."""

from __future__ import annotations

from autopeft.export.recipes.subject import (
    Recipe,
    Subject,
    as_yaml,
    bits_of,
    code_of,
    is_double,
    lora_of,
    optimizer_of,
    require_precision,
    require_task,
    said_of,
    schedule_of,
)


def write(subject: Subject) -> Recipe:
    """Write the file.

    Raises:
        UnsupportedError: TRL cannot do it, and why.
    """
    require_task(subject, "TRL", "sft", "dpo")
    require_precision(subject, "TRL")
    lora, bits, training = (
        lora_of(subject, "TRL", "modules_to_save"),
        bits_of(subject, "TRL"),
        subject.candidate.training,
    )
    fields: dict[str, object] = {
        "model_name_or_path": subject.model,
        "dtype": "bfloat16" if training.precision == "bf16" else "float32",
        "attn_implementation": {"sdpa": "sdpa", "eager": "eager", "flash": "flash_attention_2"}[
            training.attention
        ],
        "dataset_name": "./",
        "dataset_train_split": "train",
        "dataset_test_split": "validation",
        "output_dir": "trained",
    }
    if lora is not None:
        fields |= {
            "use_peft": True,
            "lora_r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "lora_target_modules": list(lora.targets),
            "lora_modules_to_save": subject.adapter.get("modules_to_save"),
            "use_rslora": lora.rslora,
            "use_dora": lora.dora,
        }
    if bits == 4:
        fields |= {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": code_of(subject),
            "use_bnb_nested_quant": is_double(subject),
        }
    if bits == 8:
        fields["load_in_8bit"] = True
    fields |= {
        "learning_rate": training.learning_rate,
        "per_device_train_batch_size": training.batch_size,
        "per_device_eval_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.grad_accum,
        "num_train_epochs": training.epochs,
        "lr_scheduler_type": schedule_of(subject),
        "warmup_steps": training.warmup_share,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "optim": optimizer_of(subject, "TRL"),
        "max_length": training.max_length,
        "gradient_checkpointing": training.gradient_checkpointing,
        "bf16": training.precision == "bf16",
        "seed": subject.seed,
        "eval_strategy": "epoch",
        "report_to": "none",
    }
    if subject.task == "dpo":
        fields["beta"] = training.beta
    else:
        fields["packing"] = training.packing
    name = f"{subject.task}.yaml"
    return Recipe(
        format="trl",
        files={name: as_yaml(fields, said_of(subject))},
        command=f"trl {subject.task} --config {name}",
        notes=("rows longer than max_length are cut at their end, where autopeft cuts the prompt first",),
    )
