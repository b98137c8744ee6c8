"""Whatever a user gets wrong: one clear line on stderr, exit status 2, no traceback."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MODEL = ("--model", "all-MiniLM-L6-v2", "--gpu-mem", "16GB")
# A listed device, so that this machine is not measured first.
ON_T4 = ("--model", "all-MiniLM-L6-v2", "--gpu", "t4")
TEXTS = "text,label\n" + "".join(f"words number {row},{'good' if row % 2 else 'bad'}\n" for row in range(40))

PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c"
    "49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
FILES: dict[str, bytes] = {
    "good.csv": TEXTS.encode(),
    "empty.csv": b"",
    "header.csv": b"text,label\n",
    "one_class.csv": TEXTS.replace("bad", "good").encode(),
    "binary.csv": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40,
    "nan.csv": TEXTS.replace("bad", "NaN").encode(),
    "wide.csv": TEXTS.replace("words number 7,", "wide " * 2_000_000 + ",").encode(),
    "latin.csv": TEXTS.replace("words number 7", "caf\u00e9").encode("latin-1"),
    "unseen.csv": TEXTS.replace("good", "soso").encode(),
    "other_columns.csv": TEXTS.replace("text", "sentence").encode(),
    "number.jsonl": b'{"text": "a", "label": 1.5}\n{"text": "b", "label": NaN}\n',
    "no_image.csv": b"image,label\n" + b"good.csv,a\nphotos/cats/1.png,b\n" * 20,
    "lost_image.csv": b"image,label\n" + b"nowhere.png,a\nphotos/cats/1.png,b\n" * 20,
    "truncated/cats/1.png": PICTURE[:45],
    "truncated/dogs/1.png": PICTURE,
    "photos/cats/1.png": PICTURE,
    "photos/dogs/1.png": b"GIF89a is no more than a name",
    "nothing/readme.txt": b"no images here",
    "one_empty/cats/1.png": PICTURE,
    "one_empty/dogs/why.txt": b"they ran away",
    "loose/1.png": PICTURE,
    "alone/cats/1.png": PICTURE,
    "mixed/cats/1.png": PICTURE,
    "mixed/dogs/1.wav": b"RIFF",
    "sounds/a/1.wav": b"RIFF\x24\x00\x00\x00WAVEfmt ",
    "sounds/b/1.wav": b"no sound",
    "saved/state.json": b'{"_data_files": "all of them"}',
    "shards/train.parquet": b"PAR1 but nothing else",
    "broken.jsonl": b'{"text": "a", "label": "x"}\n{"text": \n',
    "not_a.parquet": b"PAR1 but nothing else",
    "data.docx": b"PK\x03\x04",
    "bad.yaml": b"budget: [1, 2\nmodel: x",
    "list.yaml": b"- model\n- data\n",
    "tables/rows.csv": TEXTS.encode(),
    "latin.yaml": "model: caf\u00e9\n".encode("latin-1"),
    "unknown_field.yaml": b"modell: all-MiniLM-L6-v2\n",
    "budget_number.yaml": b"budget: 5\n",
    "bad_budget.yaml": b"budget: {gpu_mem: lots}\n",
    "bad_profile.yaml": b"name: x\nmatmul_flops: {float32: -1}\n",
    "bad_date.yaml": b"date: 2023-13-01\n",
    "bad_space.yaml": b"domain:\n  method: [lora]\n",
    "bad_method.yaml": b"domains:\n  method: [lora, lorra]\n",
}

LONG = "a" * 300
# name: (arguments, words that the line must hold)
CASES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "unknown command": (("plann",), ("plann", "plan")),
    "unknown flag": (("plan", "--modle", "x"), ("--modle",)),
    "flag without its value": (("plan", "--gpu-mem"), ("--gpu-mem",)),
    "no model to estimate": (("estimate",), ("MODEL",)),
    "memory in bananas": (("plan", *MODEL, "--mem", "16 bananas"), ("16 bananas", "16GB")),
    "no memory at all": (("plan", "--gpu-mem", "0GB"), ("above 0", "0GB")),
    "time of zero": (("plan", *MODEL, "--time", "0"), ("time", "0", "30min")),
    "time in parsecs": (("plan", *MODEL, "--time", "3 parsecs"), ("3 parsecs",)),
    "no trials": (("search", *MODEL, "--trials", "0"), ("trials", "0")),
    "trials in words": (("search", *MODEL, "--trials", "many"), ("--trials", "integer")),
    "a share above one": (("plan", *MODEL, "--params", "2"), ("params", "2")),
    "negative epochs": (("plan", *MODEL, "--epochs", "-1"), ("epochs", "-1")),
    "a batch of none": (("plan", *MODEL, "--batch-size", "0"), ("batch_size", "0")),
    "negative rank": (("estimate", "all-MiniLM-L6-v2", "--rank", "-4", "--gpu", "t4"), ("rank", "-4")),
    "unknown model": (("plan", "--model", "all-MiniLM-L6-v3", "--gpu", "t4"), ("all-MiniLM-L6-v2",)),
    "unknown method": (("estimate", "all-MiniLM-L6-v2", "--method", "loro", "--gpu", "t4"), ("loro", "lora")),
    "unknown device": (("plan", "--model", "all-MiniLM-L6-v2", "--gpu", "l40z"), ("l40z", "l40s")),
    "a profile that goes backwards": (
        ("estimate", "gpt2", "--gpu", "bad_profile.yaml"),
        ("bad_profile.yaml", "matmul_flops.float32", "-1"),
    ),
    "a profile of the 13th month": (
        ("estimate", "gpt2", "--gpu", "bad_date.yaml"),
        ("bad_date.yaml", "month"),
    ),
    "a profile's name that leaves the workspace": (("profile", "--name", "../../esc"), ("../../esc",)),
    "an unknown device to calibrate": (
        ("calibrate", "--device", "NOSUCH", "--runs", "good.csv"),
        ("NOSUCH",),
    ),
    "runs without times": (
        ("calibrate", "--device", "l4", "--runs", "good.csv"),
        ("predicted_step_seconds", "measured_step_seconds", "text, label"),
    ),
    "runs from nowhere": (
        ("calibrate", "--device", "l4", "--mlflow", "sqlite:///nowhere/x.db"),
        ("nowhere/x.db",),
    ),
    "unknown space": (("plan", *MODEL, "--space", "quik"), ("quik", "quick")),
    "unknown target": (
        ("estimate", "all-MiniLM-L6-v2", "--targets", "attentoin", "--gpu", "t4"),
        ("attentoin", "attention"),
    ),
    "layers that are not there": (
        ("estimate", "all-MiniLM-L6-v2", "--layers", "4-20", "--gpu", "t4"),
        ("4-20",),
    ),
    "a knob without a value": (
        ("estimate", "all-MiniLM-L6-v2", "--knob", "alpha", "--gpu", "t4"),
        ("alpha",),
    ),
    "unknown knob": (
        ("estimate", "all-MiniLM-L6-v2", "--knob", "alpa_ratio=2", "--gpu", "t4"),
        ("alpa_ratio", "alpha_ratio"),
    ),
    "unknown quantisation": (
        ("estimate", "all-MiniLM-L6-v2", "--quantization", "nf5", "--gpu", "t4"),
        ("nf5",),
    ),
    "a rank of none": (("estimate", "all-MiniLM-L6-v2", "--rank", "0", "--gpu", "t4"), ("rank", "0")),
    "unknown optimizer": (("estimate", "gpt2", "--optimizer", "adamv", "--gpu", "t4"), ("adamv", "adamw")),
    "unknown loop": (("estimate", "gpt2", "--loop", "trianer", "--gpu", "t4"), ("trianer", "trainer")),
    "unknown detail": (("estimate", "gpt2", "--detail", "clip=1", "--gpu", "t4"), ("clip", "clips")),
    "unknown precision": (("estimate", "gpt2", "--precision", "bf17", "--gpu", "t4"), ("bf17", "bf16")),
    "a batch in words": (("estimate", "gpt2", "--batch-size", "many"), ("--batch-size", "integer")),
    "lengths in words": (("estimate", "gpt2", "--lengths", "long"), ("long", "50:180")),
    "an estimate longer than the model": (("estimate", "gpt2", "--seq-len", "4096"), ("4096", "1024")),
    "a configuration that lies": (("estimate", "lies/config.json"), ("num_hidden_layers", "10000")),
    "a configuration that is none": (("estimate", "bad.yaml"), ("bad.yaml", "JSON")),
    "a directory without a model": (("estimate", "lies/empty"), ("config.json",)),
    "no file of questions": (("estimate", "--from", "nowhere.jsonl"), ("nowhere.jsonl",)),
    "a directory of questions": (("estimate", "--from", "."), (".", "JSON lines")),
    "a model beside a file of questions": (("estimate", "gpt2", "--from", "good.csv"), ("--from", "MODEL")),
    "unknown task": (("plan", *MODEL, "--task", "translate"), ("translate", "classification")),
    "unknown demo": (("run", "--demo", "vision"), ("vision", "sft")),
    "a kind without the demo": (("run", "sft"), ("sft", "--demo")),
    "a demo with a model": (("plan", "--demo", "--model", "x", "--gpu", "t4"), ("--demo", "--model")),
    "no data to train on": (("search", "--model", "all-MiniLM-L6-v2"), ("--data",)),
    "missing data file": (("plan", *ON_T4, "--data", "nowhere.csv"), ("nowhere.csv",)),
    "a directory as data": (("plan", *ON_T4, "--data", "lies"), ("lies", "class")),
    "a directory without images": (("plan", *ON_T4, "--data", "nothing"), ("nothing", "cat/1.png")),
    "a directory of tables": (("plan", *ON_T4, "--data", "tables"), ("tables/rows.csv",)),
    "images in no class folder": (("plan", *ON_T4, "--data", "loose"), ("loose", "1 files", "class folder")),
    "a class folder with no file": (("plan", *ON_T4, "--data", "one_empty"), ("one_empty/dogs", "remove")),
    "images of one class": (("plan", *ON_T4, "--data", "alone"), ("2 classes", "cats")),
    "images beside sounds": (("plan", *ON_T4, "--data", "mixed"), ("1 images and 1 sounds",)),
    "an image that is no image": (("plan", *ON_T4, "--data", "photos"), ("dogs/1.png", "must be an image")),
    "an image cut short": (("plan", *ON_T4, "--data", "truncated"), ("cats/1.png", "must be an image")),
    "a column of files that are no images": (
        ("plan", *ON_T4, "--data", "no_image.csv", "--image-column", "image"),
        ("no_image.csv, line 2", "good.csv", "must be an image"),
    ),
    "an image that is not there": (("plan", *ON_T4, "--data", "lost_image.csv"), ("line 2", "nowhere.png")),
    "a sound that is no sound": (("plan", *ON_T4, "--data", "sounds"), ("a/1.wav", "must be a sound")),
    "a saved dataset without its files": (
        ("plan", *ON_T4, "--data", "saved"),
        ("state.json", "save_to_disk"),
    ),
    "a Parquet shard that is none": (("plan", *ON_T4, "--data", "shards"), ("train.parquet", "readable")),
    "a dataset that the hub does not give": (
        ("plan", *ON_T4, "--data", "nobody/nothing"),
        ("nobody/nothing",),
    ),
    "labels that are no numbers and no words": (("plan", *ON_T4, "--data", "nan.csv"), ("line 2", "NaN")),
    "labels between classes": (("plan", *ON_T4, "--data", "number.jsonl"), ("line 1", "1.5")),
    "a cell of 10 MB": (("plan", *ON_T4, "--data", "wide.csv"), ("wide.csv, line 9", "1000000")),
    "data in another encoding": (("plan", *ON_T4, "--data", "latin.csv"), ("latin.csv, line 9", "UTF-8")),
    "a class that training rows lack": (
        ("plan", *ON_T4, "--data", "good.csv", "--test-data", "unseen.csv"),
        ("unseen.csv, line 3", "soso", "bad"),
    ),
    "a column that the test rows lack": (
        ("plan", *ON_T4, "--data", "good.csv", "--test-data", "other_columns.csv"),
        ("other_columns.csv", "text", "sentence"),
    ),
    "data of an unknown kind": (("plan", *ON_T4, "--data", "data.docx"), ("data.docx", ".csv")),
    "empty data": (("plan", *ON_T4, "--data", "empty.csv"), ("empty.csv",)),
    "data without rows": (("plan", *ON_T4, "--data", "header.csv"), ("header.csv",)),
    "data of one class": (("plan", *ON_T4, "--data", "one_class.csv"), ("class", "good")),
    "binary data": (("plan", *ON_T4, "--data", "binary.csv"), ("binary.csv",)),
    "broken JSON lines": (("plan", *ON_T4, "--data", "broken.jsonl"), ("broken.jsonl", "2")),
    "a Parquet file that is none": (("plan", *ON_T4, "--data", "not_a.parquet"), ("not_a.parquet",)),
    "wrong column": (("plan", *ON_T4, "--data", "good.csv", "--text-column", "txt"), ("txt", "text")),
    "longer than the model": (("plan", *MODEL, "--seq-len", "4096"), ("4096", "512")),
    "missing configuration": (("plan", "--config", "nowhere.yaml"), ("nowhere.yaml",)),
    "a directory as configuration": (("plan", "--config", "."), ("directory",)),
    "malformed configuration": (("plan", "--config", "bad.yaml"), ("bad.yaml", "line")),
    "a list as configuration": (("plan", "--config", "list.yaml"), ("list.yaml", "mapping")),
    "configuration in another encoding": (("plan", "--config", "latin.yaml"), ("latin.yaml", "UTF-8")),
    "unknown field": (("plan", "--config", "unknown_field.yaml"), ("modell",)),
    "a number as budget": (("plan", "--config", "budget_number.yaml", "--time", "1h"), ("budget",)),
    "a budget in words": (("plan", "--config", "bad_budget.yaml"), ("lots",)),
    "malformed search space": (("plan", *MODEL, "--space", "bad_space.yaml"), ("bad_space.yaml", "domain")),
    "a space with an unknown method": (("plan", *MODEL, "--space", "bad_method.yaml"), ("lorra", "lora")),
    "missing search space": (("plan", *MODEL, "--space", "nowhere.yaml"), ("nowhere.yaml",)),
    "no study to report": (("report",), ("study",)),
    "no study to export": (("export", "--study", "nobody"), ("nobody",)),
    "no study to resume": (
        ("search", *MODEL, "--data", "good.csv", "--study", "nobody", "--resume"),
        ("nobody",),
    ),
    "a study's name that leaves the workspace": (
        ("search", *MODEL, "--data", "good.csv", "--study", "../../etc"),
        ("../../etc",),
    ),
    "a comparison with a name too long for a file": (("compare", LONG, "b"), ("File name too long",)),
    "a bundle with a name too long for a file": (("verify", LONG), ("File name too long",)),
    "a report of a file with a name too long": (("report", f"{LONG}.json"), ("File name too long",)),
    "a bundle in the directory where it is called": (("verify", "."), ("autopeft.json", "has none")),
    "a recipe in the place of the working directory": (
        ("recipe", "--model", "gpt2", "--method", "lora", "--out", "."),
        ("is the working directory",),
    ),
    "no runs to look at": (("ui",), ("run",)),
    "a port that is none": (("ui", "--port", "99999"), ("--port", "65535")),
}


@pytest.fixture
def in_a_folder_of_bad_files(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "lies" / "empty").mkdir(parents=True)
    (tmp_path / "lies" / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 999999999}')


@pytest.mark.usefixtures("in_a_folder_of_bad_files")
@pytest.mark.parametrize(("arguments", "words"), CASES.values(), ids=CASES.keys())
def test_a_malformed_input_gives_one_line_and_exit_status_2(
    autopeft: Callable[..., object], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    answer = autopeft(*arguments)
    assert answer.code == 2, answer
    assert_one_line(answer.err)
    assert not answer.out
    for word in words:
        assert word in answer.err


@pytest.mark.usefixtures("in_a_folder_of_bad_files")
@pytest.mark.parametrize("command", [("estimate",), ("plan", "--model")])
def test_rows_for_a_model_whose_tokenizer_is_not_here_name_what_is_missing_and_the_ways_out(
    autopeft: Callable[..., object], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    answer = autopeft(*command, "Llama-2-70B", "--gpu", "t4", "--data", "good.csv")
    assert answer.code == 2, answer
    assert_one_line(answer.err)
    for words in (
        "the tokenizer of 'meta-llama/Llama-2-70b-hf' cannot be loaded",
        "a directory with config.json and tokenizer.json",
        "--seq-len N --examples N instead of --data",
    ):
        assert words in answer.err


def assert_one_line(stderr: str) -> None:
    assert stderr.startswith("autopeft: "), stderr
    assert stderr.count("\n") == 1, stderr
    assert stderr.endswith("\n")
    assert "Traceback" not in stderr


def assert_last_line(stderr: str) -> None:
    """Check that an error is one line, after at most what was said of something that lasted."""
    *lasted, error = stderr.splitlines(keepends=True)
    assert_one_line(error)
    assert all("measuring this machine" in line for line in lasted), stderr


def run_process(*arguments: str, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autopeft", *arguments]
    environment = {**os.environ, "AUTOPEFT_CACHE": str(cwd / "cache")}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, **options
    )


def test_a_full_disk_gives_one_line_and_exit_status_2(tmp_path: Path) -> None:
    def allow_files_of_64_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))

    done = run_process("profile", "--seconds", "1", cwd=tmp_path, preexec_fn=allow_files_of_64_bytes)
    assert done.returncode == 2, done
    assert_last_line(done.stderr)
    assert "cannot be written" in done.stderr
    assert not done.stdout


@pytest.mark.slow
def test_a_workspace_that_cannot_be_made_gives_one_line_and_exit_status_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = run_process("profile", "--seconds", "1", "--workspace", "file/workspace", cwd=tmp_path)
    assert done.returncode == 2, done
    assert_last_line(done.stderr)
    assert "file/workspace" in done.stderr


@pytest.mark.usefixtures("in_a_folder_of_bad_files")
def test_a_verbose_run_shows_where_an_error_comes_from(autopeft: Callable[..., object]) -> None:
    answer = autopeft("plan", "--config", "bad.yaml", "-v")
    assert answer.code == 2
    assert "Traceback" in answer.err
    assert answer.err.splitlines()[-1].startswith("autopeft: ")
