"""Script: one file of Python that trains and scores with transformers and peft alone."""

from __future__ import annotations

import json
from pprint import pformat

from autopeft.errors import UnsupportedError
from autopeft.export.names import TEST, TRAIN
from autopeft.export.recipes.subject import (
    Recipe,
    Subject,
    bits_of,
    code_of,
    is_double,
    require_precision,
    said_of,
)

_TASKS = ("classification", "regression", "sft")
_PREPARED = ("eva", "corda", "lora-ga")
_OWN = "trains by code of autopeft, which a script of transformers and peft has not"

_HEAD = '''"""{said}.

    python train.py     # reads {train} and {test}; trained/ is what comes of it
"""

import json
import math
import random
import sys

import torch
from transformers import AutoTokenizer, {auto}{imports}

MODEL, SEED, TEST = {model!r}, {seed}, {test!r}
RATE, ROWS, ACCUMULATE, EPOCHS, LENGTH = {rate!r}, {rows}, {accumulate}, {epochs}, {length}
WARMUP, DECAY, CLIP = {warmup}, {decay}, {clip}
{constants}

def read(file):
    return [json.loads(line) for line in open(file, encoding="utf-8")]

'''
_LABELLED = '''
def batch(rows):
    """Pad rows to the longest."""
    made = tokenizer([row["text"] for row in rows], truncation=True, max_length=LENGTH, padding=True,
                     return_tensors="pt")
    {labels}
    return {{name: each.to(device) for name, each in made.items() if name != "token_type_ids" or TYPES}}

'''
_WRITTEN = '''
def encode(row):
    """Cut the prompt at its beginning where a row is too long; learn the completion alone."""
    prompt = {opening}tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
    answer = tokenizer({completion}, add_special_tokens=False)["input_ids"]
    prompt = prompt[max(0, len(prompt) - max(LENGTH - len(answer), LENGTH // 2)):]
    answer = answer[: LENGTH - len(prompt)]
    return prompt + answer, [-100] * len(prompt) + answer


def batch(rows):
    """Pad rows to the longest."""
    pairs = [encode(row) for row in rows]
    longest = max(len(ids) for ids, _ in pairs)
    pad = tokenizer.pad_token_id
    made = {{
        "input_ids": [ids + [pad] * (longest - len(ids)) for ids, _ in pairs],
        "attention_mask": [[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in pairs],
        "labels": [labels + [-100] * (longest - len(ids)) for ids, labels in pairs],
    }}
    return {{name: torch.tensor(each, device=device) for name, each in made.items()}}

'''
_SCORES = {
    "classification": '''
def score(rows):
    """Return the share of right rows."""
    model.eval()
    right = 0
    with torch.inference_mode():
        for at in range(0, len(rows), ROWS):
            made = batch(rows[at : at + ROWS])
            labels = made.pop("labels")
            right += int((model(**made).logits.argmax(-1) == labels).sum())
    return {"accuracy": right / len(rows)}

''',
    "regression": '''
def score(rows):
    """Return the mean error as a share of that of always saying the training rows' median."""
    model.eval()
    wrong = 0.0
    with torch.inference_mode():
        for at in range(0, len(rows), ROWS):
            some = rows[at : at + ROWS]
            found = model(**{k: v for k, v in batch(some).items() if k != "labels"}).logits[:, 0]
            wrong += sum(abs(MEAN + DEVIATION * float(one) - row["number"]) for one, row in zip(found, some))
    return {"relative absolute error": wrong / len(rows) / SPREAD}

''',
    "sft": '''
def score(rows):
    """Return the mean over rows of the loss of a completion's tokens."""
    model.eval()
    losses = []
    with torch.inference_mode():
        for row in rows:
            losses.append(float(model(**batch([row])).loss))
    return {"loss": sum(losses) / len(losses)}

''',
}
_BODY = '''
torch.manual_seed(SEED)
random.seed(SEED)
device = "cuda" if torch.cuda.is_available() else "cpu"
tokenizer = AutoTokenizer.from_pretrained(MODEL)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or tokenizer.unk_token
model = {auto}.from_pretrained(MODEL, dtype=torch.{dtype}{loading})
model.config.use_cache = False
if model.config.pad_token_id is None:
    model.config.pad_token_id = tokenizer.pad_token_id
TYPES = "token_type_ids" in model.forward.__code__.co_varnames
{checkpointing}{adapt}model.to(device)
train = read({train!r})
steps = max(1, math.ceil(len(train) * EPOCHS / (ROWS * ACCUMULATE)))
warm = max(1, round(WARMUP * steps))
optimizer = torch.optim.AdamW(
    [p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=DECAY
)


def share(step):
    """Return the share of the peak learning rate at a step."""
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return {schedule}


schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def batches():
    """Yield batches without end, shuffled anew in each epoch."""
    while True:
        random.shuffle(train)
        for at in range(0, len(train), ROWS):
            yield batch(train[at : at + ROWS])


stream = batches()
for step in range(steps):
    model.train()
    for _ in range(ACCUMULATE):
        loss = model(**next(stream)).loss / ACCUMULATE
        loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], CLIP)
    optimizer.step()
    optimizer.zero_grad()
    schedule.step()
    if step % 10 == 0:
        print(f"step {{step + 1}}/{{steps}}: loss {{float(loss) * ACCUMULATE:.4f}}", file=sys.stderr)
model.save_pretrained("trained")
tokenizer.save_pretrained("trained")
print(json.dumps(score(read(TEST))))
'''
_SCHEDULES = {
    "linear": "max(0.0, 1.0 - done)",
    "constant": "1.0",
    "cosine": "0.5 * (1 + math.cos(math.pi * min(1.0, done)))",
}
_LABELS = {
    "classification": 'made["labels"] = torch.tensor([row["label"] for row in rows])',
    "regression": 'made["labels"] = torch.tensor([(row["number"] - MEAN) / DEVIATION for row in rows])',
}


