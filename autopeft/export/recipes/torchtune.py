"""torchtune: the file of `tune run lora_finetune_single_device --config` (names of torchtune 0.6)."""

from __future__ import annotations

import math

from autopeft.errors import UnsupportedError
from autopeft.export.names import TRAIN
from autopeft.export.recipes.subject import (
    Lora,
    Recipe,
    Subject,
    as_yaml,
    bits_of,
    lora_of,
    require_precision,
    require_task,
    require_usual_packing,
    said_of,
)
from autopeft.message import Message


class _Model(Message):
    """What torchtune calls a model.

    Attributes:
        builder: its module and name.   tokenizer: what builds it.   files: of it.
        kind: the checkpointer's `model_type`.   parts: how many files of safetensors the Hub has.
    """

    builder: str
    tokenizer: str
    files: dict[str, str]
    kind: str
    parts: int


_LLAMA3 = {"path": "original/tokenizer.model"}
_QWEN = {"path": "vocab.json", "merges_file": "merges.txt"}
_OF_QWEN = "torchtune.models.qwen2_5.qwen2_5_tokenizer"


def _llama(builder: str, kind: str, parts: int) -> _Model:
    tokenizer = "torchtune.models.llama3.llama3_tokenizer"
    return _Model(builder=builder, tokenizer=tokenizer, files=_LLAMA3, kind=kind, parts=parts)


def _qwen(size: str, parts: int) -> _Model:
    return _Model(
        builder=f"qwen2_5.lora_qwen2_5_{size}", tokenizer=_OF_QWEN, files=_QWEN, kind="QWEN2", parts=parts
    )


MODELS: dict[str, _Model] = {
    "Llama-3-8B": _llama("llama3.lora_llama3_8b", "LLAMA3", 4),
    "Llama-3.1-8B": _llama("llama3_1.lora_llama3_1_8b", "LLAMA3", 4),
    "Llama-3.2-1B": _llama("llama3_2.lora_llama3_2_1b", "LLAMA3_2", 1),
    "Llama-3.2-3B": _llama("llama3_2.lora_llama3_2_3b", "LLAMA3_2", 2),
    "Qwen2.5-0.5B": _qwen("0_5b", 1),
    "Qwen2.5-1.5B": _qwen("1_5b_base", 1),
    "Qwen2.5-3B": _qwen("3b", 2),
    "Qwen2.5-7B": _qwen("7b_base", 4),
}
"""Models that have a builder in torchtune 0.6.1, with what its shipped configurations say of their files."""

_ATTENTION = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "o_proj": "output_proj"}
_USUAL_WARM_UP = 100
_MLP = frozenset(("gate_proj", "up_proj", "down_proj"))


def write(subject: Subject) -> Recipe:
    """Write the file.

    Raises:
        UnsupportedError: torchtune cannot do it, and why.
    """
    require_task(subject, "torchtune", "sft")
    require_precision(subject, "torchtune")
    require_usual_packing(subject, "torchtune")
    lora, bits, training = (
        lora_of(subject, "torchtune"),
        bits_of(subject, "torchtune"),
        subject.candidate.training,
    )
    model = MODELS.get(subject.name.rpartition("/")[2])
    if model is None:
        raise UnsupportedError(
            f"torchtune builds its models itself, and this recipe knows {', '.join(MODELS)}, but not "
            f"{subject.name}."
        )
    if lora is None or lora.rslora or training.optimizer not in ("adamw", "adamw-fused"):
        raise UnsupportedError("this recipe is of torchtune's LoRA or DoRA with AdamW: take --format trl.")
    if bits == 8:
        raise UnsupportedError(f"torchtune packs bases as nf4-dq, not {subject.candidate.quantization}.")
    notes = ["model, tokenizer and checkpoint_dir must name the directory that `tune download` made"]
    if training.schedule != "cosine":
        notes.append(f"the schedule is a cosine, as torchtune has none that is {training.schedule}")
    epochs, steps, said = _epochs(subject)
    notes += said
    fields: dict[str, object] = {
        "output_dir": "trained",
        "model": _built(model, lora, bits),
        "tokenizer": {
            "_component_": model.tokenizer,
            **{name: f"{subject.model}/{file}" for name, file in model.files.items()},
            "max_seq_len": training.max_length,
        },
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": subject.model,
            "checkpoint_files": _files(model.parts),
            "recipe_checkpoint": None,
            "output_dir": "${output_dir}",
            "model_type": model.kind,
        },
        "resume_from_checkpoint": False,
        "save_adapter_weights_only": True,
        "dataset": _rows(subject),
        "seed": subject.seed,
        "shuffle": True,
        "batch_size": training.batch_size,
        "optimizer": {
            "_component_": "torch.optim.AdamW",
            "fused": training.optimizer == "adamw-fused",
            "weight_decay": training.weight_decay,
            "lr": training.learning_rate,
        },
        "lr_scheduler": {
            "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
            "num_warmup_steps": _warm_up(subject),
        },
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "epochs": epochs,
        "max_steps_per_epoch": steps,
        "gradient_accumulation_steps": training.grad_accum,
        "clip_grad_norm": training.max_grad_norm,
        "compile": False,
        "metric_logger": {
            "_component_": "torchtune.training.metric_logging.DiskLogger",
            "log_dir": "${output_dir}/logs",
        },
        "log_every_n_steps": 1,
        "log_peak_memory_stats": True,
        "device": "cuda",
        "dtype": "bf16" if training.precision == "bf16" else "fp32",
        "enable_activation_checkpointing": training.gradient_checkpointing,
        "enable_activation_offloading": False,
        "profiler": {"_component_": "torchtune.training.setup_torch_profiler", "enabled": False},
    }
    return Recipe(
        format="torchtune",
        files={"torchtune.yaml": _yaml(fields, subject)},
        command="tune run lora_finetune_single_device --config torchtune.yaml",
        notes=tuple(notes),
    )


