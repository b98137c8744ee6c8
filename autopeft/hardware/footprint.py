"""What a training process holds before its first own tensor, measured in a fresh process."""

from __future__ import annotations

import subprocess
import sys

from autopeft.errors import UnsupportedError

_LIMIT_SECONDS = 300

# A LoRA step of a model of a few bytes: it loads what imports alone leave on disk (kernels,
# autograd, optimizer), as the first step of every training does. Ray is what runs the trials.
_WORKER = """
import os, warnings
warnings.filterwarnings("ignore")
os.environ["HF_HUB_OFFLINE"] = "1"
import psutil, torch, peft, ray.tune
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig
tiny = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
model = AutoModelForSequenceClassification.from_config(BertConfig(intermediate_size=8, **tiny))
model = peft.get_peft_model(model, peft.LoraConfig(r=1, target_modules=["query"], task_type="SEQ_CLS"))
model.to(DEVICE)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
ids = torch.ones(2, 4, dtype=torch.long, device=DEVICE)
model(input_ids=ids, labels=ids[:, 0] * 0).loss.backward()
optimizer.step()
"""
_RESIDENT = "print(psutil.Process().memory_info().rss)"
_FREE_BUT_FOR_CONTEXT = "print(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved())"


def cpu_context_bytes() -> int:
    """Return the resident bytes of a training process without data and model.

    Raises:
        UnsupportedError: no such process can start.
    """
    return _run(f"DEVICE = 'cpu'\n{_WORKER}{_RESIDENT}")


def cuda_context_bytes() -> int:
    """Return the bytes of the current CUDA device that a training process takes beside its tensors.

    Others who take or give back device memory in these seconds spoil the number.

    Raises:
        UnsupportedError: no such process can start.
    """
    import torch

    free = torch.cuda.mem_get_info()[0]
    return max(
        free - _run(f"DEVICE = 'cuda:{torch.cuda.current_device()}'\n{_WORKER}{_FREE_BUT_FOR_CONTEXT}"), 0
    )


def _run(program: str) -> int:
    law = "a training process must start to be weighed, but it"
    way_out = "see that torch, transformers and peft import in this environment"
    command = [sys.executable, "-c", program]
    try:
        # Our own interpreter on our own text.
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise UnsupportedError(f"{law} took more than {_LIMIT_SECONDS} s; {way_out}.") from None
    last_line = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode != 0 or not last_line.isdigit():
        complaint = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UnsupportedError(f"{law} failed ({complaint}); {way_out}.")
    return int(last_line)