def write(subject: Subject) -> Recipe:
    """Write the script.

    Raises:
        UnsupportedError: it takes more than transformers and peft, and what.
    """
    _require(subject)
    require_precision(subject, "the script")
    training, labelled = subject.candidate.training, subject.task != "sft"
    auto = "AutoModelForSequenceClassification" if labelled else "AutoModelForCausalLM"
    imports, loading = _base(subject)
    constants = ""
    if subject.task == "regression":
        scale = subject.scale
        constants = f"MEAN, DEVIATION, SPREAD = {scale.mean!r}, {scale.deviation!r}, {scale.spread!r}\n"
    if subject.adapter:
        imports += "\nfrom peft import get_peft_config, get_peft_model"
        constants += f"ADAPTER = {pformat(subject.adapter, width=100, sort_dicts=False)}\n"
    head = _HEAD.format(
        said=said_of(subject), train=TRAIN, test=TEST, auto=auto, imports=imports, model=subject.model,
        seed=subject.seed, rate=training.learning_rate, rows=training.batch_size,
        accumulate=training.grad_accum, epochs=training.epochs, length=training.max_length,
        warmup=training.warmup_share, decay=training.weight_decay, clip=training.max_grad_norm,
        constants=constants,
    )  # fmt: skip
    middle = _LABELLED.format(labels=_LABELS[subject.task]) if labelled else _WRITTEN.format(
        opening="" if subject.chat else "([tokenizer.bos_token_id] if tokenizer.bos_token_id is not None "
        "and tokenizer('')['input_ids'][:1] == [tokenizer.bos_token_id] else []) + ",
        completion='row["completion"]' if subject.chat else 'row["completion"] + (tokenizer.eos_token or "")',
    )  # fmt: skip
    body = _BODY.format(
        auto=auto,
        dtype="bfloat16" if training.precision == "bf16" else "float32",
        loading=loading,
        checkpointing="model.enable_input_require_grads()\nmodel.gradient_checkpointing_enable()\n"
        if training.gradient_checkpointing
        else "",
        adapt="model = get_peft_model(model, get_peft_config(ADAPTER))\n" if subject.adapter else "",
        train=TRAIN,
        schedule=_SCHEDULES[training.schedule],
    )
    notes = ["batches are drawn in another order than autopeft's, so that scores agree within noise alone"]
    if subject.chat and not labelled:
        notes.append("rows are already rendered by the model's chat template: render others alike")
    text = head + middle + _SCORES[subject.task] + body
    return Recipe(format="script", files={"train.py": text}, command="python train.py", notes=tuple(notes))


def _require(subject: Subject) -> None:
    method, training = subject.candidate.method, subject.candidate.training
    why = ""
    if subject.task not in _TASKS or subject.family not in ("decoder", "encoder"):
        known = ", ".join(_TASKS)
        why = f"it is of {known} of encoders and decoders, not of {subject.task} of {subject.family}"
    elif method in _PREPARED:
        why = f"{method} starts from what the data say, which {_OWN}"
    elif not subject.adapter and method != "full":
        why = f"{method} {_OWN}"
    elif training.optimizer not in ("adamw", "adamw-fused"):
        why = f"it trains with AdamW, not with {training.optimizer}"
    elif training.packing:
        why = "it does not pack rows"
    if why:
        raise UnsupportedError(f"the script cannot be written: {why}.")


def _base(subject: Subject) -> tuple[str, str]:
    """Return what else is imported, and arguments of the base's `from_pretrained`."""
    training, bits = subject.candidate.training, bits_of(subject, "the script")
    loading = f", num_labels={subject.outputs}" if subject.outputs else ""
    if training.attention != "sdpa":
        kernel = {"eager": "eager", "flash": "flash_attention_2"}[training.attention]
        loading += f', attn_implementation="{kernel}"'
    loading += "".join(f", {name}={rate}" for name, rate in subject.dropouts.items())
    if subject.outputs == 1:
        loading += ', problem_type="regression"'
    if bits is None:
        return "", loading
    packed: dict[str, object] = {"load_in_8bit": True}
    if bits == 4:
        packed = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": code_of(subject),
            "bnb_4bit_use_double_quant": is_double(subject),
        }
    given = ", ".join(
        f"{name}={json.dumps(value) if isinstance(value, str) else value}" for name, value in packed.items()
    )
    return ", BitsAndBytesConfig", f"{loading}, quantization_config=BitsAndBytesConfig({given})"
