"""Serving: the lines that start a server on a bundle."""

from __future__ import annotations

from pathlib import Path

from autopeft.export.bundle import Bundle
from autopeft.methods.registry import METHODS
from autopeft.plan.serving import slot_rank


def serving_lines(bundle: Bundle) -> list[str]:
    """Write the card's section; nothing for models that do not write text."""
    if bundle.head != "AutoModelForCausalLM":
        return []
    lines = ["## Serving it", ""]
    whole, servers = bundle.format == "model", served_by(bundle)
    rank = slot_rank(bundle.lora_rank) if bundle.lora_rank else None
    if whole and "vllm" in servers:
        lines += ["vLLM:", "", "```sh", "vllm serve PATH_OF_THIS_FOLDER", "```", ""]
    elif "vllm" in servers and rank is not None:
        lines += [
            "vLLM:",
            "",
            "```sh",
            f"vllm serve {bundle.base or bundle.model} --enable-lora --max-lora-rank {rank} \\",
            f"    --lora-modules {bundle.study}=PATH_OF_THIS_FOLDER",
            "```",
            "",
        ]
    if "llama.cpp" in servers:
        gguf = next((name for name in sorted(bundle.files) if name.endswith(".gguf")), None)
        weights = f"./{gguf}" if gguf else "."
        base = weights if whole else "THE_BASE_AS_OLLAMA_NAMES_IT"
        lines += [
            "Ollama, as `Modelfile` in this folder, then `ollama create NAME`:",
            "",
            "```",
            f"FROM {base}",
            *([] if whole else [f"ADAPTER {weights}"]),
            "```",
            "",
        ]
    if len(lines) > 2:
        return [
            *lines,
            "These lines are written by the servers' documentation; none of them was run here.",
            "",
        ]
    reason = "folds into the weights" if METHODS[bundle.candidate.method].mergeable else "may be converted"
    return [
        *lines,
        f"vLLM and Ollama do not load {bundle.candidate.method} as it is; it {reason}: "
        "`autopeft export --merged` or `--to-lora`.",
        "",
    ]


def served_by(bundle: Bundle) -> tuple[str, ...]:
    """Name who loads a bundle as it is."""
    if bundle.form in ("merged", "lora"):
        return ("transformers", "vllm", "llama.cpp")
    return METHODS[bundle.candidate.method].served


def rank_of(folder: Path) -> int | None:
    """Return the largest rank of the LoRA in a folder; None where it holds none."""
    import json

    file = folder / "adapter_config.json"
    if not file.exists():
        return None
    fields = json.loads(file.read_text(encoding="utf-8"))
    if fields.get("peft_type") != "LORA":
        return None
    return max(int(rank) for rank in (fields["r"], *(fields.get("rank_pattern") or {}).values()))
