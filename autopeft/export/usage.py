"""Usage: the lines of Python that load a bundle and ask its model about a first row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from autopeft.export.bundle import Bundle
from autopeft.export.loading import loading_code
from autopeft.methods.registry import METHODS
from autopeft.workload.tasks import TASKS

_OF_TEXTS = "AutoModelForSequenceClassification"
_TORCH, _TOKENIZER = "import torch", "from transformers import AutoTokenizer"


class _Use(NamedTuple):
    """Lines of Python that ask a model about a first row, and what they import."""

    imports: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


_USES: dict[str, _Use] = {
    "AutoModelForCausalLM": _Use(
        (_TOKENIZER,),
        (
            'tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")',
            'inputs = tokenizer(["YOUR PROMPT"], return_tensors="pt", return_token_type_ids=False)',
            "print(tokenizer.decode(model.eval().generate(**inputs, max_new_tokens=64)[0]))",
        ),
    ),
    "AutoModelForImageClassification": _Use(
        ("from PIL import Image", "from transformers import AutoImageProcessor"),
        (
            'processor = AutoImageProcessor.from_pretrained("PATH_OF_THIS_FOLDER", backend="pil")',
            'inputs = processor(Image.open("YOUR_IMAGE").convert("RGB"), return_tensors="pt")',
        ),
    ),
    "AutoModelForAudioClassification": _Use(
        ("from scipy.io import wavfile", "from transformers import AutoFeatureExtractor"),
        (
            'extractor = AutoFeatureExtractor.from_pretrained("PATH_OF_THIS_FOLDER")',
            'rate, samples = wavfile.read("YOUR_SOUND")  # one channel of 16 bits, at the extractor\'s rate',
            'inputs = extractor(samples / 32768, sampling_rate=rate, return_tensors="pt")',
        ),
    ),
}
"""How a model is given what it reads, by its head; texts that get a class or a number are below."""


def usage_lines(bundle: Bundle) -> list[str]:
    """Return the lines of Python that load the model and ask it about a first row."""
    imports, loader = loading_code(bundle, '"PATH_OF_THIS_FOLDER"')
    use = _use(bundle)
    return [*_in_order([*imports.splitlines(), *use.imports]), "", f"model = {loader}", *use.lines]


def _in_order(imports: Sequence[str]) -> list[str]:
    """Return imports as they are usually ordered."""
    return sorted(set(imports), key=lambda line: (line.startswith("from "), line))


def _use(bundle: Bundle) -> _Use:
    """Return what asks the model about a first row."""
    if bundle.head == _OF_TEXTS:
        cut = f"truncation=True, max_length={bundle.candidate.training.max_length}"
        given = _Use(
            (_TOKENIZER, _TORCH),
            (
                'tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")',
                'texts = ["YOUR TEXT"]  # one or more',
                f'inputs = tokenizer(texts, {cut}, padding=True, return_tensors="pt")',
                *(
                    ['inputs["task_ids"] = torch.zeros(len(texts), dtype=torch.int64)']
                    if _named(bundle)
                    else []
                ),
            ),
        )
    else:
        given = _USES.get(bundle.head, _Use())
    if not given.lines:
        return given
    match TASKS[bundle.task].outputs:
        case "classes":
            told = _named_class(bundle)
        case "number":
            number = number_of(bundle, "model.eval()(**inputs).logits")
            told = _Use((_TORCH,), ("with torch.inference_mode():", f"    print(({number}).tolist())"))
        case "tokens":
            told = _Use()
    return _Use(given.imports + told.imports, given.lines + told.lines)


def _named_class(bundle: Bundle) -> _Use:
    """Return what tells each row's class by its name, which the configuration of a base does not know."""
    return _Use(
        (_TORCH,),
        (
            f"labels = {list(bundle.labels)!r}",
            "with torch.inference_mode():",
            "    shares = model.eval()(**inputs).logits.softmax(-1)",
            "for row in shares:",
            "    print(labels[row.argmax()], row.max().item())",
        ),
    )


def _named(bundle: Bundle) -> bool:
    return METHODS[bundle.candidate.method].named_task


def number_of(bundle: Bundle, output: str) -> str:
    """Return the expression of the user's numbers, made of the model's output."""
    if bundle.scale is None:
        return f"{output}[:, 0]"
    return f"{bundle.scale.mean!r} + {bundle.scale.deviation!r} * {output}[:, 0]"
