"""The model card of a bundle: the Hub's metadata, and how the adapter was found."""

from __future__ import annotations

from autopeft.export.bundle import Bundle
from autopeft.export.check import loading_code
from autopeft.methods.registry import METHODS
from autopeft.units import format_bytes, format_count, format_seconds
from autopeft.workload.tasks import PIPELINES, TASKS

_OF_TEXTS = "AutoModelForSequenceClassification"
_USES: dict[str, tuple[str, ...]] = {
    "AutoModelForImageClassification": (
        "",
        "from PIL import Image",
        "from transformers import AutoImageProcessor",
        "",
        'processor = AutoImageProcessor.from_pretrained("PATH_OF_THIS_FOLDER", backend="pil")',
        'inputs = processor(Image.open("YOUR_IMAGE").convert("RGB"), return_tensors="pt")',
        "print(model.eval()(**inputs).logits.softmax(-1))",
    ),
    "AutoModelForAudioClassification": (
        "",
        "from scipy.io import wavfile",
        "from transformers import AutoFeatureExtractor",
        "",
        'extractor = AutoFeatureExtractor.from_pretrained("PATH_OF_THIS_FOLDER")',
        'rate, samples = wavfile.read("YOUR_SOUND")  # one channel of 16 bits, at the rate of the extractor',
        'inputs = extractor(samples / 32768, sampling_rate=rate, return_tensors="pt")',
        "print(model.eval()(**inputs).logits.softmax(-1))",
    ),
}
"""How a model is given what it does not read as text, by its head."""


def model_card(bundle: Bundle) -> str:
    """Write README.md of a bundle."""
    import yaml

    metadata = {
        "base_model": bundle.model,
        "library_name": "transformers" if bundle.format == "model" else "peft",
        "pipeline_tag": PIPELINES[bundle.head],
        "tags": ["autopeft", bundle.candidate.method],
        "model-index": [
            {
                "name": bundle.study,
                "results": [
                    {
                        "task": {"type": PIPELINES[bundle.head]},
                        "dataset": {"name": bundle.data, "type": bundle.data_fingerprint[:12]},
                        "metrics": [{"type": bundle.metric.name, "value": round(bundle.test_score, 4)}],
                    }
                ],
            }
        ],
    }
    imports, loader = loading_code(
        bundle.format,
        bundle.head,
        bundle.loading,
        bundle.candidate.training.precision,
        '"PATH_OF_THIS_FOLDER"',
        bundle.packing,
    )
    return "\n".join(
        [
            "---",
            yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).strip(),
            "---",
            "",
            f"# {bundle.candidate.label}",
            "",
            f"Found by autopeft for `{bundle.model}` on {bundle.data}: test {bundle.metric.name} "
            f"{bundle.test_score:.3f} (95 % interval {bundle.low:.3f} to {bundle.high:.3f}).",
            *_meaning(bundle),
            "",
            "```python",
            imports,
            "",
            f"model = {loader}",
            *_use(bundle),
            "```",
            "",
            *_inputs(bundle.candidate.method),
            *(["Classes: " + ", ".join(bundle.labels) + ".", ""] if bundle.labels else []),
            *_numbers(bundle),
            "## How it was found",
            "",
            *_findings(bundle),
            "",
            "The license of the base model and of the data apply; autopeft adds none.",
            "`autopeft.json` holds the configuration, the budget, and all versions.",
            "",
        ]
    )


def _meaning(bundle: Bundle) -> list[str]:
    """Say how to read the score, where the metric's name does not."""
    error = bundle.further.get("mean_absolute_error")
    own = [f"On average it is {error:.3g} off, in the unit of the numbers."] if error is not None else []
    said = bundle.metric.meaning
    return ["", " ".join([f"How to read it: {said}.", *own])] if said else []


def _use(bundle: Bundle) -> tuple[str, ...]:
    """Return the lines of Python that ask the model about a first row."""
    if bundle.head != _OF_TEXTS:
        return _USES.get(bundle.head, ())
    length = bundle.candidate.training.max_length
    found = "model.eval()(**inputs).logits"
    answer = f"{found}.softmax(-1)" if TASKS[bundle.task].outputs == "classes" else _number(bundle, found)
    return (
        "",
        "import torch",
        "from transformers import AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")',
        f'inputs = tokenizer(["YOUR TEXT"], truncation=True, max_length={length}, return_tensors="pt")',
        *(['inputs["task_ids"] = torch.zeros(1, dtype=torch.int64)'] if _named(bundle) else []),
        "with torch.inference_mode():",
        f"    print({answer})",
    )


def _named(bundle: Bundle) -> bool:
    return METHODS[bundle.candidate.method].named_task


def _number(bundle: Bundle, output: str) -> str:
    """Return the expression of the user's numbers, made of the model's output."""
    if bundle.scale is None:
        return f"{output}[:, 0]"
    return f"{bundle.scale.mean!r} + {bundle.scale.deviation!r} * {output}[:, 0]"


def _inputs(method: str) -> list[str]:
    """Say what a call needs beside tokens and their mask."""
    if not METHODS[method].named_task:
        return []
    return ["Every call needs the task of each row: `task_ids=torch.zeros(rows, dtype=torch.int64)`.", ""]


def _numbers(bundle: Bundle) -> list[str]:
    """Say what the model's output is where it is a number."""
    if TASKS[bundle.task].outputs != "number":
        return []
    return [f"The number is `{_number(bundle, 'model(**inputs).logits')}`.", ""]


def _findings(bundle: Bundle) -> list[str]:
    measured = bundle.measured.reports[-1]
    lines = [
        f"- Study `{bundle.study}`, trial {bundle.trial}, seed {bundle.seed}.",
        f"- Trained on {format_count(measured.samples)} samples in {format_seconds(measured.seconds)}.",
        f"- Peak memory measured: {format_bytes(bundle.measured.peak_bytes)}.",
    ]
    if bundle.predicted:
        memory = bundle.predicted.memory
        lines += [
            f"- Peak memory predicted before it ran: {format_bytes(memory.device_peak_bytes)} "
            f"(90 % band {format_bytes(memory.low_bytes)} to {format_bytes(memory.high_bytes)}).",
            f"- Trainable parameters: {format_count(bundle.predicted.trainable_params)} of "
            f"{format_count(bundle.predicted.total_params)}.",
        ]
    return lines
