"""The model card of a bundle: the Hub's metadata, and how the adapter was found."""

from __future__ import annotations

from autopeft.export.bundle import Bundle
from autopeft.export.check import loading_code
from autopeft.methods.registry import METHODS
from autopeft.units import format_bytes, format_count, format_seconds
from autopeft.workload.tasks import PIPELINES, TASKS

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
            "",
            "```python",
            imports,
            "",
            f"model = {loader}",
            *_USES.get(bundle.head, ()),
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


def _inputs(method: str) -> list[str]:
    """Say what a call needs beside tokens and their mask."""
    if not METHODS[method].named_task:
        return []
    return ["Every call needs the task of each row: `task_ids=torch.zeros(rows, dtype=torch.int64)`.", ""]


def _numbers(bundle: Bundle) -> list[str]:
    """Say what the model's output is where it is a number."""
    if TASKS[bundle.task].outputs != "number":
        return []
    if bundle.scale is None:
        return ["The number is `model(**inputs).logits[:, 0]`.", ""]
    mean, deviation = bundle.scale.mean, bundle.scale.deviation
    return [f"The number is `{mean!r} + {deviation!r} * model(**inputs).logits[:, 0]`.", ""]


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
