"""The examples run as their docstrings say."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

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
