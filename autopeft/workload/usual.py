"""The usual models, which a plan without a model looks at: a ladder of sizes of the families adapted most."""

from __future__ import annotations

USUAL = (
    *("all-MiniLM-L6-v2", "bert-base-uncased", "ModernBERT-base", "roberta-large", "deberta-v3-large"),
    *("SmolLM2-135M", "SmolLM2-360M", "Qwen3-0.6B", "gemma-3-1b", "Llama-3.2-1B", "Qwen3-1.7B"),
    *("gemma-2-2b", "Qwen2.5-3B", "Llama-3.2-3B", "Phi-4-mini", "Qwen3-4B", "Llama-2-7b"),
    *("Mistral-7B-v0.3", "Qwen2.5-7B", "Llama-3.1-8B", "Qwen3-8B", "gemma-2-9b", "Mistral-Nemo-12B"),
    *("phi-4", "Qwen3-14B", "gpt-oss-20b", "Mistral-Small-24B", "gemma-2-27b", "Qwen3-30B-A3B"),
    *("Qwen3-32B", "Mixtral-8x7B", "Llama-3.3-70B", "Llama-3.1-405B"),
)
