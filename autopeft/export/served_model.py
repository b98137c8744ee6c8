"""The code of an MLflow model: text that is logged beside a bundle, without autopeft where it need not be.

It is a model from code (`mlflow.models.set_model`), so nothing is pickled.
"""

from __future__ import annotations

from autopeft.errors import UnsupportedError
from autopeft.export.bundle import Bundle
from autopeft.export.loading import loading_code
from autopeft.methods.registry import METHODS
from autopeft.workload.tasks import TASKS

_CODE = '''"""{method}: a model of autopeft, loaded by mlflow.pyfunc."""

import mlflow
import pandas as pd
import torch
{imports}


class Served(mlflow.pyfunc.PythonModel):
    """Answers the rows of a DataFrame."""

    def load_context(self, context):
        """Load the bundle, and the base model that it names."""
        folder = context.artifacts["bundle"]
{inputs}
        self.model = {loader}.eval()

    @torch.inference_mode()
    def predict(self, context, model_input, params=None):
        """Return a row for each row."""
{predict}


mlflow.models.set_model(Served())
'''
_TOKENS = """        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token"""
_IMAGES = """        from transformers import AutoImageProcessor

        self.processor = AutoImageProcessor.from_pretrained(folder, backend="pil")"""
_OF_TEXTS = """        texts = [str(text) for text in model_input["text"]]
        made = self.tokenizer(texts, truncation=True, max_length={length}, padding=True, return_tensors="pt")
{more}        logits = self.model(**made).logits.float()
"""
_OF_IMAGES = """        from PIL import Image

        images = [Image.open(place).convert("RGB") for place in model_input["image"]]
        logits = self.model(**self.processor(images, return_tensors="pt")).logits.float()
"""
_CLASSES = """        labels, shares = {labels!r}, logits.softmax(-1)
        best = shares.argmax(-1).tolist()
        sure = [float(row[at]) for row, at in zip(shares, best)]
        return pd.DataFrame({{"label": [labels[at] for at in best], "probability": sure}})"""
_NUMBER = """        return pd.DataFrame({{"number": ({mean!r} + {deviation!r} * logits[:, 0]).tolist()}})"""
_TAGS = """        labels = {labels!r}
        tags = []
        for row, mask in zip(logits.argmax(-1)[:, -made["input_ids"].shape[1] :], made["attention_mask"]):
            tags.append(" ".join(labels[at] for at, kept in zip(row.tolist(), mask.tolist()) if kept))
        return pd.DataFrame({{"tags": tags}})"""
_WRITES = """        most = int((params or {{}}).get("max_new_tokens", 64))
        completions = []
        for prompt in model_input["prompt"]:
            if self.tokenizer.chat_template:
                turn = [{{"role": "user", "content": str(prompt)}}]
                prompt = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
                made = self.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
            else:
                made = self.tokenizer(str(prompt).rstrip() + "\\n", return_tensors="pt")
            made = {{name: each for name, each in made.items() if name in ("input_ids", "attention_mask")}}
            written = self.model.generate(
                **made, max_new_tokens=most, do_sample=False, pad_token_id=self.tokenizer.pad_token_id
            )
            start = 0 if self.model.config.is_encoder_decoder else made["input_ids"].shape[1]
            completions.append(self.tokenizer.decode(written[0, start:], skip_special_tokens=True))
        return pd.DataFrame({{"completion": completions}})"""

_SEQUENCES = "AutoModelForSequenceClassification"


def columns_of(bundle: Bundle) -> tuple[tuple[str, str], tuple[tuple[str, str], ...]]:
    """Return the input's column with an example, and the output's columns with their MLflow types.

    Raises:
        UnsupportedError: such a model is not logged.
    """
    if bundle.head == "AutoModelForImageClassification":
        return ("image", "photo.png"), (("label", "string"), ("probability", "double"))
    if bundle.head == _SEQUENCES:
        number = TASKS[bundle.task].outputs == "number"
        answer = (("number", "double"),) if number else (("label", "string"), ("probability", "double"))
        return ("text", "A short text."), answer
    if bundle.head == "AutoModelForTokenClassification":
        return ("text", "A short text."), (("tags", "string"),)
    if bundle.head in ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM"):
        return ("prompt", "A short text."), (("completion", "string"),)
    raise UnsupportedError(
        f"a model of {bundle.head} is not logged to MLflow yet: load the bundle by its card."
    )


def model_code(bundle: Bundle) -> str:
    """Write the code.

    Raises:
        UnsupportedError: such a model is not logged.
    """
    columns_of(bundle)
    imports, loader = loading_code(bundle, "folder")
    images = bundle.head == "AutoModelForImageClassification"
    named = METHODS[bundle.candidate.method].named_task and bundle.form == "adapter"
    more = '        made["task_ids"] = torch.zeros(len(texts), dtype=torch.int64)\n' if named else ""
    length = bundle.candidate.training.max_length
    given = _OF_IMAGES if images else _OF_TEXTS.format(length=length, more=more)
    scale = bundle.scale
    mean, deviation = (scale.mean, scale.deviation) if scale else (0.0, 1.0)
    if "prompt" in columns_of(bundle)[0]:
        predict = _WRITES.format()
    elif TASKS[bundle.task].outputs == "number":
        predict = given + _NUMBER.format(mean=mean, deviation=deviation)
    else:
        answer = _TAGS if bundle.head == "AutoModelForTokenClassification" else _CLASSES
        predict = given + answer.format(labels=list(bundle.labels))
    return _CODE.format(
        method=METHODS[bundle.candidate.method].name,
        imports=imports,
        inputs=_IMAGES if images else _TOKENS,
        loader=loader,
        predict=predict,
    )
