"""The container files name what there is; whether they build is not tried here."""

from __future__ import annotations

from pathlib import Path

import yaml
from typer.main import get_command

from autopeft.cli.app import app

ROOT = Path(__file__).parents[2]


def test_the_compose_file_starts_the_service_with_flags_that_exist() -> None:
    services = yaml.safe_load((ROOT / "containers" / "compose.yaml").read_text())["services"]
    command, *flags = services["service"]["command"]
    known = {option for each in get_command(app).commands[command].params for option in each.opts}
    assert {flag.partition("=")[0] for flag in flags} <= known
    assert all(port.startswith("127.0.0.1:") for port in services["service"]["ports"])
    assert "ports" not in services["postgres"]
    assert "ports" not in services["mlflow"]


def test_the_container_file_copies_what_there_is_and_runs_as_nobody_special() -> None:
    lines = (ROOT / "containers" / "Containerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert all((ROOT / each).exists() for each in copied)
    assert any(line.startswith("USER ") and line != "USER root" for line in lines)
    start = next(line for line in lines if line.startswith("CMD "))
    command, *flags = yaml.safe_load(start.removeprefix("CMD "))
    known = {option for each in get_command(app).commands[command].params for option in each.opts}
    assert {flag for flag in flags if flag.startswith("--")} <= known
