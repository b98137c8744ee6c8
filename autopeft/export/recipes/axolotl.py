"""Axolotl: the file of `axolotl train` (names of Axolotl 0.19)."""

from __future__ import annotations

from autopeft.export.names import TRAIN, VALIDATION
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
        UnsupportedError: Axolotl cannot do it, and why.
    """
    require_task(subject, "Axolotl", "sft")
    require_precision(subject, "Axolotl")
    known = ("modules_to_save", "init_lora_weights", "rank_pattern", "alpha_pattern")
    lora, bits, training = (
        lora_of(subject, "Axolotl", *known),
        bits_of(subject, "Axolotl"),
        subject.candidate.training,
    )
    fields: dict[str, object] = {
        "base_model": subject.model,
        "load_in_4bit": bits == 4,
        "load_in_8bit": bits == 8,
        "bnb_config_kwargs": {
            "bnb_4bit_quant_type": code_of(subject),
            "bnb_4bit_use_double_quant": is_double(subject),
        }
        if bits == 4
        else None,
        "datasets": [_rows(subject, TRAIN)],
        "test_datasets": [_rows(subject, VALIDATION) | {"split": "train"}],
        "train_on_inputs": False,
        "chat_template": "tokenizer_default" if subject.chat else None,
        "output_dir": "trained",
        "sequence_len": training.max_length,
        "sample_packing": training.packing,
        "attn_implementation": {"sdpa": "sdpa", "eager": "eager", "flash": "flash_attention_2"}[
            training.attention
        ],
    }
    if lora is not None:
        fields |= {
            "adapter": "qlora" if bits == 4 else "lora",
            "lora_r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "lora_target_modules": list(lora.targets),
            "lora_modules_to_save": subject.adapter.get("modules_to_save"),
            "lora_rank_pattern": subject.adapter.get("rank_pattern") or None,
            "lora_alpha_pattern": subject.adapter.get("alpha_pattern") or None,
            "peft_use_rslora": lora.rslora or None,
            "peft_use_dora": lora.dora or None,
        }
        if "init_lora_weights" in subject.chosen:
            fields["peft_init_lora_weights"] = subject.adapter["init_lora_weights"]
    fields |= {
        "micro_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.grad_accum,
        "num_epochs": training.epochs,
        "learning_rate": training.learning_rate,
        "optimizer": optimizer_of(subject, "Axolotl"),
        "lr_scheduler": schedule_of(subject),
        "warmup_ratio": training.warmup_share,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "gradient_checkpointing": training.gradient_checkpointing,
        "bf16": training.precision == "bf16",
        "float32": training.precision == "fp32" or None,
        "seed": subject.seed,
        "evals_per_epoch": 1,
    }
    return Recipe(
        format="axolotl",
        files={"axolotl.yaml": as_yaml(fields, said_of(subject))},
        command="axolotl train axolotl.yaml",
    )


def _rows(subject: Subject, file: str) -> dict[str, object]:
    if subject.chat:
        return {"path": file, "ds_type": "json", "type": "chat_template", "field_messages": "messages"}
    kind = {
        "field_instruction": "prompt",
        "field_output": "completion",
        "format": "{instruction}",
        "no_input_format": "{instruction}",
    }
    return {"path": file, "ds_type": "json", "type": kind}
