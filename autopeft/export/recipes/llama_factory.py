"""LLaMA-Factory: the files of `llamafactory-cli train` (names of LLaMA-Factory 0.9.5)."""

from __future__ import annotations

import json

from autopeft.errors import UnsupportedError
from autopeft.export.names import DATASETS, TRAIN, VALIDATION
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

_ROLES = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
_STORED = (
    "LLaMA-Factory loads weights as they are stored, and has no switch for fp32: the base of a checkpoint "
    "in bf16 stays in bf16, and a packed one computes in 16 bits on a GPU; --format trl has it in fp32"
)


def write(subject: Subject) -> Recipe:
    """Write the files.

    Raises:
        UnsupportedError: LLaMA-Factory cannot do it, and why.
    """
    tool = "LLaMA-Factory"
    require_task(subject, tool, "sft")
    require_precision(subject, tool)
    lora, bits, training = (
        lora_of(subject, tool, "init_lora_weights"),
        bits_of(subject, tool),
        subject.candidate.training,
    )
    if lora is not None and "init_lora_weights" in subject.chosen and not lora.pissa:
        start = subject.adapter["init_lora_weights"]
        raise UnsupportedError(f"{tool} has no init_lora_weights={start!r}: take --format script or axolotl.")
    if lora is not None and lora.dora and bits is not None:
        raise UnsupportedError(f"{tool} has no DoRA on a packed base: take --format trl or axolotl.")
    fields: dict[str, object] = {
        "model_name_or_path": subject.model,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora" if lora is not None else "full",
    }
    if lora is not None:
        fields |= {
            "lora_rank": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "lora_target": ",".join(lora.targets),
            "use_rslora": lora.rslora,
            "use_dora": lora.dora,
            "pissa_init": lora.pissa,
        }
    if bits is not None:
        fields |= {"quantization_bit": bits, "quantization_method": "bnb"}
    if bits == 4:
        fields |= {"quantization_type": code_of(subject), "double_quantization": is_double(subject)}
    fields |= {
        "dataset_dir": ".",
        "dataset": "train",
        "eval_dataset": "validation",
        "template": None if subject.chat else "empty",
        "cutoff_len": training.max_length,
        "packing": training.packing,
        "neat_packing": training.packing,
        "output_dir": "trained",
        "per_device_train_batch_size": training.batch_size,
        "per_device_eval_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.grad_accum,
        "num_train_epochs": training.epochs,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": schedule_of(subject),
        "warmup_steps": training.warmup_share,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "optim": optimizer_of(subject, tool),
        "disable_gradient_checkpointing": not training.gradient_checkpointing,
        "flash_attn": {"sdpa": "sdpa", "eager": "disabled", "flash": "fa2"}[training.attention],
        "bf16": training.precision == "bf16",
        "seed": subject.seed,
        "eval_strategy": "epoch",
        "report_to": "none",
    }
    known = {name: _rows(subject, file) for name, file in (("train", TRAIN), ("validation", VALIDATION))}
    return Recipe(
        format="llama-factory",
        files={
            "llama-factory.yaml": as_yaml(fields, said_of(subject)),
            DATASETS: json.dumps(known, indent=2) + "\n",
        },
        command="llamafactory-cli train llama-factory.yaml",
        notes=() if training.precision == "bf16" else (_STORED,),
    )


def _rows(subject: Subject, file: str) -> dict[str, object]:
    if subject.chat:
        return {
            "file_name": file,
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": _ROLES,
        }
    return {"file_name": file, "columns": {"prompt": "prompt", "response": "completion"}}
