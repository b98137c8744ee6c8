"""A quantised GGUF file becomes an ordinary model directory: safetensors, config and tokenizer."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from autopeft.optional import require


def convert_gguf(file: Path, folder: Path) -> None:
    """Write the model of a GGUF file, dequantised, in bf16 into `folder`.

    transformers refuses to save a model that it loaded from GGUF, so its weights move into a fresh model of
    the same configuration. About 25 s for 135 M parameters.

    Raises:
        MissingExtraError: the gguf package is not installed.
    """
    require("gguf", extra="demo", purpose="Reading a GGUF model")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Progress bars of several libraries, which no switch turns off together.
    with contextlib.redirect_stderr(io.StringIO()):
        loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    config = type(loaded.config)(**settings)
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
