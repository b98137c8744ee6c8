"""Load an exported directory in a fresh process, as a user would, and compare the logits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from autopeft.errors import ExportError
from autopeft.space.candidate import Precision

_DTYPES: dict[Precision, str] = {"fp32": "float32", "bf16": "bfloat16"}
REFERENCE = "reference.json"
TOLERANCE: dict[Precision, float] = {"fp32": 1e-5, "bf16": 3e-2}
"""Largest difference of logits, where they are large a share of the largest."""

_PEFT_LOADS = ("CausalLM", "Seq2SeqLM", "SequenceClassification", "TokenClassification")
"""Heads that peft has an `AutoPeftModelFor...` of."""

# Runs without autopeft on the path of imports, but for the one import that our own adapters need.
_SCRIPT = """
import json, pathlib, sys
import torch
folder = pathlib.Path(sys.argv[1])
{imports}
reference = json.loads((folder / "reference.json").read_text())
expected = torch.tensor(reference.pop("logits"))
inputs = {{name: torch.tensor(rows, device="{device}") for name, rows in reference.items()}}
inputs = {{name: x.to(torch.{dtype}) if x.is_floating_point() else x for name, x in inputs.items()}}
model = {loader}.to("{device}")
for module in model.modules():
    if hasattr(module, "support_avx512bf16_for_cpu"):  # a kernel of bitsandbytes that rounds to bf16
        module.support_avx512bf16_for_cpu = False
model.eval()
with torch.inference_mode():
    logits = model(**inputs).logits.cpu()
logits = logits[:, -expected.shape[1]:] if expected.dim() == 3 else logits
print(json.dumps(float((logits.float() - expected).abs().max() / expected.abs().max().clamp(min=1))))
"""


def loading_code(
    kind: str,
    head: str,
    loading: Mapping[str, int],
    precision: Precision,
    path: str,
    packing: tuple[str, str] = ("", ""),
) -> tuple[str, str]:
    """Return the imports and the expression that load a bundle, as a user would type them.

    Args:
        kind: "peft", "autopeft" or "model".
        head: the transformers class of the base model.
        loading: what the base model's `from_pretrained` has to be told.
        path: an expression of the bundle's directory.
        packing: import and argument that load the base packed as it was trained on.
    """
    more = f', dtype="{_DTYPES[precision]}"{packing[1]}'
    if kind == "model":
        return f"from transformers import {head}", f"{head}.from_pretrained({path}{more})"
    more += "".join(f", {name}={value}" for name, value in loading.items())
    ours = "import autopeft.adapters\n" if kind == "autopeft" else ""
    of = head.removeprefix("AutoModelFor")
    if of in _PEFT_LOADS:
        auto = f"AutoPeftModelFor{of}"
        return f"{packing[0]}{ours}from peft import {auto}", f"{auto}.from_pretrained({path}{more})"
    base = f"PeftConfig.from_pretrained({path}).base_model_name_or_path"
    return (
        f"{packing[0]}{ours}from peft import PeftConfig, PeftModel\nfrom transformers import {head}",
        f"PeftModel.from_pretrained({head}.from_pretrained({base}{more}), {path})",
    )


def compare_in_fresh_process(
    folder: Path,
    kind: str,
    head: str,
    loading: Mapping[str, int],
    precision: Precision,
    device: str = "cpu",
    packing: tuple[str, str] = ("", ""),
) -> float:
    """Return the largest difference between the recorded logits and those of a fresh process.

    Raises:
        ExportError: the directory does not load, or differs by more than `TOLERANCE`.
    """
    imports, loader = loading_code(kind, head, loading, precision, "str(folder)", packing)
    script = _SCRIPT.format(imports=imports, loader=loader, device=device, dtype=_DTYPES[precision])
    done = subprocess.run(  # noqa: S603 (our own interpreter and script)
        [sys.executable, "-W", "ignore", "-c", script, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise ExportError(f"the export in {folder} does not load with transformers and peft: {reason}")
    difference = float(json.loads(done.stdout.strip().splitlines()[-1]))
    if not difference <= TOLERANCE[precision]:
        raise ExportError(
            f"logits of the export must be within {TOLERANCE[precision]} of the trained model's, "
            f"but differ by {difference:.2g}."
        )
    return difference
