"""The model card of a bundle: the Hub's metadata, and how the adapter was found."""

from __future__ import annotations

from autopeft.export.bundle import Bundle, on_hub
from autopeft.export.serving import serving_lines
from autopeft.export.usage import number_of, usage_lines
from autopeft.methods.registry import METHODS
from autopeft.units import format_bytes, format_count, format_seconds
from autopeft.workload.tasks import PIPELINES, TASKS

_LICENSE = "The licenses of the base model and of the data apply; autopeft adds none."


def model_card(bundle: Bundle, of_base: str = "") -> str:
    """Write README.md of a bundle.

    Args:
        of_base: where the base model is, where that is not what the bundle says.
    """
    return "\n".join(
        [
            "---",
            _metadata(bundle),
            "---",
            "",
            f"# {bundle.candidate.label}",
            "",
            f"Found by autopeft for `{bundle.model}` on {bundle.data}: test {bundle.metric.name} "
            f"{bundle.test_score:.3f} (95 % interval {bundle.low:.3f} to {bundle.high:.3f}).",
            *_meaning(bundle),
            "",
            "```python",
            *usage_lines(bundle),
            "```",
            "",
            *_head(bundle),
            *([of_base, ""] if of_base else _base(bundle)),
            *_inputs(bundle.candidate.method),
            *(["Classes: " + ", ".join(bundle.labels) + ".", ""] if bundle.labels else []),
            *_numbers(bundle),
            *serving_lines(bundle),
            *_forms(bundle),
            "## How it was found",
            "",
            *_findings(bundle),
            "",
            _LICENSE if bundle.license == "other" else f"License: {bundle.license}, as its maker says.",
            "`autopeft.json` holds the configuration, the budget, and all versions; `autopeft verify` checks "
            "this folder and scores it again.",
            "",
        ]
    )


def _metadata(bundle: Bundle) -> str:
    """Return the Hub's metadata as YAML; places on a disk are left out, as the Hub knows none."""
    from huggingface_hub import EvalResult, ModelCardData

    task, (low, high) = PIPELINES[bundle.head], (round(bundle.low, 4), round(bundle.high, 4))
    metrics = {bundle.metric.name: bundle.test_score, **bundle.further}
    return str(
        ModelCardData(
            license=bundle.license,
            license_name="of-the-base-model-and-the-data" if bundle.license == "other" else None,
            library_name="transformers" if bundle.format == "model" else "peft",
            pipeline_tag=task,
            tags=["autopeft", bundle.candidate.method],
            metrics=[bundle.metric.name],
            model_name=bundle.study,
            eval_results=[
                EvalResult(
                    task_type=task,
                    dataset_name=bundle.data,
                    dataset_type=_data(bundle) or bundle.data,
                    dataset_split="test",
                    metric_type=name,
                    metric_value=round(value, 4),
                    metric_name=f"{name} (95 % interval {low} to {high})" if not at else None,
                    metric_args={"confidence": 0.95, "low": low, "high": high} if not at else None,
                )
                for at, (name, value) in enumerate(metrics.items())
            ],
            base_model=bundle.base if on_hub(bundle.base) else None,
            datasets=_data(bundle),
        ).to_yaml()
    ).strip()


def _data(bundle: Bundle) -> str | None:
    """Return the dataset's id where it is of the Hub."""
    data = bundle.request.data if bundle.request else bundle.data
    return data if data is not None and on_hub(data) else None


def _meaning(bundle: Bundle) -> list[str]:
    """Say how to read the score, where the metric's name does not."""
    error = bundle.further.get("mean_absolute_error")
    own = [f"On average it is {error:.3g} off, in the unit of the numbers."] if error is not None else []
    said = bundle.metric.meaning
    return ["", " ".join([f"How to read it: {said}.", *own])] if said else []


