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
config = BertConfig(intermediate_size=8, **tiny)
model = AutoModelForSequenceClassification.from_config(config)
model = peft.get_peft_model(model, peft.LoraConfig(r=1, target_modules=["query"], task_type="SEQ_CLS"))
model.to(DEVICE)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
ids = torch.ones(2, 4, dtype=torch.long, device=DEVICE)
model(input_ids=ids, labels=ids[:, 0] * 0).loss.backward()
optimizer.step()
"""

# A whole training by the trainer itself: loading, a tokenizer, rows of several lengths, evaluation and a
# checkpoint load what a single step does not (12 MiB of 592). A full disk is for others to complain of.
_TRAINING = """
import tempfile
from pathlib import Path
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from autopeft.methods.registry import complete
from autopeft.space.candidate import Candidate, Training
from autopeft.train.trainer import Trainer
from autopeft.workload.dataset import ACCURACY, Dataset, Example
from autopeft.workload.models import find_model
try:
    with tempfile.TemporaryDirectory() as place:
        words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
        tokenizer.save_pretrained(place)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(place)
        rows = tuple(Example(text="a b " * (1 + at), label=at % 2) for at in range(16))
        splits = {"train": rows, "validation": rows, "test": rows}
        made = {"name": "tiny", "task": "classification", "metric": ACCURACY, "source": "", "fingerprint": ""}
        dataset = Dataset(labels=("a", "b"), **splits, **made)
        candidate = complete(Candidate(method="lora", rank=1, training=Training(batch_size=4, max_length=64)))
        trainer = Trainer(find_model(place), dataset, candidate, seed=0)
        trainer.advance(16)
        trainer.save(Path(place) / "checkpoint")
except OSError:
    pass
"""
_RESIDENT = "print(psutil.Process().memory_info().rss)"
_FREE_BUT_FOR_CONTEXT = "print(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved())"


def cpu_context_bytes() -> int:
    """Return the resident bytes of a training process without data and model.

    Raises:
        UnsupportedError: no such process can start.
    """
    return _run(f"DEVICE = 'cpu'\n{_WORKER}{_TRAINING}{_RESIDENT}")


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
