from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autopeft import __version__
from autopeft.cli import app as cli
from autopeft.cli.columns import COLUMNS
from autopeft.cli.exits import Exit, exit_code
from autopeft.errors import DataError, DoesNotFitError, StorageError

COMMANDS = [
    *("run", "profile", "estimate", "plan", "search", "export", "report"),
    *("models", "methods", "gpus", "spaces", "doctor", "ui"),
]
HEAVY = ("torch", "transformers", "peft", "ray", "mlflow", "optuna", "plotly", "pandas", "sklearn", "numpy")


def test_help_lists_every_command(autopeft: Callable[..., object]) -> None:
    answer = autopeft("--help")
    assert answer.code == 0
    assert all(command in answer.out for command in COMMANDS)


def test_a_bare_call_shows_the_help(autopeft: Callable[..., object]) -> None:
    assert autopeft().out == autopeft("--help").out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(autopeft: Callable[..., object], command: str) -> None:
    answer = autopeft(command, "--help")
    assert answer.code == 0
    assert f"autopeft {command}" in answer.out
    assert "--json" in answer.out
    assert "--verbose" in answer.out


def test_every_flag_of_every_command_has_a_help_text() -> None:
    from typer.main import get_command

    group = get_command(cli.app)
    for name, command in group.commands.items():
        assert command.help, name
        assert all(parameter.help for parameter in command.params), name


def test_run_search_and_plan_take_the_same_flags() -> None:
    from typer.main import get_command

    flags = {
        name: {one.name for one in get_command(cli.app).commands[name].params}
        for name in ("run", "search", "plan")
    }
    of_a_plan = {"all_models", "gpus", "sharding", "offload", "examples"}
    of_a_search = {
        *("study", "resume", "searcher", "prefer", "front", "experience"),
        *("address", "storage", "mlflow"),
    }
    assert flags["run"] - {"refit"} == flags["search"] == flags["plan"] - of_a_plan | of_a_search


def test_the_version_is_printed(autopeft: Callable[..., object]) -> None:
    assert autopeft("--version").out == f"autopeft {__version__}\n"


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "from autopeft.cli.app import main\n"
        "try:\n    main(['run', '--help'])\n"
        "except SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["models", "methods", "gpus", "spaces"])
def test_a_list_is_one_json_document_or_a_table(autopeft: Callable[..., object], command: str) -> None:
    rows = json.loads(autopeft(command, "--json").out)
    assert rows
    assert isinstance(rows, list)
    text = autopeft(command).out
    assert all(row["name"] in text for row in rows)
    assert max(map(len, text.splitlines())) <= 100


def test_the_doctor_says_how_to_mend_what_is_not_well(autopeft: Callable[..., object]) -> None:
    answer = autopeft("doctor", "--json")
    checks = json.loads(answer.out)
    assert {"python", "torch", "workspace", "cache"} <= {check["name"] for check in checks}
    assert all(check["mend"] for check in checks if check["state"] != "ok")
    assert answer.code == (2 if any(check["state"] == "fail" for check in checks) else 0)


@pytest.mark.parametrize(
    ("flag", "name", "found"),
    [
        (("--storage", "postgresql+psycopg://me:secret@127.0.0.1:9/x"), "storage", "no answer: "),
        (("--storage", "sqlite:////no/such/place.db"), "storage", "unable to open database file"),
        (("--mlflow", "http://127.0.0.1:9"), "tracking server", "127.0.0.1:9: Connection refused"),
    ],
)
def test_the_doctor_finds_a_server_that_is_not_there(
    autopeft: Callable[..., object], flag: tuple[str, str], name: str, found: str
) -> None:
    answer = autopeft("doctor", *flag, "--json")
    assert answer.code == 2
    assert "secret" not in answer.out
    check = next(each for each in json.loads(answer.out) if each["name"] == name)
    assert check["state"] == "fail"
    assert found in check["found"]
    assert check["mend"]


