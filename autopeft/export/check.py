"""Load exported directories in a fresh process, as a user would, and compare the logits."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from autopeft.errors import ExportError
from autopeft.export.bundle import Bundle
from autopeft.export.loading import dtype_of, loading_code

TOLERANCE: dict[str, float] = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 3e-2}
"""Largest difference of logits, where they are large a share of the largest."""

# Runs without autopeft on the path of imports, but for the one import that our own adapters need.
_SCRIPT = """
import gc, json, pathlib, sys
import torch
def difference(job):
    folder, device, dtype = pathlib.Path(job["folder"]), job["device"], getattr(torch, job["dtype"])
    names = {"folder": folder}
    exec(job["imports"], names)
    reference = json.loads((folder / "reference.json").read_text())
    expected = torch.tensor(reference.pop("logits"))
    inputs = {name: torch.tensor(rows, device=device) for name, rows in reference.items()}
    inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
    model = eval(job["loader"], names).to(device)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # a kernel of bitsandbytes that rounds to bf16
            module.support_avx512bf16_for_cpu = False
    model.eval()
    with torch.inference_mode():
        logits = model(**inputs).logits.cpu()
    logits = logits[:, -expected.shape[1]:] if expected.dim() == 3 else logits
    return float((logits.float() - expected).abs().max() / expected.abs().max().clamp(min=1))
found = []
for job in json.load(sys.stdin):
    try:
        found.append({"difference": difference(job)})
    except Exception as error:
        text = str(error).strip().partition("\\n")[0]
        found.append({"error": f"{type(error).__name__}: {text}" if text else type(error).__name__})
ours = sorted(name for name in sys.modules if name.partition(".")[0] == "autopeft")
print(json.dumps({"found": found, "ours": ours}))
gc.freeze()  # its end would look for garbage among all of torch for seconds
"""


def compare_in_fresh_process(folder: Path, bundle: Bundle, device: str = "cpu") -> float:
    """Return the largest difference between the recorded logits and those of a fresh process.

    Raises:
        ExportError: the directory does not load, or differs by more than `TOLERANCE`.
    """
    (found,) = differences([(folder, bundle)], device)
    if isinstance(found, str):
        raise ExportError(f"the export in {folder} does not load with transformers and peft: {found}")
    allowed = TOLERANCE[dtype_of(bundle)]
    if not found <= allowed:
        raise ExportError(
            f"logits of the export must be within {allowed} of the trained model's, "
            f"but differ by {found:.2g}."
        )
    return found


def differences(made: Sequence[tuple[Path, Bundle]], device: str = "cpu") -> tuple[float | str, ...]:
    """Load each directory in one fresh process; return how far its logits are off, or why it does not load.

    Raises:
        ExportError: the process does not get through, or had to load autopeft for a directory that says that
            it does without.
    """
    jobs = [
        {"folder": str(folder), "device": device, "dtype": dtype_of(bundle)}
        | dict(zip(("imports", "loader"), loading_code(bundle, "str(folder)"), strict=True))
        for folder, bundle in made
    ]
    done = subprocess.run(  # noqa: S603 (our own interpreter and script)
        [sys.executable, "-W", "ignore", "-c", _SCRIPT],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise ExportError(f"the process that loads exports ended with {done.returncode}: {reason}")
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    if answer["ours"] and all(bundle.format != "autopeft" for _, bundle in made):
        raise ExportError(f"the exports must load without autopeft, but {answer['ours'][0]} was loaded.")
    return tuple(each.get("error", each.get("difference", math.nan)) for each in answer["found"])
