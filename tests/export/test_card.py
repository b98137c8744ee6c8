"""The model card's first lines of Python ask the model what it was trained for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import yaml

from autopeft.export.bundle import Bundle
from autopeft.export.card import model_card
from autopeft.plan.budget import Budget
from autopeft.request import Request
from autopeft.space.candidate import Candidate, Training
from autopeft.train.result import Report, TrialResult
from autopeft.workload.dataset import Scale
from autopeft.workload.tasks import ACCURACY, HELD_OUT_LOSS, RELATIVE_ERROR, Metric, Task

REPORT = Report(
    samples=10, step=2, loss=0.5, score=0.4, seconds=1.0, step_seconds=0.1, peak_bytes=10**6, extra={}
)


def card(
    task: Task,
    metric: Metric,
    *,
    method: str = "lora",
    scale: Scale | None = None,
    tested: int | None = None,
    form: Literal["peft", "model"] = "peft",
    head: str = "AutoModelForSequenceClassification",
    base: str = "",
    asked: str | None = None,
) -> str:
    return model_card(
        Bundle(
            path="bundle",
            format=form,
            model="tiny",
            base=base,
            request=Request(data=asked) if asked else None,
            task=task,
            head=head,
            labels=("bad", "good") if task == "classification" else (),
            scale=scale,
            candidate=Candidate(method=method, training=Training(max_length=48)),
            budget=Budget(),
            predicted=None,
            measured=TrialResult(state="complete", reports=(REPORT,)),
            metric=metric,
            test_score=0.4,
            low=0.3,
            high=0.5,
            further={"mean_absolute_error": 3.5} if metric is RELATIVE_ERROR else {},
            tested=tested,
            data="reviews",
            data_fingerprint="0" * 64,
            seed=0,
            study="study",
            trial=0,
            versions={},
        )
    )


def code_of(text: str) -> str:
    found = text.partition("```python")[2].partition("```")[0]
    compile(found, "card", "exec")
    return found


@pytest.mark.parametrize(
    ("scale", "number"),
    [(None, "print((model.eval()"), (Scale(mean=5.0, deviation=2.0), "print((5.0 + 2.0 * ")],
)
def test_a_regression_gives_a_number_and_says_how_to_read_its_score(scale: Scale | None, number: str) -> None:
    text = card("regression", RELATIVE_ERROR, scale=scale)
    code = code_of(text)
    assert number in code
    assert "truncation=True, max_length=48" in code
    assert code.rstrip().endswith(".logits[:, 0]).tolist())")
    assert (
        "1 is always saying the median of the training rows, 0 is never being wrong, lower is better." in text
    )
    assert "On average it is 3.5 off, in the unit of the numbers." in text


@pytest.mark.parametrize(
    "head",
    [
        "AutoModelForSequenceClassification",
        "AutoModelForImageClassification",
        "AutoModelForAudioClassification",
    ],
)
def test_a_class_is_told_by_its_name_and_its_score_needs_no_words(head: str) -> None:
    text = card("classification", ACCURACY, head=head)
    assert code_of(text).rstrip().endswith("    print(labels[row.argmax()], row.max().item())")
    assert "How to read it" not in text


@pytest.mark.parametrize(("task", "metric"), [("classification", ACCURACY), ("regression", RELATIVE_ERROR)])
def test_the_code_of_a_card_imports_before_it_loads(task: Task, metric: Metric) -> None:
    lines = code_of(card(task, metric)).split("\n")
    imports = [place for place, line in enumerate(lines) if line.startswith(("import ", "from "))]
    assert len(imports) >= 3
    assert max(imports) < next(place for place, line in enumerate(lines) if line.startswith("model = "))


def test_a_head_that_the_adapter_brings_is_said_to_be_reported_missing_without_harm() -> None:
    words = "the adapter brings it"
    assert words in card("classification", ACCURACY)
    assert words not in card("classification", ACCURACY, form="model")
    assert words not in card("sft", HELD_OUT_LOSS, head="AutoModelForCausalLM")


def test_a_base_that_is_a_directory_has_to_be_put_in_its_place_elsewhere(tmp_path: Path) -> None:
    words = "elsewhere put it at that path, or name yours there, as `base_model_name_or_path`"
    assert words in card("classification", ACCURACY, base=str(tmp_path))
    assert words not in card("classification", ACCURACY, base=str(tmp_path), form="model")
    assert words not in card("classification", ACCURACY, base="org/base")


@pytest.mark.parametrize(("asked", "named"), [("org/reviews", "org/reviews"), ("reviews.csv", "reviews")])
def test_the_hub_is_told_the_dataset_s_id_or_its_name_and_the_fingerprint_is_in_the_text(
    asked: str, named: str
) -> None:
    text = card("classification", ACCURACY, asked=asked)
    _, metadata, words = text.split("---\n", maxsplit=2)
    (result,) = yaml.safe_load(metadata)["model-index"][0]["results"]
    assert result["dataset"]["type"] == named
    assert f"`{'0' * 12}`" in words


def test_a_method_of_many_tasks_is_told_the_task() -> None:
    assert 'inputs["task_ids"] = torch.zeros(len(texts), dtype=torch.int64)' in code_of(
        card("classification", ACCURACY, method="poly")
    )


def test_a_card_says_for_how_many_configurations_the_test_rows_were_used() -> None:
    line = "- The test rows were used for 4 configurations of the study, this one among them."
    assert line in card("classification", ACCURACY, tested=4)
    assert "The test rows were used" not in card("classification", ACCURACY)
