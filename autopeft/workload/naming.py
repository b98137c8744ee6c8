"""When two names of models mean the same: spelling first, then variants of one architecture."""

from __future__ import annotations

import re

# Fine-tuned or renamed, but the same architecture and the same kind of weights.
_VARIANTS = frozenset({"bf16", "chat", "deduped", "fp16", "hf", "instruct", "it", "unsloth"})
# The same architecture, its weights stored in a form of their own.
_STORED = frozenset(
    {"4bit", "8bit", "awq", "bnb", "dynamic", "fp8", "gguf", "gptq", "hqq", "int4", "int8", "mxfp4", "w4a16"}
)
# `base` and `pt` mean "not instructed" only after a size; in bert-base and whisper-base they are the size.
_UNTUNED = frozenset({"base", "pt"})
_SIZE = re.compile(r"[a-z0-9.]*\d[bm]|\d+e")


def spell(name: str) -> str:
    """Return a name as all spell it: no organisation, lower case, dashes, sizes and versions joined.

    "meta-llama/Llama-2-7b", "llama 2 7 B" and "Llama2_7b" are one; "llama-27b" is another.
    """
    text = name.strip().lower().rpartition("/")[2]
    text = re.sub(r"(?<![a-z\d.])(\d+)_(?=\d)", r"\1.", text)  # hub ids write 1_8B for 1.8B
    text = re.sub(r"[\s_-]+", "-", text).strip("-")
    text = re.sub(r"(?<=\d)-(?=[bm](?:-|$))", "", text)
    text = text.removeprefix("meta-")
    return re.sub(r"^([a-z]+)-(?=\d)", r"\1", text)


def architecture(spelling: str) -> str:
    """Return a spelling without the words that leave the architecture as it is."""
    kept: list[str] = []
    for word in spelling.split("-"):
        untuned = word in _UNTUNED and kept and _SIZE.fullmatch(kept[-1])
        if not kept or not (word in _VARIANTS or word in _STORED or untuned):
            kept.append(word)
    return "-".join(kept)


def is_stored_otherwise(spelling: str) -> bool:
    """Say whether a name promises quantised or converted weights."""
    return not _STORED.isdisjoint(spelling.split("-"))
