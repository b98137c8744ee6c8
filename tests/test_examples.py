"""The examples run as their docstrings say."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(place: Path, name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_planning_in_python_prints_a_peak_with_its_band_and_one_readable_error(tmp_path: Path) -> None:
    output = run(tmp_path, "plan_in_python.py")
    assert "MiB on the device" in output
    assert "90 % band" in output
    assert "unknown method 'lorra': did you mean lora" in output


@pytest.mark.slow
def test_searching_a_csv_ends_with_an_exported_adapter(
    tmp_path: Path, encoder_with_weights, sentiment
) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        rows = [*sentiment.train, *sentiment.validation, *sentiment.test]
        writer.writerows([f"{row.text} {index}", row.label] for index, row in enumerate(rows))
    output = run(tmp_path, "search_your_csv.py", str(encoder_with_weights.path), "rows.csv")
    assert "test accuracy" in output
    assert list(tmp_path.glob(".autopeft/studies/*/bundle/adapter_config.json"))
    assert list(tmp_path.glob(".autopeft/studies/*/report.html"))


def made(place: Path, name: str) -> tuple[Path, list[str]]:
    """Make the data of an example in a copy of its folder; return that and what its README runs."""
    folder = Path(shutil.copytree(EXAMPLES / name, place / name))
    run(folder, str(folder / "make_data.py"))
    readme = (folder / "README.md").read_text(encoding="utf-8")
    [line] = [line for line in readme.splitlines() if line.startswith("    autopeft run ")]
    return folder, line.split()[1:]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "medium", "head"),
    [
        ("vision", "YOUR_IMAGE", "image-classification"),
        ("protein", "", "text-classification"),
        ("speech", "YOUR_SOUND", "audio-classification"),
    ],
)
def test_an_example_with_a_model_of_its_own_runs_end_to_end(
    tmp_path: Path, name: str, medium: str, head: str
) -> None:
    folder, command = made(tmp_path, name)
    done = subprocess.run(
        [sys.executable, "-m", "autopeft", *command, "--study", "example"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    study = folder / ".autopeft" / "studies" / "example"
    assert "<html" in (study / "report.html").read_text(encoding="utf-8")
    exported = json.loads((study / "bundle" / "autopeft.json").read_text(encoding="utf-8"))
    assert exported["test_score"] > 1.5 / len(exported["labels"])
    assert exported["reference_difference"] <= 1e-5
    card = (study / "bundle" / "README.md").read_text(encoding="utf-8")
    assert f"pipeline_tag: {head}" in card
    if medium:
        file = min([*folder.glob("digits/5/*.png"), *folder.glob("vowels/hid/*.wav")])
        assert_the_card_names_a_class(folder, card.replace(medium, str(file)), exported["labels"])


def assert_the_card_names_a_class(folder: Path, card: str, labels: list[str]) -> None:
    code = card.split("```python\n")[1].split("```", maxsplit=1)[0]
    code = code.replace("PATH_OF_THIS_FOLDER", str(folder / ".autopeft/studies/example/bundle"))
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert answer.stdout.split()[0] in labels