def _built(model: _Model, lora: Lora, bits: int | None) -> dict[str, object]:
    short = {target.rpartition(".")[2] for target in lora.targets}
    layered = [target for target in lora.targets if target.rpartition(".")[2] != target]
    unknown = short - set(_ATTENTION) - _MLP
    mlp = short & _MLP
    if layered or unknown or mlp not in (set(), _MLP) or not short & set(_ATTENTION):
        raise UnsupportedError(
            "torchtune adapts chosen matrices of the attention, and all of the MLP or none, in all layers, "
            f"but got {', '.join(lora.targets[:4])}: take --format trl."
        )
    return {
        "_component_": f"torchtune.models.{model.builder}",
        "lora_attn_modules": [its for ours, its in _ATTENTION.items() if ours in short],
        "apply_lora_to_mlp": bool(mlp),
        "lora_rank": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        **({"use_dora": True} if lora.dora else {}),
        **({"quantize_base": True} if bits == 4 else {}),
    }


def _epochs(subject: Subject) -> tuple[int, int | None, tuple[str, ...]]:
    """Return how many epochs torchtune counts, the most steps of each, and what to say of it.

    It counts whole ones, each of which leaves out the rows that fill no batch and no step.
    """
    training = subject.candidate.training
    wanted, whole = training.epochs, math.ceil(training.epochs)
    if wanted == whole:
        return whole, None, ()
    all_steps = 0 if training.packing else subject.rows // training.batch_size // training.grad_accum
    if not all_steps:
        near = max(1, round(wanted))
        why = "packed rows are not counted here" if training.packing else "the rows are not known here"
        said = f"it trains for {near}, not {wanted:g} epochs: torchtune counts whole ones, and {why}"
        return near, None, (said,)
    steps = max(1, round(wanted * all_steps / whole))
    return whole, steps, (f"{wanted:g} epochs are {whole} of {steps} steps: torchtune counts whole ones",)


def _warm_up(subject: Subject) -> int:
    """Return how many steps warm up; of an unknown number of rows, torchtune's usual hundred."""
    training = subject.candidate.training
    steps = subject.rows * training.epochs / (training.batch_size * training.grad_accum)
    return max(1, round(training.warmup_share * steps)) if subject.rows else _USUAL_WARM_UP


def _rows(subject: Subject) -> dict[str, object]:
    usual = {"source": "json", "data_files": TRAIN, "packed": subject.candidate.training.packing}
    if subject.chat:
        columns = {"conversation_column": "messages", "conversation_style": "openai"}
        return {"_component_": "torchtune.datasets.chat_dataset", **usual, **columns}
    columns_of = {"column_map": {"input": "prompt", "output": "completion"}}
    return {"_component_": "torchtune.datasets.instruct_dataset", **usual, **columns_of}


def _files(parts: int) -> list[str]:
    if parts == 1:
        return ["model.safetensors"]
    return [f"model-{at:05d}-of-{parts:05d}.safetensors" for at in range(1, parts + 1)]


def _yaml(fields: dict[str, object], subject: Subject) -> str:
    return as_yaml(fields, said_of(subject), blanks=True)
