"""Each task goes the whole way from the command line: plan, search, test scores, export, report."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autopeft.workload.dataset import Dataset, Example
from autopeft.workload.tasks import TASKS, Task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CELLS: dict[Task, Callable[[Example, tuple[str, ...]], dict[str, Any]]] = {
    "regression": lambda row, _: {"text": row.text, "score": row.number + 0.5},
    "token-classification": lambda row, names: {
        "words": list(row.words),
        "tags": [names[tag] for tag in row.tags],
    },
    "masked-lm": lambda row, _: {"text": row.text},
    "sft": lambda row, _: {"prompt": row.text, "completion": row.completion},
    "dpo": lambda row, _: {"prompt": row.text, "chosen": row.completion, "rejected": row.rejected},
}
BASELINES = {"probe": ["linear probe"], "untrained": ["no adapter"], "none": []}


@pytest.mark.parametrize(
    ("task", "model", "data"),
    [
        ("regression", "encoder_with_weights", "ratings"),
        ("token-classification", "encoder_with_weights", "entities"),
        ("masked-lm", "guesser_with_weights", "texts"),
        ("sft", "seq2seq_with_weights", "turns"),
        ("dpo", "decoder_with_weights", "pairs"),
    ],
)
def test_a_task_goes_the_whole_way(
    task: Task, model: str, data: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    dataset: Dataset = request.getfixturevalue(data)
    rows = [*dataset.train, *dataset.validation, *dataset.test]
    cells = [CELLS[task](row, dataset.labels) for row in rows]
    for number, row in enumerate(cells):  # no two rows are equal
        first = next(iter(row))
        row[first] = [*row[first], str(number)] if isinstance(row[first], list) else f"{row[first]} {number}"
        if "tags" in row:
            row["tags"].append("O")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, cells)))
    folder = request.getfixturevalue(model).path
    asked = ["--model", folder, "--data", "rows.jsonl", "--task", task, "--gpu-mem", "8GB"]
    quick = ["--trials", "1", "--epochs", "1", "--seq-len", "24", "--refit"]
    done = subprocess.run(
        [sys.executable, "-m", "autopeft", "run", *asked, *quick, "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout)
    assert facts["data"]["task"] == task
    contenders = [score["contender"] for score in facts["scores"]]
    assert contenders == ["winner", "LoRA default", *BASELINES[TASKS[task].baseline]]
    assert all(score["low"] <= score["test_score"] <= score["high"] for score in facts["scores"])
    manifest = json.loads((tmp_path / facts["places"]["adapter"] / "autopeft.json").read_text())
    assert manifest["reference_difference"] <= 1e-5
    assert manifest["refit_rows"] == facts["data"]["rows"]["train"] + facts["data"]["rows"]["validation"]
    assert any("trained once more" in reason for reason in facts["reasons"])
    if task == "regression":  # whose numbers are scaled by those of the rows trained on
        verified = subprocess.run(
            [sys.executable, "-m", "autopeft", "verify", facts["places"]["adapter"], "--json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert verified.returncode == 0, verified.stdout
        assert json.loads(verified.stdout)["score"] == pytest.approx(manifest["test_score"], abs=1e-6)
    assert (tmp_path / facts["places"]["report"]).stat().st_size > 10_000