def _head(bundle: Bundle) -> list[str]:
    """Say that what transformers reports of a base without the head is no error."""
    if bundle.format == "model" or not TASKS[bundle.task].new_head:
        return []
    return [
        "While this loads, transformers may report weights of the head (such as `classifier.weight`) as "
        "MISSING and newly initialized: that is no error, as the base has no such head and the adapter "
        "brings it.",
        "",
    ]


def _base(bundle: Bundle) -> list[str]:
    """Say what others have to do about a base that is a directory here."""
    if bundle.format == "model" or not bundle.base or on_hub(bundle.base):
        return []
    return [
        "`adapter_config.json` names the base model by its directory on the machine where this was made: "
        "elsewhere put it at that path, or name yours there, as `base_model_name_or_path`.",
        "",
    ]


def _inputs(method: str) -> list[str]:
    """Say what a call needs beside tokens and their mask."""
    if not METHODS[method].named_task:
        return []
    return ["Every call needs the task of each row: `task_ids=torch.zeros(rows, dtype=torch.int64)`.", ""]


def _numbers(bundle: Bundle) -> list[str]:
    """Say what the model's output is where it is a number."""
    if TASKS[bundle.task].outputs != "number":
        return []
    return [f"The number is `{number_of(bundle, 'model(**inputs).logits')}`.", ""]


def _forms(bundle: Bundle) -> list[str]:
    """Say how far a form is from what was trained."""
    far = bundle.fidelity
    if far is None:
        return []
    lines = ["## How far it is from what was trained", "", f"- Made: {far.made}.",
             f"- Logits of the reference: at most {far.logits:.1e} apart."]  # fmt: skip
    if far.change is not None and far.score is not None and far.low is not None and far.high is not None:
        name = bundle.metric.name
        lines.append(
            f"- Test {name} {far.score:.4f}: {far.change:+.4f} against what was trained, on the same rows "
            f"(95 % interval {far.low:+.4f} to {far.high:+.4f})."
        )
    else:
        lines.append(
            "- Its score cannot be taken: that compares with the base model, which is not there any more."
        )
    if far.moved is not None:
        lines.append(f"- {far.moved:.2%} of the test rows are answered otherwise.")
    return [*lines, ""]


def _refit(bundle: Bundle) -> list[str]:
    """Say that the weights are not those which the search measured."""
    if not bundle.refit_rows:
        return []
    return [
        f"- Then trained once more from the same seed on {bundle.refit_rows:,} rows, with the validation "
        "rows among them: these are the weights here, and the score above is theirs."
    ]


def _findings(bundle: Bundle) -> list[str]:
    measured = bundle.measured.reports[-1]
    asked = "" if bundle.chosen else "; it was asked for, the search chose another"
    lines = [
        f"- Study `{bundle.study}`, trial {bundle.trial}, seed {bundle.seed}{asked}.",
        f"- The rows and their split have the fingerprint `{bundle.data_fingerprint[:12]}`.",
        f"- Trained on {format_count(measured.samples)} rows, those of each epoch counted, in "
        f"{format_seconds(measured.seconds)}.",
        *_refit(bundle),
        f"- Peak memory measured: {format_bytes(bundle.measured.peak_bytes)}.",
    ]
    if bundle.tested is not None:
        some = f"{bundle.tested} configuration{'s' * (bundle.tested > 1)}"
        lines.append(f"- The test rows were used for {some} of the study, this one among them.")
    if bundle.predicted:
        memory = bundle.predicted.memory
        lines += [
            f"- Peak memory predicted before it ran: {format_bytes(memory.device_peak_bytes)} "
            f"(90 % band {format_bytes(memory.low_bytes)} to {format_bytes(memory.high_bytes)}).",
            f"- Trainable parameters: {format_count(bundle.predicted.trainable_params)} of "
            f"{format_count(bundle.predicted.total_params)}.",
        ]
    if bundle.reference_difference is not None:
        lines.append(
            f"- A fresh process gave the logits in `reference.json` within {bundle.reference_difference:.1e}."
        )
    return lines