def test_the_doctor_finds_a_workspace_that_cannot_be_written(
    autopeft: Callable[..., object], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    answer = autopeft("doctor", "--workspace", "file", "--json")
    state = {check["name"]: check["state"] for check in json.loads(answer.out)}
    assert state["workspace"] == "fail"
    assert answer.code == 2


def test_flags_win_over_the_configuration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autopeft.cli.flags import merge_flags

    monkeypatch.chdir(tmp_path)
    (tmp_path / "autopeft.yaml").write_text("model: a\nseed: 3\nbudget: {gpu_mem: 8GB, time: 1h}\n")
    request = merge_flags(model="b", gpu_mem="16GB", text_column="review")
    assert (request.model, request.seed) == ("b", 3)
    assert (request.budget.gpu_mem, request.budget.time) == (16 * 10**9, 3600.0)
    assert request.columns == {"text": "review"}


def test_the_demo_takes_its_kind_as_a_word() -> None:
    from autopeft.cli.flags import merge_flags

    assert merge_flags(demo=True).demo == "classification"
    assert merge_flags("sft", demo=True).demo == "sft"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DoesNotFitError("too big"), Exit.DOES_NOT_FIT),
        (DataError("no rows"), Exit.BAD_REQUEST),
        (StorageError("full"), Exit.BAD_REQUEST),
        (OSError(28, "No space left on device"), Exit.BAD_REQUEST),
        (PermissionError(13, "Permission denied"), Exit.BAD_REQUEST),
        (OSError(5, "Input/output error"), None),
        (ZeroDivisionError(), None),
    ],
    ids=str,
)
def test_one_table_says_what_an_error_means_for_the_exit_status(error: Exception, code: Exit | None) -> None:
    assert exit_code(error) is code


def test_ctrl_c_says_how_to_go_on(autopeft: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    from autopeft import pipeline

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "search", interrupted)
    answer = autopeft("search", "--demo", "--mem", "4GB")
    assert answer.code == 130
    assert answer.err.splitlines() == [
        "autopeft: interrupted; finished trials are kept. "
        "Go on with: autopeft search --demo --mem 4GB --resume"
    ]


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m autopeft gpus --json | head -c 10"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_libraries_print_does_not_get_into_the_json_document(
    autopeft: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from autopeft import pipeline

    def chatter(*_: object, **__: object) -> tuple[object, ...]:
        sys.stdout.write("some library says hello\n")
        return ()

    monkeypatch.setattr(pipeline, "overview", chatter)
    assert json.loads(autopeft("plan", "--gpu-mem", "16GB", "--json").out) == []


def test_a_shell_can_complete_device_names() -> None:
    environment = {
        "_AUTOPEFT_COMPLETE": "complete_bash",
        "COMP_WORDS": "autopeft plan --gpu l40",
        "COMP_CWORD": "3",
    }
    done = subprocess.run(
        [sys.executable, "-m", "autopeft"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["l40s"]


def test_a_recipe_takes_the_words_of_an_estimate(autopeft: Callable[..., object]) -> None:
    answer = autopeft(
        *("recipe", "--format", "trl", "--model", "Llama-3.1-8B", "--method", "qlora", "--rank", "8"),
        *("--gradient-checkpointing", "--batch-size", "2", "--seq-len", "512"),
    )
    assert answer.code == 0
    for line in ("load_in_4bit: true", "lora_r: 8", "bf16: true", "gradient_checkpointing: true"):
        assert line in answer.out
    assert "learning_rate: 0.0002" in answer.out
    assert "# train.jsonl and validation.jsonl have to lie beside this" in answer.out


def test_the_script_answers_to_the_name_of_its_library(autopeft: Callable[..., object]) -> None:
    asked = ("--model", "Llama-3.1-8B", "--method", "lora")
    named = [autopeft("recipe", "--format", name, *asked) for name in ("script", "transformers")]
    assert named[0].code == 0
    assert named[0].out == named[1].out


def panel(help_page: str, title: str) -> list[str]:
    """Return the lines of one panel of a help page."""
    start = help_page.index(title)
    return help_page[start : help_page.index("╰", start)].splitlines()[1:]


def test_commands_that_read_rows_take_the_same_flags_of_columns(autopeft: Callable[..., object]) -> None:
    wanted = panel(autopeft("search", "--help").out, "Columns of the data")
    assert len(wanted) == len(COLUMNS)
    for command in ("run", "plan", "estimate", "recipe"):
        assert panel(autopeft(command, "--help").out, "Columns of the data") == wanted


def test_a_recipe_reads_the_columns_it_is_told(autopeft: Callable[..., object], tmp_path: Path) -> None:
    rows = [f"review {row},title {row},{'ab'[row % 2]}" for row in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(["body,headline,verdict", *rows]))
    answer = autopeft(
        *("recipe", "--model", "all-MiniLM-L6-v2", "--method", "lora", "--data", "rows.csv", "--out", "made"),
        *("--text-column", "headline", "--label-column", "verdict"),
    )
    assert answer.code == 0, answer
    written = [json.loads(line) for line in Path("made", "train.jsonl").read_text().splitlines()]
    assert all(row["text"].startswith("title") and row["label"] in (0, 1) for row in written)


def test_flags_of_a_configuration_need_a_method(autopeft: Callable[..., object]) -> None:
    answer = autopeft("recipe", "--model", "Llama-3.1-8B", "--rank", "8", "--precision", "bf16")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("autopeft: --rank, --precision needs --method")
