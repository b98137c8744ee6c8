"""GGUF: a bundle as one file for llama.cpp and Ollama, by llama.cpp's own converter where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from autopeft.errors import ExportError, UnsupportedError
from autopeft.export.bundle import Bundle
from autopeft.export.serving import served_by

WHERE = "LLAMA_CPP"
"""Environment variable: a checkout of llama.cpp, which holds its converters."""

_ADAPTERS, _MODELS = "convert_lora_to_gguf.py", "convert_hf_to_gguf.py"
_DTYPES = {"float32": "f32", "bfloat16": "bf16"}


def require_gguf(bundle: Bundle) -> Path:
    """Return the converter of a bundle.

    Raises:
        UnsupportedError: llama.cpp has no such models, or no converter is installed.
    """
    if bundle.head != "AutoModelForCausalLM":
        raise UnsupportedError(f"--gguf is for models that write text, but {bundle.task} is not that.")
    whole = bundle.format == "model"
    if not whole and "llama.cpp" not in served_by(bundle):
        raise UnsupportedError(
            f"llama.cpp serves adapters of plain LoRA, not of {bundle.candidate.method}: add --merged or "
            "--to-lora."
        )
    name = _MODELS if whole else _ADAPTERS
    found = next((place for place in _places(name) if place.is_file()), None)
    if found is None:
        raise UnsupportedError(
            f"--gguf needs llama.cpp's {name}, which is not installed: put it on the PATH, or name a "
            f"checkout of llama.cpp by {WHERE}=DIR."
        )
    return found


def write_gguf(folder: Path, bundle: Bundle, converter: Path) -> Path:
    """Convert a bundle's weights; return the file.

    Raises:
        ExportError: the converter fails.
    """
    out = folder / ("model.gguf" if bundle.format == "model" else "adapter.gguf")
    given = [str(folder), "--outfile", str(out), "--outtype", _DTYPES.get(bundle.dtype or "", "f16")]
    if bundle.format != "model":
        base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        given += ["--base", base] if Path(base).is_dir() else ["--base-model-id", base]
    done = subprocess.run(  # noqa: S603 (the user's converter, which the user named)
        [sys.executable, str(converter), *given], capture_output=True, text=True, check=False
    )
    if done.returncode != 0 or not out.is_file():
        reason = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise ExportError(f"{converter.name} failed: {reason}")
    return out


def _places(name: str) -> list[Path]:
    on_path = shutil.which(name)
    checkout = os.environ.get(WHERE)
    return [Path(each) for each in (on_path, checkout and Path(checkout) / name) if each]
