"""`autopeft estimate`: one question by flags, many by lines of JSON."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from linear_cost import LinearCost

from autopeft.cli import questions
from autopeft.cost.loops import LOOPS
from autopeft.errors import AutopeftError, InputError
from autopeft.plan.question import Question
from autopeft.workload.base_model import BaseModel

MODEL = "SmolLM2-135M"


@pytest.fixture(autouse=True)
def linear_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autopeft.cost.model.TracedCostModel", lambda **_: LinearCost())


def test_what_fits_is_a_table_and_status_0(autopeft: Callable[..., object]) -> None:
    answer = autopeft("estimate", MODEL, "--gpu-mem", "16GB", "--rank", "16", "--batch-size", "2")
    assert answer.code == 0, answer
    for words in (
        "SmolLM2-135M: lora r=16 query+value, 2 rows",
        "activations               200.0    16 %   ████",
        "allocated at the peak",
        "90 % band",
        "with 512 MiB of context",
        "left",
        "It fits. You could raise the batch to 137.",
    ):
        assert words in answer.out, answer.out
    assert max(map(len, answer.out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "rows: 512 tokens (default), batch 1 (default), no --examples given, 1 epoch (default)"),
        (
            ("--seq-len", "256", "--batch-size", "1", "--examples", "4000", "--epochs", "2"),
            "rows: 256 tokens, batch 1, 4,000 examples, 2 epochs",
        ),
        (
            ("--lengths", "0:100,100:200"),
            "rows: at most 200 tokens, 150 on average, batch 1 (default), no --examples given, "
            "1 epoch (default)",
        ),
    ],
)
def test_the_rows_are_said_and_which_of_it_nobody_asked_for(
    autopeft: Callable[..., object], flags: tuple[str, ...], words: str
) -> None:
    assert words in autopeft("estimate", MODEL, *flags).out.splitlines()


def test_the_rows_of_a_file_are_measured_and_counted(
    autopeft: Callable[..., object], encoder_with_weights: BaseModel, tmp_path: Path
) -> None:
    texts = [f"{'good ' * (1 + row % 4)}{'film ' * (row // 4)}" for row in range(40)]
    rows = ["body,verdict", *(f"{text},{'ab'[row % 2]}" for row, text in enumerate(texts))]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    columns = ("--text-column", "body", "--label-column", "verdict")
    answer = autopeft("estimate", str(encoder_with_weights.path), "--data", "rows.csv", *columns)
    words = r"at most \d\d tokens, \d on average, batch 1 \(default\), \d\d examples, 1 epoch \(default\)"
    assert re.search(f"^rows: {words}$", answer.out, re.MULTILINE), answer


def test_what_does_not_fit_is_status_1_with_the_way_out(autopeft: Callable[..., object]) -> None:
    answer = autopeft("estimate", MODEL, "--gpu-mem", "2GB", "--batch-size", "8")
    assert answer.code == 1
    assert "short" in answer.out
    assert "It does not fit: peak memory" in answer.out
    assert "It would fit with a batch of 3, or with gradient checkpointing." in " ".join(answer.out.split())
    told = autopeft("estimate", MODEL, "--gpu-mem", "2GB", "--batch-size", "8", "--json")
    assert json.loads(told.out)["way_out"] == "a batch of 3, or with gradient checkpointing"


def test_where_nothing_fits_as_it_is_a_smaller_batch_is_named(autopeft: Callable[..., object]) -> None:
    said = " ".join(autopeft("estimate", MODEL, "--gpu-mem", "1.5GB", "--batch-size", "64").out.split())
    assert "It would fit with gradient checkpointing and a base in nf4-dq and a batch of 32." in said


def test_what_can_never_fit_points_to_the_switches(autopeft: Callable[..., object]) -> None:
    assert "Not even one row fits; --explain" in autopeft("estimate", MODEL, "--gpu-mem", "600MB").out


def test_without_a_limit_the_status_is_0_and_nothing_is_said_to_fit(autopeft: Callable[..., object]) -> None:
    answer = autopeft("estimate", MODEL)
    assert answer.code == 0
    assert "No limit was given" in answer.out


def test_an_answer_says_what_trains(autopeft: Callable[..., object]) -> None:
    assert "loop autopeft, bf16, adamw, sdpa attention" in autopeft("estimate", MODEL).out
    old = autopeft("estimate", MODEL, "--gpu", "t4", "--loop", "trainer", "--quantization", "nf4").out
    said = " ".join(old.split())
    assert "loop trainer (transformers 5 Trainer" in said
    assert "fp16, adamw-fused" in said
    assert "head cast to fp32" in said


def test_a_way_to_train_names_its_quantisation(autopeft: Callable[..., object]) -> None:
    assert "lora r=16 query+value nf4-dq, 1 row" in autopeft("estimate", MODEL, "--method", "qlora").out
    assert "dora r=16 query+value nf4" in autopeft("estimate", MODEL, "--method", "dora+nf4").out
    assert autopeft("estimate", MODEL, "--method", "qlora", "--quantization", "NF4_DQ").code == 0
    assert autopeft("estimate", MODEL, "--method", "lora+").code == 2
    answer = autopeft("estimate", MODEL, "--method", "qlora", "--quantization", "int8")
    assert answer.code == 2
    assert "nf4-dq" in answer.err


def test_every_flag_is_a_field(autopeft: Callable[..., object]) -> None:
    answer = autopeft(
        "estimate", MODEL, "--method", "lora", "--rank", "8", "--targets", "attention", "--layers", "4-20",
        "--quantization", "nf4", "--batch-size", "2", "--seq-len", "256", "--grad-accum", "4",
        "--gradient-checkpointing", "--optimizer", "adamw-8bit", "--precision", "fp16",
        "--attention", "eager", "--loss", "chunked", "--packing", "--gpu", "l40s", "--gpu-mem", "24GB",
        "--lengths", "50:80,100:200",
        "--no-padding", "--knob", "alpha_ratio=2", "--version-of", "torch=1.0", "--no-max-batch", "--json",
    )  # fmt: skip
    shown = json.loads(answer.out)
    assert (answer.code, shown["status"], shown["trainable_params"]) == (0, "ok", 8)
    assert shown["max_batch_size"] is None
    assert any("torch 1.0" in guess for guess in shown["provenance"]["guesses"])


def test_the_help_names_every_loop(autopeft: Callable[..., object]) -> None:
    shown = autopeft("estimate", "--help").out
    assert [name for name in LOOPS if name not in shown] == []


def test_an_explanation_ranks_the_switches_by_what_they_save(autopeft: Callable[..., object]) -> None:
    answer = autopeft("estimate", MODEL, "--gpu-mem", "2GB", "--batch-size", "8", "--explain")
    assert answer.code == 1
    lines = [line for line in answer.out.splitlines() if "fits" in line and "-" in line]
    assert lines[0].startswith("weights in nf4")
    assert "int8 is not for this test" in answer.out
    assert max(map(len, answer.out.splitlines())) <= 100
    shown = json.loads(
        autopeft("estimate", MODEL, "--gpu-mem", "2GB", "--batch-size", "8", "--explain", "--json").out
    )
    assert set(shown) == {"question", "answer", "switches"}


ROWS: tuple[tuple[bytes, str], ...] = (
    (b'{"model": "SmolLM2-135M", "gpu": "l40s"}', "ok"),
    (b'{"model": "SmolLM2-135M", ', "no valid JSON"),
    (b'["SmolLM2-135M"]', "JSON object"),
    (b'{"model": "SmolLM2-136M"}', "SmolLM2-135M"),
    (b'{"model": "SmolLM2-135M", "rnk": 4}', "rank"),
    (b'{"model": "SmolLM2-135M", "rank": "4"}', "integer"),
    (b'{"model": "SmolLM2-135M", "rank": 0}', "greater than"),
    (b'{"model": "SmolLM2-135M", "quantization": "int8"}', "int8 is not"),
    (b"[" * 100_000, "nested"),
    (b'{"model": ' + b"[" * 900 + b"]" * 900 + b"}", ""),
    (b'{"model": "' + b"x" * (questions.LONGEST_LINE + 5) + b'"}', "MiB"),
    (b'{"model": ' + b"9" * 10_000 + b"}", "number too long"),
    (b'{"model": "\xff"}', "UTF-8"),
    (b'{"model": "\\ud800"}', "printable"),
    (b'{"model": "SmolLM2-135M", "knobs": {"alpha_ratio": 666}}', "ZeroDivisionError"),
    (b'{"model": "SmolLM2-135M", "gpu_mem": "1GB"}', "above the limit"),
    (b'{"model": "SmolLM2-135M", "rank": 4}', "ok"),
)


def test_a_bad_line_gets_an_error_and_the_rest_go_on(autopeft: Callable[..., object], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n\n".join(row for row, _ in ROWS))
    answer = autopeft("estimate", "--from", "rows.jsonl")
    assert answer.code == 2
    shown = [json.loads(line) for line in answer.out.splitlines()]
    assert len(shown) == len(ROWS)
    for given, (row, words) in zip(shown, ROWS, strict=True):
        if words == "ok":
            assert (given["status"], given["reason"]) == ("ok", None)
        else:
            assert words in given["reason"], (row[:80], given)
            assert len(given["reason"]) <= 400
    assert not answer.err


@pytest.mark.parametrize(
    ("limits", "code"),
    [(("16GB", "16GB"), 0), ((None, None), 0), (("16GB", "1GB"), 1), (("1GB", "a lot"), 2), ((), 0)],
)
def test_the_status_of_many_is_that_of_the_worst(
    autopeft: Callable[..., object], tmp_path: Path, limits: tuple[str | None, ...], code: int
) -> None:
    rows = [json.dumps({"model": MODEL, "gpu_mem": limit}) for limit in limits]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    assert autopeft("estimate", "--from", "rows.jsonl").code == code


def test_flags_fill_what_a_row_leaves_out(autopeft: Callable[..., object], tmp_path: Path) -> None:
    rows = [{"model": MODEL}, {"model": MODEL, "Rank": 4}, {"model": MODEL, "rank": None}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answer = autopeft("estimate", "--from", "rows.jsonl", "--rank", "32", "--gpu", "l40s")
    shown = [json.loads(line) for line in answer.out.splitlines()]
    assert [row["trainable_params"] for row in shown] == [32, 4, 32]
    assert {row["fits"] for row in shown} == {True}


def test_a_line_that_is_too_long_is_not_held_in_memory() -> None:
    class Endless(io.RawIOBase):
        left = 40

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:
            Endless.left -= 1
            size = len(buffer)
            buffer[:] = b"x" * size if Endless.left else b"\n" * size
            return size if Endless.left >= 0 else 0

    rows = list(questions.read(io.BufferedReader(Endless(), 2**20), {}))
    assert [type(row) for row in rows] == [InputError]


def test_lines_are_read_one_by_one() -> None:
    stream = io.BytesIO(b'{"model": "a"}\n\n{"model": 1}\n')
    rows = questions.read(stream, {"rank": 2})
    assert next(rows) == Question.build(model="a", rank=2)
    bad = next(rows)
    assert isinstance(bad, AutopeftError)
    assert str(bad).startswith("line 3: model")


def test_questions_come_from_stdin_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "autopeft", "estimate", "--from", "-"],
        input='{"model": "SmolLM2-135M", "rank": 0}\n{"model": 7}\n',
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["error", "error"]
    assert not done.stderr


def test_a_refused_question_loads_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "from autopeft.cli.app import main\n"
        "try:\n    main(['estimate', 'SmolLM2-135M', '--optimizer', 'adamv', '--gpu', 't4'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = ('torch', 'transformers', 'peft', 'ray', 'mlflow', 'optuna', 'plotly', 'pandas')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--quantization", "gptq"), "to train: a checkpoint of SmolLM2-135M that is gptq-int4 already"),
        (("--quantization", "hqq"), "to train: a checkpoint of SmolLM2-135M that is hqq-int4 already"),
        (("--quantization", "torchao-int4"), "training: torchao-int4 has no backward pass yet"),
        (("--method", "xlora"), "xlora trains, but peft does not save it so that it loads again"),
    ],
)
def test_what_training_lacks_is_one_line_of_the_plan_that_widens_nothing(
    autopeft: Callable[..., object], flags: tuple[str, str], words: str
) -> None:
    asked = ("estimate", MODEL, "--gpu-mem", "16GB", "--json")
    plain, found = json.loads(autopeft(*asked).out), json.loads(autopeft(*asked, *flags).out)
    assert any(guess.startswith(words) for guess in found["provenance"]["guesses"])
    spans = [each["memory"]["high_bytes"] / each["memory"]["reserved_peak_bytes"] for each in (plain, found)]
    assert spans[0] == pytest.approx(spans[1], abs=1e-6)


def test_what_trains_here_lacks_nothing(autopeft: Callable[..., object]) -> None:
    pytest.importorskip("bitsandbytes", reason="packed bases need the extra quant")
    found = json.loads(
        autopeft("estimate", MODEL, "--gpu-mem", "16GB", "--quantization", "nf4", "--json").out
    )
    assert not any("train" in guess for guess in found["provenance"]["guesses"])
